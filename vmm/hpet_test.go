// SPDX-License-Identifier: BSD-2-Clause

package vmm

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/skepvm/skep/vmm/hv"
)

// hpetBackend's machines have the timer that a hypervisor may give.
type hpetBackend struct{ fakeBackend }

type hpetVM struct{ *fakeVM }

func (hpetVM) HPET() uint32 { return 0x80860701 }

func (b *hpetBackend) NewVM(c hv.Config) (hv.VM, error) {
	vm, err := b.fakeBackend.NewVM(c)
	if err != nil {
		return nil, err
	}
	return hpetVM{vm.(*fakeVM)}, nil
}

// TestHPET: the guest is told of the hypervisor's timer, and of none where there is none.
func TestHPET(t *testing.T) {
	for name, want := range map[string]bool{"bhyve's": true, "none": false} {
		t.Run(name, func(t *testing.T) {
			b := new(hpetBackend)
			var backend hv.Backend = b
			if !want {
				backend = &b.fakeBackend
			}
			var loads atomic.Int32
			m, err := New(Config{CPUs: 1, Memory: MinMemory, Boot: fakeBoot{loads: &loads}, Backend: backend, NoRNG: true})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			mem := b.vms[0].maps[0]
			clear(mem)
			if err := m.parts.loadTables(m.mem); err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(mem, []byte("HPET8\x00\x00\x00"))
			if found := at >= 0; found != want {
				t.Fatalf("the table is there: %v", found)
			}
			if want && binary.LittleEndian.Uint32(mem[at+36:]) != 0x80860701 {
				t.Errorf("the timer's capabilities are % x", mem[at+36:at+40])
			}
		})
	}
}
