// SPDX-License-Identifier: BSD-2-Clause

package guestmem

import (
	"errors"
	"fmt"
	"sort"

	"github.com/skepvm/skep/vmm/hv"
)

// ErrBounds is wrapped by every access that is not wholly inside one region.
var ErrBounds = errors.New("outside guest memory")

// Memory is a set of mapped regions. It is immutable after New and safe for
// concurrent use.
type Memory struct{ regions []region }

type region struct {
	base uint64
	kind hv.MemoryKind
	b    []byte
}

// New describes the memory that hv.VM.MapMemory returned: maps[i] backs
// regions[i]. Regions must not overlap nor wrap.
func New(regions []hv.Region, maps [][]byte) (*Memory, error) {
	if len(regions) != len(maps) {
		return nil, fmt.Errorf("guest memory: %d regions but %d maps", len(regions), len(maps))
	}
	m := &Memory{}
	for i, r := range regions {
		if r.Size == 0 || uint64(len(maps[i])) != r.Size || r.Base+r.Size-1 < r.Base {
			return nil, fmt.Errorf("guest memory: region %#x+%#x backed by %#x bytes", r.Base, r.Size, len(maps[i]))
		}
		m.regions = append(m.regions, region{r.Base, r.Kind, maps[i]})
	}
	sort.Slice(m.regions, func(i, j int) bool { return m.regions[i].base < m.regions[j].base })
	for i := 1; i < len(m.regions); i++ {
		p := m.regions[i-1]
		if m.regions[i].base-p.base < uint64(len(p.b)) {
			return nil, fmt.Errorf("guest memory: region at %#x overlaps region at %#x", m.regions[i].base, p.base)
		}
	}
	return m, nil
}

// Slice returns the n bytes of RAM at gpa. The guest may change them at any
// moment: copy out what must not change under a check. It fails with ErrBounds
// where the range is not wholly in one region of RAM; ROM is not given out.
func (m *Memory) Slice(gpa, n uint64) ([]byte, error) {
	b, kind, err := m.find(gpa, n)
	if err == nil && kind != hv.RAM {
		err = fmt.Errorf("guest memory %#x+%#x: %w (read-only)", gpa, n, ErrBounds)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (m *Memory) find(gpa, n uint64) ([]byte, hv.MemoryKind, error) {
	for i := range m.regions { // at most a handful
		r := &m.regions[i]
		if off := gpa - r.base; gpa >= r.base && off < uint64(len(r.b)) && n <= uint64(len(r.b))-off {
			return r.b[off : off+n : off+n], r.kind, nil
		}
	}
	return nil, 0, fmt.Errorf("guest memory %#x+%#x: %w", gpa, n, ErrBounds)
}

// ReadAt copies len(p) bytes at gpa into p, from RAM or ROM.
func (m *Memory) ReadAt(p []byte, gpa uint64) error {
	b, _, err := m.find(gpa, uint64(len(p)))
	if err == nil {
		copy(p, b)
	}
	return err
}

// WriteAt copies p to RAM at gpa.
func (m *Memory) WriteAt(p []byte, gpa uint64) error {
	b, err := m.Slice(gpa, uint64(len(p)))
	if err == nil {
		copy(b, p)
	}
	return err
}

// LoadROM fills read-only memory at gpa, which only the VMM may do.
func (m *Memory) LoadROM(p []byte, gpa uint64) error {
	b, kind, err := m.find(gpa, uint64(len(p)))
	if err == nil && kind != hv.ROM {
		err = fmt.Errorf("guest memory %#x+%#x: %w (not ROM)", gpa, len(p), ErrBounds)
	}
	if err == nil {
		copy(b, p)
	}
	return err
}

// Zero clears all RAM, as a power cycle does.
func (m *Memory) Zero() {
	for _, r := range m.regions {
		if r.kind == hv.RAM {
			clear(r.b)
		}
	}
}

// Regions lists what is mapped, by address.
func (m *Memory) Regions() []hv.Region {
	out := make([]hv.Region, len(m.regions))
	for i, r := range m.regions {
		out[i] = hv.Region{Base: r.base, Size: uint64(len(r.b)), Kind: r.kind}
	}
	return out
}
