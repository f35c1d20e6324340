// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// VdevSpec is a virtual device to be made, zpoolconcepts(7). Disk, Mirror, RAIDZ and DRAID make them.
type VdevSpec struct {
	Type   string // "disk" (a device or a file), "mirror", "raidz" or "draid"
	Paths  []string
	Parity int // of raidz and draid: 1 to 3
	Data   int // of draid: data devices per group, 0 for up to 8
	Spares int // of draid: distributed spares
}

// Disk is one device or file.
func Disk(path string) VdevSpec { return VdevSpec{Type: "disk", Paths: []string{path}} }

// Mirror keeps the same on each of the devices or files.
func Mirror(paths ...string) VdevSpec { return VdevSpec{Type: "mirror", Paths: paths} }

// RAIDZ survives the loss of as many of the devices as parity says.
func RAIDZ(parity int, paths ...string) VdevSpec {
	return VdevSpec{Type: "raidz", Parity: parity, Paths: paths}
}

// DRAID is RAIDZ in groups of data devices with distributed spares.
func DRAID(parity, data, spares int, paths ...string) VdevSpec {
	return VdevSpec{Type: "draid", Parity: parity, Data: data, Spares: spares, Paths: paths}
}

// word is the type as zpool create has it, "" for a disk.
func (v VdevSpec) word() string {
	switch v.Type {
	case "disk":
		return ""
	case "raidz":
		return fmt.Sprintf("raidz%d", v.Parity)
	case "draid":
		return fmt.Sprintf("draid%d:%dd:%ds", v.Parity, v.Data, v.Spares)
	}
	return v.Type
}

