// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"syscall"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

const eexist = syscall.EEXIST

func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// VdevState is the state of a device or pool (vdev_state_t).
type VdevState uint64

// The states.
const (
	VdevUnknown VdevState = iota
	VdevClosed
	VdevOffline
	VdevRemoved
	VdevUnavailable
	VdevFaulted
	VdevDegraded
	VdevOnline
)

// String gives the word of zpool-status(8).
func (s VdevState) String() string {
	if s > VdevOnline {
		return fmt.Sprintf("state %d", uint64(s))
	}
	return [...]string{"UNKNOWN", "OFFLINE", "OFFLINE", "REMOVED", "UNAVAIL", "FAULTED", "DEGRADED", "ONLINE"}[s]
}

// Pool is the status of a pool as it was when it was asked for.
type Pool struct {
	Name      string
	GUID      uint64
	Health    string // ONLINE, DEGRADED, FAULTED, UNAVAIL, … or SUSPENDED
	Suspended bool
	Txg       uint64
	Hostname  string
	Errors    uint64 // data errors that are known
	Root      *Vdev
	Spares    []*Vdev
	Cache     []*Vdev
	Scan      *Scan           // the last scrub or resilver, nil if there was none
	Features  map[string]bool // enabled features; true for an active one
	Config    *nvlist.List    // all that the kernel says
	OpenError error           // why the pool could not be opened, if so
}

// Vdev is a device of a pool with its counters.
type Vdev struct {
	Type     string // root, mirror, raidz, draid, disk, file, replacing, spare, …
	Path     string
	ID       uint64
	GUID     uint64
	Parity   uint64
	Data     uint64 // of draid: data devices per group
	Spares   uint64 // of draid: distributed spares
	Class    string // "", log, special or dedup
	State    VdevState
	Aux      uint64 // why, vdev_aux_t
	Removing bool
	Missing  bool // not found when the pool was opened: Path is where it was

	Alloc, Space                                     uint64    // bytes
	Ops, Bytes                                       [6]uint64 // by zio type: null, read, write, free, claim, ioctl/flush
	ReadErrors, WriteErrors, ChecksumErrors, SlowIOs uint64
	Fragmentation                                    uint64 // percent
	Ashift                                           uint64
	Trim, Initialize                                 Progress

	Children []*Vdev
}

// Progress is how far a trim or an initialization of a device is.
type Progress struct {
	State       uint64 // 0 none, 1 active, 2 canceled, 3 suspended, 4 complete
	Done, Total uint64 // bytes
}

// Active reports whether it runs.
func (p Progress) Active() bool { return p.State == 1 }

// Name gives a leaf's path, the guid of one that is missing, and TYPE-ID for the
// others, as zpool-status(8) does.
func (v *Vdev) Name() string {
	if v.Missing {
		return fmt.Sprint(v.GUID)
	}
	switch v.Type {
	case "disk", "file", "l2cache":
		return v.Path
	case "root":
		return v.Type
	case "raidz":
		return fmt.Sprintf("raidz%d-%d", v.Parity, v.ID)
	case "draid":
		return fmt.Sprintf("draid%d:%dd:%dc:%ds-%d", v.Parity, v.Data, len(v.Children), v.Spares, v.ID)
	}
	if v.Path != "" {
		return v.Path
	}
	return fmt.Sprintf("%s-%d", v.Type, v.ID)
}

// All walks the vdev and all below it.
func (v *Vdev) All() iter.Seq[*Vdev] {
	return func(yield func(*Vdev) bool) { v.walk(yield) }
}

func (v *Vdev) walk(yield func(*Vdev) bool) bool {
	if v == nil {
		return true
	}
	if !yield(v) {
		return false
	}
	for _, c := range v.Children {
		if !c.walk(yield) {
			return false
		}
	}
	return true
}

// All walks all devices of the pool, spares and caches included.
func (p *Pool) All() iter.Seq[*Vdev] {
	return func(yield func(*Vdev) bool) {
		for _, set := range [][]*Vdev{{p.Root}, p.Spares, p.Cache} {
			for _, v := range set {
				if !v.walk(yield) {
					return
				}
			}
		}
	}
}

// ScanFunc is what a scan does.
type ScanFunc uint64

// The scans (pool_scan_func_t).
const (
	ScanNone ScanFunc = iota
	Scrub
	Resilver
	ErrorScrub
)

// ScanState is how a scan stands.
type ScanState uint64

// The states (dsl_scan_state_t).
const (
	ScanIdle ScanState = iota
	Scanning
	ScanFinished
	ScanCanceled
)

// Scan is the progress of a scrub or resilver.
type Scan struct {
	Func       ScanFunc
	State      ScanState
	Start, End time.Time
	ToExamine  uint64 // bytes
	Examined   uint64
	Issued     uint64
	Processed  uint64
	Errors     uint64
	Paused     bool
}

// Active reports whether the scan runs, paused or not.
func (s *Scan) Active() bool { return s != nil && s.State == Scanning }

func (h *Handle) poolConfig(ctx context.Context, op, name string) (*nvlist.List, syscall.Errno, error) {
	if err := checkNewOrOld(op, name); err != nil {
		return nil, 0, err
	}
	r := h.dev.Request(name)
	defer r.Release()
	if err := r.Do(ctx, zcmd.PoolStats); err != nil {
		return nil, 0, fail(op, zcmd.PoolStats, name, err)
	}
	l, err := r.Reply()
	if err != nil {
		return nil, 0, &Error{Op: op, Name: name, Err: err}
	}
	return l, syscall.Errno(r.Cmd.Cookie), nil
}

// stats is a kernel structure of 64-bit numbers that grows from version to version.
type stats []uint64

