// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

const (
	ctlPath      = "/dev/vmmctl"
	createSysctl = "hw.vmm.create"
)

// creator makes machines by /dev/vmmctl, which FreeBSD has from 15 on.
type creator struct {
	dev device

	mu           sync.Mutex
	closeDestroy flagState // whether create takes flags
}

type flagState uint8

const (
	flagsUnknown flagState = iota
	flagsYes
	flagsNo
)

// create makes a machine that ends with the descriptor of vmmctl, where the kernel
// can do that: FreeBSD 16, by its sources (vmm_dev.c). All that is said of 16 in this
// package is not confirmed on a kernel.
func (c *creator) create(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	arg := new(abi.CtlCreate)
	copy(arg.Name[:], name)
	if c.closeDestroy != flagsNo {
		arg.Reserved[0] = abi.CreateDestroyOnClose
		err := call(c.dev, abi.VMMCTL_VM_CREATE, arg)
		// On 15 the word must be zero. EINVAL may have another reason, too: then
		// the second attempt has it as well.
		if !errors.Is(err, syscall.EINVAL) {
			if err == nil {
				c.closeDestroy = flagsYes
			}
			return createError(err, true)
		}
		arg.Reserved[0] = 0
	}
	err := call(c.dev, abi.VMMCTL_VM_CREATE, arg)
	if err == nil {
		c.closeDestroy = flagsNo
	}
	return createError(err, false)
}

// createError says what the kernel's answer to the creation of a machine means.
// flags: the kernel took the word that is reserved before 16.
func createError(err error, flags bool) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("%w: %w", hv.ErrExists, err)
	case errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w: the processor does not support it or vmm.ko could not initialize: %w", hv.ErrUnavailable, err)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return permission(err)
	case errors.Is(err, syscall.ENOMEM) && flags:
		// 16 counts a user's machines, and has this answer for one too many.
		return fmt.Errorf("%w: the user has as many machines as sysctl hw.vmm.maxvmms allows: %w", hv.ErrLimit, err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("%w: %w", hv.ErrNoMemory, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w: %w", hv.ErrLimit, err)
	}
	return err
}

// openError says why /dev/vmmctl, which answered err, cannot be used; nil where
// the sysctls of 14 can be used in its place.
func openError(err error, sysctl func() error, root bool) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return permission(err)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("%w: descriptors: %w", hv.ErrLimit, err)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %w", hv.ErrUnavailable, err)
	}
	if err := sysctl(); err != nil {
		return fmt.Errorf("%w: neither %s nor sysctl %s: %w", hv.ErrUnavailable, ctlPath, createSysctl, err)
	}
	if !root {
		return permission(fmt.Errorf("write sysctl %s: %w", createSysctl, os.ErrPermission))
	}
	return nil
}

// moduleError says what the answer to loading vmm.ko means.
func moduleError(err error) error {
	switch {
	case err == nil, errors.Is(err, syscall.EEXIST):
		return nil
	case errors.Is(err, syscall.EPERM):
		return permission(fmt.Errorf("load vmm.ko: %w", err))
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: vmm.ko is not in the kernel's module path: %w", hv.ErrUnavailable, err)
	case errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w: vmm.ko does not initialize: no VT-x with EPT and unrestricted guest, no AMD-V with nested paging, or disabled by the firmware (see dmesg): %w",
			hv.ErrUnavailable, err)
	case errors.Is(err, syscall.ENOMEM):
		return fmt.Errorf("%w: load vmm.ko: %w", hv.ErrNoMemory, err)
	}
	return fmt.Errorf("%w: load vmm.ko: %w", hv.ErrUnavailable, err)
}

func permission(err error) error {
	return fmt.Errorf("%w: %w (be root; in a jail allow.vmm must be set)", hv.ErrPermission, err)
}