func leaf(path string, ashift uint64) (*nvlist.List, error) {
	if !filepath.IsAbs(path) || strings.IndexByte(path, 0) >= 0 {
		return nil, fmt.Errorf("%q is not an absolute path", path)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	typ := "disk"
	switch m := fi.Mode(); {
	case m.IsRegular():
		typ = "file"
	case m&os.ModeDevice == 0:
		return nil, fmt.Errorf("%s is neither a device nor a file", path)
	}
	l := nvlist.New(nvlist.P("path", path), nvlist.P("type", typ))
	if typ == "disk" {
		nvlist.Set(l, "whole_disk", uint64(0))
	}
	if ashift > 0 {
		nvlist.Set(l, "ashift", ashift)
	}
	return l, nil
}

func leaves(paths []string, ashift uint64) ([]*nvlist.List, error) {
	var out []*nvlist.List
	for _, p := range paths {
		l, err := leaf(p, ashift)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// config is the vdev's nvlist; class is "", "log", "special" or "dedup".
func (v VdevSpec) config(class string, ashift uint64) (*nvlist.List, error) {
	children, err := leaves(v.Paths, ashift)
	if err != nil {
		return nil, err
	}
	var l *nvlist.List
	n := len(children)
	switch {
	case v.Type == "disk" && n == 1:
		l = children[0]
	case v.Type == "mirror" && n >= 2, v.Type == "raidz" && v.Parity >= 1 && v.Parity <= 3 && n > v.Parity && n <= 255,
		v.Type == "draid" && v.Parity >= 1 && v.Parity <= 3 && n > v.Parity && n <= 255:
		l = nvlist.New(nvlist.P("type", v.Type))
	default:
		return nil, fmt.Errorf("a %s vdev of %d devices with parity %d", v.Type, n, v.Parity)
	}
	if class == "log" && v.Type != "disk" && v.Type != "mirror" {
		return nil, fmt.Errorf("a log of type %s", v.Type)
	}
	isLog := uint64(0)
	if class == "log" {
		isLog = 1
	}
	nvlist.Set(l, "is_log", isLog)
	if class != "" {
		nvlist.Set(l, "alloc_bias", class)
	}
	if v.Type == "disk" {
		return l, nil
	}
	if ashift > 0 {
		nvlist.Set(l, "ashift", ashift)
	}
	if v.Type != "mirror" {
		nvlist.Set(l, "nparity", uint64(v.Parity))
	}
	if v.Type == "draid" {
		if err := v.draid(l); err != nil {
			return nil, err
		}
	}
	nvlist.Set(l, "children", children)
	return l, nil
}

// draid sets the geometry of a draid vdev, zpoolconcepts(7).
func (v VdevSpec) draid(l *nvlist.List) error {
	n, data := len(v.Paths), v.Data
	if v.Spares < 0 || data < 0 {
		return fmt.Errorf("draid with %d data devices and %d spares", data, v.Spares)
	}
	if data == 0 {
		data = min(8, n-v.Spares-v.Parity)
	}
	if data < 1 || data+v.Parity+v.Spares > n {
		return fmt.Errorf("draid%d of %d data devices and %d spares wants more than %d devices", v.Parity, data, v.Spares, n)
	}
	// The groups of one slice fill its rows whole.
	groups := 1
	for groups*(data+v.Parity)%(n-v.Spares) != 0 {
		groups++
	}
	nvlist.Set(l, "draid_ndata", uint64(data))
	nvlist.Set(l, "draid_nspares", uint64(v.Spares))
	nvlist.Set(l, "draid_ngroups", uint64(groups))
	return nil
}

func (s *PoolSpec) paths() []string {
	var out []string
	for _, set := range [][]VdevSpec{s.Data, s.Logs, s.Special, s.Dedup} {
		for _, v := range set {
			out = append(out, v.Paths...)
		}
	}
	return append(append(out, s.Cache...), s.Spares...)
}

// tree is the root vdev's nvlist.
func (s *PoolSpec) tree() (*nvlist.List, error) {
	if len(s.Data) == 0 {
		return nil, errors.New("no devices")
	}
	return s.anyTree()
}

// anyTree is tree for what need not have data devices.
func (s *PoolSpec) anyTree() (*nvlist.List, error) {
	ashift, err := uint64(0), error(nil)
	if a := s.Props["ashift"]; a != "" {
		if ashift, err = ParseSize(a); err != nil || ashift != 0 && (ashift < 9 || ashift > 16) {
			return nil, fmt.Errorf("ashift %s: want 9 to 16", a)
		}
	}
	return vdevTree(ashift, s.Data, s.Logs, s.Special, s.Dedup, s.Cache, s.Spares)
}

func vdevTree(ashift uint64, data, logs, special, dedup []VdevSpec, cache, spares []string) (*nvlist.List, error) {
	seen := map[string]bool{}
	var top []*nvlist.List
	for _, set := range []struct {
		class string
		vdevs []VdevSpec
	}{{"", data}, {"special", special}, {"dedup", dedup}, {"log", logs}} {
		for _, v := range set.vdevs {
			for _, p := range v.Paths {
				if seen[p] {
					return nil, fmt.Errorf("%s is given twice", p)
				}
				seen[p] = true
			}
			l, err := v.config(set.class, ashift)
			if err != nil {
				return nil, err
			}
			top = append(top, l)
		}
	}
	root := nvlist.New(nvlist.P("type", "root"), nvlist.P("children", top))
	for _, aux := range []struct {
		key   string
		paths []string
	}{{"spares", spares}, {"l2cache", cache}} {
		l, err := leaves(aux.paths, 0)
		if err != nil {
			return nil, err
		}
		if len(l) > 0 {
			nvlist.Set(root, aux.key, l)
		}
	}
	return root, nil
}

// checkDevices refuses devices that are in use, or that carry a pool, before
// anything is written to them.
func checkDevices(op, name string, paths []string, force bool) error {
	for _, p := range paths {
		if err := exclusive(p); err != nil {
			return deviceError(op, name, p, err, ErrBusy)
		}
		if force {
			continue
		}
		l, err := ReadLabel(p)
		if err != nil || l == nil {
			continue
		}
		if l.State == LabelActive || l.State == LabelExported {
			return &Error{Op: op, Name: name, Kind: ErrBusy, Hint: fmt.Sprintf("%s carries pool %s (%s)", p, l.PoolName, l.State)}
		}
	}
	return nil
}

// deviceError is why devices are no good; otherwise is the kind where the errno does not tell.
func deviceError(op, name, device string, err, otherwise error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		otherwise = ErrUnavailable
	case errors.Is(err, syscall.EACCES): // EPERM is how GEOM says that it is in use
		otherwise = ErrPermission
	}
	return &Error{Op: op, Name: name, Kind: otherwise, Hint: device, Err: err}
}

// AddVdevs adds devices to a pool; of the specification only they count, and Force and Props["ashift"].
func (h *Handle) AddVdevs(ctx context.Context, name string, s PoolSpec) error {
	const op = "add"
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	root, err := s.anyTree()
	if err != nil {
		return deviceError(op, name, "", err, ErrInvalid)
	}
	if err := checkDevices(op, name, s.paths(), s.Force); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	if err := r.SetConfig(root); err != nil {
		return &Error{Op: op, Name: name, Kind: ErrInvalid, Err: err}
	}
	return fail(op, zcmd.VdevAdd, name, r.DoOnce(ctx, zcmd.VdevAdd))
}

// vdev finds a vdev of a pool by path, or by its guid in decimal.
func (h *Handle) vdev(ctx context.Context, op, name, which string) (*Vdev, error) {
	p, err := h.Pool(ctx, name)
	if err != nil {
		return nil, err
	}
	for v := range p.All() {
		if v.Path == which && which != "" || fmt.Sprint(v.GUID) == which || v.Name() == which {
			return v, nil
		}
	}
	return nil, &Error{Op: op, Name: name, Kind: ErrNotFound, Hint: "no device " + which}
}

func (h *Handle) vdevCall(ctx context.Context, op string, req zcmd.Op, name, which string, set func(*zcmd.Request) error) error {
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	v, err := h.vdev(ctx, op, name, which)
	if err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	r.Cmd.GUID = v.GUID
	if set != nil {
		if err := set(r); err != nil {
			return err
		}
	}
	if err := r.DoOnce(ctx, req); err != nil {
		return hint(fail(op, req, name, err), nil, which)
	}
	// A device that was to come back and did not is no failure to the kernel, which gives its new state.
	if s := VdevState(r.Cmd.Cookie); op == "online" && s < VdevDegraded {
		return &Error{Op: op, Name: name, Kind: ErrUnavailable, Hint: which + " is " + s.String()}
	}
	return nil
}

// Attach makes a mirror of a device and a new one, or adds to a mirror.
func (h *Handle) Attach(ctx context.Context, name, device, added string) error {
	return h.attach(ctx, "attach", name, device, added, false)
}

// Replace puts a new device in the place of another, which leaves when the data is over.
func (h *Handle) Replace(ctx context.Context, name, device, by string) error {
	return h.attach(ctx, "replace", name, device, by, true)
}

func (h *Handle) attach(ctx context.Context, op, name, device, added string, replacing bool) error {
	if err := checkDevices(op, name, []string{added}, false); err != nil {
		return err
	}
	l, err := leaf(added, 0)
	if err != nil {
		return deviceError(op, name, "", err, ErrInvalid)
	}
	return h.vdevCall(ctx, op, zcmd.VdevAttach, name, device, func(r *zcmd.Request) error {
		if replacing {
			r.Cmd.Cookie = 1
		}
		return r.SetConfig(nvlist.New(nvlist.P("type", "root"), nvlist.P("children", []*nvlist.List{l})))
	})
}

// Detach takes a device out of a mirror.
func (h *Handle) Detach(ctx context.Context, name, device string) error {
	return h.vdevCall(ctx, "detach", zcmd.VdevDetach, name, device, nil)
}

// RemoveVdev takes a device out of a pool: a spare, cache or log at once, a data device by copying what is on it.
func (h *Handle) RemoveVdev(ctx context.Context, name, device string) error {
	return h.vdevCall(ctx, "remove", zcmd.VdevRemove, name, device, nil)
}

// Online brings a device back; expand takes all of one that has grown. One that
// is still gone is ErrUnavailable, and comes back by itself where it can.
func (h *Handle) Online(ctx context.Context, name, device string, expand bool) error {
	return h.vdevCall(ctx, "online", zcmd.VdevSetState, name, device, func(r *zcmd.Request) error {
		r.Cmd.Cookie = uint64(VdevOnline)
		if expand {
			r.Cmd.Obj = 0x8 // ZFS_ONLINE_EXPAND
		}
		return nil
	})
}

// Offline takes a device out of use; temporary lasts until the pool is imported again.
func (h *Handle) Offline(ctx context.Context, name, device string, temporary bool) error {
	return h.vdevCall(ctx, "offline", zcmd.VdevSetState, name, device, func(r *zcmd.Request) error {
		r.Cmd.Cookie = uint64(VdevOffline)
		if temporary {
			r.Cmd.Obj = 1 // ZFS_OFFLINE_TEMPORARY
		}
		return nil
	})
}

// Clear forgets the errors of a device, or of the whole pool for "", and lets a suspended pool go on.
func (h *Handle) Clear(ctx context.Context, name, device string) error {
	const op = "clear"
	noRewind := func(r *zcmd.Request) error {
		r.Cmd.Cookie = 1 // ZPOOL_NO_REWIND
		return nil
	}
	if device != "" {
		return h.vdevCall(ctx, op, zcmd.Clear, name, device, noRewind)
	}
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	_ = noRewind(r)
	return fail(op, zcmd.Clear, name, r.DoOnce(ctx, zcmd.Clear))
}
