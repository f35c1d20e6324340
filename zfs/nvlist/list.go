// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// The flags of a list (nvl_nvflag).
const (
	UniqueName     uint32 = 1 // NV_UNIQUE_NAME
	UniqueNameType uint32 = 2 // NV_UNIQUE_NAME_TYPE
)

// indexFrom is the length from which a list keeps a map of its names; shorter lists are searched.
const indexFrom = 24

// firstPairs is the room that a list starts with: a property's has a value and a source.
const firstPairs = 2

// List is an ordered list of pairs with unique names. The zero value is an
// empty list; a nil *List reads as an empty list. A List is not safe for
// concurrent change.
type List struct {
	pairs []Pair
	index map[string]int
	flags uint32 // nvl_nvflag as decoded; 0 on a list that was made here, which encodes as UniqueName
	plain bool   // decoded with no flag, and so encoded with none
}

// New makes a list of the pairs; of two with one name the later stands.
func New(pairs ...Pair) *List {
	l := &List{}
	for _, p := range pairs {
		l.Set(p.Name, p.Value)
	}
	return l
}

func (l *List) find(name string) int {
	if l == nil {
		return -1
	}
	if l.index != nil {
		if i, ok := l.index[name]; ok {
			return i
		}
		return -1
	}
	for i := range l.pairs {
		if l.pairs[i].Name == name {
			return i
		}
	}
	return -1
}

// add appends a pair and reports false if the name is taken.
func (l *List) add(p Pair) bool {
	if l.find(p.Name) >= 0 {
		return false
	}
	if l.pairs == nil {
		l.pairs = make([]Pair, 0, firstPairs)
	}
	l.pairs = append(l.pairs, p)
	switch n := len(l.pairs); {
	case l.index != nil:
		l.index[p.Name] = n - 1
	case n >= indexFrom:
		l.reindex()
	}
	return true
}

func (l *List) reindex() {
	l.index = nil
	if len(l.pairs) < indexFrom {
		return
	}
	l.index = make(map[string]int, 2*len(l.pairs)) // a list that got this long is likely to get longer
	for i := range l.pairs {
		l.index[l.pairs[i].Name] = i
	}
}

// Set sets name to v, in place if the name is there, at the end if not.
func (l *List) Set(name string, v Value) {
	if i := l.find(name); i >= 0 {
		l.pairs[i].Value = v
		return
	}
	l.add(Pair{name, v})
}

// Delete removes name and reports whether it was there.
func (l *List) Delete(name string) bool {
	i := l.find(name)
	if i < 0 {
		return false
	}
	l.pairs = slices.Delete(l.pairs, i, i+1)
	l.reindex()
	return true
}

// Len is the number of pairs.
func (l *List) Len() int {
	if l == nil {
		return 0
	}
	return len(l.pairs)
}

// Value gives the value of name.
func (l *List) Value(name string) (Value, bool) {
	if i := l.find(name); i >= 0 {
		return l.pairs[i].Value, true
	}
	return Value{}, false
}

// Has reports whether name is there, with whatever value.
func (l *List) Has(name string) bool { return l.find(name) >= 0 }

// All walks the pairs in their order.
func (l *List) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if l == nil {
			return
		}
		for i := range l.pairs {
			if !yield(l.pairs[i].Name, l.pairs[i].Value) {
				return
			}
		}
	}
}

// Set sets name to v.
func Set[T GoType](l *List, name string, v T) { l.Set(name, Of(v)) }

// Get gives the value of name as T; false if it is missing or of another type.
func Get[T GoType](l *List, name string) (T, bool) {
	v, ok := l.Value(name)
	if !ok {
		var zero T
		return zero, false
	}
	return As[T](v)
}

// Lookup gives the value of name as T, ErrMissing if there is none and ErrType if it is of another type.
func Lookup[T GoType](l *List, name string) (T, error) {
	v, ok := l.Value(name)
	if !ok {
		var zero T
		return zero, fmt.Errorf("nvlist: %q: %w", name, ErrMissing)
	}
	t, ok := As[T](v)
	if !ok {
		return t, fmt.Errorf("nvlist: %q is %v, want %T: %w", name, v.typ, t, ErrType)
	}
	return t, nil
}

// Str gives the string at name, "" if there is none.
func (l *List) Str(name string) string {
	v, _ := l.Value(name)
	s, _ := v.Str()
	return s
}

// Uint gives the integer at name, of whatever width; false if there is none or it is negative.
func (l *List) Uint(name string) (uint64, bool) {
	v, _ := l.Value(name)
	return v.Uint()
}

// List gives the nested list at name, nil if there is none.
func (l *List) List(name string) *List {
	v, _ := l.Value(name)
	return v.List()
}

// Lists gives the array of lists at name, nil if there is none.
func (l *List) Lists(name string) []*List {
	v, _ := l.Value(name)
	return v.Lists()
}

// Equal reports whether both hold the same pairs in the same order.
func (l *List) Equal(m *List) bool {
	if l.Len() != m.Len() {
		return false
	}
	for i := range l.Len() {
		if a, b := l.pairs[i], m.pairs[i]; a.Name != b.Name || !a.Value.Equal(b.Value) {
			return false
		}
	}
	return true
}

// String shows the list for people: one line, nested, arrays of bytes by their length.
func (l *List) String() string {
	var b strings.Builder
	l.format(&b, maxDepth)
	return b.String()
}

func (l *List) format(b *strings.Builder, depth int) {
	if depth == 0 {
		b.WriteString("{…}")
		return
	}
	b.WriteByte('{')
	first := true
	for name, v := range l.All() {
		if !first {
			b.WriteString(", ")
		}
		first = false
		fmt.Fprintf(b, "%q", name)
		switch {
		case v.typ == TypeFlag:
		case v.typ == TypeList:
			b.WriteString(": ")
			v.List().format(b, depth-1)
		case v.typ == TypeLists:
			b.WriteString(": [")
			for i, e := range v.Lists() {
				if i > 0 {
					b.WriteString(", ")
				}
				e.format(b, depth-1)
			}
			b.WriteByte(']')
		case v.typ == TypeString:
			fmt.Fprintf(b, ": %q", v.str)
		case v.typ == TypeStrings:
			fmt.Fprintf(b, ": %q", v.ref)
		case v.typ == TypeBytes:
			fmt.Fprintf(b, ": %d bytes", v.nelem())
		default:
			fmt.Fprintf(b, ": %v", v.Any())
		}
	}
	b.WriteByte('}')
}
