// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/skepvm/skep/zfs/nvlist"
)

// RecordType is the type of a record of a send stream (dmu_replay_record_t, sys/zfs_ioctl.h).
type RecordType uint32

// The types.
const (
	RecordBegin RecordType = iota
	RecordObject
	RecordFreeObjects
	RecordWrite
	RecordFree
	RecordEnd
	RecordWriteByRef
	RecordSpill
	RecordWriteEmbedded
	RecordObjectRange
	RecordRedact
)

// String gives the word of zstream-dump(8).
func (t RecordType) String() string {
	if t > RecordRedact {
		return fmt.Sprintf("record type %d", uint32(t))
	}
	return [...]string{"BEGIN", "OBJECT", "FREEOBJECTS", "WRITE", "FREE", "END", "WRITE_BYREF", "SPILL", "WRITE_EMBEDDED",
		"OBJECT_RANGE", "REDACT"}[t]
}

const (
	recordSize   = 312
	checksumSize = 32
	beginMagic   = 0x2F5bacbac
	maxBlock     = 16 << 20 // SPA_MAXBLOCKSIZE
	maxPayload   = 64 << 20 // of a BEGIN: the list of snapshots that zfs send -R sends

	headerCompound = 2 // DMU_COMPOUNDSTREAM
	flagClone      = 1 // DRR_FLAG_CLONE, in Begin.Flags
)

// Features of a stream (DMU_BACKUP_FEATURE_*), in Begin.Features.
const (
	FeatureEmbedded    = 1 << 16
	FeatureLargeBlocks = 1 << 19
	FeatureResuming    = 1 << 20
	FeatureRedacted    = 1 << 21
	FeatureCompressed  = 1 << 22
	FeatureLargeDnode  = 1 << 23
	FeatureRaw         = 1 << 24
	FeatureZstd        = 1 << 25
	FeatureLongName    = 1 << 28
	FeatureLargeZAP    = 1 << 29
)

// poolFeatures are those that a pool must have enabled to receive a stream of
// these, and the others that any module takes (dmu_recv_begin_check).
var poolFeatures = []struct {
	feature uint64
	pool    string
}{
	{1 << 17, "lz4_compress"}, {FeatureZstd, "zstd_compress"}, {FeatureEmbedded, "embedded_data"}, {FeatureLargeBlocks, "large_blocks"},
	{FeatureLargeDnode, "large_dnode"}, {FeatureLargeZAP, "large_microzap"}, {FeatureRedacted, "redacted_datasets"},
	{FeatureLongName, "longname"}, {FeatureRaw, "encryption"}, {1<<2 | FeatureResuming | FeatureCompressed | 1<<26 | 1<<27, ""},
}

// lacks names what a stream needs and a pool does not have.
func (b *Begin) lacks(enabled map[string]bool) []string {
	var out []string
	left := b.Features
	for _, f := range poolFeatures {
		if _, ok := enabled[f.pool]; b.Features&f.feature != 0 && f.pool != "" && !ok {
			out = append(out, "feature@"+f.pool)
		}
		left &^= f.feature
	}
	if left != 0 {
		out = append(out, fmt.Sprintf("features of streams %#x", left))
	}
	return out
}

// Begin is what the BEGIN record of a stream says.
type Begin struct {
	Name     string // of the snapshot
	ToGUID   uint64
	FromGUID uint64 // of the snapshot or bookmark that it is incremental to, 0 for a full stream
	Volume   bool
	Features uint64
	Flags    uint32
	Compound bool         // what zfs send -R or -I puts before the streams of several snapshots
	Payload  *nvlist.List // resume state, or what a compound stream holds; may be nil
}

// Record is one record of a stream.
type Record struct {
	Type    RecordType
	Object  uint64
	Offset  uint64
	Length  uint64 // of data, as it is in the dataset
	Payload uint64 // bytes that follow the record in the stream
	Begin   *Begin // of RecordBegin
}

// header is a record as it stands in the stream.
type header [recordSize]byte

func (h *header) u8(off int) uint8   { return h[8+off] }
func (h *header) u32(off int) uint32 { return binary.LittleEndian.Uint32(h[8+off:]) }
func (h *header) u64(off int) uint64 { return binary.LittleEndian.Uint64(h[8+off:]) }
func (h *header) typ() RecordType    { return RecordType(binary.LittleEndian.Uint32(h[:])) }

func streamError(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrStream)...)
}

