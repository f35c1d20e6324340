// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type (
	text   string
	truth  bool
	number int16
	ratio  float64
)

// leaf has a field of every type that a field can have without another struct.
type leaf struct {
	Flag     Flag
	Here     bool `nv:"here,flag"`
	Byte     Byte
	Bool     bool
	I8       int8
	U8       uint8
	I16      int16
	U16      uint16
	I32      int32
	U32      uint32
	I64      int64
	U64      uint64
	F64      float64
	Wait     time.Duration
	Str      string
	List     *List
	Bools    []bool
	Bytes    []byte
	I8s      []int8
	U8s      Uint8s
	I16s     []int16
	U16s     []uint16
	I32s     []int32
	U32s     []uint32
	I64s     []int64
	U64s     []uint64
	Strs     []string
	Lists    []*List
	Text     text
	Truth    truth
	Number   number
	Ratio    ratio `nv:"named float"`
	MaybeStr *string
	MaybeU64 *uint64  `nv:"maybe"`
	MaybeI64 **int64  `nv:"maybe twice"`
	MaybeNum *number  `nv:"maybe a number"`
	Often    []string `nv:"often,omitempty"`
	Once     uint32   `nv:"once,omitempty"`
	Ints     map[string]int32
	Named    map[text]ratio
	Wide     map[string][]uint64
	Out      chan int `nv:"-"`
}

type Embedded struct {
	Leaf  leaf     `nv:"a leaf within"`
	Other *List    `nv:",rest"`
	Strs  []string `nv:"embedded strings"`
}

type tree struct {
	Leaf     leaf
	Maybe    *leaf
	Leaves   []leaf
	Some     []leaf `nv:"some,omitempty"`
	ByName   map[string]leaf
	Arrays   map[string][]leaf
	Pointers map[string]*leaf
	Tree     *tree
	Trees    []tree
	Embedded
}

func some[E any](t *rapid.T, g *rapid.Generator[E]) []E {
	return rapid.SliceOfN(g, 0, 3).Draw(t, "slice")
}

func maybe[E any](t *rapid.T, g *rapid.Generator[E]) *E {
	return rapid.Ptr(g, true).Draw(t, "pointer")
}

func byName[K ~string, E any](t *rapid.T, g *rapid.Generator[E]) map[K]E {
	m := map[K]E{}
	for _, k := range some(t, rapid.StringMatching(`[a-z]{0,3}`)) {
		m[K(k)] = g.Draw(t, "element")
	}
	return m
}

func genText() *rapid.Generator[string] { return rapid.StringMatching(`[a-z0-9/@#ä]{0,6}`) }

func genLeaf() *rapid.Generator[leaf] {
	return rapid.Custom(func(t *rapid.T) leaf {
		str := genText()
		v := leaf{
			Here: rapid.Bool().Draw(t, "here"), Byte: Byte(rapid.Byte().Draw(t, "byte")), Bool: rapid.Bool().Draw(t, "bool"),
			I8: rapid.Int8().Draw(t, "i8"), U8: rapid.Uint8().Draw(t, "u8"),
			I16: rapid.Int16().Draw(t, "i16"), U16: rapid.Uint16().Draw(t, "u16"),
			I32: rapid.Int32().Draw(t, "i32"), U32: rapid.Uint32().Draw(t, "u32"),
			I64: rapid.Int64().Draw(t, "i64"), U64: rapid.Uint64().Draw(t, "u64"),
			F64: rapid.Float64().Draw(t, "f64"), Wait: time.Duration(rapid.Int64().Draw(t, "wait")),
			Str: str.Draw(t, "str"), List: genList(1).Draw(t, "list"),
			Bools: some(t, rapid.Bool()), Bytes: some(t, rapid.Byte()), I8s: some(t, rapid.Int8()), U8s: some(t, rapid.Uint8()),
			I16s: some(t, rapid.Int16()), U16s: some(t, rapid.Uint16()), I32s: some(t, rapid.Int32()), U32s: some(t, rapid.Uint32()),
			I64s: some(t, rapid.Int64()), U64s: some(t, rapid.Uint64()), Strs: some(t, str), Lists: some(t, genList(1)),
			Text: text(str.Draw(t, "text")), Truth: truth(rapid.Bool().Draw(t, "truth")),
			Number: number(rapid.Int16().Draw(t, "number")), Ratio: ratio(rapid.Float64().Draw(t, "ratio")),
			MaybeStr: maybe(t, str), MaybeU64: maybe(t, rapid.Uint64()),
			MaybeI64: maybe(t, rapid.Ptr(rapid.Int64(), false)), MaybeNum: (*number)(maybe(t, rapid.Int16())),
			Once: rapid.Uint32Max(1).Draw(t, "once"),
			Ints: byName[string](t, rapid.Int32()), Wide: byName[string](t, rapid.SliceOf(rapid.Uint64())),
			Named: map[text]ratio{},
		}
		for k, f := range byName[text](t, rapid.Float64()) {
			v.Named[k] = ratio(f)
		}
		if often := some(t, str); len(often) > 0 {
			v.Often = often
		}
		return v
	})
}

