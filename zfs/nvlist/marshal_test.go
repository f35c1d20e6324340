// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

type kind uint32

type base struct {
	GUID uint64 `nv:"guid"`
}

type child struct {
	Path string `nv:"path"`
	Log  bool   `nv:"is_log,flag"`
}

type vdev struct {
	base
	Base2    base              `nv:"second"`
	Type     string            `nv:"type"`
	Kind     kind              `nv:"kind"`
	Children []child           `nv:"children,omitempty"`
	Path     *string           `nv:"path"`
	Stats    []uint64          `nv:"vdev_stats"`
	Wait     time.Duration     `nv:"wait"`
	User     map[string]string `nv:"user"`
	Props    *List             `nv:"props"`
	Skip     int               `nv:"-"`
	Rest     *List             `nv:",rest"`
}

type embedding struct {
	Inner
	X uint32 `nv:"x"`
}

// Inner is embedded by value and exported, so its fields are inlined.
type Inner struct {
	A string `nv:"a"`
	B bool   `nv:"b,flag"`
}

func TestMarshal(t *testing.T) {
	path := "/dev/da0"
	v := vdev{
		Base2: base{5}, Type: "mirror", Kind: 3, Children: []child{{"a", true}, {"b", false}}, Path: &path,
		Stats: []uint64{1, 2}, Wait: time.Second, User: map[string]string{"z": "1", "a": "2"},
		Props: New(P("p", "q")), Rest: New(P("extra", uint8(9))),
	}
	l, err := Marshal(&v)
	if err != nil {
		t.Fatal(err)
	}
	want := New(P("second", New(P("guid", uint64(5)))), P("type", "mirror"), P("kind", uint32(3)),
		P("children", []*List{New(P("path", "a"), P("is_log", Flag{})), New(P("path", "b"))}), P("path", path),
		P("vdev_stats", []uint64{1, 2}), P("wait", time.Second), P("user", New(P("a", "2"), P("z", "1"))),
		P("props", New(P("p", "q"))), P("extra", uint8(9)))
	if !l.Equal(want) {
		t.Fatalf("got %v\nwant %v", l, want)
	}
	var back vdev
	if err := l.Unmarshal(&back); err != nil {
		t.Fatal(err)
	}
	if !back.Rest.Equal(v.Rest) || !back.Props.Equal(v.Props) {
		t.Errorf("rest %v props %v", back.Rest, back.Props)
	}
	back.Rest, back.Props = v.Rest, v.Props
	if !reflect.DeepEqual(back, v) {
		t.Errorf("got %+v\nwant %+v", back, v)
	}

	e := embedding{Inner{"s", true}, 7}
	if l, err = Marshal(e); err != nil || !l.Equal(New(P("a", "s"), P("b", Flag{}), P("x", uint32(7)))) {
		t.Fatalf("%v %v", l, err)
	}
	var eb embedding
	if err := l.Unmarshal(&eb); err != nil || eb != e {
		t.Errorf("%+v %v", eb, err)
	}
}

func TestUnmarshalWidths(t *testing.T) {
	var v struct {
		A uint8
		B int64
		C uint64
	}
	if err := New(P("A", uint64(255)), P("B", uint32(7)), P("C", int32(9))).Unmarshal(&v); err != nil || v.A != 255 || v.B != 7 || v.C != 9 {
		t.Errorf("%+v %v", v, err)
	}
	for _, l := range []*List{New(P("A", uint64(256))), New(P("B", uint64(1<<63))), New(P("C", int8(-1))), New(P("A", "1"))} {
		if err := l.Unmarshal(&v); !errors.Is(err, ErrType) {
			t.Errorf("%v: %v", l, err)
		}
	}
	if err := New().Unmarshal(v); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := Marshal(7); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := Marshal(struct{ C chan int }{make(chan int)}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, err := Marshal(struct {
		A uint8 `nv:"x"`
		B uint8 `nv:"x"`
	}{}); !errors.Is(err, ErrDuplicate) {
		t.Error(err)
	}
}

// Collector is embedded, and takes for the struct around it what that does not name.
type Collector struct {
	Known string `nv:"known"`
	Rest  *List  `nv:",rest"`
}

func TestRestEmbedded(t *testing.T) {
	type outer struct {
		Collector
		X uint32 `nv:"x"`
	}
	l := New(P("known", "k"), P("one", uint8(1)), P("x", uint32(7)), P("two", "2"))
	var v outer
	if err := l.Unmarshal(&v); err != nil || v.X != 7 || v.Known != "k" || !v.Rest.Equal(New(P("one", uint8(1)), P("two", "2"))) {
		t.Errorf("%+v %v", v, err)
	}
	back, err := Marshal(v)
	if err != nil || back.Len() != l.Len() {
		t.Errorf("%v %v", back, err)
	}
	// Of two the first takes all, so that nothing is there twice.
	type both struct {
		First *List `nv:",rest"`
		Collector
	}
	var b both
	if err := l.Unmarshal(&b); err != nil || b.Known != "k" || b.First.Len() != 3 || b.Rest.Len() != 0 {
		t.Errorf("%+v %v", b, err)
	}
	if back, err = Marshal(b); err != nil || back.Len() != l.Len() {
		t.Errorf("%v %v", back, err)
	}
}

func TestMarshalDuplicate(t *testing.T) {
	for _, v := range []any{
		struct {
			A uint8 `nv:"x"`
			B bool  `nv:"x,flag"`
		}{1, true},
		struct {
			A bool   `nv:"x,flag"`
			B string `nv:"x"`
		}{true, ""},
		struct {
			Inner
			X string `nv:"a"`
		}{},
		struct {
			A    uint8 `nv:"x"`
			Rest *List `nv:",rest"`
		}{1, New(P("x", uint8(2)))},
		struct {
			Collector
			X uint8 `nv:"x"`
		}{Collector{Rest: New(P("x", uint8(2)))}, 1},
	} {
		if l, err := Marshal(v); !errors.Is(err, ErrDuplicate) {
			t.Errorf("%+v: %v %v", v, l, err)
		}
	}
}