// parse reads a record's header and works out what follows it.
func (h *header) parse() (Record, error) {
	r := Record{Type: h.typ(), Object: h.u64(0)}
	limit := uint64(maxBlock)
	switch r.Type {
	case RecordBegin:
		if m := h.u64(0); m != beginMagic {
			if binary.BigEndian.Uint64(h[8:]) == beginMagic {
				return r, fmt.Errorf("a stream of the other byte order: %w", errors.ErrUnsupported)
			}
			return r, streamError("not a send stream (magic %#x)", m)
		}
		r.Object = 0
		r.Payload, limit = uint64(binary.LittleEndian.Uint32(h[4:])), maxPayload
		v := h.u64(8)
		r.Begin = &Begin{
			Name: cutNUL(h[8+48 : 8+48+256]), ToGUID: h.u64(32), FromGUID: h.u64(40), Volume: h.u32(24) == objsetVolume,
			Features: v >> 2 & (1<<30 - 1), Flags: h.u32(28), Compound: v&3 == headerCompound,
		}
		if v&3 != 1 && v&3 != headerCompound {
			return r, streamError("a header of type %d", v&3)
		}
	case RecordObject:
		if r.Payload = uint64(h.u32(28)); r.Payload == 0 { // raw_bonuslen
			r.Payload = (uint64(h.u32(20)) + 7) &^ 7
		}
		r.Length = uint64(h.u32(16))
	case RecordWrite:
		r.Offset, r.Length = h.u64(16), h.u64(24)
		if r.Payload = r.Length; h.u8(42) != 0 {
			r.Payload = h.u64(88)
		}
	case RecordSpill:
		r.Length = h.u64(8)
		if r.Payload = h.u64(32); r.Payload == 0 {
			r.Payload = r.Length
		}
	case RecordWriteEmbedded:
		r.Offset, r.Length = h.u64(8), h.u64(16)
		r.Payload = (uint64(h.u32(44)) + 7) &^ 7
	case RecordFree, RecordRedact, RecordWriteByRef:
		r.Offset, r.Length = h.u64(8), h.u64(16)
	case RecordFreeObjects:
		r.Length = h.u64(8)
	case RecordEnd:
		r.Object = 0
	case RecordObjectRange:
	default:
		return r, streamError("%v", r.Type)
	}
	if r.Payload > limit {
		return r, streamError("%v with a payload of %d bytes", r.Type, r.Payload)
	}
	return r, nil
}

func cutNUL(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// fletcher4 is the running checksum of a stream.
type fletcher4 [4]uint64

// update takes a multiple of 4 bytes.
func (f *fletcher4) update(p []byte) {
	a, b, c, d := f[0], f[1], f[2], f[3]
	for len(p) >= 4 {
		a += uint64(binary.LittleEndian.Uint32(p))
		b += a
		c += b
		d += c
		p = p[4:]
	}
	*f = fletcher4{a, b, c, d}
}

func readChecksum(p []byte) (f fletcher4) {
	for i := range f {
		f[i] = binary.LittleEndian.Uint64(p[8*i:])
	}
	return f
}

// Inspect walks the records of a stream, or of several one after the other, alone
// or in a package as zfs send -R makes them, and checks every checksum. It ends at
// the end of r; an error, which is ErrStream where the stream is at fault, ends it
// too: a stream without its END is one, and so is a package without the END behind
// its last stream. It holds one block at a time.
func Inspect(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var c checker
		buf := make([]byte, 64<<10)
		for n := 0; ; n++ {
			var h header
			if _, err := io.ReadFull(r, h[:]); err != nil {
				if err == io.EOF && !c.open && !c.packed && n > 0 {
					return
				}
				yield(Record{}, streamError("cut short in record %d: %w", n, err))
				return
			}
			rec, err := h.parse()
			if err == nil {
				err = c.check(&h, rec)
			}
			if err == nil {
				var payload []byte
				payload, err = sumPayload(r, rec, &c.sum, buf)
				if rec.Type == RecordBegin && len(payload) > 0 && err == nil {
					if rec.Begin.Payload, err = nvlist.Decode(payload); err != nil {
						err = fmt.Errorf("%w: %w", ErrStream, err)
					}
				}
			}
			if err != nil {
				yield(rec, fmt.Errorf("zfs: stream record %d: %w", n, err))
				return
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// checker follows what Inspect reads.
type checker struct {
	sum    fletcher4
	open   bool // between a BEGIN and its END
	header bool // which are those before a package's streams
	packed bool // between a package's header and the END behind its last stream
}

// check holds a record against what came before it.
func (c *checker) check(h *header, rec Record) error {
	switch {
	case rec.Type == RecordBegin && c.open:
		return streamError("BEGIN within a stream")
	case rec.Type == RecordBegin && rec.Begin.Compound && c.packed:
		return streamError("a package within a package")
	case rec.Type == RecordBegin:
		c.sum, c.open, c.header = fletcher4{}, true, rec.Begin.Compound
	case c.header && rec.Type != RecordEnd:
		return streamError("%v in the header of a package", rec.Type)
	case !c.open && (rec.Type != RecordEnd || !c.packed):
		return streamError("%v before BEGIN", rec.Type)
	}
	var zero fletcher4
	if rec.Type == RecordEnd {
		want := zero // of the END of a package
		if c.open {
			want = c.sum
		}
		if readChecksum(h[8:]) != want {
			return streamError("checksum mismatch at END")
		}
		c.open, c.header, c.packed = false, false, c.header || c.packed && c.open
	}
	c.sum.update(h[:recordSize-checksumSize])
	// What libzfs writes has none, and the kernel asks for none.
	if got := readChecksum(h[recordSize-checksumSize:]); rec.Type != RecordBegin && got != zero && got != c.sum {
		return streamError("checksum mismatch at %v", rec.Type)
	}
	c.sum.update(h[recordSize-checksumSize:])
	return nil
}

// sumPayload reads over a payload; that of a BEGIN is given back.
func sumPayload(r io.Reader, rec Record, sum *fletcher4, buf []byte) ([]byte, error) {
	var keep []byte
	for left := rec.Payload; left > 0; {
		p := buf[:min(left, uint64(len(buf)))]
		if _, err := io.ReadFull(r, p); err != nil {
			return nil, streamError("cut short in the payload of %v: %w", rec.Type, err)
		}
		if len(p)%4 != 0 {
			return nil, streamError("a payload of %d bytes", rec.Payload)
		}
		sum.update(p)
		if rec.Type == RecordBegin {
			keep = append(keep, p...)
		}
		left -= uint64(len(p))
	}
	return keep, nil
}
