// SPDX-License-Identifier: BSD-2-Clause

package insn

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every opcode that FreeBSD's vmm.ko decodes, and the ones that only we do.
var decodeTests = []struct {
	bits int
	code string
	want string // op, memory width, register
	reg  Reg
}{
	{64, "88 03", "mov 1", RAX},
	{64, "88 23", "mov 1", RAX}, // ah
	{64, "40 88 23", "mov 1", RSP},
	{64, "89 0b", "mov 4", RCX},
	{64, "66 89 0b", "mov 2", RCX},
	{64, "4c 89 8b 00 01 00 00", "mov 8", R9},
	{64, "8a 0d 00 10 00 00", "mov 1", RCX},
	{64, "8b 04 25 00 00 e0 fe", "mov 4", RAX},
	{64, "48 8b 44 8b 10", "mov 8", RAX},
	{64, "a0 00 10 e0 fe 00 00 00 00", "mov 1", RAX},
	{64, "a1 00 10 e0 fe 00 00 00 00", "mov 4", RAX},
	{64, "a2 00 10 e0 fe 00 00 00 00", "mov 1", RAX},
	{64, "48 a3 00 10 e0 fe 00 00 00 00", "mov 8", RAX},
	{64, "67 a1 00 10 e0 fe", "mov 4", RAX},
	{32, "a1 00 10 e0 fe", "mov 4", RAX},
	{16, "a1 00 10", "mov 2", RAX},
	{64, "c6 03 7f", "mov 1", 0},
	{64, "c7 03 78 56 34 12", "mov 4", 0},
	{64, "66 c7 03 34 12", "mov 2", 0},
	{64, "48 c7 03 78 56 34 12", "mov 8", 0},
	{64, "0f b6 03", "movzx 1", RAX},
	{64, "48 0f b7 03", "movzx 2", RAX},
	{64, "44 0f be 13", "movsx 1", R10},
	{64, "0f bf 03", "movsx 2", RAX},
	{64, "48 63 03", "movsx 4", RAX},
	{64, "a4", "movs 1", 0},
	{64, "f3 48 a5", "movs 8", 0},
	{64, "aa", "stos 1", 0},
	{64, "f3 ab", "stos 4", 0},
	{64, "66 ad", "lods 2", 0},
	{64, "6e", "outs 1", 0},
	{64, "f3 6f", "outs 4", 0},
	{64, "01 03", "add 4", RAX},
	{64, "0b 03", "or 4", RAX},
	{64, "23 0b", "and 4", RCX},
	{64, "2b 0b", "sub 4", RCX},
	{64, "03 0b", "add 4", RCX},
	{64, "39 0b", "cmp 4", RCX},
	{64, "3b 0b", "cmp 4", RCX},
	{64, "31 0b", "xor 4", RCX},
	{64, "80 0b 01", "or 1", 0},
	{64, "80 23 fe", "and 1", 0},
	{64, "80 3b 01", "cmp 1", 0},
	{64, "81 0b 00 00 01 00", "or 4", 0},
	{64, "48 81 23 ff ff ff 7f", "and 8", 0},
	{64, "66 81 3b 34 12", "cmp 2", 0},
	{64, "83 0b 01", "or 4", 0},
	{64, "83 63 04 fe", "and 4", 0},
	{64, "83 bb 00 01 00 00 00", "cmp 4", 0},
	{64, "84 03", "test 1", RAX},
	{64, "87 03", "xchg 4", RAX},
	{64, "f6 03 01", "test 1", 0},
	{64, "f7 03 00 00 00 80", "test 4", 0},
	{64, "f7 13", "not 4", 0},
	{64, "f7 1b", "neg 4", 0},
	{64, "ff 03", "inc 4", 0},
	{64, "fe 0b", "dec 1", 0},
	{64, "ff 33", "push 8", 0},
	{64, "66 ff 33", "push 2", 0},
	{32, "ff 33", "push 4", 0},
	{64, "8f 03", "pop 8", 0},
	{64, "0f ba 23 05", "bt 4", 0},
	{64, "0f ba 2b 05", "bts 4", 0},
	{64, "0f ba 33 05", "btr 4", 0},
	{64, "0f ba 7b 04 05", "btc 4", 0},
	{64, "f0 0f b1 0b", "cmpxchg 4", RCX},
	{64, "f0 0f c1 0b", "xadd 4", RCX},
	{64, "0f ae 3b", "clflush 4", 0},
	{64, "c4 e2 70 f7 03", "bextr 4", RAX},
	{64, "c4 62 f0 f7 1b", "bextr 8", R11},
	{32, "c4 e2 70 f7 03", "bextr 4", RAX},
	{32, "8b 44 24 08", "mov 4", RAX},
	{16, "8b 46 02", "mov 2", RAX},
	{16, "66 8b 06 00 10", "mov 4", RAX},
	{16, "67 66 8b 03", "mov 4", RAX},
	{32, "67 8b 80 00 10", "mov 4", RAX},
	{64, "65 8b 04 25 00 00 00 00", "mov 4", RAX},
	{64, "2e 66 0f 1f 84 00 00 00 00 00", "", 0}, // nop with a memory operand accesses nothing
	{64, "8b c3", "", 0},                         // no memory operand
	{64, "90", "", 0},
	{64, "0f 05", "", 0},
	{64, "0f ba 03 05", "", 0},
	{64, "c7 0b 00 00 00 00", "", 0},
	{64, "c5 f8 77", "", 0},
	{64, "c4 e2 71 f7 03", "", 0}, // shlx
	{32, "c4 03", "", 0},          // les
	{32, "63 03", "", 0},          // arpl
}

