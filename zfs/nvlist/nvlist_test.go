// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// everyType is a list with one pair of each type.
func everyType() *List {
	inner := New(P("u", uint64(7)), P("s", "x"))
	return New(
		P("flag", Flag{}), P("byte", Byte(200)), P("i16", int16(-2)), P("u16", uint16(65535)),
		P("i32", int32(-3)), P("u32", uint32(math.MaxUint32)), P("i64", int64(-4)), P("u64", uint64(math.MaxUint64)),
		P("string", "tank/a@b"), P("bytes", []byte{1, 2, 3}), P("i16s", []int16{-1, 2}), P("u16s", []uint16{1, 65535}),
		P("i32s", []int32{-1}), P("u32s", []uint32{1, 2, 3}), P("i64s", []int64{-1}), P("u64s", []uint64{1, 1 << 63}),
		P("strings", []string{"", "a", "bcd"}), P("hrtime", time.Duration(-5)), P("list", inner),
		P("lists", []*List{inner, New(), New(P("deep", inner))}), P("bool", true), P("i8", int8(-6)), P("u8", uint8(250)),
		P("bools", []bool{true, false, true}), P("i8s", []int8{-1, 0, 127}), P("u8s", Uint8s{0, 128, 255}),
		P("double", math.Pi), P("empty", ""), P("none", []uint64{}), P("", uint32(1)),
	)
}

// The golden bytes are worked out by hand from the layout in sys/nvpair.h.
var golden = []struct {
	name string
	enc  Encoding
	list *List
	hex  string
}{
	{"native empty", Native, New(), "00010000" + "00000000" + "01000000" + "00000000"},
	{"native uint64", Native, New(P("guid", uint64(0x1122334455667788))), "00010000 00000000 01000000" +
		"20000000 0500 0000 01000000 08000000 6775696400000000 8877665544332211" + "00000000"},
	{"native nested and string", Native, New(P("a", New(P("b", "c")))), "00010000 00000000 01000000" +
		"30000000 0200 0000 01000000 13000000 6100000000000000 00000000 01000000 0000000000000000 0000000000000000" +
		"20000000 0200 0000 01000000 09000000 6200000000000000 6300000000000000 00000000" + "00000000"},
	{"native string array", Native, New(P("s", []string{"x", "yz"})), "00010000 00000000 01000000" +
		"30000000 0200 0000 02000000 11000000 7300000000000000 0000000000000000 0000000000000000 7800797a00000000" + "00000000"},
	{"native list array", Native, New(P("c", []*List{New(), New(P("f", Flag{}))})), "00010000 00000000 01000000" +
		"58000000 0200 0000 02000000 14000000 6300000000000000" + strings.Repeat("00", 16) +
		strings.Repeat("00000000 01000000"+strings.Repeat("00", 16), 2) +
		"00000000" + "18000000 0200 0000 00000000 01000000 6600000000000000 00000000" + "00000000"},
	{"xdr", XDR, New(P("version", uint64(5000)), P("name", "tank")), "01010000 00000000 00000001" +
		"00000024 00000020 00000007 76657273696f6e00 00000008 00000001 0000000000001388" +
		"00000020 00000020 00000004 6e616d65 00000009 00000001 00000004 74616e6b" + "0000000000000000"},
	{"xdr nested", XDR, New(P("a", New())), "01010000 00000000 00000001" +
		"00000028 00000030 00000001 61000000 00000013 00000001 00000000 00000001 0000000000000000" + "0000000000000000"},
}

func TestGolden(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			want, err := hex.DecodeString(strings.ReplaceAll(g.hex, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			got, err := g.list.Encode(g.enc)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("encode: %v\n got %x\nwant %x", err, got, want)
			}
			l, err := Decode(want)
			if err != nil || !l.Equal(g.list) {
				t.Errorf("decode: %v %v, want %v", l, err, g.list)
			}
		})
	}
}

func TestEveryType(t *testing.T) {
	l := everyType()
	for typ := TypeFlag; typ <= typeMax; typ++ {
		found := false
		for _, v := range l.All() {
			found = found || v.Type() == typ
		}
		if !found {
			t.Errorf("no %v in the test list", typ)
		}
	}
	for _, enc := range []Encoding{Native, XDR} {
		b, err := l.Encode(enc)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil || !got.Equal(l) {
			t.Errorf("encoding %d: %v\n got %v\nwant %v", enc, err, got, l)
		}
		again, err := got.Encode(enc)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("encoding %d is not stable: %v", enc, err)
		}
	}
}

