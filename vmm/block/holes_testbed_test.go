// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package block

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// A guest chooses what it discards and zeroes by the sector. FreeBSD's tmpfs, which
// /tmp is in the testbed, goes round for ever over parts of a page.
func TestHolesOfAnySize(t *testing.T) {
	const size = 64 << 10
	f, err := os.CreateTemp("/tmp", "holes")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	want := bytes.Repeat([]byte{0xa5}, size)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	d, err := NewFile(f, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, size)
	for _, off := range []int64{0, 512, 3584, 4096, 4608, 8192, 12288, size - 4096, size - 512} {
		for _, n := range []int64{512, 1024, 3584, 4096, 4608, 8192, 12288, 16896} {
			if off+n > size {
				continue
			}
			for _, what := range []string{"discard", "zero"} {
				name := fmt.Sprintf("%s %d at %d", what, n, off)
				if _, err := f.WriteAt(want, 0); err != nil {
					t.Fatal(err)
				}
				if what == "zero" {
					err = d.WriteZeroes(off, n, true)
				} else {
					err = d.Discard(off, n)
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if _, err := f.ReadAt(got, 0); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got[:off], want[:off]) || !bytes.Equal(got[off+n:], want[off+n:]) {
					t.Errorf("%s changed what is beside it", name)
				}
				// What is discarded may still be there, in parts.
				if what == "zero" && !bytes.Equal(got[off:off+n], make([]byte, n)) {
					t.Errorf("%s: it does not read as zeroes", name)
				}
			}
		}
	}
}
