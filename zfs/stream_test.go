// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// streamWriter makes streams as dump_record of dmu_send.c does.
type streamWriter struct {
	bytes.Buffer
	sum fletcher4
}

func (w *streamWriter) record(typ RecordType, payload []byte, set func(h []byte)) {
	h := make([]byte, recordSize)
	binary.LittleEndian.PutUint32(h, uint32(typ))
	if typ == RecordBegin {
		binary.LittleEndian.PutUint32(h[4:], uint32(len(payload)))
	}
	set(h[8:])
	if typ == RecordEnd {
		for i, v := range w.sum {
			binary.LittleEndian.PutUint64(h[8+8*i:], v)
		}
	}
	w.sum.update(h[:recordSize-checksumSize])
	if typ != RecordBegin {
		for i, v := range w.sum {
			binary.LittleEndian.PutUint64(h[recordSize-checksumSize+8*i:], v)
		}
	}
	w.sum.update(h[recordSize-checksumSize:])
	w.sum.update(payload)
	w.Write(h)
	w.Write(payload)
}

func (w *streamWriter) begin(name string, payload []byte) {
	w.sum = fletcher4{}
	w.record(RecordBegin, payload, func(h []byte) {
		binary.LittleEndian.PutUint64(h, beginMagic)
		binary.LittleEndian.PutUint64(h[8:], 1|FeatureCompressed<<2)
		binary.LittleEndian.PutUint32(h[24:], objsetVolume)
		binary.LittleEndian.PutUint64(h[32:], 77)
		copy(h[48:], name)
	})
}

func (w *streamWriter) write(off uint64, data []byte) {
	w.record(RecordWrite, data, func(h []byte) {
		binary.LittleEndian.PutUint64(h, 1)
		binary.LittleEndian.PutUint64(h[16:], off)
		binary.LittleEndian.PutUint64(h[24:], uint64(len(data)))
	})
}

func (w *streamWriter) end() { w.record(RecordEnd, nil, func([]byte) {}) }

func sample(t testing.TB) []byte {
	payload, err := nvlist.New(nvlist.P("resume_object", uint64(1))).Encode(nvlist.XDR)
	if err != nil {
		t.Fatal(err)
	}
	var w streamWriter
	w.begin("tank/v@x", payload)
	w.record(RecordObject, make([]byte, 8), func(h []byte) { binary.LittleEndian.PutUint32(h[20:], 5) })
	w.write(0, bytes.Repeat([]byte{7}, 8192))
	w.write(8192, make([]byte, 128<<10))
	w.record(RecordFree, nil, func(h []byte) { binary.LittleEndian.PutUint64(h[8:], 136<<10) })
	w.end()
	return w.Bytes()
}

func inspect(b []byte) (recs []Record, err error) {
	for r, e := range Inspect(bytes.NewReader(b)) {
		if e != nil {
			return recs, e
		}
		recs = append(recs, r)
	}
	return recs, nil
}

