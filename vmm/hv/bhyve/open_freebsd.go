// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

const (
	machinePath = "/dev/vmm/"
	segmentPath = "/dev/vmm.io/"

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
	ctl  *os.File // /dev/vmmctl; nil on 14, which has sysctls instead
	make creator  // by ctl
}

func openKernel() (*kernel, error) {
	if err := loadModule(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(ctlPath, os.O_RDWR, 0)
	if err == nil {
		return &kernel{ctl: f, make: creator{dev: fileDevice{f}}}, nil
	}
	// FreeBSD 14 has the sysctls alone. They are writable by root only.
	if err := openError(err, func() error { return readSysctl(createSysctl) }, os.Geteuid() == 0); err != nil {
		return nil, err
	}
	return &kernel{}, nil
}

// loadModule loads vmm.ko unless it is in the kernel.
func loadModule() error {
	if moduleFind("vmm") == nil {
		return nil
	}
	return moduleError(moduleLoad("vmm"))
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
	if k.ctl == nil {
		return createError(writeSysctl(createSysctl, name), false)
	}
	return k.make.create(name)
}

func (k *kernel) destroy(name string) error {
	var err error
	if k.ctl == nil {
		// In capability mode, as in the worker, the kernel refuses this: the sysctl
		// has no CTLFLAG_CAPWR (by 14's source; no kernel of 14 was asked). The
		// machine then stays until the daemon, which is in no such mode, has seen
		// the worker end and calls vmm.RemoveLeftover.
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
