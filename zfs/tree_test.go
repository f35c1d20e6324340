// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// streamKernel is a kernel that sends a stream's bare records and receives any stream.
func streamKernel(t *testing.T, names ...string) (*kernel, *Handle) {
	k, h := newKernel(t, names...)
	served := k.serve
	h.dev = zcmd.Fake(func(op zcmd.Op, c *zcmd.Cmd, src, conf, dst []byte) syscall.Errno {
		name := zcmd.String(c.Name[:])
		in := nvlist.New()
		if len(src) > 0 {
			in, _ = nvlist.Decode(src)
		}
		switch op {
		case zcmd.Hold, zcmd.Release:
			return 0
		case zcmd.SendNew:
			var w streamWriter
			w.record(RecordBegin, nil, func(h []byte) {
				binary.LittleEndian.PutUint64(h, beginMagic)
				binary.LittleEndian.PutUint64(h[8:], 1)
				binary.LittleEndian.PutUint64(h[32:], k.ds[name].txg*1000)
				if from := k.ds[in.Str("fromsnap")]; from != nil {
					binary.LittleEndian.PutUint64(h[40:], from.txg*1000)
				}
				copy(h[48:], name)
			})
			w.end()
			fd, _ := nvlist.Get[int32](in, "fd")
			return writeAll(int(fd), w.Bytes())
		case zcmd.RecvNew:
			fd, _ := nvlist.Get[int32](in, "input_fd")
			if e := readAll(int(fd), &bytes.Buffer{}, 0); e != 0 {
				return e
			}
			snap := in.Str("snapname")
			fs, _, _ := cutSnapshot(snap)
			k.mu.Lock()
			defer k.mu.Unlock()
			if k.ds[fs] == nil {
				k.add(fs, objsetFilesystem, "")
			}
			n := k.add(snap, objsetFilesystem, "")
			begin, _ := nvlist.Get[[]byte](in, "begin_record")
			n.txg = binary.LittleEndian.Uint64(begin[8+32:]) / 1000
			for p, v := range in.List("props").All() {
				k.ds[fs].props.Set(p, v)
			}
			return zcmd.FakeReply(c, dst, nvlist.New(nvlist.P("errors", nvlist.New())))
		}
		return served(op, c, src, conf, dst)
	})
	return k, h
}

