// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

const (
	ctlPath     = "/dev/vmmctl"
	machinePath = "/dev/vmm/"
	segmentPath = "/dev/vmm.io/"

	createSysctl  = "hw.vmm.create"
	destroySysctl = "hw.vmm.destroy"
)

// Open opens the hypervisor, loading vmm.ko if it is not there and may be.
func Open() (*Backend, error) {
	k, err := openKernel()
	if err != nil {
		return nil, fmt.Errorf("bhyve: %w", err)
	}
	return &Backend{host: k}, nil
}

// kernel is the host on FreeBSD.
type kernel struct {
	ctl *os.File // /dev/vmmctl; nil on 14, which has sysctls instead

	mu           sync.Mutex
	closeDestroy flagState // whether create takes flags (16)
}

type flagState uint8

const (
	flagsUnknown flagState = iota
	flagsYes
	flagsNo
)

func openKernel() (*kernel, error) {
	if err := loadModule(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(ctlPath, os.O_RDWR, 0)
	switch {
	case err == nil:
		return &kernel{ctl: f}, nil
	case errors.Is(err, os.ErrPermission):
		return nil, permission(err)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: %w", hv.ErrUnavailable, err)
	}
	// FreeBSD 14 has the sysctls alone. They are writable by root only.
	if err := readSysctl(createSysctl); err != nil {
		return nil, fmt.Errorf("%w: neither %s nor sysctl %s: %w", hv.ErrUnavailable, ctlPath, createSysctl, err)
	}
	if os.Geteuid() != 0 {
		return nil, permission(fmt.Errorf("write sysctl %s: %w", createSysctl, os.ErrPermission))
	}
	return &kernel{}, nil
}

func permission(err error) error {
	return fmt.Errorf("%w: %w (be root; in a jail allow.vmm must be set)", hv.ErrPermission, err)
}

// loadModule loads vmm.ko unless it is in the kernel.
func loadModule() error {
	if moduleFind("vmm") == nil {
		return nil
	}
	err := moduleLoad("vmm")
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
	}
	return fmt.Errorf("%w: load vmm.ko: %w", hv.ErrUnavailable, err)
}

// confine leaves no right to /dev/vmmctl but to have it open. The sysctls of 14
// cannot be written in capability mode.
func (k *kernel) confine() error {
	if k.ctl == nil {
		return nil
	}
	return limitRights(k.ctl.Fd())
}

// limitRights is cap_rights_limit(2).
func limitRights(fd uintptr, rights ...uint64) error {
	r, err := unix.CapRightsInit(rights)
	if err != nil {
		return fmt.Errorf("capability rights: %w", err)
	}
	return os.NewSyscallError("cap_rights_limit", unix.CapRightsLimit(fd, r))
}

func (k *kernel) close() error {
	if k.ctl == nil {
		return nil
	}
	if err := k.ctl.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// fileDevice is device on a file.
type fileDevice struct{ f *os.File }

func (k *kernel) create(name string) error {
	err := k.createMachine(name)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EEXIST):
		return fmt.Errorf("%w: %w", hv.ErrExists, err)
	case errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w: the processor does not support it or vmm.ko could not initialize: %w", hv.ErrUnavailable, err)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return permission(err)
	case errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w: %w", hv.ErrLimit, err)
	}
	return err
}

func (k *kernel) createMachine(name string) error {
	if k.ctl == nil {
		return writeSysctl(createSysctl, name)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	arg := new(abi.CtlCreate)
	copy(arg.Name[:], name)
	if k.closeDestroy != flagsNo {
		arg.Reserved[0] = abi.CreateDestroyOnClose
		err := call(fileDevice{k.ctl}, abi.VMMCTL_VM_CREATE, arg)
		// On 15 the word must be zero. EINVAL may have another reason, too: then
		// the second attempt has it as well.
		if !errors.Is(err, syscall.EINVAL) {
			if err == nil {
				k.closeDestroy = flagsYes
			}
			return err
		}
		arg.Reserved[0] = 0
	}
	err := call(fileDevice{k.ctl}, abi.VMMCTL_VM_CREATE, arg)
	if err == nil {
		k.closeDestroy = flagsNo
	}
	return err
}

func (k *kernel) destroy(name string) error {
	var err error
	if k.ctl == nil {
		err = writeSysctl(destroySysctl, name)
	} else {
		arg := new(abi.CtlCreate)
		copy(arg.Name[:], name)
		err = call(fileDevice{k.ctl}, abi.VMMCTL_VM_DESTROY, arg)
	}
	if errors.Is(err, syscall.EINVAL) {
		return errNoMachine
	}
	if err != nil {
		return fmt.Errorf("remove machine %s from the kernel: %w", name, err)
	}
	return nil
}

func (k *kernel) names() ([]string, error) {
	entries, err := os.ReadDir(strings.TrimSuffix(machinePath, "/"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no machine, no directory
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (k *kernel) maxVCPUs() int {
	n, err := unix.SysctlUint32("hw.vmm.maxcpu")
	if err != nil {
		return 0
	}
	return int(n)
}

func (k *kernel) open(name string) (machine, error) {
	f, err := os.OpenFile(machinePath+name, os.O_RDWR, 0)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, permission(err)
		}
		return nil, err
	}
	return fileMachine{fileDevice{f}}, nil
}

func (k *kernel) openSegment(name, segment string) (mapper, error) {
	f, err := os.OpenFile(segmentPath+name+"."+segment, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return fileMachine{fileDevice{f}}, nil
}

type fileMachine struct{ fileDevice }

func (m fileMachine) mmap(offset int64, size int) ([]byte, error) {
	return unix.Mmap(int(m.f.Fd()), offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// confine is capsicum(4)'s, and holds outside of capability mode as well.
func (m fileMachine) confine(requests []uint32) error {
	if err := limitRights(m.f.Fd(), unix.CAP_IOCTL); err != nil {
		return err
	}
	return os.NewSyscallError("cap_ioctls_limit", limitIoctls(m.f.Fd(), requests))
}

func (m fileMachine) close() error { return m.f.Close() }

func (fileMachine) munmap(b []byte) error { return unix.Munmap(b) }
