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