func genValue(depth int) *rapid.Generator[Value] {
	str := rapid.StringMatching(`[a-z0-9/@:#äß]{0,20}`)
	return rapid.Custom(func(t *rapid.T) Value {
		top := int(typeMax)
		typ := Type(rapid.IntRange(1, top).Draw(t, "type"))
		if depth == 0 && (typ == TypeList || typ == TypeLists) {
			typ = TypeUint64
		}
		switch typ {
		case TypeFlag:
			return Of(Flag{})
		case TypeByte:
			return Of(Byte(rapid.Byte().Draw(t, "v")))
		case TypeInt16:
			return Of(rapid.Int16().Draw(t, "v"))
		case TypeUint16:
			return Of(rapid.Uint16().Draw(t, "v"))
		case TypeInt32:
			return Of(rapid.Int32().Draw(t, "v"))
		case TypeUint32:
			return Of(rapid.Uint32().Draw(t, "v"))
		case TypeInt64:
			return Of(rapid.Int64().Draw(t, "v"))
		case TypeUint64:
			return Of(rapid.Uint64().Draw(t, "v"))
		case TypeString:
			return Of(str.Draw(t, "v"))
		case TypeBytes:
			return Of(rapid.SliceOf(rapid.Byte()).Draw(t, "v"))
		case TypeInt16s:
			return Of(rapid.SliceOf(rapid.Int16()).Draw(t, "v"))
		case TypeUint16s:
			return Of(rapid.SliceOf(rapid.Uint16()).Draw(t, "v"))
		case TypeInt32s:
			return Of(rapid.SliceOf(rapid.Int32()).Draw(t, "v"))
		case TypeUint32s:
			return Of(rapid.SliceOf(rapid.Uint32()).Draw(t, "v"))
		case TypeInt64s:
			return Of(rapid.SliceOf(rapid.Int64()).Draw(t, "v"))
		case TypeUint64s:
			return Of(rapid.SliceOf(rapid.Uint64()).Draw(t, "v"))
		case TypeStrings:
			return Of(rapid.SliceOf(str).Draw(t, "v"))
		case TypeDuration:
			return Of(time.Duration(rapid.Int64().Draw(t, "v")))
		case TypeList:
			return Of(genList(depth-1).Draw(t, "v"))
		case TypeLists:
			return Of(rapid.SliceOfN(genList(depth-1), 0, 4).Draw(t, "v"))
		case TypeBool:
			return Of(rapid.Bool().Draw(t, "v"))
		case TypeInt8:
			return Of(rapid.Int8().Draw(t, "v"))
		case TypeUint8:
			return Of(rapid.Uint8().Draw(t, "v"))
		case TypeBools:
			return Of(rapid.SliceOf(rapid.Bool()).Draw(t, "v"))
		case TypeInt8s:
			return Of(rapid.SliceOf(rapid.Int8()).Draw(t, "v"))
		case TypeUint8s:
			return Of(Uint8s(rapid.SliceOf(rapid.Uint8()).Draw(t, "v")))
		default:
			return Of(rapid.Float64().Draw(t, "v"))
		}
	})
}

func genList(depth int) *rapid.Generator[*List] {
	return rapid.Custom(func(t *rapid.T) *List {
		l := New()
		for i := range rapid.IntRange(0, 40/(4-depth)).Draw(t, "pairs") {
			name := rapid.StringMatching(`[a-z_.:]{0,12}`).Draw(t, "name")
			l.Set(fmt.Sprintf("%s%d", name, i), genValue(depth).Draw(t, "value"))
		}
		return l
	})
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genList(3).Draw(t, "list")
		for _, enc := range []Encoding{Native, XDR} {
			b, err := l.Encode(enc)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(b)
			if err != nil || !got.Equal(l) {
				t.Fatalf("encoding %d: %v\n got %v\nwant %v", enc, err, got, l)
			}
			if _, err = Decode(append(b, 0)); !errors.Is(err, ErrTrailing) {
				t.Fatalf("trailing byte: %v", err)
			}
			cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
			if _, err = Decode(b[:cut]); err == nil {
				t.Fatalf("cut at %d of %d was accepted", cut, len(b))
			}
			var stream bytes.Buffer
			e := NewEncoder(&stream, enc)
			walked := New()
			for p, err := range Walk(b) {
				if err != nil {
					t.Fatal(err)
				}
				walked.Set(p.Name, p.Value)
				if err := e.Add(p.Name, p.Value); err != nil {
					t.Fatal(err)
				}
			}
			if err := e.Close(); err != nil || !bytes.Equal(stream.Bytes(), b) || !walked.Equal(l) {
				t.Fatalf("walk and encoder differ: %v", err)
			}
		}
	})
}

