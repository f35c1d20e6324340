// SPDX-License-Identifier: BSD-2-Clause

package boot

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// ErrImage is wrapped by every refusal of a kernel or initrd.
var ErrImage = errors.New("bad boot image")

// ErrMemory is wrapped where the guest has too little memory for what is to be
// loaded.
var ErrMemory = errors.New("guest memory too small")

// Source is what a machine boots. Load is called before the first instruction
// and again at every reset in place, each time on zeroed memory and with no
// vCPU running; it may read its files, but not open any.
type Source interface {
	// Check tells whether a machine of Params can boot this, as far as that can
	// be seen without loading it. It changes nothing.
	Check(Params) error
	// Load fills mem and returns the state in which vCPU 0 begins.
	Load(mem *guestmem.Memory, p Params) (*hv.State, error)
}

// Params is what a loader must know of the machine.
type Params struct {
	CPUs int
	// LowMem is the RAM from address 0 up to the PCI hole, HighMem that from
	// 4 GiB, both in bytes.
	LowMem, HighMem uint64
	// RSDP is the guest-physical address of the ACPI root pointer, 0 for none.
	RSDP uint64
	// Reserved are ranges that a memory map must not call usable: firmware
	// tables below 1 MiB, ECAM in the hole. Sorted by address, not overlapping.
	Reserved []Range
	// Rand gives the seed that the guest's random generator begins with. nil
	// gives it none.
	Rand io.Reader
}

// Range is [Base, Base+Size) of guest-physical memory.
type Range struct{ Base, Size uint64 }

// HighBase is where RAM above the PCI hole begins.
const HighBase = 4 << 30

// sizeOf returns the length of what is behind r: a value with a method
// Size() int64 (bytes.Reader, io.SectionReader) or an *os.File.
func sizeOf(r io.ReaderAt) (int64, error) {
	switch v := r.(type) {
	case interface{ Size() int64 }:
		return v.Size(), nil
	case *os.File:
		fi, err := v.Stat()
		if err != nil {
			return 0, err
		}
		if !fi.Mode().IsRegular() {
			return 0, fmt.Errorf("%s: %w: not a regular file", v.Name(), ErrImage)
		}
		return fi.Size(), nil
	}
	return 0, fmt.Errorf("%w: %T tells no size", ErrImage, r)
}
