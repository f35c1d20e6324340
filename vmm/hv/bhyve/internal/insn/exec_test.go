// SPDX-License-Identifier: BSD-2-Clause

package insn

import (
	"errors"
	"strings"
	"testing"
)

func TestExec(t *testing.T) {
	const rax, rcx = 0x1111111111111111, 0x2222222222222222
	tests := []struct {
		code  string
		dev   uint64
		flags uint64
		trace string
		reg   Reg
		want  uint64
		out   uint64 // flags afterwards
	}{
		{"88 03", 0, 2, "w1=11", RAX, rax, 2},
		{"88 23", 0, 2, "w1=11", RAX, rax, 2},
		{"89 0b", 0, 2, "w4=22222222", RCX, rcx, 2},
		{"48 89 0b", 0, 2, "w8=2222222222222222", RCX, rcx, 2},
		{"66 89 0b", 0, 2, "w2=2222", RCX, rcx, 2},
		{"8b 0b", 0xdeadbeef, 2, "r4", RCX, 0xdeadbeef, 2},
		{"66 8b 0b", 0xdeadbeef, 2, "r2", RCX, 0x222222222222beef, 2},
		{"8a 0b", 0xdeadbeef, 2, "r1", RCX, 0x22222222222222ef, 2},
		{"8a 2b", 0xdeadbeef, 2, "r1", RCX, 0x222222222222ef22, 2}, // ch
		{"48 8b 0b", 0x123456789abcdef0, 2, "r8", RCX, 0x123456789abcdef0, 2},
		{"0f b6 0b", 0xff, 2, "r1", RCX, 0xff, 2},
		{"0f be 0b", 0xff, 2, "r1", RCX, 0xffffffff, 2},
		{"48 0f be 0b", 0xff, 2, "r1", RCX, 0xffffffffffffffff, 2},
		{"66 0f be 0b", 0x80, 2, "r1", RCX, 0x222222222222ff80, 2},
		{"48 63 0b", 0x80000000, 2, "r4", RCX, 0xffffffff80000000, 2},
		{"c6 03 7f", 0, 2, "w1=7f", RAX, rax, 2},
		{"48 c7 03 ff ff ff ff", 0, 2, "w8=ffffffffffffffff", RAX, rax, 2},
		{"80 0b 80", 1, 2, "r1 w1=81", RAX, rax, 2 | flagSF | flagPF},
		{"83 63 00 fe", 0x13, 2, "r4 w4=12", RAX, rax, 2 | flagPF},
		{"83 3b 01", 1, 2, "r4", RAX, rax, 2 | flagZF | flagPF},
		{"83 3b 02", 1, 2, "r4", RAX, rax, 2 | flagCF | flagSF | flagPF | flagAF},
		{"39 03", 0x11111111, 2, "r4", RAX, rax, 2 | flagZF | flagPF},
		{"3b 03", 0x11111112, 2, "r4", RAX, rax, 2 | flagCF | flagSF | flagPF | flagAF},
		{"2b 0b", 0x22222221, 2, "r4", RCX, 1, 2},
		{"03 0b", 0xffffffff, 2, "r4", RCX, 0x22222221, 2 | flagCF | flagPF | flagAF},
		{"23 0b", 0x0f, 2, "r4", RCX, 2, 2},
		{"0b 0b", 0x0f, 2, "r4", RCX, 0x2222222f, 2},
		{"13 0b", 0, 3, "r4", RCX, 0x22222223, 2},
		{"f6 03 01", 0xfe, 2, "r1", RAX, rax, 2 | flagZF | flagPF},
		{"f7 03 00 00 00 80", 0x80000000, 2, "r4", RAX, rax, 2 | flagSF | flagPF},
		{"f7 13", 0xf0f0f0f0, 2, "r4 w4=f0f0f0f", RAX, rax, 2},
		{"f7 1b", 1, 2, "r4 w4=ffffffff", RAX, rax, 2 | flagCF | flagSF | flagPF | flagAF},
		{"ff 03", 0x7fffffff, 3, "r4 w4=80000000", RAX, rax, 3 | flagOF | flagSF | flagPF | flagAF},
		{"fe 0b", 0, 2, "r1 w1=ff", RAX, rax, 2 | flagSF | flagPF | flagAF},
		{"0f ba 23 05", 0x20, 2, "r4", RAX, rax, 3},
		{"0f ba 2b 05", 0, 3, "r4 w4=20", RAX, rax, 2},
		{"0f ba 33 25", 0x20, 2, "r4 w4=0", RAX, rax, 3}, // the bit number wraps at the width
		{"0f ba 3b 00", 0, 2, "r4 w4=1", RAX, rax, 2},
		{"87 0b", 5, 2, "r4 w4=22222222", RCX, 5, 2},
		{"f0 0f c1 0b", 1, 2, "r4 w4=22222223", RCX, 1, 2},
		{"f0 0f b1 0b", 0x11111111, 2, "r4 w4=22222222", RAX, rax, 2 | flagZF | flagPF},
		{"f0 0f b1 0b", 0x11111110, 2, "r4 w4=11111110", RAX, 0x11111110, 2},
		{"0f ae 3b", 0, 2, "", RAX, rax, 2},
		{"c4 e2 70 f7 03", 0x12345678, 2, "r4", RAX, 0, 2 | flagZF}, // rcx asks for bits from 0x22 on
		{"aa", 0, 2, "w1=11", RAX, rax, 2},
	}
	for _, tt := range tests {
		in, err := Decode(unhex(t, tt.code), 64)
		if err != nil {
			t.Fatal(err)
		}
		env := newEnv()
		env.dev, env.regs[RFLAGS] = tt.dev, tt.flags
		env.regs[RDI] = device
		again, err := in.Exec(env, device)
		if err != nil || again {
			t.Fatalf("%s: %v, %v", tt.code, again, err)
		}
		if got := strings.Join(env.trace, " "); got != tt.trace {
			t.Errorf("%s: accesses %q, want %q", tt.code, got, tt.trace)
		}
		if got := env.regs[tt.reg]; got != tt.want {
			t.Errorf("%s: register %d = %#x, want %#x", tt.code, tt.reg, got, tt.want)
		}
		if got := env.regs[RFLAGS]; got != tt.out {
			t.Errorf("%s: flags %#x, want %#x", tt.code, got, tt.out)
		}
	}
}