func TestCutAnywhere(t *testing.T) {
	for _, enc := range []Encoding{Native, XDR} {
		b, err := everyType().Encode(enc)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			if _, err := Decode(b[:i]); err == nil {
				t.Errorf("encoding %d: cut at %d of %d was accepted", enc, i, len(b))
			}
		}
	}
}

func mutate(t *testing.T, g int, change func([]byte) []byte) error {
	t.Helper()
	b, err := golden[g].list.Encode(golden[g].enc)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Decode(change(b))
	return err
}

func TestStrict(t *testing.T) {
	put := func(off int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[off] = v; return b }
	}
	const pair = 12 // the first pair starts behind the two headers
	for _, tc := range []struct {
		what   string
		golden int
		change func([]byte) []byte
		want   error
	}{
		{"encoding", 1, put(0, 2), ErrEncoding},
		{"big-endian native", 1, put(1, 0), ErrEncoding},
		{"version", 1, put(4, 1), ErrSyntax},
		{"flags", 1, put(8, 9), ErrSyntax},
		{"pair size not a multiple of 8", 1, put(pair, 0x21), ErrSyntax},
		{"pair size too small", 1, put(pair, 8), ErrSyntax},
		{"pair size too large", 1, put(pair+3, 0x7f), ErrTruncated},
		{"pair size negative", 1, put(pair+3, 0xff), ErrSyntax},
		{"name size zero", 1, put(pair+4, 0), ErrSyntax},
		{"name size short", 1, put(pair+4, 4), ErrSyntax},
		{"name size long", 1, put(pair+4, 6), ErrSyntax},
		{"name size negative", 1, put(pair+5, 0x80), ErrSyntax},
		{"reserved", 1, put(pair+6, 1), ErrSyntax},
		{"two of a scalar", 1, put(pair+8, 2), ErrSyntax},
		{"none of a scalar", 1, put(pair+8, 0), ErrSyntax},
		{"type 0", 1, put(pair+12, 0), ErrSyntax},
		{"type 28", 1, put(pair+12, 28), ErrSyntax},
		{"type wider than its value", 1, put(pair+12, byte(TypeStrings)), ErrSyntax},
		{"array count beyond the pair", 3, put(pair+8, 200), ErrSyntax},
		{"string array without NUL", 3, func(b []byte) []byte {
			copy(b[pair+40:], "xxxxxxxx")
			return b
		}, ErrSyntax},
		{"nested version", 2, put(pair+24, 1), ErrSyntax},
		{"nested flags", 2, put(pair+28, 7), ErrSyntax},
		{"xdr pair too small", 5, put(pair+3, 4), ErrTruncated},
		{"xdr pair too large", 5, put(pair+1, 4), ErrTruncated},
		{"xdr native size too small", 5, put(pair+7, 0x18), ErrSyntax},
		{"xdr native size zero", 5, put(pair+7, 0), ErrSyntax},
		{"xdr type", 5, put(pair+23, 99), ErrSyntax},
		{"xdr count", 5, put(pair+27, 2), ErrSyntax},
		{"xdr name with NUL", 5, put(pair+12, 0), ErrSyntax},
		{"xdr name beyond the end", 5, put(pair+8, 0x7f), ErrSyntax},
	} {
		t.Run(tc.what, func(t *testing.T) {
			if err := mutate(t, tc.golden, tc.change); !errors.Is(err, tc.want) || !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrEncoding) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestDuplicate(t *testing.T) {
	all := func(string) bool { return true }
	for _, n := range []int{2, 100} { // searched and indexed
		pairs := named(n-1, Of(Flag{})).pairs
		for _, again := range []Value{Of(Flag{}), Of("of another type")} {
			twice := &List{pairs: append(slices.Clone(pairs), Pair{pairs[n/3].Name, again})}
			wanted := func(name string) bool { return name == twice.pairs[n-1].Name }
			for _, flags := range []uint32{0, UniqueName, UniqueNameType} {
				twice.flags, twice.plain = flags, flags == 0
				for where, l := range map[string]*List{
					"top": twice, "list": New(P("l", twice)), "array": New(P("l", []*List{New(), twice})), "deep": New(P("l", New(P("l", twice)))),
				} {
					top := where == "top"
					for which, b := range encodings(t, l) {
						_, decodeErr := Decode(b)
						_, _, prefixErr := DecodePrefix(b)
						_, allErr := DecodeSome(b, all)
						_, nilErr := DecodeSome(b, nil)
						some, someErr := DecodeSome(b, func(name string) bool { return name == "l" || wanted(name) })
						for how, err := range map[string]error{
							"Decode": decodeErr, "DecodePrefix": prefixErr, "DecodeSome of all": allErr, "DecodeSome of nil": nilErr, "DecodeSome": someErr,
						} {
							if !errors.Is(err, ErrDuplicate) {
								t.Errorf("%s, %d, %d pairs: %s: %v, %v", where, which, n, how, err, some)
							}
						}
						others, err := DecodeSome(b, func(name string) bool { return name != "l" && !wanted(name) })
						if native := Encoding(b[0]) == Native; (top || native) != (err == nil) || top && others.Len() != n-2 {
							t.Errorf("%s, %d, %d pairs: DecodeSome of the others: %v, %v", where, which, n, err, others)
						}
						seen, walkErr := walked(b)
						streamed, streamErr := read(bytes.NewReader(b), 0)
						for how, err := range map[string]error{"Walk": walkErr, "WalkReader": streamErr} {
							if top && err != nil || !top && !errors.Is(err, ErrDuplicate) {
								t.Errorf("%s, %d, %d pairs: %s: %v", where, which, n, how, err)
							}
						}
						if top && (!seen.Equal(l) || !streamed.Equal(l)) {
							t.Errorf("%d: Walk gave %v, WalkReader %v of %v", which, seen, streamed, l)
						}
					}
				}
			}
		}
		// A list that is made here has each name once: the last value in the first place.
		l := New(append(slices.Clone(pairs), P(pairs[0].Name, "new"))...)
		if l.Len() != n-1 || l.Str(pairs[0].Name) != "new" || l.pairs[0].Name != pairs[0].Name {
			t.Error(l)
		}
	}
}

func TestBooleanValue(t *testing.T) {
	for _, enc := range []Encoding{Native, XDR} {
		for _, l := range []*List{New(P("b", true)), New(P("b", []bool{false, true}))} {
			b, err := l.Encode(enc)
			if err != nil {
				t.Fatal(err)
			}
			for i := len(b) - 20; i < len(b)-4; i++ {
				if b[i] != 1 {
					continue
				}
				c := slices.Clone(b)
				c[i] = 2
				if _, err := Decode(c); !errors.Is(err, ErrSyntax) {
					t.Errorf("encoding %d: 2 at %d: %v", enc, i, err)
				}
			}
		}
	}
}

func TestDepth(t *testing.T) {
	l := New()
	for range maxDepth - 1 {
		l = New(P("l", l))
	}
	for _, enc := range []Encoding{Native, XDR} {
		b, err := l.Encode(enc)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(b); err != nil || !got.Equal(l) {
			t.Errorf("depth %d: %v", maxDepth, err)
		}
		if _, err = New(P("l", l)).Encode(enc); !errors.Is(err, ErrDepth) {
			t.Errorf("encode beyond depth: %v", err)
		}
		// One level more, made by hand: the header, one pair, the body without its header, an end.
		outer, err := New(P("l", New())).Encode(enc)
		if err != nil {
			t.Fatal(err)
		}
		if enc == Native {
			end := len(outer) - 8
			deep := slices.Concat(outer[:end], b[12:], []byte{0, 0, 0, 0})
			if _, err := Decode(deep); !errors.Is(err, ErrDepth) {
				t.Errorf("decode beyond depth: %v", err)
			}
			if _, err := DecodeSome(deep, func(string) bool { return false }); !errors.Is(err, ErrDepth) {
				t.Errorf("step over what is beyond depth: %v", err)
			}
			if some, err := DecodeSome(b, func(string) bool { return false }); err != nil || some.Len() != 0 {
				t.Errorf("step over depth %d: %v, %v", maxDepth, some, err)
			}
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, p := range []Pair{
		P("a\x00b", uint32(1)), P("a", "b\x00c"), P("a", []string{"ok", "b\x00"}), {Name: "a"},
		P(strings.Repeat("n", math.MaxInt16), uint32(1)),
	} {
		for _, enc := range []Encoding{Native, XDR} {
			if _, err := New(p).Encode(enc); !errors.Is(err, ErrInvalid) {
				t.Errorf("%.20q: %v", p.Name, err)
			}
			if _, err := New(P("l", New(p))).Encode(enc); !errors.Is(err, ErrInvalid) {
				t.Errorf("nested %.20q: %v", p.Name, err)
			}
		}
	}
	if _, err := New().Encode(2); !errors.Is(err, ErrEncoding) {
		t.Errorf("encoding 2: %v", err)
	}
}

func TestAccess(t *testing.T) {
	l := New(P("n", int32(-1)), P("u", uint16(5)), P("s", "x"))
	if v, err := Lookup[string](l, "s"); v != "x" || err != nil {
		t.Error(v, err)
	}
	if _, err := Lookup[string](l, "u"); !errors.Is(err, ErrType) {
		t.Error(err)
	}
	if _, err := Lookup[string](l, "z"); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	if u, ok := l.Uint("u"); !ok || u != 5 {
		t.Error(u, ok)
	}
	if _, ok := l.Uint("n"); ok {
		t.Error("negative taken as unsigned")
	}
	if v, _ := l.Value("n"); func() int64 { i, _ := v.Int(); return i }() != -1 {
		t.Error(v)
	}
	if !l.Delete("u") || l.Delete("u") || l.Len() != 2 {
		t.Error("delete", l)
	}
	var none *List
	if none.Len() != 0 || none.Has("x") || none.List("x").Str("y") != "" || !none.Equal(New()) {
		t.Error("nil list")
	}
	big := New()
	for i := range 1000 {
		Set(big, fmt.Sprint(i), uint32(i))
	}
	big.Delete("500")
	for i := range 1000 {
		if u, ok := Get[uint32](big, fmt.Sprint(i)); ok != (i != 500) || ok && u != uint32(i) {
			t.Fatalf("%d: %d %v", i, u, ok)
		}
	}
	if s := everyType().String(); !strings.Contains(s, `"lists": [{`) || !strings.Contains(s, `"flag", `) {
		t.Error(s)
	}
}

// chosen has the pairs of l whose names want reports.
func chosen(l *List, want func(string) bool) *List {
	out := New()
	for name, v := range l.All() {
		if want(name) {
			out.Set(name, v)
		}
	}
	return out
}

// DecodeSome gives of every list what was asked for, and nothing else.
func TestDecodeSome(t *testing.T) {
	for _, enc := range []Encoding{Native, XDR} {
		rapid.Check(t, func(t *rapid.T) {
			l := genList(3).Draw(t, "list")
			b, err := l.Encode(enc)
			if err != nil {
				t.Fatal(err)
			}
			keep := map[string]bool{}
			for name := range l.All() {
				keep[name] = rapid.Bool().Draw(t, "keep")
			}
			want := func(name string) bool { return keep[name] }
			some, err := DecodeSome(b, want)
			if err != nil || !some.Equal(chosen(l, want)) {
				t.Fatalf("of %v wanted %v, have %v: %v", l, keep, some, err)
			}
			for n := range b {
				if _, err := DecodeSome(b[:n], want); !errors.Is(err, ErrSyntax) {
					t.Fatalf("cut at %d: %v", n, err)
				}
			}
			if _, err := DecodeSome(append(b, 0), want); !errors.Is(err, ErrTrailing) {
				t.Fatalf("a byte more: %v", err)
			}
		})
	}
}

// checkWalks holds what Walk and WalkReader say of b against Decode.
func checkWalks(t *testing.T, b []byte) {
	r := bytes.NewReader(b)
	streamed, streamErr := read(r, 0)
	all, walkErr := walked(b)
	if !all.Equal(streamed) {
		t.Fatalf("Walk gave %v, WalkReader %v", all, streamed)
	}
	if errors.Is(walkErr, ErrTrailing) != (streamErr == nil && r.Len() > 0) || (walkErr == nil) != (streamErr == nil && r.Len() == 0) {
		t.Fatalf("Walk: %v, WalkReader: %v with %d bytes left", walkErr, streamErr, r.Len())
	}
	if streamErr != nil && !errors.Is(streamErr, ErrSyntax) && !errors.Is(streamErr, ErrEncoding) && !errors.Is(streamErr, ErrTooLarge) {
		t.Fatalf("unclassified error: %v", streamErr)
	}
	if _, err := read(bytes.NewReader(b), 64); err == nil && streamErr != nil {
		t.Fatalf("with small pairs only it has no error, else %v", streamErr)
	}
	l, n, err := DecodePrefix(b)
	if streamErr == nil { // all that Decode can find more is a name that is there twice
		if twice := New(streamed.pairs...).Len() < streamed.Len(); twice != errors.Is(err, ErrDuplicate) || twice != (err != nil) {
			t.Fatalf("WalkReader gave %v, DecodePrefix: %v", streamed, err)
		}
	} else if err == nil {
		t.Fatalf("WalkReader: %v, but it is %v", streamErr, l)
	}
	if err == nil && (!l.Equal(streamed) || n != len(b)-r.Len()) {
		t.Fatalf("DecodePrefix gave %v of %d bytes, WalkReader %v of %d", l, n, streamed, len(b)-r.Len())
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		b, err := g.list.Encode(g.enc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, enc := range []Encoding{Native, XDR} {
		b, err := everyType().Encode(enc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, name := range goldenFiles(f) {
		if b, err := os.ReadFile(name); err != nil {
			f.Fatal(err)
		} else if len(b) < 4<<10 {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkWalks(t, b)
		l, n, err := DecodePrefix(b)
		odd := func(name string) bool { return len(name)%2 == 1 }
		if _, someErr := DecodeSome(b, odd); someErr != nil && !errors.Is(someErr, ErrSyntax) && !errors.Is(someErr, ErrEncoding) {
			t.Fatalf("unclassified error: %v", someErr)
		}
		if err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrEncoding) {
				t.Fatalf("unclassified error: %v", err)
			}
			return
		}
		if n > len(b) {
			t.Fatalf("%d of %d bytes", n, len(b))
		}
		_ = l.String()
		if some, err := DecodeSome(b[:n], odd); err != nil || !some.Equal(chosen(l, odd)) {
			t.Fatalf("some of %v are %v: %v", l, some, err)
		}
		for _, enc := range []Encoding{Native, XDR} {
			out, err := l.Encode(enc)
			if err != nil {
				t.Fatalf("decoded, but cannot be encoded: %v", err)
			}
			again, err := Decode(out)
			if err != nil || !again.Equal(l) {
				t.Fatalf("encoding %d: %v\n got %v\nwant %v", enc, err, again, l)
			}
		}
	})
}

// properties is a list of the shape that most replies have.
func properties(n int) *List {
	l := New()
	for i := range n {
		Set(l, fmt.Sprintf("property%d", i), New(P("value", uint64(i)<<20), P("source", "tank/some/dataset")))
	}
	return l
}

func BenchmarkEncode(b *testing.B) {
	for _, enc := range []Encoding{Native, XDR} {
		b.Run([]string{"native", "xdr"}[enc], func(b *testing.B) {
			l := properties(60)
			var buf []byte
			var err error
			b.ReportAllocs()
			for b.Loop() {
				if buf, err = l.AppendEncode(buf[:0], enc); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkDecodeSome(b *testing.B) {
	buf, err := properties(60).Encode(Native)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n = 0
		l, err := DecodeSome(buf, func(string) bool { n++; return n%15 == 0 })
		if err != nil || l.Len() != 4 {
			b.Fatal(l, err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, enc := range []Encoding{Native, XDR} {
		b.Run([]string{"native", "xdr"}[enc], func(b *testing.B) {
			buf, err := properties(60).Encode(enc)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Decode(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
