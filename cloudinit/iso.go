// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"github.com/kdomanski/iso9660"
)

// The records are github.com/kdomanski/iso9660's. Its ImageWriter is not used:
// it stages files in a temporary directory, where a crash would leave keys and
// passwords behind, writes the time of day and the name of the host's system
// into the image, so that no two are alike, and has no path table.

// Label is the volume label by which NoCloud knows its seed.
const Label = "cidata"

const (
	sector = 2048 // ECMA-119 section 6.1.2

	// Where things lie, in sectors; the system area is the first 16.
	atPrimary    = 16
	atTerminator = 17
	atPathTableL = 18
	atPathTableM = 19
	atRoot       = 20
	atFiles      = 21

	dirFlag        = 2  // ECMA-119 section 9.1.6
	pathTableSize  = 10 // one entry, the root's (section 9.4)
	maxFileName    = 30
	maxISOFileSize = 64 << 20
)

var (
	// epoch is the time in every record: images are reproducible.
	epoch    = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	fileRE   = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)?$`) // section 7.5.1 has one full stop
	volumeRE = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,32}$`)
)

// File is a file in the root directory of a seed.
type File struct {
	Name string // as a mount shows it
	Data []byte
}

// WriteISO writes an ISO 9660 image (ECMA-119, interchange level 2, with the
// lower-case names and '-' that Linux, FreeBSD and Windows all show as they
// are) that is called label and holds files in its root directory.
func WriteISO(w io.Writer, label string, files []File) error {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	for i, f := range files {
		if err := checkISOName(f.Name); err != nil {
			return err
		}
		if i > 0 && files[i-1].Name == f.Name {
			return invalid("two files are called %q", f.Name)
		}
		if len(f.Data) > maxISOFileSize {
			return invalid("file %q has %d bytes, at most %d", f.Name, len(f.Data), maxISOFileSize)
		}
	}
	if !volumeRE.MatchString(label) {
		return invalid("volume label %q: 1-32 letters, digits, '_', '-' or '.'", label)
	}
	root := dirRecord("\x00", atRoot, sector, dirFlag)
	dir, total, err := rootDirectory(root, files)
	if err != nil {
		return err
	}
	primary, err := primaryDescriptor(label, root, total)
	if err != nil {
		return err
	}
	terminator := make([]byte, sector)
	copy(terminator, "\xffCD001\x01") // section 8.3
	out := &sectorWriter{w: w}
	out.write(make([]byte, atPrimary*sector))
	out.write(primary)
	out.write(terminator)
	out.write(pathTable(binary.LittleEndian))
	out.write(pathTable(binary.BigEndian))
	out.write(dir)
	for _, f := range files {
		out.write(f.Data)
	}
	if out.err != nil {
		return fmt.Errorf("cloudinit: write ISO 9660 image: %w", out.err)
	}
	return nil
}

// sectorWriter pads each write to whole sectors and keeps the first error.
type sectorWriter struct {
	w   io.Writer
	err error
}

func (s *sectorWriter) write(b []byte) {
	for _, part := range [][]byte{b, make([]byte, sectors(len(b))*sector-len(b))} {
		if s.err == nil && len(part) > 0 {
			_, s.err = s.w.Write(part)
		}
	}
}

func sectors(n int) int { return (n + sector - 1) / sector }

func checkISOName(name string) error {
	if len(name) > maxFileName || !fileRE.MatchString(name) {
		return invalid("file name %q: 1-%d lower-case letters, digits, '_' or '-', and one '.' between them", clip(name), maxFileName)
	}
	return nil
}

func dirRecord(id string, at, length int, flags byte) *iso9660.DirectoryEntry {
	return &iso9660.DirectoryEntry{
		ExtentLocation:       int32(at),
		ExtentLength:         uint32(length),
		RecordingDateTime:    iso9660.RecordingTimestamp(epoch),
		FileFlags:            flags,
		VolumeSequenceNumber: 1,
		Identifier:           id,
	}
}

// rootDirectory is the root's extent, and total the image's size in sectors.
func rootDirectory(root *iso9660.DirectoryEntry, files []File) (dir []byte, total int, err error) {
	parent := root.Clone()
	parent.Identifier = "\x01"
	entries := []*iso9660.DirectoryEntry{root, &parent}
	total = atFiles
	for _, f := range files {
		entries = append(entries, dirRecord(f.Name+";1", total, len(f.Data), 0))
		total += sectors(len(f.Data))
	}
	var b bytes.Buffer
	for _, e := range entries {
		rec, err := e.MarshalBinary()
		if err != nil {
			return nil, 0, fmt.Errorf("cloudinit: directory record of %q: %w", e.Identifier, err)
		}
		b.Write(rec)
	}
	if b.Len() > sector {
		return nil, 0, invalid("%d files do not fit into one directory sector", len(files))
	}
	return b.Bytes(), total, nil
}

func pathTable(order binary.ByteOrder) []byte {
	b := make([]byte, pathTableSize)
	b[0] = 1 // length of the identifier, which is one zero byte
	order.PutUint32(b[2:], atRoot)
	order.PutUint16(b[6:], 1) // the root is its own parent
	return b
}

func primaryDescriptor(label string, root *iso9660.DirectoryEntry, total int) ([]byte, error) {
	now := iso9660.VolumeDescriptorTimestampFromTime(epoch)
	b, err := iso9660.PrimaryVolumeDescriptorBody{
		VolumeIdentifier:              label,
		VolumeSpaceSize:               int32(total),
		VolumeSetSize:                 1,
		VolumeSequenceNumber:          1,
		LogicalBlockSize:              sector,
		PathTableSize:                 pathTableSize,
		TypeLPathTableLoc:             atPathTableL,
		TypeMPathTableLoc:             atPathTableM,
		RootDirectoryEntry:            root,
		ApplicationIdentifier:         "SKEP",
		VolumeCreationDateAndTime:     now,
		VolumeModificationDateAndTime: now,
		VolumeEffectiveDateAndTime:    now,
		FileStructureVersion:          1,
	}.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("cloudinit: volume descriptor: %w", err)
	}
	copy(b, "\x01CD001\x01") // section 8.4
	return b, nil
}
