// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
)

// What a request can fail with. Every *Error wraps at most one of them, and the errno.
var (
	ErrNotFound     = errors.New("no such dataset, snapshot or pool")
	ErrExists       = errors.New("already exists")
	ErrBusy         = errors.New("busy")
	ErrInvalidName  = errors.New("invalid name")
	ErrNameTooLong  = errors.New("name too long")
	ErrInvalid      = errors.New("invalid argument")
	ErrPermission   = errors.New("permission denied")
	ErrNoSpace      = errors.New("out of space")
	ErrQuota        = errors.New("quota exceeded")
	ErrReadOnly     = errors.New("read-only")
	ErrSuspended    = errors.New("pool is suspended: I/O failed and waits for its devices")
	ErrUnavailable  = errors.New("pool or device is unavailable")
	ErrHasClones    = errors.New("has dependent clones")
	ErrHasChildren  = errors.New("has children")
	ErrHasSnapshots = errors.New("has snapshots")
	ErrHeld         = errors.New("snapshot is held")
	ErrKeyNotLoaded = errors.New("encrypted, and its key is not loaded")
	ErrWrongKey     = errors.New("wrong key")
	ErrNotNewest    = errors.New("more recent snapshots or bookmarks exist")
	ErrCrossesPools = errors.New("crosses pools or datasets")
	ErrNoModule     = errors.New("the ZFS kernel module is not loaded")
	ErrModuleTooOld = errors.New("the ZFS kernel module is too old for this")
	ErrProperty     = errors.New("invalid property or value")
	ErrStream       = errors.New("invalid send stream")
	ErrNotInSync    = errors.New("the stream does not follow from what is there")
	ErrCorrupt      = errors.New("data is corrupt")
	ErrInProgress   = errors.New("already in progress")
)

// Error is a request that failed.
type Error struct {
	Op   string // what was tried, in the words of zfs(8) and zpool(8)
	Name string // on which pool, dataset, snapshot or bookmark
	Kind error  // one of the sentinels, or nil
	Err  error  // the errno, or what else went wrong
	Hint string // more, for people; may be empty
}

