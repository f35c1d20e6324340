// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"
)

// The reader is github.com/lima-vm/go-qcow2reader's. It trusts what it reads: it
// opens backing files of the host's by name, and allocates what a header says.
// So it gets to see no file that checkQcow2 has not gone through, and no file
// name to look beside.

// Bits of the header (QEMU, docs/interop/qcow2.txt).
const (
	qcow2V2Length = 72
	qcow2V3Length = 104

	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatExternal    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4

	extEnd          = 0
	extExternalData = 0x44415441
	extCrypto       = 0x0537be77

	minClusterBits = 9
	maxClusterBits = 21
	maxL1Bytes     = 32 << 20 // QEMU's QCOW_MAX_L1_SIZE
	maxExtensions  = 64

	offsetMask     = 0x00fffffffffffe00
	compressedFlag = 1 << 62
	zeroFlag       = 1
)

// qcow2Info is what a checked file says of itself.
type qcow2Info struct {
	size     int64 // virtual
	cluster  int64
	data     int64 // bytes of clusters that hold data as it is
	packed   int64 // bytes that compressed clusters become
	zstd     bool
	l1       []uint64
	fileSize int64
}

// checkQcow2 goes through a file's header and tables, and refuses what a reader
// must not follow. Its work is bounded by the file's size and limit.
func checkQcow2(r io.ReaderAt, fileSize, limit int64) (*qcow2Info, error) {
	h := make([]byte, 112)
	if n, err := r.ReadAt(h, 0); n < qcow2V2Length {
		return nil, corrupt("qcow2: a header of %d bytes (%v)", n, err)
	}
	be := binary.BigEndian
	version, bits := be.Uint32(h[4:]), be.Uint32(h[20:])
	switch {
	case string(h[:4]) != "QFI\xfb":
		return nil, corrupt("qcow2: no magic number")
	case version != 2 && version != 3:
		return nil, refused("qcow2 version %d, 2 and 3 are known", version)
	case be.Uint64(h[8:]) != 0 || be.Uint32(h[16:]) != 0:
		return nil, refused("qcow2 with a backing file: it would read another file of the host's")
	case be.Uint32(h[32:]) != 0:
		return nil, refused("qcow2 with encryption (method %d)", be.Uint32(h[32:]))
	case bits < minClusterBits || bits > maxClusterBits:
		return nil, corrupt("qcow2: clusters of 2^%d bytes, 2^%d to 2^%d are allowed", bits, minClusterBits, maxClusterBits)
	case be.Uint64(h[24:]) > uint64(limit):
		return nil, fmt.Errorf("%w: qcow2 of %d virtual bytes, at most %d", ErrTooLarge, be.Uint64(h[24:]), limit)
	case be.Uint64(h[24:]) == 0:
		return nil, corrupt("qcow2 of no virtual bytes")
	}
	q := &qcow2Info{size: int64(be.Uint64(h[24:])), cluster: 1 << bits, fileSize: fileSize}
	if version == 3 {
		if err := q.checkV3(r, h); err != nil {
			return nil, err
		}
	} else if err := checkExtensions(r, qcow2V2Length, q.cluster); err != nil {
		return nil, err
	}
	if err := q.readL1(r, be.Uint32(h[36:]), be.Uint64(h[40:])); err != nil {
		return nil, err
	}
	return q, q.walk(r)
}

func (q *qcow2Info) checkV3(r io.ReaderAt, h []byte) error {
	be := binary.BigEndian
	length := be.Uint32(h[100:])
	if q.fileSize < qcow2V3Length || length < qcow2V3Length || int64(length) > q.cluster || length%8 != 0 {
		return corrupt("qcow2: a header of %d bytes", length)
	}
	switch feat := be.Uint64(h[72:]); {
	case feat&incompatCorrupt != 0:
		return corrupt("qcow2: marked as corrupt")
	case feat&incompatExternal != 0:
		return refused("qcow2 with an external data file: it would read another file of the host's")
	case feat&incompatExtendedL2 != 0:
		return refused("qcow2 with extended L2 entries")
	case feat&^(incompatDirty|incompatCompression) != 0:
		// Dirty only means that reference counts are stale, which a reader
		// does not look at.
		return refused("qcow2 with unknown features %#x", feat)
	case feat&incompatCompression != 0 && length > qcow2V3Length:
		switch h[104] {
		case 0:
		case 1:
			q.zstd = true
		default:
			return refused("qcow2 with compression of type %d", h[104])
		}
	case length > qcow2V3Length && h[104] != 0:
		return corrupt("qcow2: a compression type without its feature bit")
	}
	return checkExtensions(r, int64(length), q.cluster)
}

// checkExtensions goes through the header extensions, which end within the
// first cluster.
func checkExtensions(r io.ReaderAt, at, cluster int64) error {
	var e [8]byte
	for n := 0; at+8 <= cluster; n++ {
		if n == maxExtensions {
			return corrupt("qcow2: more than %d header extensions", maxExtensions)
		}
		if _, err := r.ReadAt(e[:], at); err != nil {
			return corrupt("qcow2: header extension at %d: %v", at, err)
		}
		length := int64(binary.BigEndian.Uint32(e[4:]))
		switch binary.BigEndian.Uint32(e[:]) {
		case extEnd:
			return nil
		case extExternalData:
			return refused("qcow2 that names an external data file")
		case extCrypto:
			return refused("qcow2 with an encryption header")
		}
		at += 8 + (length+7)&^7
	}
	return nil
}

