// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/skepvm/skep/zfs/internal/zcmd"
	"github.com/skepvm/skep/zfs/nvlist"
)

// ReceiveOptions are how a stream is received.
type ReceiveOptions struct {
	Props     Props  // set on the dataset in place of what the stream brings
	Origin    string // the snapshot that a full stream is taken to be a clone of
	Force     bool   // roll back changes since the last snapshot
	Resumable bool   // keep what came if the stream is cut, for a token to go on from
	Key       Key    // makes a new dataset an encryption root
	Progress  func(bytes uint64)
}

// Received tells what a receive did.
type Received struct {
	Begin Begin
	Bytes uint64
}

// Receive makes a snapshot, "DATASET@NAME", of a stream: of a new dataset for a
// full stream, of an existing one for an incremental one. For "DATASET" alone
// the snapshot's name is the stream's. It reads one stream from r, to its END
// record and no further. When the stream is cut or the context ends, what came
// is undone, or kept with Resumable: see the receive_resume_token property. An r
// that can block for good should have a SetReadDeadline, as files and
// connections do, or be closed by the caller.
func (h *Handle) Receive(ctx context.Context, r io.Reader, target string, o ReceiveOptions) (*Received, error) {
	return h.receiveFrom(ctx, r, target, o, feed)
}

// feeder moves the rest of a stream, whose first record is there, to the kernel.
type feeder func(w io.Writer, r io.Reader, first Record, progress func(uint64)) error

// incoming is a stream whose first record was read.
type incoming struct {
	head     header
	first    Record
	received *nvlist.List // properties that came with it, set as received; nil for none
	local    *nvlist.List // further ones to set in their place; a flag for one that is to be inherited
}

func readBegin(ctx context.Context, op string, r io.Reader, target string) (head header, first Record, err error) {
	stop := readDeadline(ctx, r)
	_, err = io.ReadFull(r, head[:])
	stop()
	if err != nil {
		if cerr := canceled(ctx, op, target); cerr != nil {
			return head, first, cerr
		}
		return head, first, &Error{Op: op, Name: target, Kind: ErrStream, Hint: "reading its first record", Err: err}
	}
	first, err = head.parse()
	if err == nil && first.Begin == nil {
		err = streamError("it begins with %v", first.Type)
	}
	if err != nil {
		return head, first, &Error{Op: op, Name: target, Err: err}
	}
	return head, first, nil
}

func (h *Handle) receiveFrom(ctx context.Context, r io.Reader, target string, o ReceiveOptions, move feeder) (*Received, error) {
	const op = "receive"
	head, first, err := readBegin(ctx, op, r, target)
	if err == nil && first.Begin.Compound {
		err = &Error{Op: op, Name: target, Err: streamError("a package of streams (zfs send -R or -I) is for ReceiveTree")}
	}
	if err != nil {
		return nil, err
	}
	return h.receive(ctx, op, r, incoming{head: head, first: first}, target, o, move)
}

func (h *Handle) receive(ctx context.Context, op string, r io.Reader, from incoming, target string, o ReceiveOptions, move feeder) (*Received, error) {
	first := from.first
	if !strings.Contains(target, "@") {
		_, snap, _ := cutSnapshot(first.Begin.Name)
		target += "@" + snap
	}
	in, where, err := h.receiveRequest(ctx, op, target, &from, o)
	if err != nil {
		return nil, err
	}
	kernel, w, err := bigPipe()
	if err != nil {
		return nil, &Error{Op: op, Name: target, Err: err}
	}
	nvlist.Set(in, "input_fd", int32(kernel.Fd()))
	fed := make(chan error, 1)
	var sent uint64
	go func() {
		err := move(w, r, first, func(n uint64) {
			sent = n
			if o.Progress != nil {
				o.Progress(n)
			}
		})
		_ = w.Close() // the kernel sees the end
		fed <- err
	}()
	// Closing the writer is what a stream that is cut looks like to the kernel.
	// A reader that blocks would keep the feeder, so its deadline ends it.
	dl, _ := r.(interface{ SetReadDeadline(t time.Time) error })
	interrupt := func() {
		_ = w.Close()
		if dl != nil {
			_ = dl.SetReadDeadline(time.Unix(1, 0))
		}
	}
	stop := onCancel(ctx, interrupt)
	out, err := h.callStream(context.WithoutCancel(ctx), op, zcmd.RecvNew, where, in)
	_ = kernel.Close()
	if err != nil {
		interrupt()
	}
	ferr := <-fed
	if (stop() || err != nil) && dl != nil {
		_ = dl.SetReadDeadline(time.Time{})
	}
	return h.received(ctx, op, target, first, sent, out, err, ferr)
}

func (h *Handle) received(ctx context.Context, op, target string, first Record, sent uint64, out *nvlist.List, err, ferr error) (*Received, error) {
	if cerr := canceled(ctx, op, target); cerr != nil && err != nil {
		return nil, cerr
	}
	if ferr != nil && !errors.Is(ferr, os.ErrClosed) && !errors.Is(ferr, syscall.EPIPE) && !(err != nil && errors.Is(ferr, os.ErrDeadlineExceeded)) {
		return nil, &Error{Op: op, Name: target, Kind: ErrStream, Hint: "reading the stream", Err: ferr}
	}
	if err != nil {
		return nil, h.explainReceive(ctx, err, target, first)
	}
	for prop, v := range out.List("errors").All() {
		if n, ok := v.Int(); ok && n > 0 && prop != "N_MORE_ERRORS" {
			err = errors.Join(err, hint(fail(op+": set", zcmd.SetProp, target, syscall.Errno(n)), ErrProperty, prop))
		}
	}
	return &Received{Begin: *first.Begin, Bytes: sent + recordSize}, err
}

