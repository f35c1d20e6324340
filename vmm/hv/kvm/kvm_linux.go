// SPDX-License-Identifier: BSD-2-Clause

package kvm

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm/hv"
)

// The hypervisor's own pages in the guest's address space, in the hole below
// 4 GiB. Intel processors without unrestricted guest mode need them.
const (
	identityMapAddr = 0xfeffc000
	tssAddr         = 0xfeffd000
)

// Backend is /dev/kvm, open.
type Backend struct {
	fd       int
	cpuid    []cpuidEntry // what this host can give to a guest
	msrList  []uint32     // what a reset puts back
	mmapSize int
	caps     map[uintptr]int
}

// need are the capabilities without which there is no machine.
var need = []struct {
	cap  uintptr
	name string
}{
	{capIRQChip, "IRQCHIP"}, {capUserMemory, "USER_MEMORY"}, {capSetTSSAddr, "SET_TSS_ADDR"}, {capExtCPUID, "EXT_CPUID"},
	{capMPState, "MP_STATE"}, {capIRQRouting, "IRQ_ROUTING"}, {capIRQFD, "IRQFD"}, {capPIT2, "PIT2"}, {capIOEventFD, "IOEVENTFD"},
	{capSetIdentityMapAddr, "SET_IDENTITY_MAP_ADDR"}, {capVCPUEvents, "VCPU_EVENTS"}, {capDebugRegs, "DEBUGREGS"},
	{capXSave, "XSAVE"}, {capSignalMSI, "SIGNAL_MSI"}, {capImmediateExit, "IMMEDIATE_EXIT"},
}

// Open opens /dev/kvm. It fails with hv.ErrUnavailable where there is none, or
// where it is not backed by the processor's virtualization (vmx or svm), and
// with hv.ErrPermission where this process may not use it.
func Open() (*Backend, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("kvm: %w: %w", hv.ErrUnavailable, err)
	}
	if !hasVirtualization(string(info)) {
		return nil, fmt.Errorf("kvm: %w: the processor offers neither vmx nor svm (/proc/cpuinfo); "+
			"enable virtualization in the firmware, or nested virtualization where this is itself a guest", hv.ErrUnavailable)
	}
	return openDevice("/dev/kvm")
}

// hasVirtualization looks for the flag in the text of /proc/cpuinfo. Without it
// a /dev/kvm is a software one, which does not run ordinary kernels.
func hasVirtualization(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			for f := range strings.FieldsSeq(flags) {
				if f == "vmx" || f == "svm" {
					return true
				}
			}
			return false
		}
	}
	return false
}

func openDevice(path string) (_ *Backend, err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("kvm: open %s: %w: %w; be root or in the group that owns it", path, hv.ErrPermission, err)
	case err != nil:
		return nil, fmt.Errorf("kvm: open %s: %w: %w; load kvm_intel or kvm_amd", path, hv.ErrUnavailable, err)
	}
	b := &Backend{fd: fd, caps: map[uintptr]int{}}
	defer func() {
		if err != nil {
			b.Close()
			err = fmt.Errorf("kvm: %s: %w", path, err)
		}
	}()
	if v, err := ioctl(fd, kvmGetAPIVersion, 0); err != nil || v != apiVersion {
		return nil, fmt.Errorf("%w: API version %d, want %d (%v)", hv.ErrUnavailable, v, apiVersion, err)
	}
	for _, n := range need {
		if b.cap(n.cap) == 0 {
			return nil, fmt.Errorf("%w: the kernel lacks KVM_CAP_%s", hv.ErrUnavailable, n.name)
		}
	}
	if b.mmapSize, err = ioctl(fd, kvmGetVCPUMmapSize, 0); err != nil {
		return nil, fmt.Errorf("size of a vCPU's mapping: %w", err)
	}
	c := &cpuid2{Nent: maxCPUIDEntries}
	if _, err := ioctlPtr(fd, kvmGetSupportedCPUID, c); err != nil {
		return nil, fmt.Errorf("supported CPUID: %w", err)
	}
	b.cpuid = c.Entries[:min(c.Nent, maxCPUIDEntries)]
	l := &msrList{Nmsrs: maxMSRs}
	if _, err := ioctlPtr(fd, kvmGetMSRIndexList, l); err != nil {
		return nil, fmt.Errorf("MSR list: %w", err)
	}
	b.msrList = l.Indices[:min(l.Nmsrs, maxMSRs)]
	return b, nil
}

// cap asks for a capability once: 0 where the kernel has it not.
func (b *Backend) cap(n uintptr) int {
	v, ok := b.caps[n]
	if !ok {
		v, _ = ioctl(b.fd, kvmCheckExtension, n)
		b.caps[n] = v
	}
	return v
}

// Name is "kvm".
func (b *Backend) Name() string { return "kvm" }

// Close closes the device. Machines made before live on.
func (b *Backend) Close() error {
	if b.fd < 0 {
		return nil
	}
	err := unix.Close(b.fd)
	b.fd = -1
	return err
}