func (q *qcow2Info) inFile(offset, length int64) bool {
	return offset >= 0 && length >= 0 && offset <= q.fileSize && length <= q.fileSize-offset
}

func (q *qcow2Info) readL1(r io.ReaderAt, entries uint32, offset uint64) error {
	covers := q.cluster * (q.cluster / 8) // by one L2 table
	need := (q.size + covers - 1) / covers
	switch {
	case int64(entries) < need:
		return corrupt("qcow2: an L1 table of %d entries, %d are needed", entries, need)
	case int64(entries)*8 > maxL1Bytes:
		return fmt.Errorf("%w: qcow2: an L1 table of %d entries", ErrTooLarge, entries)
	case offset == 0 || offset%uint64(q.cluster) != 0 || offset > uint64(q.fileSize) || !q.inFile(int64(offset), int64(entries)*8):
		return corrupt("qcow2: L1 table at %d of %d", offset, q.fileSize)
	}
	b := make([]byte, need*8)
	if _, err := r.ReadAt(b, int64(offset)); err != nil {
		return fmt.Errorf("qcow2: L1 table: %w", err)
	}
	q.l1 = make([]uint64, need)
	for n := range q.l1 {
		q.l1[n] = binary.BigEndian.Uint64(b[n*8:])
	}
	return nil
}

// walk checks every entry of every L2 table, and adds up what they hold.
func (q *qcow2Info) walk(r io.ReaderAt) error {
	table := make([]byte, q.cluster)
	seen := map[int64]bool{}
	for n, e := range q.l1 {
		at := int64(e & offsetMask)
		if at == 0 {
			continue
		}
		if at%q.cluster != 0 || !q.inFile(at, q.cluster) {
			return corrupt("qcow2: L2 table %d at %d of %d", n, at, q.fileSize)
		}
		if seen[at] { // a table that serves twice could make a small file endless work
			return corrupt("qcow2: the L2 table at %d is used twice", at)
		}
		seen[at] = true
		if _, err := r.ReadAt(table, at); err != nil {
			return fmt.Errorf("qcow2: L2 table %d: %w", n, err)
		}
		guest := int64(n) * q.cluster * (q.cluster / 8)
		for i := int64(0); i < q.cluster/8 && guest < q.size; i++ {
			if err := q.checkEntry(binary.BigEndian.Uint64(table[i*8:]), guest); err != nil {
				return err
			}
			guest += q.cluster
		}
	}
	if q.data > q.fileSize+q.cluster {
		return corrupt("qcow2: %d bytes of data in a file of %d: clusters are used twice", q.data, q.fileSize)
	}
	return nil
}

func (q *qcow2Info) checkEntry(e uint64, guest int64) error {
	want := min(q.cluster, q.size-guest)
	if e&compressedFlag != 0 {
		// The offset has 62-(bits-8) bits; above it, the count of further
		// 512-byte sectors.
		shift := 62 - (log2(q.cluster) - 8)
		at := int64(e & (1<<shift - 1))
		if at < q.cluster || at >= q.fileSize {
			return corrupt("qcow2: compressed cluster for %d at %d of %d", guest, at, q.fileSize)
		}
		q.packed += want
		return nil
	}
	at := int64(e & offsetMask)
	switch {
	case e&zeroFlag != 0 || at == 0:
		return nil
	case at%q.cluster != 0 || at < q.cluster || !q.inFile(at, want):
		return corrupt("qcow2: cluster for %d at %d of %d", guest, at, q.fileSize)
	}
	q.data += want
	return nil
}

func log2(n int64) (bits int) {
	for ; n > 1; n >>= 1 {
		bits++
	}
	return bits
}

// setDecompressors gives the reader's package, once, its zstd decompressor,
// which it lacks, and a deflate that fills the buffer: the reader begins a
// cluster again for every short read.
//
// State of a package, against the rule of the house: go-qcow2reader (0.7.1)
// takes decompressors from its own table alone, when it opens an image, and has
// no option of an image for them. The table is a bare map: it is written before
// the first image is opened, and never again. Whoever else uses the reader in
// this process sees what it had, only filling the buffer, and zstd besides.
var setDecompressors = sync.OnceFunc(func() {
	qcow2.SetDecompressor(qcow2.CompressionTypeZlib, func(r io.Reader) (io.ReadCloser, error) {
		return fullReads{flate.NewReader(r)}, nil
	})
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		return fullReads{z.IOReadCloser()}, nil
	})
})

type fullReads struct{ io.ReadCloser }

func (f fullReads) Read(p []byte) (int, error) {
	n, err := io.ReadFull(f.ReadCloser, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// noName hides a file's name, beside which backing files would be looked for,
// and keeps the reader from closing it.
type noName struct{ io.ReaderAt }

func openQcow2(r io.ReaderAt, q *qcow2Info) (*qcow2.Qcow2, error) {
	setDecompressors()
	img, err := qcow2.Open(noName{r}, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: qcow2: %w", ErrCorrupt, err)
	}
	if err := img.Readable(); err != nil {
		return nil, refused("qcow2: %v", err)
	}
	if img.Size() != q.size {
		return nil, corrupt("qcow2: the file changes while it is read")
	}
	return img, nil
}
