// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/bhyve/internal/abi"
)

const (
	pageSize = 4096
	fourGiB  = 4 << 30
	romName  = "bootrom"
)

// mapping is one hv.Region in this process.
type mapping struct {
	region hv.Region
	b      []byte
	segoff uint64 // offset in its segment
	unmap  func() error
}

// probeSegments finds out which structure of memory segments the kernel has. 15
// also answers to 14's, but shifts the segment identifiers then.
func (vm *VM) probeSegments() error {
	err := call(vm.dev, abi.VM_GET_MEMSEG, &abi.Memseg{Segid: abi.SegSysmem})
	if errors.Is(err, syscall.ENOTTY) {
		vm.segments14 = true
		err = call(vm.dev, abi.VM_GET_MEMSEG_14, &abi.Memseg14{Segid: abi.SegSysmem})
	}
	if err != nil {
		return fmt.Errorf("probe memory segments: %w", err)
	}
	return nil
}

func (vm *VM) romSegment() int32 {
	if vm.segments14 {
		return abi.SegBootrom_14
	}
	return abi.SegBootrom
}

func (vm *VM) allocSegment(id int32, size uint64, name string) error {
	var err error
	if vm.segments14 {
		seg := abi.Memseg14{Segid: id, Len: size}
		copy(seg.Name[:], name)
		err = call(vm.dev, abi.VM_ALLOC_MEMSEG_14, &seg)
	} else {
		// No domain mask: the kernel's default NUMA policy.
		seg := abi.Memseg{Segid: id, Len: size}
		copy(seg.Name[:], name)
		err = call(vm.dev, abi.VM_ALLOC_MEMSEG, &seg)
	}
	if err != nil {
		return fmt.Errorf("allocate a memory segment of %d MiB: %w", size>>20, explain(err))
	}
	return nil
}

// MapMemory makes guest memory: one segment for all RAM, one for all ROM.
func (vm *VM) MapMemory(regions []hv.Region) ([][]byte, error) {
	b, err := vm.mapMemory(regions)
	if err != nil {
		return nil, fmt.Errorf("bhyve: machine %q: map memory: %w", vm.cfg.Name, err)
	}
	return b, nil
}

func (vm *VM) mapMemory(regions []hv.Region) (_ [][]byte, err error) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	if vm.closed {
		return nil, hv.ErrClosed
	}
	if vm.mapped {
		return nil, errors.New("memory is mapped already")
	}
	var total [2]uint64 // by kind
	for _, r := range regions {
		if r.Size == 0 || r.Base%pageSize != 0 || r.Size%pageSize != 0 || r.Base+r.Size < r.Base || int(r.Size) < 0 {
			return nil, fmt.Errorf("region %#x+%#x: not whole pages", r.Base, r.Size)
		}
		if r.Kind > hv.ROM {
			return nil, fmt.Errorf("region %#x+%#x: unknown kind %d", r.Base, r.Size, r.Kind)
		}
		vm.mem = append(vm.mem, mapping{region: r, segoff: total[r.Kind], unmap: func() error { return nil }})
		total[r.Kind] += r.Size
	}
	// From here on a failure leaves what there is to Close: segments go with the
	// machine.
	vm.mapped = true
	if total[hv.RAM] > 0 {
		if err := vm.allocSegment(abi.SegSysmem, total[hv.RAM], ""); err != nil {
			return nil, err
		}
	}
	if total[hv.ROM] > 0 {
		if err := vm.allocSegment(vm.romSegment(), total[hv.ROM], romName); err != nil {
			return nil, err
		}
	}
	if err := vm.mapSegmentsLocked(false); err != nil {
		return nil, err
	}
	var rom mapper
	if total[hv.ROM] > 0 {
		if rom, err = vm.host.openSegment(vm.name, romName); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, rom.close()) }()
	}
	out := make([][]byte, len(vm.mem))
	for i := range vm.mem {
		m := &vm.mem[i]
		// A machine's device is addressed by guest-physical address, a named
		// segment by offset.
		if m.region.Kind == hv.RAM {
			m.b, err = vm.dev.mmap(int64(m.region.Base), int(m.region.Size))
		} else {
			m.b, err = rom.mmap(int64(m.segoff), int(m.region.Size))
		}
		if err != nil {
			return nil, fmt.Errorf("map %#x+%#x: %w", m.region.Base, m.region.Size, explain(err))
		}
		b := m.b
		m.unmap = func() error { return vm.dev.munmap(b) }
		out[i] = b
	}
	return out, vm.describeMemoryLocked()
}

// mapSegments maps the segments into the guest: all, or the ROM alone.
func (vm *VM) mapSegments(romOnly bool) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.mapSegmentsLocked(romOnly)
}

func (vm *VM) mapSegmentsLocked(romOnly bool) error {
	for _, m := range vm.mem {
		mm := abi.Memmap{
			Gpa: m.region.Base, Segid: abi.SegSysmem, Segoff: int64(m.segoff), Len: m.region.Size,
			Prot: abi.PROT_READ | abi.PROT_WRITE | abi.PROT_EXEC,
		}
		if m.region.Kind == hv.ROM {
			mm.Segid, mm.Prot = vm.romSegment(), abi.PROT_READ|abi.PROT_EXEC
		} else if romOnly {
			continue
		}
		if err := call(vm.dev, abi.VM_MMAP_MEMSEG, &mm); err != nil {
			return fmt.Errorf("map %#x+%#x into the guest: %w", mm.Gpa, mm.Len, explain(err))
		}
	}
	return nil
}

// describeMemory writes the sizes of memory into the CMOS, where firmware looks:
// 0x34/0x35 memory above 16 MiB in units of 64 KiB, 0x5b-0x5d that above 4 GiB.
func (vm *VM) describeMemory() error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return vm.describeMemoryLocked()
}

func (vm *VM) describeMemoryLocked() error {
	var low, high uint64
	for _, m := range vm.mem {
		switch {
		case m.region.Kind != hv.RAM:
		case m.region.Base >= fourGiB:
			high += m.region.Size
		default:
			low += m.region.Size
		}
	}
	if low == 0 {
		return nil
	}
	var b [5]byte
	if low > 16<<20 {
		binary.LittleEndian.PutUint16(b[:], uint16((low-16<<20)>>16))
	}
	h := high >> 16
	b[2], b[3], b[4] = byte(h), byte(h>>8), byte(h>>16)
	for i, at := range [5]int32{0x34, 0x35, 0x5b, 0x5c, 0x5d} {
		if err := call(vm.dev, abi.VM_RTC_WRITE, &abi.RTCData{Offset: at, Value: b[i]}); err != nil {
			return fmt.Errorf("write CMOS byte %#x: %w", at, err)
		}
	}
	return nil
}

// ram returns n bytes of the guest's memory, or nil if they are not wholly inside
// one region.
func (vm *VM) ram(gpa uint64, n int) []byte {
	for i := range vm.mem { // immutable once the guest runs
		m := &vm.mem[i]
		if off := gpa - m.region.Base; gpa >= m.region.Base && off < uint64(len(m.b)) && uint64(n) <= uint64(len(m.b))-off {
			return m.b[off : off+uint64(n)]
		}
	}
	return nil
}