func genTree(depth int) *rapid.Generator[tree] {
	return rapid.Custom(func(t *rapid.T) tree {
		l := genLeaf()
		v := tree{
			Leaf: l.Draw(t, "leaf"), Maybe: maybe(t, l), Leaves: some(t, l), ByName: byName[string](t, l),
			Arrays: byName[string](t, rapid.SliceOfN(l, 0, 2)), Pointers: byName[string](t, rapid.Ptr(l, false)), Trees: []tree{},
			Embedded: Embedded{Leaf: l.Draw(t, "embedded leaf"), Other: New(), Strs: some(t, genText())},
		}
		if rapid.Bool().Draw(t, "some") {
			v.Some = []leaf{l.Draw(t, "some")}
		}
		for name, x := range genList(1).Draw(t, "rest").All() {
			v.Other.Set("rest "+name, x)
		}
		if depth > 0 {
			v.Tree, v.Trees = maybe(t, genTree(depth-1)), rapid.SliceOfN(genTree(depth-1), 0, 2).Draw(t, "trees")
		}
		return v
	})
}

// same is reflect.DeepEqual but for lists, which are the same if they say the same.
func same(a, b reflect.Value) bool {
	if l, ok := a.Interface().(*List); ok {
		m := b.Interface().(*List)
		return (l == nil) == (m == nil) && l.Equal(m)
	}
	switch a.Kind() {
	case reflect.Pointer:
		return a.IsNil() && b.IsNil() || !a.IsNil() && !b.IsNil() && same(a.Elem(), b.Elem())
	case reflect.Struct:
		for i := range a.NumField() {
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		for i := 0; a.Len() == b.Len() && i < a.Len(); i++ {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return a.IsNil() == b.IsNil() && a.Len() == b.Len()
	case reflect.Map:
		for _, k := range a.MapKeys() {
			if e := b.MapIndex(k); !e.IsValid() || !same(a.MapIndex(k), e) {
				return false
			}
		}
		return a.IsNil() == b.IsNil() && a.Len() == b.Len()
	}
	return a.Interface() == b.Interface()
}

// A struct of everything that a struct can have is itself again, through both encodings.
func TestMarshalRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := genTree(1).Draw(t, "value")
		l, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, enc := range []Encoding{Native, XDR} {
			b, err := l.Encode(enc)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			var back tree
			if err := decoded.Unmarshal(&back); err != nil {
				t.Fatalf("encoding %d: %v", enc, err)
			}
			if !same(reflect.ValueOf(v), reflect.ValueOf(back)) {
				t.Fatalf("encoding %d: got %+v\nwant %+v", enc, back, v)
			}
		}
	})
}
