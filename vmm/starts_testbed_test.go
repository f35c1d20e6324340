// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package vmm_test

import (
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm"
	"github.com/skepvm/skep/vmm/boot"
	"github.com/skepvm/skep/vmm/chipset"
	"github.com/skepvm/skep/vmm/guestmem"
	"github.com/skepvm/skep/vmm/hv"
)

// instructions is a guest of a few instructions: it says hello on the serial line
// and powers off.
type instructions struct{}

func (instructions) Check(boot.Params) error { return nil }

func (instructions) Load(mem *guestmem.Memory, _ boot.Params) (*hv.State, error) {
	const at = 0x1000
	// mov al, '!'; mov dx, COM1; out dx, al; mov ax, S5; mov dx, PM1a control; out dx, ax; hlt; jmp to hlt
	code := []byte{0xb0, '!', 0x66, 0xba, 0xf8, 0x03, 0xee, 0x66, 0xb8, 0, 0, 0x66, 0xba, 0, 0, 0x66, 0xef, 0xf4, 0xeb, 0xfd}
	binary.LittleEndian.PutUint16(code[9:], chipset.SleepS5<<10|1<<13)
	binary.LittleEndian.PutUint16(code[13:], chipset.PortPM1Cntl)
	if err := mem.WriteAt(code, at); err != nil {
		return nil, err
	}
	// Protected mode without paging.
	data := hv.Segment{Selector: 0x10, Limit: 0xffffffff, Access: 0xc093}
	return &hv.State{
		RIP: at, RSP: 0x7000, RFLAGS: 2, CR0: 0x21,
		CS: hv.Segment{Selector: 8, Limit: 0xffffffff, Access: 0xc09b}, DS: data, ES: data, SS: data, FS: data, GS: data,
		TR: hv.Segment{Selector: 0x18, Limit: 0xffff, Access: 0x8b},
	}, nil
}

// descriptors counts the open ones.
func descriptors() (n int) {
	var st unix.Stat_t
	for fd := range 4096 {
		if unix.Fstat(fd, &st) == nil {
			n++
		}
	}
	return n
}

// TestManyStarts: a thousand machines (a hundred without SKEP_SOAK), one after the
// other, leave nothing.
func TestManyStarts(t *testing.T) {
	starts := 100
	if os.Getenv("SKEP_SOAK") != "" {
		starts = 1000
	}
	const warm, memory = 20, 64 * vmm.MiB
	files, goroutines, machines := 0, 0, kernelMachines(t)
	var heap, space uint64
	for i := range starts {
		if i == warm {
			var s runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&s)
			files, goroutines, heap, space = descriptors(), runtime.NumGoroutine(), s.HeapAlloc, addressSpace(t)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		m, err := vmm.New(vmm.Config{CPUs: 1 + i%2, Memory: memory, Boot: instructions{}, Serial: w})
		if err != nil {
			t.Fatalf("machine %d: %v", i, err)
		}
		if end, err := m.Run(t.Context()); err != nil || end.Cause != vmm.PowerOff {
			t.Fatalf("machine %d: %+v, %v", i, end, err)
		}
		if err := m.Close(); err != nil {
			t.Fatalf("machine %d: %v", i, err)
		}
		w.Close()
		if said, err := io.ReadAll(r); err != nil || string(said) != "!" {
			t.Fatalf("machine %d said %q, %v", i, said, err)
		}
		r.Close()
	}
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	if n := descriptors(); n != files {
		t.Errorf("%d descriptors after %d machines, %d before", n, starts, files)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	if s.HeapAlloc > heap+1<<20 {
		t.Errorf("%d bytes of heap, %d before", s.HeapAlloc, heap)
	}
	// The runtime may have taken more for itself, not that of two guests.
	if n := addressSpace(t); n > space+2*memory {
		t.Errorf("%d bytes are mapped, %d before: guest memory is left", n, space)
	}
	if n := kernelMachines(t); n != machines {
		t.Errorf("%d machines are left in the kernel, %d before", n, machines)
	}
}
