// SPDX-License-Identifier: BSD-2-Clause

package bhyve

// host is what the backend needs of the operating system: the kernel on FreeBSD,
// a fake in tests.
type host interface {
	// create makes a machine; sentinels of hv are wrapped where they fit.
	create(name string) error
	// destroy removes one; a machine that does not exist is errNoMachine.
	destroy(name string) error
	// open opens a machine's device.
	open(name string) (machine, error)
	// openSegment opens a machine's named memory segment.
	openSegment(name, segment string) (mapper, error)
	// names lists the machines of the host that this process may see.
	names() ([]string, error)
	// maxVCPUs is the kernel's limit, or 0 if it does not tell.
	maxVCPUs() int
	// confine makes all of the above fail. Machines stay.
	confine() error
	close() error
}

// mapper is a descriptor whose memory can be mapped, shared, for reading and
// writing.
type mapper interface {
	mmap(offset int64, size int) ([]byte, error)
	munmap([]byte) error
	close() error
}

// machine is an open /dev/vmm/NAME.
type machine interface {
	device
	mapper
	// confine leaves of what can be done with the descriptor the given requests.
	confine(requests []uint32) error
}
