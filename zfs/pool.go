// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// PoolSpec says what pool to make.
type PoolSpec struct {
	Name    string
	Data    []VdevSpec // striped over each other
	Logs    []VdevSpec // disks or mirrors
	Special []VdevSpec
	Dedup   []VdevSpec
	Cache   []string // paths
	Spares  []string // paths

	Props      Props    // of the pool: zpoolprops(7); ashift and feature@NAME among them
	RootProps  Props    // of the root file system
	Key        Key      // encrypts the root file system
	NoFeatures bool     // enable none but those in Props, as zpool create -d
	Force      bool     // take devices that carry a pool that is not imported
	Features   []string // with NoFeatures: those to enable
}

// CreatePool makes a pool. Devices that another pool uses, or that carry one,
// are refused unless forced. Its root file system is not mounted by it.
func (h *Handle) CreatePool(ctx context.Context, s PoolSpec) error {
	const op = "create pool"
	if err := checkNewPool(op, s.Name); err != nil {
		return err
	}
	root, err := s.tree()
	if err != nil {
		return deviceError(op, s.Name, "", err, ErrInvalid)
	}
	if err := checkDevices(op, s.Name, s.paths(), s.Force); err != nil {
		return err
	}
	props, err := encodePoolProps(op, s.Name, s.Props, true)
	if err != nil {
		return err
	}
	h.enableFeatures(&s, props)
	if err := s.rootProps(op, props); err != nil {
		return err
	}
	r := h.dev.Request(s.Name)
	defer r.Release()
	if err := errors.Join(r.SetConfig(root), r.SetInput(props)); err != nil {
		return &Error{Op: op, Name: s.Name, Kind: ErrInvalid, Err: err}
	}
	// The kernel takes the first command that is put down for the pool's creation,
	// and keeps all that the history has until then for ever: were it another's
	// later one, and the history full, nothing of it could be read any more.
	made := false
	err = h.Logged(context.WithoutCancel(ctx), s.command(), func() error {
		err := fail(op, zcmd.PoolCreate, s.Name, r.Do(ctx, zcmd.PoolCreate))
		made = err == nil
		return err
	})
	if made {
		return nil // also where it could not be put down
	}
	if out, derr := r.Reply(); derr == nil {
		if info := out.List("create_info"); info.Len() > 0 {
			return hint(err, nil, info.String())
		}
	}
	return err
}

// command tells what is created, for the pool's history.
func (s *PoolSpec) command() string {
	const longest = 2048 // HIS_MAX_RECORD_LEN of FreeBSD
	words := []string{"skep: create pool", s.Name}
	for _, set := range []struct {
		class string
		vdevs []VdevSpec
	}{{"", s.Data}, {"special", s.Special}, {"dedup", s.Dedup}, {"log", s.Logs}} {
		for _, v := range set.vdevs {
			words = append(append(words, set.class, v.word()), v.Paths...)
		}
	}
	if len(s.Cache) > 0 {
		words = append(append(words, "cache"), s.Cache...)
	}
	if len(s.Spares) > 0 {
		words = append(append(words, "spare"), s.Spares...)
	}
	text := strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
	return text[:min(len(text), longest)]
}

func (s *PoolSpec) rootProps(op string, props *nvlist.List) error {
	l, err := encodeProps(op, s.Name, Filesystem, s.RootProps, true)
	if err != nil {
		return err
	}
	if len(s.Key) > 0 && !l.Has("encryption") {
		nvlist.Set(l, "encryption", uint64(1))
	}
	if err := s.Key.apply(op, s.Name, l, props); err != nil {
		return err
	}
	if l.Len() > 0 {
		nvlist.Set(props, "root-props-nvl", l)
	}
	return nil
}

