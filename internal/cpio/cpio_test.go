// SPDX-License-Identifier: BSD-2-Clause

package cpio

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

func archive(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, err := range []error{
		w.Dir("dev", 0o755),
		w.CharDevice("dev/console", 0o600, 5, 1),
		w.File("init", 0o755, []byte("#!/bin/sh\n")),
		w.File("empty", 0o644, nil),
		w.Symlink("link", "init"),
		w.Close(),
		w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return buf.Bytes()
}

// entry is one entry as a reader sees it.
type entry struct {
	name         string
	mode         uint64
	major, minor uint64
	content      string
}

// read reads an archive by the format's description alone.
func read(t *testing.T, b []byte) []entry {
	t.Helper()
	var out []entry
	align := func(n int) int { return (n + 3) &^ 3 }
	for off := 0; ; {
		if string(b[off:off+6]) != "070701" {
			t.Fatalf("no magic at %d", off)
		}
		field := func(i int) uint64 {
			n, err := strconv.ParseUint(string(b[off+6+8*i:off+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		size, nameLen := int(field(6)), int(field(11))
		name := string(b[off+110 : off+110+nameLen-1])
		data := align(off + 110 + nameLen)
		if name == "TRAILER!!!" {
			if data != len(b) {
				t.Errorf("%d bytes after the end", len(b)-data)
			}
			return out
		}
		out = append(out, entry{name, field(1), field(9), field(10), string(b[data : data+size])})
		off = align(data + size)
	}
}

func TestArchive(t *testing.T) {
	want := []entry{
		{"dev", 0o040755, 0, 0, ""},
		{"dev/console", 0o020600, 5, 1, ""},
		{"init", 0o100755, 0, 0, "#!/bin/sh\n"},
		{"empty", 0o100644, 0, 0, ""},
		{"link", 0o120777, 0, 0, "init"},
	}
	got := read(t, archive(t))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestReproducible(t *testing.T) {
	if !bytes.Equal(archive(t), archive(t)) {
		t.Error("equal input gave different archives")
	}
}

func TestRefused(t *testing.T) {
	for _, name := range []string{"", "/init", "a\x00b", "TRAILER!!!"} {
		if err := NewWriter(new(bytes.Buffer)).Dir(name, 0o755); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
	w := NewWriter(new(bytes.Buffer))
	if err := w.WriteHeader(Entry{Name: "a", Mode: TypeRegular, Size: 1 << 32}); err == nil {
		t.Error("a size above 32 bits was taken")
	}
	if err := w.WriteHeader(Entry{Name: "a", Mode: TypeRegular, Size: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("four")); err == nil {
		t.Error("more than the size was taken")
	}
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), "3 bytes short") {
		t.Errorf("close in the middle of an entry: %v", err)
	}
}
