// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// withFeature is a stream that says that it has a feature, with the checksums that go with it.
func withFeature(t *testing.T, b []byte, feature uint64) []byte {
	t.Helper()
	var w streamWriter
	for r := range rawRecords(t, b) {
		h, rec, payload := r.head, r.rec, r.payload
		if rec.Type == RecordBegin {
			binary.LittleEndian.PutUint64(h[16:], h.u64(8)|feature<<2)
		}
		w.record(rec.Type, payload, func(to []byte) { copy(to, h[8:]) })
	}
	if _, err := inspect(w.Bytes()); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

// What a module does not know is told as that: a feature of a stream, a request, an argument of one.
func TestRealModuleTooOld(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p := testPool(t, h, 128*mib)
	v, err := h.Version()
	if err == nil {
		err = errors.Join(h.CreateVolume(ctx, p+"/v", VolumeOptions{Size: mib, Sparse: true, Props: Props{"volmode": "none"}}),
			h.CreateSnapshots(ctx, []string{p + "/v@x"}, nil))
	}
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := h.Send(ctx, &b, p+"/v@x", SendOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		feature      uint64
		major, minor int // since when it is known
		hint         string
	}{
		{1 << 18, 99, 0, "features of streams 0x40000"}, {FeatureLongName, 2, 3, "feature@longname"}, {FeatureLargeZAP, 2, 3, "feature@large_microzap"},
	} {
		if v.AtLeast(f.major, f.minor) {
			continue
		}
		stream := withFeature(t, b.Bytes(), f.feature)
		what := fmt.Sprintf("a stream with feature %#x", f.feature)
		_, err := h.Receive(ctx, bytes.NewReader(stream), p+"/new@x", ReceiveOptions{})
		wantKind(t, what, f.hint, err, ErrModuleTooOld)
		_, err = h.ReceiveTree(ctx, bytes.NewReader(stream), p+"/new@x", ReceiveTreeOptions{Resumable: true})
		wantKind(t, what+" for ReceiveTree", f.hint, err, ErrModuleTooOld)
		if there, err := h.Exists(ctx, p+"/new"); there || err != nil {
			t.Error("it left a dataset", err)
		}
	}
	_, err = h.call(ctx, "request of the future", zcmd.Op(0x7e), p, nil)
	wantKind(t, "a request", p, err, ErrModuleTooOld)
	_, err = h.callStream(ctx, "send", zcmd.SendNew, p+"/v@x", nvlist.New(nvlist.P("fd", int32(-1)), nvlist.P("of_the_future", nvlist.Flag{})))
	wantKind(t, "an argument", p+"/v@x", err, ErrModuleTooOld)
	if err := h.Send(ctx, io.Discard, p+"/v@x", SendOptions{}); err != nil {
		t.Error(err)
	}
}
