// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// ErrProgram is a channel program that failed by itself; the error has its words.
var ErrProgram = errors.New("channel program failed")

// Limits of a channel program, zfs-program(8).
const (
	DefaultInstructions = 10_000_000
	DefaultMemory       = 10 << 20
	maxInstructions     = 10 * DefaultInstructions
	maxMemory           = 10 * DefaultMemory
)

// ProgramOptions are how a channel program runs.
type ProgramOptions struct {
	Sync         bool         // it changes the pool: all that it does happens at one instant
	Args         *nvlist.List // what the program sees as its arguments
	Instructions uint64       // 0 for DefaultInstructions
	Memory       uint64       // bytes, 0 for DefaultMemory
}

// Run runs a channel program in Lua on a pool, zfs-program(8), and gives what
// it returns; the zero Value for nothing. What it does is not undone when it
// fails half-way: a program has to look before it changes anything. It is never
// run a second time by itself.
func (h *Handle) Run(ctx context.Context, pool, program string, o ProgramOptions) (nvlist.Value, error) {
	const op = "program"
	if err := checkNewOrOld(op, pool); err != nil {
		return nvlist.Value{}, err
	}
	if o.Instructions == 0 {
		o.Instructions = DefaultInstructions
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Instructions > maxInstructions || o.Memory > maxMemory {
		return nvlist.Value{}, &Error{Op: op, Name: pool, Kind: ErrInvalid, Hint: "a limit is too high"}
	}
	if o.Args == nil {
		o.Args = nvlist.New()
	}
	r := h.dev.Request(pool)
	defer r.Release()
	err := r.SetInput(nvlist.New(nvlist.P("program", program), nvlist.P("arg", o.Args), nvlist.P("sync", o.Sync),
		nvlist.P("instrlimit", o.Instructions), nvlist.P("memlimit", o.Memory)))
	if err != nil {
		return nvlist.Value{}, &Error{Op: op, Name: pool, Kind: ErrInvalid, Err: err}
	}
	err = r.DoSized(ctx, zcmd.ChannelProgram, int(o.Memory))
	out, derr := r.Reply()
	if err == nil && derr != nil {
		return nvlist.Value{}, &Error{Op: op, Name: pool, Err: derr}
	}
	if err == nil {
		v, _ := out.Value("return")
		return v, nil
	}
	err = fail(op, zcmd.ChannelProgram, pool, err)
	if v, ok := out.Value("error"); ok {
		text, isStr := v.Str()
		if !isStr {
			text = v.List().String()
		}
		return v, hint(err, ErrProgram, text)
	}
	switch errnoOf(err) {
	case syscall.EINVAL:
		return nvlist.Value{}, hint(err, ErrProgram, "its syntax or its arguments")
	case eTime:
		return nvlist.Value{}, hint(err, ErrProgram, fmt.Sprintf("it took more than %d instructions", o.Instructions))
	case syscall.ENOSPC, syscall.ENOMEM:
		return nvlist.Value{}, hint(err, ErrProgram, fmt.Sprintf("it took more than %d bytes", o.Memory))
	}
	return nvlist.Value{}, err
}