func (h *Handle) explainReceive(ctx context.Context, err error, target string, first Record) error {
	var e *Error
	if errors.As(err, &e) {
		e.Name = target // the request was about what is there already, the parent maybe
	}
	switch {
	case isKind(err, ErrNotInSync):
		return hint(err, nil, "its last snapshot is not what the stream follows from, or it was changed since")
	case isKind(err, ErrNotFound) && first.Begin.FromGUID != 0:
		return hint(err, nil, "an incremental stream needs the dataset that it follows from")
	case isKind(err, ErrInvalid):
		return hint(err, ErrStream, "")
	case e != nil && (errors.Is(err, errUnknownFeature) || errors.Is(err, syscall.ENOTSUP)):
		// The module does not know what is in the stream, or it does and the pool was not upgraded to it.
		p, perr := h.Pool(ctx, pool(target))
		if perr != nil {
			return err
		}
		if lacks := first.Begin.lacks(p.Features); len(lacks) > 0 {
			e.Hint = fmt.Sprintf("the stream needs %s, which pool %s has not", strings.Join(lacks, ", "), p.Name)
			if !errors.Is(err, errUnknownFeature) {
				e.Kind = nil
			}
		}
	}
	return err
}

func (h *Handle) receiveRequest(ctx context.Context, op, target string, from *incoming, o ReceiveOptions) (*nvlist.List, string, error) {
	if err := checkName(op, target, '@'); err != nil {
		return nil, "", err
	}
	fs, _, _ := cutSnapshot(target)
	where := fs
	there, err := h.Exists(ctx, fs)
	if err != nil {
		return nil, "", err
	}
	if !there {
		i := strings.LastIndexByte(fs, '/')
		if i < 0 {
			return nil, "", &Error{Op: op, Name: target, Kind: ErrNotFound, Hint: "no such pool"}
		}
		where = fs[:i]
	}
	in := nvlist.New(nvlist.P("snapname", target), nvlist.P("begin_record", from.head[:]))
	props, err := encodeProps(op, target, 0, o.Props, true)
	if err != nil {
		return nil, "", err
	}
	if err := o.Key.apply(op, target, props, in); err != nil {
		return nil, "", err
	}
	if len(o.Key) > 0 && !props.Has("encryption") {
		nvlist.Set(props, "encryption", uint64(1))
	}
	for name, v := range from.local.All() {
		props.Set(name, v)
	}
	if from.received != nil {
		nvlist.Set(in, "props", from.received)
	}
	if props.Len() > 0 {
		nvlist.Set(in, "localprops", props)
	}
	if o.Origin != "" {
		if err := checkName(op, o.Origin, '@'); err != nil {
			return nil, "", err
		}
		nvlist.Set(in, "origin", o.Origin)
	}
	for name, on := range map[string]bool{"force": o.Force, "resumable": o.Resumable} {
		if on {
			nvlist.Set(in, name, nvlist.Flag{})
		}
	}
	return in, where, nil
}

// feed copies a stream record by record, so that it stops at its END.
func feed(w io.Writer, r io.Reader, first Record, progress func(uint64)) error {
	const chunk = 1 << 20
	buf := make([]byte, chunk)
	total := uint64(0)
	rec := first
	for {
		for left := rec.Payload; left > 0; {
			p := buf[:min(left, chunk)]
			if _, err := io.ReadFull(r, p); err != nil {
				return err
			}
			if _, err := w.Write(p); err != nil {
				return err
			}
			left -= uint64(len(p))
			total += uint64(len(p))
			progress(total)
		}
		if rec.Type == RecordEnd {
			return nil
		}
		h := header(buf[:recordSize])
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return err
		}
		var err error
		if rec, err = h.parse(); err != nil {
			return err
		}
		if rec.Type == RecordBegin {
			return streamError("BEGIN within a stream")
		}
		if _, err := w.Write(h[:]); err != nil {
			return err
		}
		total += recordSize
		progress(total)
	}
}

// Copy sends a snapshot from one handle's host to another dataset of it, without the stream passing through the program.
func (h *Handle) Copy(ctx context.Context, snapshot, target string, s SendOptions, o ReceiveOptions) (*Received, error) {
	const op = "copy"
	source, in, err := h.sendRequest(ctx, op, snapshot, &s)
	if err != nil {
		return nil, err
	}
	// The kernel sends into the pipe that the receiving side's is filled from: one hop less than with Send.
	r, kernel, err := bigPipe()
	if err != nil {
		return nil, &Error{Op: op, Name: snapshot, Err: err}
	}
	nvlist.Set(in, "fd", int32(kernel.Fd()))
	sent := make(chan error, 1)
	go func() {
		_, err := h.callStream(context.WithoutCancel(ctx), op, zcmd.SendNew, source, in)
		sent <- explainSend(err, &s) // before the receive can see the end of it
		_ = kernel.Close()
		close(sent)
	}()
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	if told := o.Progress; s.Progress != nil {
		o.Progress = func(n uint64) {
			s.Progress(n)
			if told != nil {
				told(n)
			}
		}
	}
	got, err := h.receiveFrom(ctx, r, target, o, func(w io.Writer, r io.Reader, _ Record, progress func(uint64)) error {
		return pump(w, r, progress)
	})
	var serr error
	select {
	case serr = <-sent:
		_ = r.Close()
	default:
		_ = r.Close() // the kernel's next write fails, for no fault of the send's
		<-sent
	}
	<-sent
	if cerr := canceled(ctx, op, snapshot); cerr != nil && err != nil {
		return nil, cerr
	}
	// A send that failed by itself is why the receive did.
	if serr != nil && (err == nil || isKind(err, ErrStream)) {
		return nil, serr
	}
	return got, err
}
