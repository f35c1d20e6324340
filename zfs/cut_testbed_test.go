// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/skepvm/skep/internal/testseed"
)

// smallPool is a pool with a file system, an encrypted one and a volume of few blocks, each with the snapshots a and b.
func smallPool(t *testing.T, h *Handle) string {
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	key := HexKey(strings.Repeat("0123456789abcdef", 4))
	if err := errors.Join(
		h.CreateFilesystem(ctx, p+"/fs", Props{"recordsize": "16K", "compression": "lz4"}),
		h.CreateEncryptedFilesystem(ctx, p+"/enc", key, Props{"recordsize": "16K"}),
		h.CreateVolume(ctx, p+"/vol", VolumeOptions{Size: mib, Sparse: true, Props: Props{"volmode": "dev"}}),
		h.MountAll(ctx, p),
	); err != nil {
		t.Fatal(err)
	}
	node, err := h.WaitVolume(ctx, p+"/vol")
	if err != nil {
		t.Fatal(err)
	}
	for i, snap := range []string{"a", "b"} {
		data := append(randomBytes(20<<10), bytes.Repeat([]byte(snap), 40<<10)...)
		for _, fs := range []string{"/fs", "/enc"} {
			if err := os.WriteFile("/var/tmp/mnt-"+p+fs+"/"+snap, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.OpenFile(node, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, werr := f.WriteAt(data[:48<<10], int64(i)<<18)
		if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if err := h.CreateSnapshots(ctx, []string{p + "/fs@" + snap, p + "/enc@" + snap, p + "/vol@" + snap}, nil); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// boundaries are the places in a stream between two records, and a byte before and after each.
func boundaries(t *testing.T, b []byte) []int {
	t.Helper()
	var at []int
	off := 0
	for rec, err := range Inspect(bytes.NewReader(b)) {
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, max(off-1, 0), off, off+1, off+recordSize-1, off+recordSize, off+recordSize+1)
		off += recordSize + int(rec.Payload)
	}
	at = append(at, off-1)
	slices.Sort(at)
	at = slices.Compact(at)
	return slices.DeleteFunc(at, func(n int) bool { return n >= len(b) })
}

// rawRecord is a record as it lies in a stream.
type rawRecord struct {
	head    header
	rec     Record
	payload []byte
}

// rawRecords walks the records of a stream without a look at their checksums.
func rawRecords(t *testing.T, b []byte) iter.Seq[rawRecord] {
	return func(yield func(rawRecord) bool) {
		t.Helper()
		for r := bytes.NewReader(b); r.Len() > 0; {
			var raw rawRecord
			if _, err := io.ReadFull(r, raw.head[:]); err != nil {
				t.Fatal(err)
			}
			var err error
			if raw.rec, err = raw.head.parse(); err != nil {
				t.Fatal(err)
			}
			raw.payload = make([]byte, raw.rec.Payload)
			if _, err := io.ReadFull(r, raw.payload); err != nil {
				t.Fatal(err)
			}
			if !yield(raw) {
				return
			}
		}
	}
}

// content is what blocks and bonus buffers a stream brings, by their place.
func content(t *testing.T, b []byte) map[string][32]byte {
	t.Helper()
	all := map[string][32]byte{}
	for r := range rawRecords(t, b) {
		rec, payload := r.rec, r.payload
		switch rec.Type {
		case RecordObject, RecordWrite, RecordSpill, RecordWriteEmbedded:
			all[fmt.Sprintf("%v of object %d at %d", rec.Type, rec.Object, rec.Offset)] = sha256.Sum256(payload)
		}
	}
	return all
}

// A receive of any kind that is cut at any byte leaves a clean state, or with Resumable one to go on from.
func TestRealCutKinds(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	rnd := testseed.Rand(t)
	p := smallPool(t, h)
	q := testPool(t, h, 256*mib)
	for _, tc := range []struct {
		what, snap string
		o          SendOptions
		props      Props
	}{
		{"volume", "/vol@b", SendOptions{}, Props{"volmode": "none"}},
		{"volume incremental", "/vol@b", SendOptions{From: "@a", Compressed: true}, Props{"volmode": "none"}},
		{"compressed", "/fs@b", SendOptions{Compressed: true, Embedded: true}, Props{"mountpoint": "none"}},
		{"raw", "/enc@b", SendOptions{Raw: true}, Props{"mountpoint": "none"}},
		{"raw incremental", "/enc@b", SendOptions{Raw: true, From: "@a"}, Props{"mountpoint": "none"}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			c := &cutter{h: h, source: p + tc.snap, target: q + "/" + strings.ReplaceAll(tc.what, " ", "-"), send: tc.o}
			c.receive.Props = tc.props
			var stream bytes.Buffer
			if err := h.Send(ctx, &stream, c.source, tc.o); err != nil {
				t.Fatal(err)
			}
			c.stream = stream.Bytes()
			if tc.o.From != "" {
				fs, _, _ := cutSnapshot(c.source)
				o := tc.o
				o.From = ""
				if _, err := h.Copy(ctx, fs+tc.o.From, c.target, o, c.receive); err != nil {
					t.Fatal(err)
				}
				c.receive.Props = nil
			}
			at := boundaries(t, c.stream)
			all := len(at)
			if os.Getenv("SKEP_SOAK") == "" {
				at = sampled(rnd, at, 5)
			}
			for _, n := range at {
				c.at(t, n)
			}
			t.Logf("%d of %d places in %d bytes: %d resumed, %d given up", len(at), all, len(c.stream), c.resumed, c.aborted)
			if c.resumed == 0 || c.aborted == 0 {
				t.Error("too few cuts left something to go on from")
			}
		})
	}
}

// sampled is n of all, the last among them.
func sampled(rnd *rand.Rand, all []int, n int) []int {
	last := len(all) - 1
	some := []int{all[last]}
	for _, i := range rnd.Perm(last)[:min(n-1, last)] {
		some = append(some, all[i])
	}
	slices.Sort(some)
	return some
}

// cutter receives a stream that it cuts.
type cutter struct {
	h                *Handle
	source, target   string
	send             SendOptions
	receive          ReceiveOptions
	stream           []byte
	resumed, aborted int
}

func (c *cutter) at(t *testing.T, n int) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("cut at %d of %d: %v", n, len(c.stream), err)
		}
	}
	if _, err := c.h.Receive(ctx, bytes.NewReader(c.stream[:n]), c.target, c.receive); err == nil {
		t.Fatalf("cut at %d of %d was received", n, len(c.stream))
	}
	c.clean(t, n)
	o := c.receive
	o.Resumable = true
	if _, err := c.h.Receive(ctx, bytes.NewReader(c.stream[:n]), c.target, o); err == nil {
		t.Fatalf("cut at %d of %d was received", n, len(c.stream))
	}
	d, err := c.h.Get(ctx, c.target)
	if errors.Is(err, ErrNotFound) || err == nil && d.Value("receive_resume_token") == "" {
		c.clean(t, n)
		return
	}
	must(err)
	tok, err := ParseResumeToken(d.Value("receive_resume_token"))
	must(err)
	if c.aborted < c.resumed {
		c.aborted++
		must(c.h.AbortReceive(ctx, c.target))
		c.clean(t, n)
		return
	}
	c.resumed++
	var rest, again bytes.Buffer
	must(c.h.Send(ctx, &rest, "", SendOptions{Resume: tok}))
	for _, err := range Inspect(bytes.NewReader(rest.Bytes())) {
		must(err)
	}
	_, err = c.h.Receive(ctx, &rest, c.target, ReceiveOptions{Resumable: true})
	must(err)
	_, snap, _ := cutSnapshot(c.source)
	if guid(t, c.h, c.target+"@"+snap) != guid(t, c.h, c.source) {
		t.Errorf("cut at %d of %d: resumed, it is another snapshot", n, len(c.stream))
	}
	must(c.h.Send(ctx, &again, c.target+"@"+snap, c.send))
	if got, want := content(t, again.Bytes()), content(t, c.stream); len(want) == 0 || !maps.Equal(got, want) {
		t.Errorf("cut at %d of %d: resumed, it has %d blocks of %d, or others", n, len(c.stream), len(got), len(want))
	}
	if c.send.From == "" {
		must(c.h.Destroy(ctx, c.target, DestroyOptions{Recursive: true}))
	} else {
		must(c.h.Rollback(ctx, c.target+c.send.From, true))
	}
	c.clean(t, n)
}

