// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package client

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPlan(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"a.go", "testdata/x/y", "below/b.go", "extra/file"} {
		write(t, filepath.Join(dir, f), f)
	}
	t.Setenv(FilesEnv, "extra:"+filepath.Join(dir, "below/b.go"))
	p, err := planFor(dir, []string{"/tmp/p.test", "-test.coverprofile=c.out", "-test.outputdir", "/out",
		"-test.testlogfile=log", "-test.gocoverdir=/cover", "--test.cpuprofile=/abs/cpu", "--", "-test.trace=no"}, []string{"GOCOVERDIR=gcd"})
	if err != nil {
		t.Fatal(err)
	}
	in := func(names ...string) (out []string) {
		for _, n := range names {
			out = append(out, filepath.Join(dir, n))
		}
		return out
	}
	if want := append([]string{"/tmp/p.test"}, in("a.go", "testdata", "extra", "below/b.go")...); !slices.Equal(p.send, want) {
		t.Errorf("sends %q, want %q", p.send, want)
	}
	want := append([]string{"/abs/cpu", "/out/c.out"}, in("log")...)
	slices.Sort(want)
	if !slices.Equal(p.files, want) {
		t.Errorf("takes back %q, want %q", p.files, want)
	}
	want = append([]string{"/cover"}, in("gcd")...)
	slices.Sort(want)
	if !slices.Equal(p.dirs, want) || !p.wholeDir {
		t.Errorf("directories %q, want %q", p.dirs, want)
	}
	t.Setenv(FilesEnv, "missing")
	if _, err := planFor(dir, []string{"x"}, nil); err == nil {
		t.Error("a missing file was taken")
	}
}

func TestOnlyWhatWasAskedComesBack(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(t.TempDir(), "c.out")
	p := &plan{files: []string{out}, wholeDir: true}
	pack := func(name string, typ byte) *bytes.Buffer {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		h := &tar.Header{Name: name, Typeflag: typ, Mode: 0o644}
		if typ == tar.TypeReg {
			h.Size = 2
		} else {
			h.Linkname = "/etc/passwd"
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if typ == tar.TypeReg {
			_, _ = w.Write([]byte("ok"))
		}
		w.Close()
		return &buf
	}
	for _, name := range []string{out, filepath.Join(dir, "testdata/new")} {
		if err := p.takeBack(pack(name, tar.TypeReg), dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != "ok" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for name, typ := range map[string]byte{
		"/etc/skep-test":           tar.TypeReg,
		dir + "/../outside":        tar.TypeReg,
		dir + "-other/file":        tar.TypeReg,
		filepath.Join(dir, "link"): tar.TypeSymlink,
		"relative":                 tar.TypeReg,
	} {
		if err := p.takeBack(pack(name, typ), dir); err == nil || !strings.Contains(err.Error(), "not asked for") {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestSendFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "real"), "content")
	write(t, filepath.Join(dir, "d/e/f"), "deep")
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	// The binary may be a link; what it leads to is sent.
	if err := sendFiles(&buf, []string{filepath.Join(dir, "link"), filepath.Join(dir, "d"), filepath.Join(dir, "gone")}); err != nil {
		t.Fatal(err)
	}
	got := map[string]byte{}
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		got[strings.TrimPrefix(h.Name, dir)] = h.Typeflag
	}
	want := map[string]byte{"/link": tar.TypeReg, "/d/": tar.TypeDir, "/d": tar.TypeDir, "/d/e": tar.TypeDir, "/d/e/": tar.TypeDir, "/d/e/f": tar.TypeReg}
	for name, typ := range got {
		if want[name] != typ {
			t.Errorf("%s has type %q", name, typ)
		}
	}
	if len(got) != 4 {
		t.Errorf("sent %v", got)
	}
}

func TestEnvironmentInside(t *testing.T) {
	got := guestEnv([]string{"A=b=c", "HOME=/home/x", "TMPDIR=/t", "PATH=/mine", "GOMAXPROCS=3", FilesEnv + "=x"})
	if i, j := slices.Index(got, "GOMAXPROCS="+procs), slices.Index(got, "GOMAXPROCS=3"); i < 0 || j < i {
		t.Errorf("%q: the last GOMAXPROCS counts, and ours is to be a default", got)
	}
	for _, want := range []string{"A=b=c", "HOME=/root", "SKEP_IN_TESTBED=1"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q lacks %s", got, want)
		}
	}
	for _, kv := range got {
		if strings.HasPrefix(kv, "TMPDIR=") || strings.HasPrefix(kv, FilesEnv) || kv == "HOME=/home/x" {
			t.Errorf("%s is this machine's own", kv)
		}
	}
	if last := got[len(got)-1]; !strings.HasPrefix(last, "PATH=/mine:") || !strings.Contains(last, "/usr/sbin") {
		t.Errorf("%s", last)
	}
}

func TestLimit(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"-test.timeout=10s": 10*time.Second + grace,
		"-test.timeout=0s":  0,
		"-test.v":           0,
	} {
		if got := testLimit([]string{"p.test", args}); got != want {
			t.Errorf("%s: %s, want %s", args, got, want)
		}
	}
}
