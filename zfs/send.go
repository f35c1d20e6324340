// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"io"
	"strings"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// SendOptions are how a snapshot is sent.
type SendOptions struct {
	From        string             // the snapshot or bookmark that the stream is incremental to, "" for a full one
	Raw         bool               // as it is on disk, encrypted if it is
	Compressed  bool               // blocks that are compressed on disk stay so
	LargeBlocks bool               // blocks over 128 KiB stay so
	Embedded    bool               // what is embedded in block pointers stays so
	Saved       bool               // the part that an interrupted receive has so far
	Resume      *ResumeToken       // go on where a receive was interrupted
	Progress    func(bytes uint64) // called as the stream goes out
}

func (o *SendOptions) flags(in *nvlist.List) {
	t := o.Resume
	if t == nil {
		t = &ResumeToken{}
	}
	for _, f := range []struct {
		name string
		on   bool
	}{
		{"largeblockok", o.LargeBlocks || o.Raw || t.LargeBlock}, {"embedok", o.Embedded || t.Embedded},
		{"compressok", o.Compressed || o.Raw || t.Compressed}, {"rawok", o.Raw || t.Raw}, {"savedok", o.Saved},
	} {
		if f.on {
			nvlist.Set(in, f.name, nvlist.Flag{})
		}
	}
	if o.Resume != nil {
		nvlist.Set(in, "resume_object", t.Object)
		nvlist.Set(in, "resume_offset", t.Offset)
	}
}

// resume finds what a token tells of: the snapshot, and what it is incremental to.
func (h *Handle) resume(ctx context.Context, op string, snapshot string, o *SendOptions) (string, error) {
	t := o.Resume
	if t == nil {
		return snapshot, nil
	}
	if snapshot == "" {
		snapshot = t.ToName
	}
	d, err := h.get(ctx, op, snapshot, false)
	if err != nil {
		return "", err
	}
	if d.GUID != t.ToGUID && !o.Saved {
		return "", &Error{Op: op, Name: snapshot, Kind: ErrNotInSync, Hint: "it is no longer the snapshot that was sent"}
	}
	if t.FromGUID == 0 || o.From != "" {
		return snapshot, nil
	}
	// The source is a snapshot or bookmark of the dataset, or of the one that it is a clone of.
	fs, _, _ := cutSnapshot(snapshot)
	for range maxDepth {
		for s, err := range h.Descend(ctx, fs, Snapshots, Bookmarks, Depth(0)) {
			if err != nil {
				return "", err
			}
			if s.GUID == t.FromGUID {
				o.From = s.Name
				return snapshot, nil
			}
		}
		head, err := h.get(ctx, op, fs, false)
		if err != nil {
			return "", err
		}
		if head.Origin == "" {
			break
		}
		fs, _, _ = cutSnapshot(head.Origin)
	}
	return "", &Error{Op: op, Name: snapshot, Kind: ErrNotFound, Hint: "what the stream is incremental to is gone"}
}

func (h *Handle) sendRequest(ctx context.Context, op, snapshot string, o *SendOptions) (string, *nvlist.List, error) {
	snapshot, err := h.resume(ctx, op, snapshot, o)
	if err != nil {
		return "", nil, err
	}
	if err := checkAny(op, snapshot); err != nil {
		return "", nil, err
	}
	in := nvlist.New()
	if o.From != "" {
		from := o.From
		if strings.HasPrefix(from, "@") || strings.HasPrefix(from, "#") {
			fs, _, _ := cutSnapshot(snapshot)
			from = fs + from
		}
		if err := checkAny(op, from); err != nil {
			return "", nil, err
		}
		nvlist.Set(in, "fromsnap", from)
	}
	o.flags(in)
	return snapshot, in, nil
}

// Send writes a snapshot as a stream to w. With SendOptions.Resume the name may
// be empty. When the context ends, the stream is cut and Send returns. A w that can
// block for good should have a SetWriteDeadline, as pipes and connections do (Send
// takes it back afterwards), or be closed by the caller: Send waits for the Write that
// it is in. An error leaves w with a part of the stream, that of a signal which
// stopped the process (EINTR) too: nothing is sent a second time.
func (h *Handle) Send(ctx context.Context, w io.Writer, snapshot string, o SendOptions) error {
	const op = "send"
	snapshot, in, err := h.sendRequest(ctx, op, snapshot, &o)
	if err != nil {
		return err
	}
	r, kernel, err := bigPipe()
	if err != nil {
		return &Error{Op: op, Name: snapshot, Err: err}
	}
	pumped := make(chan error, 1)
	go func() {
		err := pump(w, r, o.Progress)
		_ = r.Close() // the kernel's next write fails
		pumped <- err
	}()
	// Closing the reader wakes the pump where it reads and, through its next write, the kernel.
	stop := onCancel(ctx, func() { _ = r.Close() })
	stopWrite := writeDeadline(ctx, w)
	nvlist.Set(in, "fd", int32(kernel.Fd()))
	_, err = h.callStream(context.WithoutCancel(ctx), op, zcmd.SendNew, snapshot, in)
	_ = kernel.Close()
	perr := <-pumped
	stopWrite()
	stop()
	if cerr := canceled(ctx, op, snapshot); cerr != nil {
		return cerr
	}
	if perr != nil {
		return &Error{Op: op, Name: snapshot, Hint: "writing the stream", Err: perr}
	}
	return explainSend(err, &o)
}

func explainSend(err error, o *SendOptions) error {
	if isKind(err, ErrCrossesPools) || isKind(err, ErrInvalid) {
		return hint(err, nil, o.From+" is not an earlier snapshot of it")
	}
	return err
}

// SendSize estimates how many bytes a stream will have.
func (h *Handle) SendSize(ctx context.Context, snapshot string, o SendOptions) (uint64, error) {
	const op = "send -n"
	snapshot, in, err := h.sendRequest(ctx, op, snapshot, &o)
	if err != nil {
		return 0, err
	}
	if from, ok := in.Value("fromsnap"); ok {
		in.Delete("fromsnap")
		in.Set("from", from)
	}
	in.Delete("savedok")
	if o.Resume != nil {
		nvlist.Set(in, "bytes", o.Resume.Bytes)
	}
	out, err := h.call(ctx, op, zcmd.SendSpace, snapshot, in)
	n, _ := out.Uint("space")
	return n, err
}
