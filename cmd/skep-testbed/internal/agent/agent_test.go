// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestModeOf(t *testing.T) {
	for _, c := range []struct {
		pid  int
		args []string
		want Mode
	}{
		{1, []string{"/init", "nokaslr"}, Init},
		{1, []string{"/sbin/init"}, Init},
		{1, []string{"skep-testbed", "exec", "x"}, None}, // a container's first process
		{20, []string{"/init"}, None},
		{20, []string{"agent", ServeArg}, Serve},
		{20, []string{"skep-testbed", "exec", ServeArg}, None},
		{20, nil, None},
	} {
		if got := ModeOf(c.pid, c.args); got != c.want {
			t.Errorf("process %d %q: %d, want %d", c.pid, c.args, got, c.want)
		}
	}
}

func TestSandboxPath(t *testing.T) {
	private := &sandbox{dir: "/src/vmm", backing: "/run/s1"}
	for path, want := range map[string]string{
		"/src/vmm":            "/run/s1",
		"/src/vmm/testdata/a": "/run/s1/testdata/a",
		"/src/vmm2/a":         "/src/vmm2/a",
		"/tmp/b001/vmm.test":  "/tmp/b001/vmm.test",
	} {
		if got := private.path(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
		shared := &sandbox{dir: "/src/vmm"}
		if got := shared.path(path); got != path {
			t.Errorf("%s in a shared directory: %s", path, got)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for _, body := range []string{"", "{", `{"op":"run"}`, `{"op":"run","args":["x"],"dir":"relative"}`} {
		if _, err := parseRequest([]byte(body)); err == nil {
			t.Errorf("%q was taken", body)
		}
	}
}

// TestSessionsOfOneBinary: sessions that are sent the same at once do not mind each
// other, and what each finds is whole.
// What the machine has of its own is neither replaced nor removed.
func TestOwnFilesStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sh")
	if err := os.WriteFile(path, []byte("the machine's"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		began time.Time
		want  string
	}{{time.Now().Add(time.Minute), "the machine's"}, {time.Now().Add(-time.Minute), "the session's"}} {
		var sent bytes.Buffer
		tw := tar.NewWriter(&sent)
		const text = "the session's"
		err := tw.WriteHeader(&tar.Header{Name: path, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text))})
		if err == nil {
			_, err = tw.Write([]byte(text))
		}
		if err = errors.Join(err, tw.Close()); err != nil {
			t.Fatal(err)
		}
		box := &sandbox{server: &server{began: tc.began, sent: map[string]int{}}, dir: "/nowhere"}
		if err := unpack(&sent, box); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != tc.want || err != nil {
			t.Errorf("it is %q, %v; want %q", got, err, tc.want)
		}
		box.removeFiles()
		if _, err := os.Stat(path); (err == nil) != (tc.want != text) {
			t.Errorf("afterwards, of %s: %v", tc.want, err)
		}
	}
}

func TestSessionsOfOneBinary(t *testing.T) {
	dir := t.TempDir()
	binary, link := filepath.Join(dir, "x.test"), filepath.Join(dir, "link")
	content := bytes.Repeat([]byte("whole "), 10<<10)
	var sent bytes.Buffer
	tw := tar.NewWriter(&sent)
	for _, h := range []*tar.Header{
		{Name: binary, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))},
		{Name: link, Typeflag: tar.TypeSymlink, Linkname: "x.test"},
	} {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	s := &server{sent: map[string]int{}}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 20 {
				box := &sandbox{server: s, dir: "/nowhere"}
				if err := unpack(bytes.NewReader(sent.Bytes()), box); err != nil {
					t.Error(err)
				}
				for _, path := range []string{binary, link} {
					if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
						t.Errorf("%s: %d bytes, %v", path, len(got), err)
					}
				}
				box.removeFiles()
			}
		})
	}
	all.Wait()
	if st, err := os.ReadDir(dir); err != nil || len(st) != 0 {
		t.Errorf("left: %v, %v", st, err)
	}
}
