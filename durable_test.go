// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// diary is a durable that writes down what it does, in order.
func diary(t *testing.T, fail error) (durable, *[]string) {
	var did []string
	return durable{
		fault: func(what string) { did = append(did, what) },
		sync: func(f *os.File) error {
			fi, err := f.Stat()
			if err != nil {
				t.Error(err)
			} else if what := "synced " + filepath.Base(f.Name()); fi.IsDir() {
				did = append(did, what+"/")
			} else if b, err := os.ReadFile(f.Name()); err != nil {
				t.Error(err)
			} else {
				did = append(did, what+": "+string(b))
			}
			return errors.Join(fail, f.Sync())
		},
	}, &did
}

// TestDurable: what a power cut must not undo is on the disk before the next
// thing is done.
func TestDurable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a")
	fill := func(text string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
	}
	for _, c := range []struct {
		name string
		do   func(durable) error
		want []string
	}{
		{"write", func(d durable) error { return d.write(path, 0o600, fill("one")) },
			[]string{"created a", "synced .new-a: one", "wrote a", "renamed a", "synced d/"}},
		{"write again", func(d durable) error { return d.write(path, 0o600, fill("two")) },
			[]string{"created a", "synced .new-a: two", "wrote a", "renamed a", "synced d/"}},
		{"rename", func(d durable) error { return d.rename(path, filepath.Join(dir, "b")) }, []string{"renamed b", "synced d/"}},
		{"remove", func(d durable) error { return d.remove(filepath.Join(dir, "b")) }, []string{"removed b", "synced d/"}},
		{"remove nothing", func(d durable) error { return d.remove(path) }, nil},
		{"remove a directory", func(d durable) error {
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			return d.removeDir(path)
		}, []string{"renamed .trash-a", "synced d/", "removed a"}},
	} {
		d, did := diary(t, nil)
		if err := c.do(d); err != nil || !slices.Equal(*did, c.want) {
			t.Errorf("%s: %q, want %q (%v)", c.name, *did, c.want, err)
		}
	}
	// What did not reach the disk does not take the place of what did.
	d, _ := diary(t, nil)
	if err := d.write(path, 0o600, fill("old")); err != nil {
		t.Fatal(err)
	}
	full := errors.New("the disk is full")
	d, _ = diary(t, full)
	if err := d.write(path, 0o600, fill("new")); !errors.Is(err, full) {
		t.Errorf("a write that could not be synced: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("after it the file is %q (%v)", b, err)
	}
	if err := d.remove(path); !errors.Is(err, full) {
		t.Errorf("a removal that could not be synced: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v (%v)", left, err)
	}
}

// TestRecordsAreDurable: a machine is in the store when its record is, whole.
func TestRecordsAreDurable(t *testing.T) {
	s, err := openDirStore(filepath.Join(t.TempDir(), "store"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	d, did := diary(t, nil)
	s.d = d
	r := &record{Version: recordVersion, ID: newID(), Spec: spec("vm1").withDefaults(), State: StateCreating}
	b, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	put := func(dir string) []string {
		return []string{"created record.json", "synced .new-record.json: " + string(b), "wrote record.json", "renamed record.json", "synced " + dir + "/"}
	}
	want := slices.Concat([]string{"made the directory"}, put(prefixNew+r.ID), []string{"renamed " + r.ID, "synced machines/"}, put(r.ID))
	if err := errors.Join(s.create(t.Context(), r), s.save(t.Context(), r)); err != nil || !slices.Equal(*did, want) {
		t.Errorf("%q, want %q (%v)", *did, want, err)
	}
}