// clean holds the target against what it was before any receive.
func (c *cutter) clean(t *testing.T, n int) {
	t.Helper()
	d, err := c.h.Get(t.Context(), c.target)
	if c.send.From == "" {
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("cut at %d of %d leaves a dataset: %v", n, len(c.stream), err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	list := ""
	for s, err := range c.h.Snapshots(t.Context(), c.target) {
		if err != nil {
			t.Fatal(err)
		}
		list += strings.TrimPrefix(s.Name, c.target)
	}
	if token := d.Value("receive_resume_token"); list != c.send.From || token != "" {
		t.Fatalf("cut at %d of %d leaves snapshots %s, token %q", n, len(c.stream), list, token)
	}
}

// Every kind of stream that the tool writes is whole to Inspect, and one that was cut is not.
func TestRealInspect(t *testing.T) {
	h := open(t)
	if !oracle(t) {
		return // ours are inspected in TestRealStreams
	}
	p := smallPool(t, h)
	for _, args := range [][]string{
		{p + "/fs@b"}, {"-p", p + "/vol@a"}, {"-p", "-i", "@a", p + "/fs@b"}, {"-I", "@a", p + "/fs@b"}, {"-b", p + "/fs@b"},
		{"-h", p + "/fs@b"}, {"-w", p + "/enc@b"}, {"-Rw", "-I", "@a", p + "/enc@b"}, {"-R", p + "/vol@b"},
	} {
		b, err := exec.Command("zfs", append([]string{"send"}, args...)...).Output()
		if err != nil {
			t.Fatal(args, err)
		}
		if _, err := inspect(b); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		for _, n := range []int{len(b) - recordSize, len(b) - 1, len(b) / 2} {
			if _, err := inspect(b[:n]); !errors.Is(err, ErrStream) {
				t.Errorf("%v cut at %d of %d: %v", args, n, len(b), err)
			}
		}
	}
}
