// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && linux

package insn

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/skepvm/skep/vmm/hv"
	"github.com/skepvm/skep/vmm/hv/kvm"
)

// TestAgainstProcessor runs each instruction on a processor, under KVM with its
// operand in RAM, and compares registers, flags and memory with what Exec makes
// of the same state.

const (
	codeAt  = 0x10000
	dataAt  = 0x20000 // RBX and RSI
	destAt  = 0x21000 // RDI
	stackAt = 0x22800 // RSP
	ramEnd  = 0x23000
	pages   = 0x2000 // page tables
)

// undefined are the flags that the architecture leaves open after an operation.
func undefined(op Op) uint64 {
	switch op {
	case And, Or, Xor, Test:
		return flagAF
	case Bt, Bts, Btr, Btc:
		return flagOF | flagSF | flagAF | flagPF
	case Bextr:
		return flagAF | flagSF | flagPF
	}
	return 0
}

var processorTests = []string{
	"88 0b", "88 2b", "40 88 33", "44 88 0b", "89 0b", "66 89 0b", "48 89 0b", "4c 89 4b 08",
	"8a 0b", "8a 2b", "8b 0b", "66 8b 0b", "48 8b 0b", "4c 8b 4b 10",
	"a0 00 00 02 00 00 00 00 00", "a1 00 00 02 00 00 00 00 00", "a2 00 00 02 00 00 00 00 00", "48 a3 00 00 02 00 00 00 00 00",
	"c6 03 7f", "c7 03 78 56 34 92", "66 c7 03 34 92", "48 c7 03 78 56 34 92",
	"0f b6 0b", "66 0f b6 0b", "48 0f b6 0b", "0f b7 0b", "48 0f b7 0b", "0f be 0b", "66 0f be 2b", "48 0f be 0b", "0f bf 0b", "48 0f bf 0b", "48 63 0b",
	"00 0b", "01 0b", "02 2b", "03 0b", "66 03 0b", "48 03 0b", "08 0b", "09 0b", "0a 0b", "0b 0b", "10 0b", "11 0b", "12 0b", "13 0b", "48 13 0b",
	"18 0b", "19 0b", "1a 0b", "1b 0b", "66 1b 0b", "20 0b", "21 0b", "22 0b", "23 0b", "28 0b", "29 0b", "2a 0b", "2b 0b", "48 2b 0b",
	"30 0b", "31 0b", "32 0b", "33 0b", "38 0b", "39 0b", "66 39 0b", "3a 0b", "3b 0b", "48 3b 0b",
	"80 03 81", "80 0b 81", "80 13 81", "80 1b 81", "80 23 81", "80 2b 81", "80 33 81", "80 3b 81",
	"81 03 00 00 01 80", "48 81 2b 00 00 01 80", "66 81 3b 00 80", "83 0b fe", "83 23 fe", "83 3b fe", "48 83 13 fe", "66 83 1b 7f",
	"84 0b", "85 0b", "48 85 0b", "86 2b", "87 0b", "48 87 0b", "f6 03 81", "f7 03 00 00 00 80", "48 f7 03 00 00 00 80",
	"f6 13", "f7 13", "f6 1b", "f7 1b", "48 f7 1b", "fe 03", "fe 0b", "ff 03", "ff 0b", "48 ff 03", "66 ff 0b",
	"ff 33", "66 ff 33", "8f 03", "66 8f 03",
	"0f ba 23 25", "0f ba 2b 25", "0f ba 33 05", "0f ba 3b 1f", "48 0f ba 2b 3f", "66 0f ba 33 0f",
	"f0 0f b1 0b", "0f b0 0b", "48 0f b1 0b", "66 0f b1 0b", "f0 0f c1 0b", "0f c0 2b", "48 0f c1 0b",
	"0f ae 3b", "c4 e2 70 f7 03", "c4 62 f0 f7 1b", "c4 e2 68 f7 0b",
	"a4", "a5", "66 a5", "48 a5", "f3 a4", "f3 48 a5", "67 f3 a5", "aa", "ab", "f3 ab", "f3 48 ab", "66 f3 ab", "ac", "66 ad", "ad", "48 ad", "f3 ac",
	"6e", "6f", "66 6f", "48 6f", "f3 6e", "f3 6f", "f3 66 6f",
}

// narrowTests are for 32-bit code besides, whose addresses are shorter.
var narrowTests = []string{"a0 00 00 02 00", "a1 00 00 02 00", "66 a1 00 00 02 00", "a2 00 00 02 00", "a3 00 00 02 00"}

