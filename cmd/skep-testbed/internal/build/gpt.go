// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// Partition types (UEFI specification 5.3.3; FreeBSD's gpart(8)).
const (
	gptEFI = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	gptUFS = "516e7cb6-6ecf-11d6-8ff8-00022d09712b"
)

const (
	sector     = 512
	gptEntries = 128
	gptEntry   = 128
	gptTable   = gptEntries * gptEntry / sector // sectors
)

// A gptPart is one partition; offset and size are multiples of a sector.
type gptPart struct {
	kind, name   string
	offset, size int64
}

// writeGPT writes a GUID partition table for a disk of that size: protective
// MBR, table and its copy at the end.
func writeGPT(w io.WriterAt, size int64, parts []gptPart) error {
	last := size/sector - 1
	var table bytes.Buffer
	for i, p := range parts {
		first, end := p.offset/sector, (p.offset+p.size)/sector-1
		if first < 2+gptTable || end > last-gptTable-1 || p.offset%sector != 0 || p.size%sector != 0 {
			return fmt.Errorf("partition %s at %d of %d bytes does not fit a disk of %d", p.name, p.offset, p.size, size)
		}
		kind, err := guid(p.kind)
		if err != nil {
			return err
		}
		id, err := guid(fmt.Sprintf("736b6570-0000-4000-8000-%012x", i+1))
		if err != nil {
			return err
		}
		table.Write(kind)
		table.Write(id)
		for _, v := range []uint64{uint64(first), uint64(end), 0} {
			table.Write(binary.LittleEndian.AppendUint64(nil, v))
		}
		name := make([]byte, 72)
		for j, u := range utf16.Encode([]rune(p.name)) {
			binary.LittleEndian.PutUint16(name[2*j:], u)
		}
		table.Write(name)
	}
	table.Write(make([]byte, gptEntries*gptEntry-table.Len()))

	mbr := make([]byte, sector)
	mbr[446+4] = 0xee
	copy(mbr[446+1:], []byte{0, 2, 0})
	copy(mbr[446+5:], []byte{0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(mbr[446+8:], 1)
	binary.LittleEndian.PutUint32(mbr[446+12:], uint32(min(last, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa

	for _, at := range []struct {
		offset int64
		data   []byte
	}{
		{0, mbr},
		{sector, gptHeader(1, last, 2, last, table.Bytes())},
		{2 * sector, table.Bytes()},
		{(last - gptTable) * sector, table.Bytes()},
		{last * sector, gptHeader(last, 1, last-gptTable, last, table.Bytes())},
	} {
		if _, err := w.WriteAt(at.data, at.offset); err != nil {
			return err
		}
	}
	return nil
}

func gptHeader(here, other, table, last int64, entries []byte) []byte {
	h := make([]byte, sector)
	copy(h, "EFI PART")
	le := binary.LittleEndian
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], uint64(here))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], 2+gptTable)
	le.PutUint64(h[48:], uint64(last-gptTable-1))
	id, _ := guid("736b6570-0000-4000-8000-000000000000") // a constant of ours
	copy(h[56:], id)
	le.PutUint64(h[72:], uint64(table))
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntry)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return h
}

// guid encodes a GUID: the first three groups little endian.
func guid(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("bad GUID %q", s)
	}
	for _, r := range [][2]int{{0, 3}, {1, 2}, {4, 5}, {6, 7}} {
		b[r[0]], b[r[1]] = b[r[1]], b[r[0]]
	}
	return b, nil
}