func TestDecode(t *testing.T) {
	for _, tt := range decodeTests {
		code := unhex(t, tt.code)
		// What follows the instruction must not matter.
		in, err := Decode(append(append([]byte(nil), code...), 0xcc, 0xcc), tt.bits)
		if tt.want == "" {
			if !errors.Is(err, ErrUnknown) {
				t.Errorf("%s in %d bits: %v, %v; want ErrUnknown", tt.code, tt.bits, in, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s in %d bits: %v", tt.code, tt.bits, err)
			continue
		}
		got := in.Op.String() + " " + string(rune('0'+in.Size))
		if got != tt.want || in.Len != len(code) {
			t.Errorf("%s in %d bits = %s, length %d; want %s, %d", tt.code, tt.bits, got, in.Len, tt.want, len(code))
		}
		if (in.from == srcReg || in.from == srcMem) && in.Reg != tt.reg {
			t.Errorf("%s: register %d, want %d", tt.code, in.Reg, tt.reg)
		}
		for n := range len(code) {
			if _, err := Decode(code[:n], tt.bits); err == nil {
				t.Errorf("%s cut to %d bytes was decoded", tt.code, n)
			}
		}
	}
}

func TestDecodeWidth(t *testing.T) {
	if _, err := Decode([]byte{0x88, 0x03}, 8); err == nil {
		t.Error("a code width of 8 was accepted")
	}
	if _, err := Decode(nil, 64); !errors.Is(err, ErrTruncated) {
		t.Errorf("no bytes: %v, want ErrTruncated", err)
	}
	long := append(make([]byte, 0, 20), 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x89, 0x03)
	if _, err := Decode(long, 64); !errors.Is(err, ErrTruncated) {
		t.Errorf("16 bytes: %v, want ErrTruncated", err)
	}
}

// FuzzDecode holds the decoder against golang.org/x/arch's: what both know has
// one length and one memory width.
func FuzzDecode(f *testing.F) {
	for _, tt := range decodeTests {
		f.Add(unhex(f, tt.code), uint8(tt.bits))
	}
	f.Fuzz(func(t *testing.T, code []byte, bits uint8) {
		in, err := Decode(code, int(bits))
		if err != nil {
			return
		}
		if in.Len < 1 || in.Len > maxLen || in.Len > len(code) {
			t.Fatalf("% x: length %d", code, in.Len)
		}
		switch in.Size {
		case 1, 2, 4, 8:
		default:
			t.Fatalf("% x: width %d", code, in.Size)
		}
		if _, err := in.Exec(newEnv(), device); err != nil {
			t.Fatalf("% x: %v", code, err)
		}
		ref, err := x86asm.Decode(code[:in.Len], int(bits))
		if err != nil || ref.Op == 0 {
			return // it does not know every form (VEX, some prefixes)
		}
		if ref.Len != in.Len {
			t.Fatalf("% x in %d bits: length %d, want %d (%v)", code, bits, in.Len, ref.Len, ref)
		}
		if ref.MemBytes != 0 && ref.MemBytes != in.Size && in.Op != Clflush && (in.Op != Bextr || bits == 64) {
			t.Fatalf("% x in %d bits: width %d, want %d (%v)", code, bits, in.Size, ref.MemBytes, ref)
		}
	})
}
