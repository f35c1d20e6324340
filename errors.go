// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"fmt"
)

// Sentinels, to be tested with errors.Is. What cannot be done on this host
// answers errors.ErrUnsupported.
var (
	// ErrExists: a machine, snapshot or address of that name is there already.
	ErrExists = errors.New("already exists")
	// ErrNotFound: no machine, image or snapshot of that name.
	ErrNotFound = errors.New("not found")
	// ErrBusy: another operation holds the machine, or its state forbids this one.
	ErrBusy = errors.New("busy")
	// ErrInvalid: a value was refused; see FieldError.
	ErrInvalid = errors.New("invalid")
	// ErrNoSpace: the host has too little memory, disk or addresses left.
	ErrNoSpace = errors.New("not enough room on the host")
	// ErrLocked: another process has this store open.
	ErrLocked = errors.New("in use by another daemon")
	// ErrClosed: the Host was closed.
	ErrClosed = errors.New("host is closed")
)

// FieldError says which field of a MachineSpec, Config or option was refused
// and why. It matches ErrInvalid.
type FieldError struct {
	Field string // the Go name of the field: "Name", "CPUs"
	Value string // what was given, shortened; empty where it is a secret or long
	Why   string // the rule that it breaks
	Err   error  // the cause, if another package refused it
}

func (e *FieldError) Error() string {
	s := e.Field
	if e.Value != "" {
		s += fmt.Sprintf(" %q", e.Value)
	}
	s += ": " + e.Why
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is reports true for ErrInvalid.
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// Unwrap gives the cause.
func (e *FieldError) Unwrap() error { return e.Err }

func invalid(field, value, format string, args ...any) error {
	if len(value) > 64 {
		value = value[:61] + "..."
	}
	return &FieldError{Field: field, Value: value, Why: fmt.Sprintf(format, args...)}
}
