// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"errors"
	"fmt"
)

// The sentinels that errors of this package wrap.
var (
	ErrInvalid  = errors.New("invalid")
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	// ErrChecksum: the bytes are not those that the catalogue promises.
	ErrChecksum = errors.New("checksum mismatch")
	// ErrCorrupt: truncated, or contradicting itself.
	ErrCorrupt = errors.New("corrupt image")
	// ErrRefused: an image that asks for what none may, such as a file of the
	// host's, or of a kind that is not supported.
	ErrRefused = errors.New("image refused")
	// ErrTooLarge: more than a limit allows.
	ErrTooLarge = errors.New("too large")
	// ErrTooSmall: a clone cannot be smaller than its image.
	ErrTooSmall = errors.New("too small")
	ErrNoSpace  = errors.New("not enough disk space")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}