// feature names by the version that brought them (zfeature_common.c).
var features = []struct {
	major, minor int
	names        string
}{
	{2, 0, "allocation_classes async_destroy bookmark_v2 bookmark_written bookmarks device_rebuild device_removal " +
		"edonr embedded_data empty_bpobj enabled_txg encryption extensible_dataset filesystem_limits hole_birth " +
		"large_blocks large_dnode livelist log_spacemap lz4_compress multi_vdev_crash_dump obsolete_counts " +
		"project_quota redacted_datasets redaction_bookmarks resilver_defer sha512 skein spacemap_histogram " +
		"spacemap_v2 userobj_accounting zpool_checkpoint zstd_compress"},
	{2, 1, "draid"},
	{2, 2, "blake3 block_cloning head_errlog vdev_zaps_v2 zilsaxattr"},
	{2, 3, "fast_dedup large_microzap longname raidz_expansion redaction_list_spill"},
	{2, 4, "block_cloning_endian dynamic_gang_header physical_rewrite"},
}

// enableFeatures asks for every feature that the module is known to have, as zpool create does.
func (h *Handle) enableFeatures(s *PoolSpec, props *nvlist.List) {
	want := s.Features
	v, err := h.version()
	if !s.NoFeatures && err == nil {
		for _, f := range features {
			if v.AtLeast(f.major, f.minor) {
				want = append(want, strings.Fields(f.names)...)
			}
		}
	}
	for _, f := range want {
		if name := "feature@" + f; !props.Has(name) {
			nvlist.Set(props, name, uint64(0))
		}
	}
	// What a property says is disabled was only in the way of the default.
	for _, name := range sortedNames(s.Props) {
		if strings.HasPrefix(name, "feature@") && s.Props[name] == "disabled" {
			props.Delete(name)
		}
	}
}

// poolProperties are the properties of pools that can be set, zpoolprops(7).
var poolProperties = map[string]property{
	"altroot": text(0, once, ""), "bootfs": text(0, 0, ""), "cachefile": text(0, 0, ""), "comment": text(0, 0, ""),
	"compatibility": text(0, 0, "off"), "version": number(0, 0, "-"), "ashift": number(0, 0, "0"),
	"dedup_table_quota": number(0, 0, "auto").from(3), "tname": text(0, once, ""),
	"delegation": choice(0, 0, "on", onOff), "autoreplace": choice(0, 0, "off", onOff),
	"listsnapshots": choice(0, 0, "off", onOff), "autoexpand": choice(0, 0, "off", onOff),
	"readonly": choice(0, once, "off", onOff), "multihost": choice(0, 0, "off", onOff),
	"failmode": choice(0, 0, "wait", names("wait", "continue", "panic")), "autotrim": choice(0, 0, "off", onOff),
}

func encodePoolProps(op, on string, props Props, creating bool) (*nvlist.List, error) {
	l := nvlist.New()
	var errs []error
	for _, name := range sortedNames(props) {
		value := props[name]
		bad := func(why string) { errs = append(errs, propError(op, on, name, value, why)) }
		if f, ok := strings.CutPrefix(name, "feature@"); ok {
			if f == "" || value != "enabled" && (value != "disabled" || !creating) {
				bad("want enabled")
				continue
			}
			nvlist.Set(l, name, uint64(0))
			continue
		}
		if isUser(name) {
			if why := checkUserProperty(name, value); why != "" {
				bad(why)
			}
			nvlist.Set(l, name, value)
			continue
		}
		p, ok := poolProperties[name]
		switch {
		case !ok:
			bad("no such property, or it is read-only")
		case p.attr&once != 0 && !creating:
			bad("the property is set at creation or import only")
		case strings.IndexByte(value, 0) >= 0:
			bad("a NUL in the value")
		case p.typ == propString:
			nvlist.Set(l, name, value)
		case p.typ == propIndex:
			i := slices.IndexFunc(p.index, func(iv indexValue) bool { return iv.name == value })
			if i < 0 {
				bad("want one of " + choices(p.index))
				continue
			}
			nvlist.Set(l, name, p.index[i].value)
		default:
			n, err := ParseSize(value)
			if value == "none" {
				n, err = math.MaxUint64, nil
			}
			if err != nil {
				bad("want a number")
				continue
			}
			nvlist.Set(l, name, n)
		}
	}
	return l, errors.Join(errs...)
}