func TestInspect(t *testing.T) {
	b := sample(t)
	recs, err := inspect(b)
	if err != nil || len(recs) != 6 {
		t.Fatal(recs, err)
	}
	g := recs[0].Begin
	if g.Name != "tank/v@x" || g.ToGUID != 77 || !g.Volume || g.Features != FeatureCompressed || g.Payload.Len() != 1 {
		t.Errorf("%+v", g)
	}
	if w := recs[3]; w.Type != RecordWrite || w.Offset != 8192 || w.Length != 128<<10 || w.Payload != 128<<10 {
		t.Errorf("%+v", w)
	}
	if two, err := inspect(append(bytes.Clone(b), b...)); err != nil || len(two) != 12 {
		t.Error(len(two), err)
	}
	for i := 0; i < len(b); i++ {
		if i > 1000 { // every byte of a few headers, then some
			i = min(i+997, len(b)-1)
		}
		if _, err := inspect(b[:i]); !errors.Is(err, ErrStream) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		c := bytes.Clone(b)
		c[i] ^= 0x10
		_, err := inspect(c)
		if i >= recordSize && err == nil {
			t.Fatalf("a flipped bit at %d was not seen", i)
		}
	}
	big := bytes.Clone(b[:recordSize])
	binary.BigEndian.PutUint64(big[8:], beginMagic)
	if _, err := inspect(big); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// What the kernel or zfs receive would refuse is refused, though each record is sound.
func TestInspectBroken(t *testing.T) {
	whole := sample(t)
	one := func(do func(w *streamWriter)) []byte {
		var w streamWriter
		do(&w)
		return w.Bytes()
	}
	begin := one(func(w *streamWriter) { w.begin("tank/v@x", nil) })
	lone := make([]byte, recordSize)
	lone[0] = byte(RecordEnd)
	head := one(func(w *streamWriter) {
		w.record(RecordBegin, nil, func(h []byte) {
			binary.LittleEndian.PutUint64(h, beginMagic)
			binary.LittleEndian.PutUint64(h[8:], headerCompound)
		})
		w.end()
	})
	unsummed := bytes.Clone(whole)
	clear(unsummed[len(unsummed)-recordSize+8:])
	odd := bytes.Clone(lone)
	odd[8] = 1
	tail := lone
	for what, c := range map[string]struct {
		of  [][]byte
		bad string // "" for none
	}{
		"a stream":                          {[][]byte{whole}, ""},
		"streams":                           {[][]byte{whole, whole}, ""},
		"a package":                         {[][]byte{head, whole, whole, tail}, ""},
		"a package of none":                 {[][]byte{head, tail}, ""},
		"packages and streams":              {[][]byte{head, whole, tail, whole, head, whole, tail}, ""},
		"BEGIN in a stream":                 {[][]byte{begin, whole}, "BEGIN within a stream"},
		"a stream cut, then another":        {[][]byte{whole[:len(whole)-recordSize], whole}, "BEGIN within a stream"},
		"BEGIN in a header":                 {[][]byte{head[:recordSize], whole}, "BEGIN within a stream"},
		"a package in a package":            {[][]byte{head, head, tail}, "package within a package"},
		"END without a checksum":            {[][]byte{unsummed}, "checksum mismatch"},
		"a header's END without a checksum": {[][]byte{head[:recordSize], lone, whole, tail}, "checksum mismatch"},
		"records in a header":               {[][]byte{one(func(w *streamWriter) { w.Write(head[:recordSize]); w.write(0, make([]byte, 512)) })}, "in the header"},
		"END first":                         {[][]byte{lone}, "before BEGIN"},
		"END behind a stream":               {[][]byte{whole, lone}, "before BEGIN"},
		"END behind a package":              {[][]byte{head, whole, tail, lone}, "before BEGIN"},
		"a package's END with a checksum":   {[][]byte{head, whole, odd}, "checksum mismatch"},
		"a package without its END":         {[][]byte{head, whole}, "cut short"},
		"a header alone":                    {[][]byte{head}, "cut short"},
		"a stream without its END":          {[][]byte{whole[:len(whole)-recordSize]}, "cut short"},
		"nothing":                           {nil, "cut short"},
	} {
		_, err := inspect(bytes.Join(c.of, nil))
		if c.bad == "" && err != nil || c.bad != "" && (!errors.Is(err, ErrStream) || !strings.Contains(err.Error(), c.bad)) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestFeed(t *testing.T) {
	b := sample(t)
	tail := []byte("what follows")
	rapid.Check(t, func(t *rapid.T) {
		r := bytes.NewReader(append(bytes.Clone(b), tail...))
		var h header
		if _, err := io.ReadFull(r, h[:]); err != nil {
			t.Fatal(err)
		}
		first, err := h.parse()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		n := uint64(0)
		if err := feed(&out, r, first, func(p uint64) { n = p }); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), b[recordSize:]) || r.Len() != len(tail) || n != uint64(out.Len()) {
			t.Fatalf("%d bytes of %d, %d left", out.Len(), len(b), r.Len())
		}
		cut := rapid.IntRange(0, len(b)-recordSize-1).Draw(t, "cut")
		if err := feed(io.Discard, bytes.NewReader(b[recordSize:recordSize+cut]), first, func(uint64) {}); err == nil {
			t.Fatal("a cut stream was fed whole")
		}
	})
}

func FuzzInspect(f *testing.F) {
	b := sample(f)
	f.Add(b)
	f.Add(b[:recordSize])
	f.Add(append(bytes.Clone(b[recordSize:]), b...))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		for r, err := range Inspect(bytes.NewReader(b)) {
			if n++; n > len(b)/recordSize+1 {
				t.Fatal("more records than the stream has room for")
			}
			if err == nil && r.Payload > uint64(len(b)) {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func TestResumeToken(t *testing.T) {
	want := &ResumeToken{ToName: "tank/a@x", ToGUID: 5, FromGUID: 6, Object: 7, Offset: 8, Bytes: 9, Compressed: true,
		Rest: nvlist.New(nvlist.P("redact_snaps", []uint64{1}))}
	s := want.String()
	got, err := ParseResumeToken(s)
	if err != nil || !got.Rest.Equal(want.Rest) {
		t.Fatal(got, err)
	}
	got.Rest = want.Rest
	if *got != *want {
		t.Errorf("%+v", got)
	}
	// One of a kernel's, OpenZFS 2.3.2.
	const real = "1-c5171360e-d0-789c636064000310a500c4ec50360710e72765a52697303030419460caa7a515a796806404e0f26c48f2499525a9c540ba804701abfe92fcf4d2cc140686c0c4a87de6cb766521cb7382e5f312735381b4997e5ab14312583f2f03c2bd398945e9a94939f9c9d9f9d950610600eca11913"
	if tok, err := ParseResumeToken(real); err != nil || !strings.HasSuffix(tok.ToName, "/fs@b") || !tok.LargeBlock || tok.ToGUID == 0 {
		t.Errorf("%+v %v", tok, err)
	}
	for i := range s {
		if _, err := ParseResumeToken(s[:i]); !errors.Is(err, ErrInvalid) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	for _, bad := range []string{"2" + s[1:], strings.Replace(s, "-", "+", 1), s + "00", "1-0-ffffffff-" + s[30:]} {
		if _, err := ParseResumeToken(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzResumeToken(f *testing.F) {
	f.Add((&ResumeToken{ToName: "a@b", ToGUID: 1}).String())
	f.Add("1-0-0-")
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseResumeToken(s); err == nil {
			if again, err := ParseResumeToken(tok.String()); err != nil || again.ToName != tok.ToName || again.Object != tok.Object {
				t.Fatal(again, err)
			}
		}
	})
}

func makeLabel(t testing.TB, size int, config *nvlist.List) []byte {
	b, err := config.Encode(nvlist.XDR)
	if err != nil {
		t.Fatal(err)
	}
	dev := make([]byte, size)
	for _, off := range []int{0, labelSize, size - 2*labelSize, size - labelSize} {
		copy(dev[off+labelSkip:], b)
	}
	return dev
}

func TestLabel(t *testing.T) {
	config := nvlist.New(nvlist.P("name", "tank"), nvlist.P("state", uint64(1)), nvlist.P("txg", uint64(9)), nvlist.P("pool_guid", uint64(5)),
		nvlist.P("guid", uint64(6)), nvlist.P("hostname", "h"))
	dev := makeLabel(t, 64<<20, config)
	l, err := readLabels(bytes.NewReader(dev), int64(len(dev)))
	if err != nil || l == nil || l.Count != 4 || l.PoolName != "tank" || l.State != LabelExported || l.GUID != 6 {
		t.Fatal(l, err)
	}
	clear(dev[:2*labelSize])
	if l, err = readLabels(bytes.NewReader(dev), int64(len(dev))); err != nil || l == nil || l.Count != 2 {
		t.Error(l, err)
	}
	// The newest of them stands.
	nvlist.Set(config, "txg", uint64(10))
	nvlist.Set(config, "name", "new")
	b, _ := config.Encode(nvlist.XDR)
	copy(dev[labelSkip:], b)
	if l, err = readLabels(bytes.NewReader(dev), int64(len(dev))); err != nil || l.PoolName != "new" {
		t.Error(l, err)
	}
	for _, size := range []int{0, 1000, 4*labelSize - 1} {
		if l, err := readLabels(bytes.NewReader(dev[:size]), int64(size)); l != nil || err != nil {
			t.Error(l, err)
		}
	}
	if l, err := readLabels(bytes.NewReader(make([]byte, 2<<20)), 2<<20); l != nil || err != nil {
		t.Error(l, err)
	}
}

func FuzzLabel(f *testing.F) {
	b, err := nvlist.New(nvlist.P("name", "tank"), nvlist.P("state", uint64(0)), nvlist.P("txg", uint64(9)), nvlist.P("pool_guid", uint64(5)),
		nvlist.P("guid", uint64(6)), nvlist.P("vdev_children", uint64(1)), nvlist.P("vdev_tree", nvlist.New(nvlist.P("id", uint64(0)),
			nvlist.P("children", []*nvlist.List{nvlist.New(nvlist.P("guid", uint64(6)), nvlist.P("path", "/x"))})))).Encode(nvlist.XDR)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if l := parseLabel(b); l != nil {
			config, _ := assemble(l.PoolGUID, []onDevice{{"/dev/a", l}, {"/dev/b", l}})
			if n := len(config.List("vdev_tree").Lists("children")); n > 1<<12 {
				t.Fatalf("%d children", n)
			}
		}
	})
}

// The positions in the kernel's statistics, against the table.
func TestStatistics(t *testing.T) {
	b, err := os.ReadFile("internal/zcmd/testdata/abi-zfs-freebsd15-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	var abi struct {
		Structs map[string]struct {
			Size   int
			Fields []struct {
				Name   string
				Offset int
			}
		}
	}
	if err := json.Unmarshal(b, &abi); err != nil {
		t.Fatal(err)
	}
	if abi.Structs["dmu_replay_record"].Size != recordSize {
		t.Error("record size")
	}
	for s, want := range map[string]map[string]int{
		"vdev_stat": {"vs_state": vsState, "vs_aux": vsAux, "vs_alloc": vsAlloc, "vs_space": vsSpace, "vs_ops": vsOps, "vs_bytes": vsBytes,
			"vs_read_errors": vsReadErrors, "vs_write_errors": vsWriteErrors, "vs_checksum_errors": vsChecksum, "vs_scan_removing": vsRemoving,
			"vs_fragmentation": vsFragmentation, "vs_initialize_bytes_done": vsInitDone, "vs_initialize_bytes_est": vsInitEst,
			"vs_initialize_state": vsInitState, "vs_slow_ios": vsSlowIOs, "vs_trim_bytes_done": vsTrimDone, "vs_trim_bytes_est": vsTrimEst,
			"vs_trim_state": vsTrimState},
		"pool_scan_stat": {"pss_func": pssFunc, "pss_state": pssState, "pss_start_time": pssStart, "pss_end_time": pssEnd,
			"pss_to_examine": pssToExamine, "pss_examined": pssExamined, "pss_processed": pssProcessed, "pss_errors": pssErrors,
			"pss_pass_scrub_pause": pssPassPause, "pss_issued": pssIssued},
	} {
		offsets := map[string]int{}
		for _, f := range abi.Structs[s].Fields {
			offsets[f.Name] = f.Offset
		}
		for name, i := range want {
			if off, ok := offsets[name]; !ok || off != 8*i {
				t.Errorf("%s.%s at word %d, want byte %d", s, name, i, off)
			}
		}
	}
}

// Send and receive against a kernel that writes and reads the descriptor that it is given.
func TestSendReceive(t *testing.T) {
	stream := sample(t)
	k, h := newKernel(t, "tank", "tank/v", "tank/v@x")
	var got bytes.Buffer
	real := k.serve
	cut := 0
	h.dev = zcmd.Fake(func(op zcmd.Op, c *zcmd.Cmd, src, conf, dst []byte) syscall.Errno {
		in, _ := nvlist.Decode(src)
		switch op {
		case zcmd.SendNew:
			fd, _ := nvlist.Get[int32](in, "fd")
			return writeAll(int(fd), stream)
		case zcmd.RecvNew:
			begin, _ := nvlist.Get[[]byte](in, "begin_record")
			got.Reset()
			got.Write(begin)
			fd, _ := nvlist.Get[int32](in, "input_fd")
			if e := readAll(int(fd), &got, cut); e != 0 {
				return e
			}
			if got.Len() != len(stream) {
				return syscall.Errno(errStreamTruncated)
			}
			return zcmd.FakeReply(c, dst, nvlist.New(nvlist.P("errors", nvlist.New())))
		}
		return real(op, c, src, conf, dst)
	})
	ctx := t.Context()
	var out bytes.Buffer
	progress := uint64(0)
	if err := h.Send(ctx, &out, "tank/v@x", SendOptions{Progress: func(n uint64) { progress = n }}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), stream) || progress != uint64(len(stream)) {
		t.Errorf("%d bytes of %d", out.Len(), len(stream))
	}
	r, err := h.Receive(ctx, bytes.NewReader(append(out.Bytes(), "tail"...)), "tank/w", ReceiveOptions{})
	if err != nil || !bytes.Equal(got.Bytes(), stream) || r.Begin.ToGUID != 77 || r.Bytes != uint64(len(stream)) {
		t.Errorf("%+v %v, %d bytes", r, err, got.Len())
	}
	if r, err = h.Copy(ctx, "tank/v@x", "tank/w@y", SendOptions{}, ReceiveOptions{}); err != nil || !bytes.Equal(got.Bytes(), stream) {
		t.Errorf("%+v %v, %d bytes", r, err, got.Len())
	}
	for i := 0; i < len(stream); i += 1 + len(stream)/50 {
		_, err := h.Receive(ctx, bytes.NewReader(stream[:i]), "tank/w", ReceiveOptions{})
		if !errors.Is(err, ErrStream) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	failing := writerFunc(func([]byte) (int, error) { return 0, io.ErrShortWrite })
	if err := h.Send(ctx, failing, "tank/v@x", SendOptions{}); !errors.Is(err, io.ErrShortWrite) {
		t.Error(err)
	}
	cut = 1000
	if _, err := h.Receive(ctx, bytes.NewReader(stream), "tank/w", ReceiveOptions{}); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	if _, err := h.Receive(ctx, bytes.NewReader(stream), "none/w", ReceiveOptions{}); err == nil {
		t.Error("received into no pool")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func writeAll(fd int, b []byte) syscall.Errno {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err.(syscall.Errno)
		}
		b = b[n:]
	}
	return 0
}

func readAll(fd int, w *bytes.Buffer, cut int) syscall.Errno {
	buf := make([]byte, 4096)
	for {
		n, err := syscall.Read(fd, buf)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return err.(syscall.Errno)
		case n == 0:
			return 0
		default:
			if w.Write(buf[:n]); cut > 0 && w.Len() > cut {
				return syscall.ENOSPC
			}
		}
	}
}

// What a stream needs of a pool is told by the names that zpool set takes.
func TestLacks(t *testing.T) {
	older := map[string]bool{"lz4_compress": true, "large_blocks": false, "embedded_data": true}
	for features, want := range map[uint64]string{
		0: "",
		1<<2 | FeatureCompressed | 1<<17 | FeatureEmbedded | FeatureLargeBlocks | FeatureResuming: "",
		FeatureRaw | FeatureZstd:             "feature@zstd_compress feature@encryption",
		FeatureLongName | FeatureLargeBlocks: "feature@longname",
		FeatureLargeZAP | FeatureLargeDnode:  "feature@large_dnode feature@large_microzap",
		FeatureLargeBlocks | 1<<18 | 1<<27:   "features of streams 0x40000",
	} {
		if got := strings.Join((&Begin{Features: features}).lacks(older), " "); got != want {
			t.Errorf("%#x: %q, want %q", features, got, want)
		}
	}
}
