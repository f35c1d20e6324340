// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// kernelXDR encodes a list as the kernel does (nvs_xdr_nvp_size): a pair's own
// size counts 4 bytes too many for each empty array of numbers in it, however deep.
func kernelXDR(t fataler, l *List) []byte {
	b, _ := kernelXDRBody(t, l)
	return append([]byte{byte(XDR), littleEndian, 0, 0}, b...)
}

type fataler interface {
	Helper()
	Fatal(...any)
}

func kernelXDRBody(t fataler, l *List) (b []byte, unwritten int) {
	t.Helper()
	b = xdrListHeader(nil, l)
	for name, v := range l.All() {
		in, none := []*List(nil), 0
		switch r := v.ref.(type) {
		case *List:
			in = []*List{r}
		case []*List:
			in = r
		case nil, []string, []byte:
		default:
			if v.nelem() == 0 {
				none = 4
			}
		}
		p, err := xdrPair(nil, Pair{name, v}, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(in) > 0 {
			p = p[:xdrPairMin+align4(len(name))]
			for _, l := range in {
				body, n := kernelXDRBody(t, l)
				p = append(p, body...)
				none += n
			}
		}
		binary.BigEndian.PutUint32(p, uint32(len(p)+none))
		b = append(b, p...)
		unwritten += none
	}
	return appendEnd(b, XDR), unwritten
}

func TestKernelEmptyArrays(t *testing.T) {
	none := New(P("a", []uint64{}), P("b", []int8{}), P("c", []bool{}), P("d", []string{}), P("e", Uint8s{}))
	for _, l := range []*List{
		none, New(P("l", none)), New(P("l", []*List{none, New(), New(P("l", none)), none})),
		New(P("l", New(P("l", New(P("l", none), P("m", none)))))),
	} {
		b := kernelXDR(t, l)
		if got, err := Decode(b); err != nil || !got.Equal(l) {
			t.Errorf("%v: %v", l, err)
		}
		for i := range b {
			if _, err := Decode(b[:i]); !errors.Is(err, ErrTruncated) {
				t.Errorf("%v cut at %d: %v", l, i, err)
			}
		}
		// It claims neither what is no multiple of 4 nor more than was left out.
		first := headerLen + 8
		for _, more := range []uint32{1, 2, 3, 4 * 20, 1 << 30} {
			bad := append([]byte(nil), b...)
			binary.BigEndian.PutUint32(bad[first:], binary.BigEndian.Uint32(bad[first:])+more)
			if _, err := Decode(bad); !errors.Is(err, ErrSyntax) {
				t.Errorf("%v with %d more: %v", l, more, err)
			}
		}
	}
}

func TestKernelXDR(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genList(3).Draw(t, "list")
		if got, err := Decode(kernelXDR(t, l)); err != nil || !got.Equal(l) {
			t.Fatalf("%v: %v", l, err)
		}
	})
}

// What lies in a pair ends where the pair ends, though the input goes on.
func TestXDRWithinParent(t *testing.T) {
	b, err := New(P("l", New(P("s", "abcd"))), P("t", "the rest of the list")).Encode(XDR)
	if err != nil {
		t.Fatal(err)
	}
	const outer = headerLen + 8
	const inner = outer + xdrPairMin + 4 + 8                  // behind the outer pair's name and its list's header
	for _, off := range []int{inner, inner + 8, inner + 24} { // the inner pair's size, its name's, its string's
		bad := append([]byte(nil), b...)
		binary.BigEndian.PutUint32(bad[off:], binary.BigEndian.Uint32(bad[off:])+20)
		var p *pairError
		if _, err := Decode(bad); !errors.Is(err, ErrTruncated) || !errors.As(err, &p) || p.name != "l" {
			t.Errorf("20 more at %d: %v", off, err)
		}
	}
}