// Error says what was tried, on what, and why it failed.
func (e *Error) Error() string {
	s := "zfs: " + e.Op
	if e.Name != "" {
		s += " " + e.Name
	}
	if e.Kind != nil {
		s += ": " + e.Kind.Error()
	}
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the sentinel and the errno.
func (e *Error) Unwrap() []error {
	var out []error
	if e.Kind != nil {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// Errno is an error number of ZFS's own (zfs_errno_t), from 1024.
type Errno syscall.Errno

// The numbers of zfs_errno_t that have a meaning of their own here.
const (
	errCheckpointExists  Errno = 1024
	errDiscarding        Errno = 1025
	errNoCheckpoint      Errno = 1026
	errDevrmInProgress   Errno = 1027
	errVdevTooBig        Errno = 1028
	errCmdUnavail        Errno = 1029
	errArgUnavail        Errno = 1030
	errArgRequired       Errno = 1031
	errArgBadType        Errno = 1032
	errWrongParent       Errno = 1033
	errFromIvsetMissing  Errno = 1034
	errFromIvsetMismatch Errno = 1035
	errSpillFlagMissing  Errno = 1036
	errUnknownFeature    Errno = 1037
	errExportInProgress  Errno = 1038
	errBookmarkNotAnc    Errno = 1039
	errStreamTruncated   Errno = 1040
	errLargeBlock        Errno = 1041
	errResilver          Errno = 1042
	errRebuild           Errno = 1043
	errBadProp           Errno = 1044
	errVdevNotsup        Errno = 1045
	errNotUserNS         Errno = 1046
	errResumeExists      Errno = 1047
	errCryptoNotsup      Errno = 1048
	errRaidzExpand       Errno = 1049
	errAshift            Errno = 1050
)

var errnoText = map[Errno]struct {
	text string
	kind error
}{
	errCheckpointExists:  {"a checkpoint exists", ErrExists},
	errDiscarding:        {"a checkpoint is being discarded", ErrBusy},
	errNoCheckpoint:      {"no checkpoint", ErrNotFound},
	errDevrmInProgress:   {"a device removal is in progress", ErrInProgress},
	errVdevTooBig:        {"device too big", ErrInvalid},
	errCmdUnavail:        {"the module does not know this request", ErrModuleTooOld},
	errArgUnavail:        {"the module does not know an argument of this request", ErrModuleTooOld},
	errArgRequired:       {"a required argument is missing", ErrInvalid},
	errArgBadType:        {"an argument is of the wrong type", ErrInvalid},
	errWrongParent:       {"wrong parent dataset", ErrInvalid},
	errFromIvsetMissing:  {"IV set guid missing", ErrNotInSync},
	errFromIvsetMismatch: {"IV set guid mismatch", ErrNotInSync},
	errSpillFlagMissing:  {"spill block flag missing in raw stream", ErrStream},
	errUnknownFeature:    {"the stream has an unsupported feature", ErrModuleTooOld},
	errExportInProgress:  {"an export is in progress", ErrInProgress},
	errBookmarkNotAnc:    {"bookmark source is not an ancestor of the dataset", ErrInvalid},
	errStreamTruncated:   {"the stream is cut short", ErrStream},
	errLargeBlock:        {"large block flag differs between full and incremental stream", ErrNotInSync},
	errResilver:          {"a resilver is in progress", ErrInProgress},
	errRebuild:           {"a rebuild is in progress", ErrInProgress},
	errBadProp:           {"a property has a bad value", ErrProperty},
	errVdevNotsup:        {"the device does not support this", ErrInvalid},
	errNotUserNS:         {"not a user namespace", ErrInvalid},
	errResumeExists:      {"an interrupted receive is there that can be resumed or aborted", ErrExists},
	errCryptoNotsup:      {"encryption is not supported here", ErrModuleTooOld},
	errRaidzExpand:       {"a raidz expansion is in progress", ErrInProgress},
	errAshift:            {"sector sizes differ too much", ErrInvalid},
}

// Error names the number in words.
func (e Errno) Error() string {
	if t, ok := errnoText[e]; ok {
		return fmt.Sprintf("%s (%d)", t.text, uint32(e))
	}
	return fmt.Sprintf("ZFS error %d", uint32(e))
}

var generalKinds = map[syscall.Errno]error{
	syscall.ENOENT: ErrNotFound, syscall.ESRCH: ErrNotFound, syscall.EEXIST: ErrExists, syscall.EBUSY: ErrBusy,
	syscall.ENAMETOOLONG: ErrNameTooLong, syscall.EINVAL: ErrInvalid, syscall.EPERM: ErrPermission,
	syscall.ENOSPC: ErrNoSpace, syscall.EDQUOT: ErrQuota, syscall.EROFS: ErrReadOnly, syscall.EAGAIN: ErrSuspended,
	syscall.ENXIO: ErrUnavailable, syscall.ENODEV: ErrUnavailable, syscall.EACCES: ErrKeyNotLoaded,
	syscall.EXDEV: ErrCrossesPools, syscall.ENOTSUP: ErrModuleTooOld, syscall.EDOM: ErrProperty,
	syscall.ERANGE: ErrProperty, syscall.EINPROGRESS: ErrInProgress, syscall.EIO: ErrCorrupt,
	syscall.EALREADY: ErrInProgress, syscall.ENOTTY: ErrModuleTooOld, eCksum: ErrCorrupt,
}

// opKinds is where an errno of one request means something else than elsewhere.
var opKinds = map[zcmd.Op]map[syscall.Errno]error{
	zcmd.Destroy:      {syscall.EEXIST: ErrHasChildren},
	zcmd.DestroySnaps: {syscall.EEXIST: ErrHasClones, syscall.EBUSY: ErrHeld},
	zcmd.Rollback:     {syscall.EEXIST: ErrNotNewest, syscall.EXDEV: ErrNotNewest, syscall.ESRCH: ErrNotFound},
	zcmd.LoadKey:      {syscall.EACCES: ErrWrongKey, syscall.EEXIST: ErrExists},
	zcmd.PoolExport:   {syscall.EXDEV: ErrBusy},
	zcmd.PoolImport:   {syscall.ENOENT: ErrUnavailable},
	zcmd.PoolCreate:   {syscall.EBUSY: ErrBusy, syscall.EOVERFLOW: ErrInvalid},
	zcmd.RecvNew:      {syscall.ENODEV: ErrNotInSync, syscall.ETXTBSY: ErrNotInSync, eCksum: ErrStream},
	zcmd.SendNew:      {syscall.EXDEV: ErrInvalid},
	zcmd.InheritProp:  {syscall.EINVAL: ErrProperty},
	zcmd.SetProp:      {syscall.EINVAL: ErrProperty, syscall.ENOTSUP: ErrProperty},
	zcmd.PoolSetProps: {syscall.EINVAL: ErrProperty},
	zcmd.SendSpace:    {syscall.EXDEV: ErrInvalid},
	zcmd.Hold:         {syscall.E2BIG: ErrNameTooLong},
	zcmd.Bookmark:     {syscall.EXDEV: ErrCrossesPools},
	zcmd.PoolScan:     {syscall.EBUSY: ErrInProgress, syscall.ENOENT: ErrNotFound},
	zcmd.VdevDetach:   {syscall.ENOTSUP: ErrInvalid},
	zcmd.VdevAttach:   {syscall.ENOTSUP: ErrInvalid, syscall.EOVERFLOW: ErrInvalid},
	zcmd.VdevSetState: {syscall.ENOTSUP: ErrInvalid},
	zcmd.VdevRemove:   {syscall.ENOTSUP: ErrInvalid},
	zcmd.Clear:        {syscall.EIO: ErrSuspended}, // its I/O went on and failed again
	zcmd.Promote:      {syscall.EINVAL: ErrInvalid},
}

// fail makes the *Error of a request. A nil error stays nil, a context's error stays itself beneath.
func fail(op string, req zcmd.Op, name string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Op: op, Name: name, Err: err}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return e
	}
	if errno >= 1024 {
		e.Err = Errno(errno)
		e.Kind = errnoText[Errno(errno)].kind
		return e
	}
	if k, ok := opKinds[req][errno]; ok {
		e.Kind = k
	} else {
		e.Kind = generalKinds[errno]
	}
	return e
}

// hint adds words for people to an *Error.
func hint(err error, kind error, text string) error {
	var e *Error
	if errors.As(err, &e) {
		if kind != nil {
			e.Kind = kind
		}
		e.Hint = text
	}
	return err
}

func invalidName(op, name, why string) error {
	return &Error{Op: op, Name: name, Kind: ErrInvalidName, Hint: why}
}

func canceled(ctx context.Context, op, name string) error {
	if err := ctx.Err(); err != nil {
		return &Error{Op: op, Name: name, Err: context.Cause(ctx)}
	}
	return nil
}
