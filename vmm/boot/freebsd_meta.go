// SPDX-License-Identifier: BSD-2-Clause

package boot

import "encoding/binary"

// Records of the list of what is loaded (sys/linker.h, machine/metadata.h).
const (
	modinfoEnd  = 0x0000
	modinfoName = 0x0001
	modinfoType = 0x0002
	modinfoAddr = 0x0003
	modinfoSize = 0x0004
	modinfoMeta = 0x8000

	modinfomdELFHdr  = 0x0002
	modinfomdDynamic = 0x0005
	modinfomdEnvp    = 0x0006
	modinfomdHowto   = 0x0007
	modinfomdKernEnd = 0x0008
	modinfomdSHdr    = 0x0009
	modinfomdSMAP    = 0x1001
)

// fbsdRecord is a metadata record of a file.
type fbsdRecord struct {
	kind uint32
	data []byte
}

// records encodes the list: for each file its name first, then what else there
// is to know of it. Each record is a type, a length and data padded to 8 bytes.
func (b *fbsdPlan) records(howto uint32, p Params) []byte {
	le := binary.LittleEndian
	var out []byte
	add := func(kind uint32, data []byte) {
		out = le.AppendUint32(out, kind)
		out = le.AppendUint32(out, uint32(len(data)))
		out = append(out, data...)
		for len(out)%8 != 0 {
			out = append(out, 0)
		}
	}
	u64 := func(v uint64) []byte { return le.AppendUint64(nil, v) }
	for i, f := range b.files {
		add(modinfoName, append([]byte(f.name), 0))
		add(modinfoType, append([]byte(f.kind), 0))
		add(modinfoAddr, u64(f.addr))
		add(modinfoSize, u64(f.size))
		for _, r := range f.meta {
			add(modinfoMeta|r.kind, r.data)
		}
		if i > 0 {
			continue
		}
		add(modinfoMeta|modinfomdHowto, le.AppendUint32(nil, howto))
		add(modinfoMeta|modinfomdEnvp, u64(b.envAddr))
		add(modinfoMeta|modinfomdKernEnd, u64(b.end))
		var smap []byte
		for _, e := range memoryMap(p) {
			smap = le.AppendUint64(smap, e.Base)
			smap = le.AppendUint64(smap, e.Size)
			smap = le.AppendUint32(smap, e.Type)
		}
		add(modinfoMeta|modinfomdSMAP, smap)
	}
	add(modinfoEnd, nil)
	return out
}
