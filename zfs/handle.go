// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// Handle is an open connection to the kernel's ZFS. It is safe for concurrent use.
type Handle struct {
	dev     *zcmd.Device
	version func() (Version, error)
}

// Open opens /dev/zfs. It fails with ErrNoModule where no module is loaded and
// ErrPermission for one who may not use it.
func Open() (*Handle, error) {
	dev, err := zcmd.Open()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		return nil, &Error{Op: "open", Name: "/dev/zfs", Kind: ErrNoModule, Err: err}
	case errors.Is(err, fs.ErrPermission):
		return nil, &Error{Op: "open", Name: "/dev/zfs", Kind: ErrPermission, Err: err}
	case err != nil:
		return nil, &Error{Op: "open", Name: "/dev/zfs", Err: err}
	}
	return newHandle(dev, moduleVersion), nil
}

func newHandle(dev *zcmd.Device, version func() (string, error)) *Handle {
	return &Handle{dev: dev, version: sync.OnceValues(func() (Version, error) {
		s, err := version()
		if err != nil {
			return Version{}, &Error{Op: "version", Err: err}
		}
		return parseVersion(s)
	})}
}

// Close closes the handle and releases the holds that were to last as long as it.
func (h *Handle) Close() error { return h.dev.Close() }

// Version is the version of the loaded module.
type Version struct {
	Major, Minor, Patch int
	Text                string
}

// AtLeast compares major and minor.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Version gives the version of the loaded kernel module.
func (h *Handle) Version() (Version, error) { return h.version() }

func parseVersion(s string) (Version, error) {
	v := Version{Text: strings.TrimSpace(s)}
	n := strings.TrimPrefix(v.Text, "zfs-kmod-")
	n, _, _ = strings.Cut(strings.TrimPrefix(n, "v"), "-")
	parts := strings.Split(n, ".")
	for i, p := range []*int{&v.Major, &v.Minor, &v.Patch} {
		if i >= len(parts) {
			break
		}
		d := parts[i]
		if j := strings.IndexFunc(d, func(r rune) bool { return r < '0' || r > '9' }); j >= 0 {
			d = d[:j]
		}
		k, err := strconv.Atoi(d)
		if err != nil {
			return v, &Error{Op: "version", Name: v.Text, Kind: ErrInvalid}
		}
		*p = k
	}
	return v, nil
}

// call sends one request of the new style and gives the reply, which may be nil. The reply comes with an error too.
func (h *Handle) call(ctx context.Context, op string, req zcmd.Op, name string, in *nvlist.List) (*nvlist.List, error) {
	return h.callBy(ctx, (*zcmd.Request).Do, op, req, name, in)
}

// callStream is call for a request that moves a stream, through a pipe that is in its input. It is
// sent once, and signals are kept from it: the kernel, which between two records gives up for any,
// would begin anew behind what it has written, or with what it has not yet read.
func (h *Handle) callStream(ctx context.Context, op string, req zcmd.Op, name string, in *nvlist.List) (*nvlist.List, error) {
	out, err := h.callBy(ctx, (*zcmd.Request).DoStream, op, req, name, in)
	if errors.Is(err, syscall.EINTR) {
		err = hint(err, nil, "a signal cut the stream")
	}
	return out, err
}

func (h *Handle) callBy(ctx context.Context, do func(*zcmd.Request, context.Context, zcmd.Op) error, op string, req zcmd.Op, name string,
	in *nvlist.List,
) (*nvlist.List, error) {
	r := h.dev.Request(name)
	defer r.Release()
	if in != nil {
		if err := r.SetInput(in); err != nil {
			return nil, &Error{Op: op, Name: name, Kind: ErrInvalid, Err: err}
		}
	}
	err := do(r, ctx, req)
	out, derr := r.Reply()
	if err == nil && derr != nil {
		return nil, &Error{Op: op, Name: name, Err: derr}
	}
	return out, fail(op, req, name, err)
}

// perName turns a reply of {name: errno} into one error for each, or the
// request's own error, which is of the pool, into one of the names it was about.
func perName(op string, req zcmd.Op, about []string, out *nvlist.List, err error) error {
	var errs []error
	for name, v := range out.All() {
		n, ok := v.Int()
		if !ok || n == 0 || name == "N_MORE_ERRORS" {
			continue
		}
		// Two snapshots of a dataset in one transaction group: the kernel tries the second
		// again in the next (dsl_sync_task), and leaves the first try's EAGAIN in its reply.
		if syscall.Errno(n) != syscall.EAGAIN {
			errs = append(errs, fail(op, req, name, syscall.Errno(n)))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	var e *Error
	if errors.As(err, &e) {
		e.Name = about[0]
		if more := len(about) - 1; more > 0 {
			e.Hint = fmt.Sprintf("and %d more", more)
		}
	}
	return err
}

// with opens a handle for the length of f.
func with(f func(*Handle) error) error {
	h, err := Open()
	if err != nil {
		return err
	}
	err = f(h)
	if cerr := h.Close(); err == nil && cerr != nil {
		err = cerr
	}
	return err
}

// Logged runs do and writes a line into the pool's history under the name of the program,
// as the commands do. The kernel takes that only from the thread that last
// changed the pool, so that do, which is to change it, runs on one with it.
func (h *Handle) Logged(ctx context.Context, message string, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := do(); err != nil || message == "" {
		return err
	}
	_, err := h.call(ctx, "log history", zcmd.LogHistory, "", nvlist.New(nvlist.P("message", message)))
	return err
}

// altroot is the pool's alternate root, "" for none.
func (h *Handle) altroot(ctx context.Context, name string) string {
	out, err := h.call(ctx, "get", zcmd.PoolGetProps, pool(name), nil)
	if err != nil {
		return ""
	}
	return out.List("altroot").Str("value")
}