func (s stats) at(i int) uint64 {
	if i < len(s) {
		return s[i]
	}
	return 0
}

// Positions in vdev_stat_t, in 64-bit words.
const (
	vsState = 1 + iota
	vsAux
	vsAlloc
	vsSpace
	vsDspace
	vsRsize
	vsEsize
	vsOps
	vsBytes         = vsOps + 6
	vsReadErrors    = vsBytes + 6
	vsWriteErrors   = vsReadErrors + 1
	vsChecksum      = vsWriteErrors + 1
	vsRemoving      = 25
	vsFragmentation = 27
	vsInitDone      = 28
	vsInitEst       = 29
	vsInitState     = 30
	vsSlowIOs       = 34
	vsTrimDone      = 37
	vsTrimEst       = 38
	vsTrimState     = 39
)

// Positions in pool_scan_stat_t.
const (
	pssFunc = iota
	pssState
	pssStart
	pssEnd
	pssToExamine
	pssExamined
	pssSkipped
	pssProcessed
	pssErrors
	pssPassExam
	pssPassStart
	pssPassPause
	pssPassSpentPaused
	pssPassIssued
	pssIssued
)

func parseVdev(l *nvlist.List) *Vdev {
	v := &Vdev{Type: l.Str("type"), Path: l.Str("path"), Class: l.Str("alloc_bias"), Missing: l.Has("not_present")}
	v.ID, _ = l.Uint("id")
	v.GUID, _ = l.Uint("guid")
	v.Parity, _ = l.Uint("nparity")
	v.Data, _ = l.Uint("draid_ndata")
	v.Spares, _ = l.Uint("draid_nspares")
	v.Ashift, _ = l.Uint("ashift")
	if log, _ := l.Uint("is_log"); log != 0 {
		v.Class = "log"
	}
	raw, _ := nvlist.Get[[]uint64](l, "vdev_stats")
	s := stats(raw)
	v.State, v.Aux = VdevState(s.at(vsState)), s.at(vsAux)
	v.Alloc, v.Space = s.at(vsAlloc), s.at(vsSpace)
	for i := range v.Ops {
		v.Ops[i], v.Bytes[i] = s.at(vsOps+i), s.at(vsBytes+i)
	}
	v.ReadErrors, v.WriteErrors, v.ChecksumErrors = s.at(vsReadErrors), s.at(vsWriteErrors), s.at(vsChecksum)
	v.Removing, v.Fragmentation, v.SlowIOs = s.at(vsRemoving) != 0, s.at(vsFragmentation), s.at(vsSlowIOs)
	v.Initialize = Progress{s.at(vsInitState), s.at(vsInitDone), s.at(vsInitEst)}
	v.Trim = Progress{s.at(vsTrimState), s.at(vsTrimDone), s.at(vsTrimEst)}
	for _, c := range l.Lists("children") {
		v.Children = append(v.Children, parseVdev(c))
	}
	return v
}

func parsePool(l *nvlist.List) (*Pool, error) {
	tree := l.List("vdev_tree")
	if tree == nil {
		return nil, fmt.Errorf("no vdev_tree in the pool's configuration: %w", nvlist.ErrMissing)
	}
	p := &Pool{Name: l.Str("name"), Hostname: l.Str("hostname"), Config: l, Root: parseVdev(tree), Features: map[string]bool{}}
	p.GUID, _ = l.Uint("pool_guid")
	p.Txg, _ = l.Uint("txg")
	p.Errors, _ = l.Uint("error_count")
	p.Suspended = l.Has("suspended")
	p.Health = p.Root.health()
	if p.Suspended {
		p.Health = "SUSPENDED"
	}
	for _, c := range tree.Lists("spares") {
		p.Spares = append(p.Spares, parseVdev(c))
	}
	for _, c := range tree.Lists("l2cache") {
		p.Cache = append(p.Cache, parseVdev(c))
	}
	if raw, ok := nvlist.Get[[]uint64](tree, "scan_stats"); ok {
		p.Scan = parseScan(raw)
	}
	for name, v := range l.List("feature_stats").All() {
		n, _ := v.Uint()
		p.Features[featureName(name)] = n > 0
	}
	return p, nil
}

// featureName is the short name of a feature's "ORGANIZATION:NAME".
func featureName(guid string) string {
	for i := len(guid) - 1; i >= 0; i-- {
		if guid[i] == ':' {
			return guid[i+1:]
		}
	}
	return guid
}

const (
	auxCorruptData = 2
	auxBadLog      = 13
	auxSplitPool   = 15
)

// health is zpool_state_to_name.
func (v *Vdev) health() string {
	if v.State == VdevUnavailable {
		switch v.Aux {
		case auxCorruptData, auxBadLog:
			return "FAULTED"
		case auxSplitPool:
			return "SPLIT"
		}
	}
	return v.State.String()
}

func parseScan(s stats) *Scan {
	at := func(i int) time.Time {
		if n := s.at(i); n != 0 && n < 1<<40 {
			return time.Unix(int64(n), 0)
		}
		return time.Time{}
	}
	if s.at(pssFunc) == 0 {
		return nil
	}
	out := &Scan{
		Func: ScanFunc(s.at(pssFunc)), State: ScanState(s.at(pssState)), Start: at(pssStart), End: at(pssEnd),
		ToExamine: s.at(pssToExamine), Examined: s.at(pssExamined), Issued: s.at(pssIssued), Processed: s.at(pssProcessed),
		Errors: s.at(pssErrors), Paused: s.at(pssPassPause) != 0,
	}
	// The kernel says that it ends some steps before it says when (dsl_scan_done), and locks neither.
	if (out.State == ScanFinished || out.State == ScanCanceled) && out.End.IsZero() {
		out.State = Scanning
	}
	return out
}