func TestTree(t *testing.T) {
	k, h := streamKernel(t, "tank", "tank/s", "tank/s@a", "tank/s/x", "tank/s/x@a", "tank/s@b", "tank/s/x@b", "tank/s/late", "in")
	nvlist.Set(k.ds["tank/s/x"].props, "u:x", "y")
	ctx := t.Context()
	var b bytes.Buffer
	sent := uint64(0)
	if err := h.SendTree(ctx, &b, "tank/s@b", SendTreeOptions{Progress: func(n uint64) { sent = n }}); err != nil {
		t.Fatal(err)
	}
	recs, err := inspect(b.Bytes())
	if err != nil || len(recs) != 2+2*4+1 || !recs[0].Begin.Compound {
		t.Fatalf("%d records: %v", len(recs), err)
	}
	fss := recs[0].Begin.Payload.List("fss")
	if fss.Len() != 2 || recs[0].Begin.Payload.Str("tosnap") != "b" || sent == 0 {
		t.Error(recs[0].Begin.Payload)
	}
	got, err := h.ReceiveTree(ctx, bytes.NewReader(append(b.Bytes(), "tail"...)), "in/t", ReceiveTreeOptions{})
	want := []string{"in/t@a", "in/t@b", "in/t/x@a", "in/t/x@b"}
	if err != nil || !slices.Equal(got.Snapshots, want) || got.Bytes != uint64(b.Len()) {
		t.Errorf("%+v %v, %d bytes", got, err, b.Len())
	}
	if d, err := h.Get(ctx, "in/t/x"); err != nil || d.Value("u:x") != "y" {
		t.Error(d, err)
	}
	if got, err = h.ReceiveTree(ctx, bytes.NewReader(b.Bytes()), "in/t", ReceiveTreeOptions{}); err != nil || !slices.Equal(got.Skipped, want) {
		t.Errorf("%+v %v", got, err)
	}
	var inc bytes.Buffer
	if err := h.SendTree(ctx, &inc, "tank/s@b", SendTreeOptions{From: "@a"}); err != nil {
		t.Fatal(err)
	}
	if recs, err = inspect(inc.Bytes()); err != nil || len(recs) != 2+2*2+1 || recs[2].Begin.FromGUID == 0 {
		t.Errorf("%d records: %v", len(recs), err)
	}
	// zfs send -I makes a package without a list.
	bare := make([]byte, 2*recordSize)
	copy(bare, inc.Bytes()[:recordSize])
	binary.LittleEndian.PutUint32(bare[4:], 0)
	var sum fletcher4
	sum.update(bare[:recordSize])
	copy(bare[recordSize:], []byte{byte(RecordEnd)})
	for i, v := range sum {
		binary.LittleEndian.PutUint64(bare[recordSize+8+8*i:], v)
	}
	bare = append(bare, inc.Bytes()[recordSize+int(binary.LittleEndian.Uint32(inc.Bytes()[4:]))+recordSize:]...)
	k.add("in/u", objsetFilesystem, "")
	k.add("in/u/x", objsetFilesystem, "")
	if got, err = h.ReceiveTree(ctx, bytes.NewReader(bare), "in/u", ReceiveTreeOptions{}); err != nil || !slices.Equal(got.Snapshots, []string{"in/u@b", "in/u/x@b"}) {
		t.Errorf("%+v %v", got, err)
	}
	for what, try := range map[string]func() error{
		"a snapshot that is not everywhere": func() error { return h.SendTree(ctx, &b, "tank@b", SendTreeOptions{}) },
		"no such source":                    func() error { return h.SendTree(ctx, &b, "tank/s@b", SendTreeOptions{From: "@none"}) },
	} {
		if err := try(); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Whatever is wrong with a package, receiving it fails and says that it is the stream's fault.
func TestBadTree(t *testing.T) {
	_, h := streamKernel(t, "tank", "tank/s", "tank/s@a", "tank/s/x", "tank/s/x@a", "in")
	ctx := t.Context()
	var out bytes.Buffer
	if err := h.SendTree(ctx, &out, "tank/s@a", SendTreeOptions{}); err != nil {
		t.Fatal(err)
	}
	b := out.Bytes()
	listLen := int(binary.LittleEndian.Uint32(b[4:]))
	for at := 0; at < len(b); at += 1 + len(b)/60 {
		if _, err := h.ReceiveTree(ctx, bytes.NewReader(b[:at]), "in/cut", ReceiveTreeOptions{}); !errors.Is(err, ErrStream) {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
	for at := recordSize - 1; at < recordSize+listLen+recordSize; at += 1 + listLen/40 {
		c := bytes.Clone(b)
		c[at] ^= 0x40
		if _, err := h.ReceiveTree(ctx, bytes.NewReader(c), "in/bent", ReceiveTreeOptions{}); at < recordSize+listLen && !errors.Is(err, ErrStream) {
			t.Errorf("bent at %d: %v", at, err)
		}
	}
	first := 2*recordSize + listLen
	for what, change := range map[string]func(c []byte){
		"a stream of another tree":  func(c []byte) { copy(c[first+8+48:], "tank/other@a\x00") },
		"a name that leaves":        func(c []byte) { copy(c[first+8+48:], "tank/s/../../x@a\x00") },
		"a stream of no snapshot":   func(c []byte) { copy(c[first+8+48:], "tank/s\x00") },
		"a stream not in the list":  func(c []byte) { c[first+8+32] ^= 1 },
		"a package within":          func(c []byte) { c[first+8+8] = headerCompound },
		"a record between streams":  func(c []byte) { c[first] = byte(RecordWrite) },
		"a type that there is none": func(c []byte) { c[first] = 99 },
	} {
		c := bytes.Clone(b)
		change(c)
		_, err := h.ReceiveTree(ctx, bytes.NewReader(c), "in/bad", ReceiveTreeOptions{})
		if !errors.Is(err, ErrStream) && !errors.Is(err, ErrInvalidName) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := h.ReceiveTree(ctx, bytes.NewReader(b), "in/t@x", ReceiveTreeOptions{}); !errors.Is(err, ErrInvalidName) {
		t.Error(err)
	}
}
