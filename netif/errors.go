// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"syscall"
)

// The sentinels that errors of this package wrap, beside the errno that the
// kernel gave.
var (
	ErrExists     = errors.New("already exists")
	ErrNotFound   = errors.New("not found")
	ErrPermission = errors.New("not permitted")
	ErrBusy       = errors.New("busy")
	// ErrInvalid marks a specification, name or address that no kernel was
	// asked about, because it cannot be right.
	ErrInvalid = errors.New("invalid")
	// ErrForeign marks an interface that lacks skep's mark, where only an
	// interface of skep's own may be changed or removed.
	ErrForeign = errors.New("not made by skep")
	// ErrExhausted says that an address pool has nothing left.
	ErrExhausted = errors.New("no free address left")
)

// wrap says what was tried, on what, and gives the errno in err the sentinel
// that stands for it. A nil err stays nil.
func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if s := sentinelOf(err); s != nil && !errors.Is(err, s) {
		return fmt.Errorf("netif: %s %q: %w: %w", op, name, s, err)
	}
	return fmt.Errorf("netif: %s %q: %w", op, name, err)
}

func sentinelOf(err error) error {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return nil
	}
	switch no {
	case syscall.EEXIST:
		return ErrExists
	case syscall.ENODEV, syscall.ENXIO, syscall.ENOENT:
		return ErrNotFound
	case syscall.EPERM, syscall.EACCES:
		return ErrPermission
	case syscall.EBUSY:
		return ErrBusy
	case syscall.ENAMETOOLONG:
		return ErrInvalid
	case syscall.EOPNOTSUPP:
		return errors.ErrUnsupported
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("netif: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
