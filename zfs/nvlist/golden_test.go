// SPDX-License-Identifier: BSD-2-Clause

package nvlist

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dump writes a list as testdata/golden/*.txt has it: a line for each pair,
// name, type and value, what is nested further in.
func dump(b *strings.Builder, l *List, indent string) {
	for name, v := range l.All() {
		fmt.Fprintf(b, "%s%s %s", indent, name, v.Type())
		switch x := v.Any().(type) {
		case *List:
			b.WriteByte('\n')
			dump(b, x, indent+"  ")
			continue
		case []*List:
			b.WriteByte('\n')
			for i, e := range x {
				fmt.Fprintf(b, "%s  [%d]\n", indent, i)
				dump(b, e, indent+"    ")
			}
			continue
		case Flag:
		default:
			fmt.Fprintf(b, " %v", x)
		}
		b.WriteByte('\n')
	}
}

func goldenFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*.nvlist")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	return files
}

// Lists that kernels gave and labels that they wrote (TestRealEncodings of
// package zfs keeps them): each says what a decoder of its own, made from the
// layout alone, read in it, and is itself when it is encoded again.
func TestKernelLists(t *testing.T) {
	for _, f := range goldenFiles(t) {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		l, err := Decode(raw)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		var got strings.Builder
		dump(&got, l, "")
		want, err := os.ReadFile(strings.TrimSuffix(f, ".nvlist") + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", f, got.String(), want)
		}
		again, err := l.Encode(Encoding(raw[0]))
		if err != nil || !bytes.Equal(again, raw) {
			i := 0
			for i < min(len(raw), len(again)) && raw[i] == again[i] {
				i++
			}
			t.Errorf("%s: encoded again %d bytes, were %d; they differ from %d (%v)", f, len(again), len(raw), i, err)
		}
		for _, enc := range []Encoding{Native, XDR} { // and says the same in either encoding
			other, err := l.Encode(enc)
			if err != nil {
				t.Errorf("%s: %v", f, err)
			} else if m, err := Decode(other); err != nil || !m.Equal(l) {
				t.Errorf("%s: in encoding %d it is another (%v)", f, enc, err)
			}
		}
		var walked []string
		for p, err := range Walk(raw) {
			if err != nil {
				t.Errorf("%s: %v", f, err)
			}
			walked = append(walked, p.Name)
		}
		if len(walked) != l.Len() {
			t.Errorf("%s: walked over %q", f, walked)
		}
	}
}