// port is what RDX holds for outs.
const port = 0x2222

// processor is a vCPU in one mode, with the first 2 MiB mapped as they are.
type processor struct {
	v   hv.VCPU
	ram []byte
	s   hv.State
	out []string // what outs wrote, as testEnv traces it
}

// kicker takes the vCPU out of the guest at its access to the port that ends a
// test.
type kicker struct{ p *processor }

func (k kicker) PortRead(uint16, int) uint32 { return 0 }
func (k kicker) PortWrite(at uint16, size int, v uint32) {
	if at != port {
		k.p.v.Kick()
		return
	}
	k.p.out = append(k.p.out, fmt.Sprintf("out%d %x=%x", size, at, v))
}
func (k kicker) MMIORead(uint64, int) uint64   { return 0 }
func (k kicker) MMIOWrite(uint64, int, uint64) {}

func newProcessor(t *testing.T) *processor {
	b, err := kvm.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	vm, err := b.NewVM(hv.Config{Name: "insn", VCPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	mem, err := vm.MapMemory([]hv.Region{{Size: 2 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	ram := mem[0]
	binary.LittleEndian.PutUint64(ram[pages:], pages+0x1003)
	binary.LittleEndian.PutUint64(ram[pages+0x1000:], pages+0x2003)
	binary.LittleEndian.PutUint64(ram[pages+0x2000:], 0x83) // 2 MiB page
	data := hv.Segment{Selector: 0x10, Limit: 0xffffffff, Access: 0xc093}
	return &processor{v: vm.VCPU(0), ram: ram, s: hv.State{
		CR0: 0x80000021, CR3: pages, CR4: 0x20, EFER: 0x500, RIP: codeAt,
		CS: hv.Segment{Selector: 8, Limit: 0xffffffff, Access: 0xa09b}, DS: data, ES: data, FS: data, GS: data, SS: data,
		TR: hv.Segment{Limit: 0xffff, Access: 0x8b}, LDTR: hv.Segment{Access: hv.Unusable},
	}}
}

// mode switches the processor to code of so many bits. Without paging, and with
// segments that reach everywhere, addresses of 32 bits work in 16-bit code, too.
func (p *processor) mode(bits int) {
	if bits == 64 {
		return // as made
	}
	p.s.CR0, p.s.CR3, p.s.CR4, p.s.EFER = 0x21, 0, 0, 0
	p.s.CS.Access = 0xc09b
	if bits == 16 {
		p.s.CS.Access, p.s.CS.Base, p.s.RIP = 0x809b, codeAt, 0
	}
}

func general(s *hv.State) [16]*uint64 {
	return [...]*uint64{&s.RAX, &s.RCX, &s.RDX, &s.RBX, &s.RSP, &s.RBP, &s.RSI, &s.RDI,
		&s.R8, &s.R9, &s.R10, &s.R11, &s.R12, &s.R13, &s.R14, &s.R15}
}

// run executes code from the state of env and returns the registers after it.
func (p *processor) run(t *testing.T, code []byte, env *testEnv) (regs [17]uint64) {
	t.Helper()
	copy(p.ram[codeAt:], code)
	copy(p.ram[codeAt+len(code):], []byte{0xe6, 0xe9, 0xf4}) // out 0xe9, al; hlt
	copy(p.ram[dataAt:ramEnd], env.ram[dataAt:ramEnd])
	s := p.s
	for i, r := range general(&s) {
		*r = env.regs[i]
	}
	s.RFLAGS = env.regs[RFLAGS]
	if err := p.v.SetState(&s); err != nil {
		t.Fatal(err)
	}
	p.out = nil
	e, err := p.v.Run(kicker{p})
	if err != nil || e != (hv.Interrupted{}) {
		t.Fatalf("% x: %v, %v", code, e, err)
	}
	after, err := p.v.State()
	if err != nil {
		t.Fatal(err)
	}
	if got := after.RIP - p.s.RIP; got < uint64(len(code)) || got > uint64(len(code))+2 {
		t.Fatalf("% x: ended %d bytes behind its start", code, got)
	}
	for i, r := range general(&after) {
		regs[i] = *r
	}
	regs[RFLAGS] = after.RFLAGS
	return regs
}

// value picks numbers near the edges more often than others.
func value(r *rand.Rand) uint64 {
	v := r.Uint64()
	switch r.IntN(4) {
	case 0:
		edges := []uint64{0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 1<<63 - 1, 1 << 63, ^uint64(0)}
		return edges[r.IntN(len(edges))]
	case 1:
		return v >> r.IntN(64)
	}
	return v
}

func TestAgainstProcessor(t *testing.T) {
	for _, bits := range []int{64, 32, 16} {
		t.Run(fmt.Sprint(bits), func(t *testing.T) { againstProcessor(t, bits) })
	}
}

// codeFor is the test's instruction for the mode, or nil where the bytes mean
// something else there.
func codeFor(t *testing.T, text string, bits int) []byte {
	code := unhex(t, text)
	if bits == 64 {
		return code
	}
	for _, b := range code {
		switch b {
		case 0x66, 0xf0, 0xf2, 0xf3:
			continue
		case 0x67: // 16-bit addresses, which reach none of the data
			return nil
		}
		if b&0xf0 == 0x40 {
			return nil // REX in 64-bit code alone
		}
		break
	}
	if bits == 16 {
		code = append([]byte{0x67}, code...)
	}
	if in, err := Decode(code, bits); err != nil || in.Len != len(code) {
		return nil
	}
	return code
}

func againstProcessor(t *testing.T, bits int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := newProcessor(t)
	p.mode(bits)
	texts, rounds, least := processorTests, 40, len(processorTests)
	if bits != 64 {
		texts, rounds, least = append(slices.Clone(texts), narrowTests...), 10, 110
	}
	r := rand.New(rand.NewPCG(1, 2))
	played := 0
	for _, text := range texts {
		code := codeFor(t, text, bits)
		if code == nil {
			continue
		}
		played++
		in, err := Decode(code, bits)
		if err != nil {
			t.Fatal(err)
		}
		if in.Len != len(code) {
			t.Errorf("%s: length %d", text, in.Len)
		}
		for range rounds {
			env := newEnv()
			env.ram = make([]byte, ramEnd)
			for i := dataAt; i < ramEnd; i += 8 {
				binary.LittleEndian.PutUint64(env.ram[i:], value(r))
			}
			for i := range 16 {
				env.regs[i] = value(r)
				if bits != 64 {
					env.regs[i] &= 0xffffffff
				}
				if bits != 64 && i >= 8 {
					env.regs[i] = 0
				}
			}
			env.regs[RBX], env.regs[RSI], env.regs[RDI], env.regs[RSP] = dataAt, dataAt+0x800, destAt+0x800, stackAt
			if in.Rep {
				env.regs[RCX] = r.Uint64N(60)
			}
			if in.Op == Outs {
				env.regs[RDX] = env.regs[RDX]&^0xffff | port
			}
			if in.Op == Cmpxchg && r.IntN(2) == 0 {
				env.regs[RAX] = binary.LittleEndian.Uint64(env.ram[dataAt:])
				if bits != 64 {
					env.regs[RAX] &= 0xffffffff
				}
			}
			env.regs[RFLAGS] = 2 | value(r)&flagsStatus
			if (in.Op == Movs || in.Op == Stos || in.Op == Lods || in.Op == Outs) && r.IntN(2) == 0 {
				env.regs[RFLAGS] |= flagDF
			}
			before := env.regs
			want := p.run(t, code, env)
			gpa := uint64(dataAt)
			if text == "4c 89 4b 08" {
				gpa += 8
			} else if text == "4c 8b 4b 10" {
				gpa += 16
			}
			if again, err := in.Exec(env, gpa); err != nil || again {
				t.Fatalf("%s: %v, %v", text, again, err)
			}
			open := undefined(in.Op)
			for i := range want {
				g, w := env.regs[i], want[i]
				if Reg(i) == RFLAGS {
					g, w = g&^open, w&^open
				}
				if g != w {
					t.Errorf("%s: register %d is %#x, the processor says %#x (before %x)", text, i, g, w, before)
				}
			}
			if !bytes.Equal(env.ram[dataAt:], p.ram[dataAt:ramEnd]) {
				t.Errorf("%s: memory differs from the processor's", text)
			}
			if !slices.Equal(env.trace, p.out) {
				t.Errorf("%s: wrote %q to ports, the processor %q", text, env.trace, p.out)
			}
			if t.Failed() {
				return
			}
		}
	}
	if played < least {
		t.Errorf("%d instructions were played, want %d or more", played, least)
	}
	t.Logf("%d instructions", played)
}