func TestBextr(t *testing.T) {
	for _, tt := range []struct{ v, control, want uint64 }{
		{0x12345678, 0x0804, 0x67}, {0x12345678, 0x2000, 0x12345678}, {0x12345678, 0x0020, 0},
		{0x12345678, 0xff00, 0x12345678}, {0x12345678, 0x00ff, 0},
	} {
		if got, _ := bextr(tt.v, tt.control, 2, 4); got != tt.want {
			t.Errorf("bextr(%#x, %#x) = %#x, want %#x", tt.v, tt.control, got, tt.want)
		}
	}
}

func TestStack(t *testing.T) {
	env := newEnv()
	env.dev, env.regs[RSP] = 0x1122334455667788, 0x2000
	push, _ := Decode(unhex(t, "ff 33"), 64)
	if _, err := push.Exec(env, device); err != nil {
		t.Fatal(err)
	}
	if env.regs[RSP] != 0x1ff8 {
		t.Errorf("rsp = %#x after push", env.regs[RSP])
	}
	if v, _ := env.Load(0x1ff8, 8); v != 0x1122334455667788 {
		t.Errorf("pushed %#x", v)
	}
	env.dev = 0
	pop, _ := Decode(unhex(t, "8f 03"), 64)
	if _, err := pop.Exec(env, device); err != nil {
		t.Fatal(err)
	}
	if env.dev != 0x1122334455667788 || env.regs[RSP] != 0x2000 {
		t.Errorf("popped %#x, rsp %#x", env.dev, env.regs[RSP])
	}
}

func TestStackFault(t *testing.T) {
	env := newEnv()
	env.regs[RSP] = 0x2000
	env.fault[0x1ff8] = true
	push, _ := Decode(unhex(t, "ff 33"), 64)
	if _, err := push.Exec(env, device); !errors.Is(err, ErrFault) {
		t.Fatalf("push on a page that faults: %v, want ErrFault", err)
	}
	if env.regs[RSP] != 0x2000 {
		t.Errorf("rsp moved to %#x", env.regs[RSP])
	}
}

func TestRepeat(t *testing.T) {
	in, _ := Decode(unhex(t, "f3 a5"), 64) // rep movsl
	env := newEnv()
	for i := range env.ram {
		env.ram[i] = byte(i * 7)
	}
	const n = 700
	env.regs[RCX], env.regs[RSI], env.regs[RDI] = n, 0, 0x2000
	again, err := in.Exec(env, device)
	if err != nil || !again {
		t.Fatalf("first part: %v, %v", again, err)
	}
	if env.regs[RCX] != n-maxRepeat || env.regs[RSI] != 4*maxRepeat || env.regs[RDI] != 0x2000+4*maxRepeat {
		t.Fatalf("registers after the first part: %x %x %x", env.regs[RCX], env.regs[RSI], env.regs[RDI])
	}
	if again, err = in.Exec(env, device); err != nil || again || env.regs[RCX] != 0 {
		t.Fatalf("second part: %v, %v, rcx %d", again, err, env.regs[RCX])
	}
	if string(env.ram[0x2000:0x2000+4*n]) != string(env.ram[:4*n]) {
		t.Error("the copy differs")
	}
	if again, err = in.Exec(env, device); err != nil || again {
		t.Fatalf("a count of zero: %v, %v", again, err)
	}
}

func TestRepeatFault(t *testing.T) {
	in, _ := Decode(unhex(t, "f3 ab"), 64)
	env := newEnv()
	env.fault[0x1008] = true
	env.regs[RCX], env.regs[RDI] = 10, 0x1000
	if _, err := in.Exec(env, device); !errors.Is(err, ErrFault) {
		t.Fatalf("got %v, want ErrFault", err)
	}
	if env.regs[RCX] != 8 || env.regs[RDI] != 0x1008 {
		t.Errorf("rcx %d, rdi %#x: the two stores before the fault are not accounted", env.regs[RCX], env.regs[RDI])
	}
}

func TestStringBackwards(t *testing.T) {
	in, _ := Decode(unhex(t, "f3 66 6f"), 64) // rep outsw
	env := newEnv()
	copy(env.ram[0x100:], []byte{1, 2, 3, 4, 5, 6})
	env.regs[RCX], env.regs[RSI], env.regs[RDX] = 3, 0x104, 0x3f8
	env.regs[RFLAGS] = 2 | flagDF
	if _, err := in.Exec(env, device); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(env.trace, " "); got != "out2 3f8=605 out2 3f8=403 out2 3f8=201" {
		t.Errorf("got %q", got)
	}
	if env.regs[RSI] != 0xfe || env.regs[RCX] != 0 {
		t.Errorf("rsi %#x, rcx %d", env.regs[RSI], env.regs[RCX])
	}
}
