// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skepvm/skep/internal/testseed"
)

// streamPool is a pool with a volume and a file system that have data and two snapshots each.
func streamPool(t testing.TB, h *Handle, change ...func(*PoolSpec)) string {
	t.Helper()
	ctx := t.Context()
	p := testPool(t, h, 512*mib, change...)
	if err := h.CreateFilesystem(ctx, p+"/fs", Props{"recordsize": "1M", "compression": "lz4"}); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateVolume(ctx, p+"/vol", VolumeOptions{Size: 16 * mib, Sparse: true, Props: Props{"volmode": "dev", "u:x": "y"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.MountAll(ctx, p); err != nil {
		t.Fatal(err)
	}
	fill := func(seed byte, snap string) {
		data := append(randomBytes(3*mib), bytes.Repeat([]byte{seed}, mib)...)
		if err := os.WriteFile(filepath.Join("/var/tmp/mnt-"+p, "fs", "file-"+snap), data, 0o600); err != nil {
			t.Fatal(err)
		}
		node, err := h.WaitVolume(ctx, p+"/vol")
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.WriteAt(bytes.Repeat([]byte{seed}, 2*mib), int64(seed)*mib)
		if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if err := h.CreateSnapshots(ctx, []string{p + "/fs@" + snap, p + "/vol@" + snap}, nil); err != nil {
			t.Fatal(err)
		}
	}
	fill(1, "a")
	fill(2, "b")
	return p
}

func guid(t testing.TB, h *Handle, name string) uint64 {
	t.Helper()
	d, err := h.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return d.GUID
}

// receiveByTool receives by zfs receive, and where there is none by ours.
func receiveByTool(t *testing.T, h *Handle, b []byte, name string) {
	t.Helper()
	if !oracle(t) {
		if _, err := h.Receive(t.Context(), bytes.NewReader(b), name, ReceiveOptions{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	cmd := exec.Command("zfs", "receive", "-u", name)
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
}

// Streams of ours and of zfs send are the same bytes, and each receives the other's.
func TestRealStreams(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p, q := streamPool(t, h), testPool(t, h, 512*mib)
	if err := h.CreateBookmarks(ctx, map[string]string{p + "/fs#a": p + "/fs@a"}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what string
		snap string
		o    SendOptions
		args []string
	}{
		{"full", "/fs@a", SendOptions{}, nil},
		{"large blocks", "/fs@a", SendOptions{LargeBlocks: true, Embedded: true, Compressed: true}, []string{"-Lec"}},
		{"volume", "/vol@a", SendOptions{Compressed: true}, []string{"-c"}},
		{"raw", "/fs@b", SendOptions{Raw: true}, []string{"-w"}},
		{"incremental", "/fs@b", SendOptions{From: "@a"}, []string{"-i", "@a"}},
		{"from a bookmark", "/fs@b", SendOptions{From: "#a"}, []string{"-i", "#a"}},
		{"incremental volume", "/vol@b", SendOptions{From: p + "/vol@a"}, []string{"-i", "@a"}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var ours bytes.Buffer
			if err := h.Send(ctx, &ours, p+tc.snap, tc.o); err != nil {
				t.Fatal(err)
			}
			theirs := ours.Bytes()
			if oracle(t) {
				var err error
				cmd := exec.Command("zfs", append(append([]string{"send"}, tc.args...), p+tc.snap)...)
				if theirs, err = cmd.Output(); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(ours.Bytes(), theirs) {
				t.Errorf("%d bytes, zfs send %d", ours.Len(), len(theirs))
			}
			var first, last Record
			n := 0
			for r, err := range Inspect(bytes.NewReader(theirs)) {
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					first = r
				}
				last = r
				n++
			}
			if first.Begin == nil || first.Begin.Name != p+tc.snap || first.Begin.ToGUID != guid(t, h, p+tc.snap) || last.Type != RecordEnd || n < 4 {
				t.Errorf("%+v %+v %d", first.Begin, last, n)
			}
			size, err := h.SendSize(ctx, p+tc.snap, tc.o)
			if err != nil || size == 0 || size > 3*uint64(ours.Len())+mib {
				t.Errorf("estimated %d of %d: %v", size, ours.Len(), err)
			}
			if oracle(t) {
				out := tool(t, "zfs", append(append([]string{"send", "-nP"}, tc.args...), p+tc.snap)...)
				if want := fmt.Sprintf("size\t%d", size); !strings.HasSuffix(out, want) {
					t.Errorf("estimated %s, zfs send -nP %s", want, out)
				}
			}
		})
	}
	var full, inc bytes.Buffer
	if err := errors.Join(h.Send(ctx, &full, p+"/vol@a", SendOptions{}), h.Send(ctx, &inc, p+"/vol@b", SendOptions{From: "@a"})); err != nil {
		t.Fatal(err)
	}
	// Ours into theirs.
	for _, b := range [][]byte{full.Bytes(), inc.Bytes()} {
		receiveByTool(t, h, b, q+"/bytool")
	}
	// Theirs into ours, both streams on one connection.
	both := io.MultiReader(&full, &inc)
	for _, snap := range []string{"a", "b"} {
		r, err := h.Receive(ctx, both, q+"/byours", ReceiveOptions{Props: Props{"volmode": "none", "new:prop": "1"}})
		if err != nil || r.Begin.Name != p+"/vol@"+snap {
			t.Fatal(r, err)
		}
	}
	for _, n := range []string{"/bytool@a", "/bytool@b", "/byours@a", "/byours@b"} {
		if guid(t, h, q+n) != guid(t, h, p+"/vol"+n[strings.Index(n, "@"):]) {
			t.Error(n)
		}
	}
	if d, err := h.Get(ctx, q+"/byours"); err != nil || d.Value("volmode") != "none" || d.Value("new:prop") != "1" {
		t.Error(d.Value("volmode"), err)
	}
	compareDatasets(t, h, q)
	if _, err := h.Copy(ctx, p+"/fs@a", q+"/copy", SendOptions{LargeBlocks: true}, ReceiveOptions{Props: Props{"mountpoint": "none"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Copy(ctx, p+"/fs@b", q+"/copy", SendOptions{From: "@a", LargeBlocks: true}, ReceiveOptions{}); err != nil {
		t.Fatal(err)
	}
	// What does not fit says so.
	if _, err := h.Copy(ctx, p+"/fs@b", q+"/copy", SendOptions{From: "@a", LargeBlocks: true}, ReceiveOptions{}); !errors.Is(err, ErrNotInSync) && !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	if _, err := h.Copy(ctx, p+"/fs@b", q+"/nothing", SendOptions{From: "@a"}, ReceiveOptions{}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := h.Receive(ctx, strings.NewReader(strings.Repeat("nonsense", 100)), q+"/x@y", ReceiveOptions{}); !errors.Is(err, ErrStream) {
		t.Error(err)
	}
	if err := h.Send(ctx, io.Discard, p+"/fs@none", SendOptions{}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := h.Send(ctx, io.Discard, p+"/fs@a", SendOptions{From: "@b"}); err == nil {
		t.Error("sent backwards")
	}
}

func TestRealRawEncrypted(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p, q := testPool(t, h, 256*mib), testPool(t, h, 256*mib)
	key := HexKey(strings.Repeat("0123456789abcdef", 4))
	if err := h.CreateEncryptedFilesystem(ctx, p+"/e", key, Props{"mountpoint": "/var/tmp/mnt-" + p + "/e"}); err != nil {
		t.Fatal(err)
	}
	if err := h.Mount(ctx, p+"/e", MountOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/var/tmp/mnt-"+p+"/e/secret", randomBytes(mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateSnapshots(ctx, []string{p + "/e@x"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := h.Unmount(ctx, p+"/e", false); err != nil {
		t.Fatal(err)
	}
	if err := h.UnloadKey(ctx, p+"/e"); err != nil {
		t.Fatal(err)
	}
	if err := h.Send(ctx, io.Discard, p+"/e@x", SendOptions{}); !errors.Is(err, ErrKeyNotLoaded) {
		t.Error(err)
	}
	if _, err := h.Copy(ctx, p+"/e@x", q+"/e", SendOptions{Raw: true}, ReceiveOptions{Props: Props{"mountpoint": "/var/tmp/mnt-" + q + "/e"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.LoadKey(ctx, q+"/e", key, false); err != nil {
		t.Fatal(err)
	}
	if err := h.Mount(ctx, q+"/e", MountOptions{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile("/var/tmp/mnt-" + q + "/e/secret"); err != nil || !bytes.Equal(b, randomBytes(mib)) {
		t.Error(len(b), err)
	}
}

// cuts are places to cut a stream of n bytes at: within its first record and
// after it, in what follows, all over the data, and in its last record.
func cuts(rnd *rand.Rand, n int) []int {
	const spread = 7
	at := []int{0, 1 + rnd.IntN(recordSize-1), recordSize, recordSize + 1 + rnd.IntN(recordSize), n - recordSize, n - 1}
	for i := range spread {
		at = append(at, max(2*recordSize, n*i/spread)+1+rnd.IntN(n/spread-3*recordSize))
	}
	return at
}

// sameFiles holds the files of two directories against each other.
func sameFiles(t *testing.T, a, b string) {
	t.Helper()
	read := func(dir string) map[string]string {
		all := map[string]string{}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			all[e.Name()] = string(data)
		}
		return all
	}
	if fa, fb := read(a), read(b); len(fa) == 0 || !maps.Equal(fa, fb) {
		t.Errorf("%s and %s differ (%d and %d files)", a, b, len(fa), len(fb))
	}
}

// A receive that is cut anywhere leaves a clean state, or with Resumable one to go on from.
func TestRealCut(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	rnd := testseed.Rand(t)
	p, q := streamPool(t, h), testPool(t, h, 512*mib)
	at := "/var/tmp/mnt-" + q + "-at"
	t.Cleanup(func() { _ = os.Remove(at) })
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ what, from string }{{"full", ""}, {"incremental", "@a"}} {
		t.Run(tc.what, func(t *testing.T) {
			var stream bytes.Buffer
			must(h.Send(ctx, &stream, p+"/fs@b", SendOptions{From: tc.from, LargeBlocks: true}))
			b, target := stream.Bytes(), q+"/"+tc.what
			o := ReceiveOptions{Props: Props{"mountpoint": "none"}}
			if tc.from != "" {
				_, err := h.Copy(ctx, p+"/fs"+tc.from, target, SendOptions{LargeBlocks: true}, o)
				must(err)
				o.Props = nil
			}
			// clean holds the target against what it was before any receive.
			clean := func(n int) {
				t.Helper()
				d, err := h.Get(ctx, target)
				if tc.from == "" {
					if !errors.Is(err, ErrNotFound) {
						t.Fatalf("cut at %d of %d leaves a dataset: %v", n, len(b), err)
					}
					return
				}
				must(err)
				list := ""
				for s, err := range h.Snapshots(ctx, target) {
					must(err)
					list += strings.TrimPrefix(s.Name, target)
				}
				if token := d.Value("receive_resume_token"); list != tc.from || token != "" {
					t.Fatalf("cut at %d of %d leaves snapshots %s, token %q", n, len(b), list, token)
				}
			}
			cut := func(n int, o ReceiveOptions) {
				t.Helper()
				if _, err := h.Receive(ctx, bytes.NewReader(b[:n]), target, o); err == nil {
					t.Fatalf("cut at %d of %d was received", n, len(b))
				}
			}
			resumed, aborted := 0, 0
			for _, n := range cuts(rnd, len(b)) {
				cut(n, o)
				clean(n)
				resumable := o
				resumable.Resumable = true
				cut(n, resumable)
				d, err := h.Get(ctx, target)
				if errors.Is(err, ErrNotFound) || err == nil && d.Value("receive_resume_token") == "" {
					clean(n)
					continue
				}
				must(err)
				tok, err := ParseResumeToken(d.Value("receive_resume_token"))
				must(err)
				if again, err := ParseResumeToken(tok.String()); err != nil || again.Object != tok.Object || again.Bytes != tok.Bytes || !again.Rest.Equal(tok.Rest) {
					t.Errorf("%+v %+v %v", tok, again, err)
				}
				if oracle(t) {
					if out := tool(t, "zfs", "send", "-nvt", tok.String()); !strings.Contains(out, "toname = "+tok.ToName) {
						t.Error(out)
					}
				}
				if aborted < resumed {
					aborted++
					if err := h.AbortReceive(ctx, target); err != nil {
						t.Fatalf("cut at %d: %v", n, err)
					}
					clean(n)
					continue
				}
				resumed++
				var rest bytes.Buffer
				must(h.Send(ctx, &rest, "", SendOptions{Resume: tok}))
				if _, err := h.Receive(ctx, &rest, target, ReceiveOptions{Resumable: true}); err != nil {
					t.Fatalf("cut at %d, resumed with %d bytes: %v", n, rest.Len(), err)
				}
				if guid(t, h, target+"@b") != guid(t, h, p+"/fs@b") {
					t.Error("another snapshot")
				}
				must(h.Mount(ctx, target, MountOptions{At: at, ReadOnly: true}))
				sameFiles(t, "/var/tmp/mnt-"+p+"/fs", at)
				must(h.Unmount(ctx, target, false))
				if tc.from == "" {
					must(h.Destroy(ctx, target, DestroyOptions{Recursive: true}))
				} else {
					must(h.Rollback(ctx, target+tc.from, true))
				}
				clean(n)
			}
			t.Logf("of %d bytes: %d resumed, %d given up", len(b), resumed, aborted)
			if resumed < 3 || aborted < 3 {
				t.Error("too few cuts left something to go on from")
			}
		})
	}
	// Every bit that is bent is seen by the kernel or by the parser before it.
	var stream bytes.Buffer
	must(h.Send(ctx, &stream, p+"/fs@b", SendOptions{LargeBlocks: true}))
	for i := range 8 {
		c := bytes.Clone(stream.Bytes())
		c[recordSize+(i+1)*len(c)/10] ^= 1
		if _, err := h.Receive(ctx, bytes.NewReader(c), q+"/bent", ReceiveOptions{}); err == nil {
			t.Errorf("a bent stream was received (%d)", i)
		}
	}
}

func TestRealCancel(t *testing.T) {
	h := open(t)
	p, q := streamPool(t, h), testPool(t, h, 512*mib)
	cases := map[string]func(ctx context.Context, cancel func()) error{
		"send": func(ctx context.Context, cancel func()) error {
			return h.Send(ctx, writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil }), p+"/fs@b", SendOptions{})
		},
		"receive from one who does not write": func(ctx context.Context, cancel func()) error {
			r, w, err := os.Pipe()
			if err != nil {
				return err
			}
			defer w.Close()
			defer r.Close()
			go func() {
				var b bytes.Buffer
				_ = h.Send(context.Background(), &b, p+"/fs@b", SendOptions{})
				_, _ = w.Write(b.Bytes()[:mib])
				time.Sleep(100 * time.Millisecond)
				cancel()
			}()
			_, err = h.Receive(ctx, r, q+"/r", ReceiveOptions{})
			return err
		},
		"copy": func(ctx context.Context, cancel func()) error {
			_, err := h.Copy(ctx, p+"/fs@b", q+"/r", SendOptions{Progress: func(uint64) { cancel() }}, ReceiveOptions{})
			return err
		},
	}
	for what, writer := range blockedWriters {
		cases["send to a "+what+" of which nobody reads"] = func(ctx context.Context, cancel func()) error {
			w := writer(t)
			time.AfterFunc(500*time.Millisecond, cancel)
			return h.Send(ctx, w, p+"/fs@b", SendOptions{})
		}
	}
	for what, do := range cases {
		t.Run(what, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- do(ctx, cancel) }()
			select {
			case err := <-done:
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("it does not end")
			}
			if ok, err := h.Exists(t.Context(), q+"/r"); ok || err != nil {
				t.Error("something is left", err)
			}
		})
	}
}