// SetPool sets properties of a pool; feature@NAME=enabled enables a feature.
func (h *Handle) SetPool(ctx context.Context, name string, props Props) error {
	const op = "set pool"
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	l, err := encodePoolProps(op, name, props, false)
	if err != nil || l.Len() == 0 {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	if err := r.SetInput(l); err != nil {
		return &Error{Op: op, Name: name, Kind: ErrInvalid, Err: err}
	}
	return fail(op, zcmd.PoolSetProps, name, r.DoOnce(ctx, zcmd.PoolSetProps))
}

func checkNewOrOld(op, name string) error {
	if strings.ContainsAny(name, "/@#") {
		return invalidName(op, name, "want a pool's name")
	}
	return checkName(op, name, 0)
}

// PoolProperties gives the properties of a pool, as zpool get -p has them, those
// at their defaults included; features are in the pool's status. A string that is not set is "".
func (h *Handle) PoolProperties(ctx context.Context, name string) (map[string]Property, error) {
	const op = "get pool"
	if err := checkNewOrOld(op, name); err != nil {
		return nil, err
	}
	out, err := h.call(ctx, op, zcmd.PoolGetProps, name, nil)
	if err != nil {
		return nil, err
	}
	props := map[string]Property{}
	for n, v := range out.All() {
		e := v.List()
		p := Property{Name: n, Source: poolSource(e)}
		val, _ := e.Value("value")
		if s, ok := val.Str(); ok {
			p.Value = s
		} else if p.Number, ok = val.Uint(); ok {
			p.Value = showPool(n, p.Number)
		}
		props[n] = p
	}
	v := h.known()
	for n, p := range poolProperties {
		if _, ok := props[n]; !ok && n != "tname" && (p.since == 0 || v.AtLeast(2, p.since)) {
			d, _ := p.defaultProperty(n, v)
			d.Name, d.Value, d.Source = n, p.def, SourceDefault
			props[n] = d
		}
	}
	return props, nil
}

// poolSource reads a zprop_source_t.
func poolSource(e *nvlist.List) Source {
	n, _ := e.Uint("source")
	switch n {
	case 2:
		return SourceDefault
	case 4, 8: // temporary, local
		return SourceLocal
	case 16:
		return SourceInherited
	case 32:
		return SourceReceived
	}
	return SourceNone
}

func showPool(name string, n uint64) string {
	if p, ok := poolProperties[name]; ok && p.typ == propIndex {
		return p.show(name, n)
	}
	switch name {
	case "dedupratio", "bcloneratio":
		return fmt.Sprintf("%d.%02d", n/100, n%100)
	case "health":
		return VdevState(n).String()
	case "fragmentation", "expandsize", "checkpoint":
		if n == math.MaxUint64 || n == 0 && name != "fragmentation" {
			return "-"
		}
	case "version":
		if n == 5000 { // SPA_VERSION_FEATURES: the features say what there is
			return "-"
		}
	case "dedup_table_quota":
		if n == math.MaxUint64 {
			return "auto"
		}
	}
	return fmt.Sprint(n)
}

// Pools gives the names of the imported pools.
func (h *Handle) Pools(ctx context.Context) ([]string, error) {
	r := h.dev.Request("")
	defer r.Release()
	err := r.Do(ctx, zcmd.PoolConfigs)
	if errnoOf(err) == eexist { // nothing has changed since the generation in the cookie
		return nil, nil
	}
	if err != nil {
		return nil, fail("list pools", zcmd.PoolConfigs, "", err)
	}
	l, err := r.Reply()
	if err != nil {
		return nil, &Error{Op: "list pools", Err: err}
	}
	var out []string
	for n := range l.All() {
		out = append(out, strings.Clone(n))
	}
	slices.Sort(out)
	return out, nil
}

// Pool gives the status of an imported pool.
func (h *Handle) Pool(ctx context.Context, name string) (*Pool, error) {
	const op = "status"
	config, errno, err := h.poolConfig(ctx, op, name)
	if err != nil {
		return nil, err
	}
	p, err := parsePool(config)
	if err != nil {
		return nil, &Error{Op: op, Name: name, Err: err}
	}
	if errno != 0 {
		p.OpenError = fail(op, zcmd.PoolStats, name, errno)
	}
	return p, nil
}

// DestroyPool destroys a pool and all that is in it; its file systems are
// unmounted first. It waits for open volumes as ExportPool does.
func (h *Handle) DestroyPool(ctx context.Context, name string) error {
	const op = "destroy pool"
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	if err := h.unmountPool(ctx, name); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	return fail(op, zcmd.PoolDestroy, name, r.DoOnce(ctx, zcmd.PoolDestroy))
}

// ExportPool exports a pool; its file systems are unmounted first. force takes
// one whose spares other pools use. From OpenZFS 2.3 the kernel waits for volumes
// that are open to be closed, and neither context nor signal ends that.
func (h *Handle) ExportPool(ctx context.Context, name string, force bool) error {
	const op = "export"
	if err := checkNewOrOld(op, name); err != nil {
		return err
	}
	if err := h.unmountPool(ctx, name); err != nil {
		return err
	}
	r := h.dev.Request(name)
	defer r.Release()
	if force {
		r.Cmd.Cookie = 1
	}
	return fail(op, zcmd.PoolExport, name, r.DoOnce(ctx, zcmd.PoolExport))
}

func (h *Handle) unmountPool(ctx context.Context, name string) error {
	all, err := mounts()
	if err != nil {
		return &Error{Op: "unmount", Name: name, Err: err}
	}
	var list []string
	for n := range all {
		if pool(n) == name {
			list = append(list, n)
		}
	}
	return h.unmountAll(ctx, list)
}

// MountAll mounts the file systems of a pool that want to be: canmount=on, a
// path as mount point, the key loaded. One that fails does not keep the others.
func (h *Handle) MountAll(ctx context.Context, name string) error {
	mounted, err := mounts()
	if err != nil {
		return &Error{Op: "mount", Name: name, Err: err}
	}
	var list []*Dataset
	for d, err := range h.Descend(ctx, name, Filesystems, With("mountpoint", "canmount", "keystatus")) {
		if err != nil {
			return err
		}
		if len(mounted[d.Name]) == 0 && d.Value("canmount") == "on" && d.Value("keystatus") != "unavailable" &&
			strings.HasPrefix(d.Value("mountpoint"), "/") {
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b *Dataset) int { return strings.Compare(a.Value("mountpoint"), b.Value("mountpoint")) })
	var errs []error
	for _, d := range list {
		errs = append(errs, h.Mount(ctx, d.Name, MountOptions{}))
	}
	return errors.Join(errs...)
}

// Sync waits until all that was written to the pool is on its devices.
func (h *Handle) Sync(ctx context.Context, name string) error {
	if err := checkNewOrOld("sync", name); err != nil {
		return err
	}
	_, err := h.call(ctx, "sync", zcmd.PoolSync, name, nvlist.New(nvlist.P("force", false)))
	return err
}

// HistoryRecord is an entry of a pool's history.
type HistoryRecord struct {
	Time    time.Time
	Command string // of a command, or what a program logged
	Ioctl   string // of a request
	Record  *nvlist.List
}

// PoolHistory gives the pool's history, the oldest first.
func (h *Handle) PoolHistory(ctx context.Context, name string) ([]HistoryRecord, error) {
	const op, chunk = "history", 128 << 10
	if err := checkNewOrOld(op, name); err != nil {
		return nil, err
	}
	r := h.dev.Request(name)
	defer r.Release()
	var out []HistoryRecord
	var rest []byte
	for {
		b, err := r.History(ctx, chunk)
		if err != nil {
			return nil, fail(op, zcmd.PoolGetHistory, name, err)
		}
		if len(b) == 0 {
			return out, nil
		}
		rest = append(rest, b...)
		for len(rest) >= 8 {
			n := le64(rest)
			if n > 64<<20 {
				return nil, &Error{Op: op, Name: name, Kind: ErrCorrupt, Hint: fmt.Sprintf("a record of %d bytes", n)}
			}
			if uint64(len(rest)-8) < n {
				break
			}
			l, err := nvlist.Decode(rest[8 : 8+n])
			if err != nil {
				return nil, &Error{Op: op, Name: name, Kind: ErrCorrupt, Err: err}
			}
			sec, _ := l.Uint("history time")
			out = append(out, HistoryRecord{time.Unix(int64(sec), 0), l.Str("history command"), l.Str("ioctl"), l})
			rest = rest[8+n:]
		}
	}
}
