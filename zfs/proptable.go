// SPDX-License-Identifier: BSD-2-Clause

package zfs

import "strconv"

type propType uint8

const (
	propNumber propType = iota
	propIndex
	propString
)

type propAttr uint8

const (
	inherits propAttr = 1 << iota // children take the value
	readOnly
	once // set at creation only
	zpl  // kept in the file system itself, not with the other properties
)

type indexValue struct {
	name  string
	value uint64
}

// property is what zfsprops(7) knows of one property.
type property struct {
	typ   propType
	kinds Kind
	attr  propAttr
	def   string // the default as it is shown; "" for none
	old   string // the default before OpenZFS 2.minor, where it differs
	minor int
	since int // OpenZFS 2.since brought it; 0 for older
	onVol int // OpenZFS 2.onVol brought it to volumes
	index []indexValue
}

const (
	fsKind  = Filesystem
	heads   = Filesystem | Volume
	dataset = Filesystem | Volume | Snapshot
	marks   = dataset | Bookmark
)

func names(n ...string) []indexValue {
	out := make([]indexValue, len(n))
	for i, s := range n {
		out[i] = indexValue{s, uint64(i)}
	}
	return out
}

func index(pairs ...any) []indexValue {
	out := make([]indexValue, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, indexValue{pairs[i].(string), uint64(pairs[i+1].(int))})
	}
	return out
}

// Numbers of checksum and compression functions (sys/zio.h, sys/zio_compress.h).
const (
	verify    = 0x100 // ZIO_CHECKSUM_VERIFY
	zstd      = 16
	levelBits = 7 // SPA_COMPRESSBITS: the level of zstd lies above the function
	zstdFast1 = 103
)

func compressions() []indexValue {
	t := index("on", 1, "off", 2, "lzjb", 3, "gzip", 10, "gzip-1", 5, "gzip-2", 6, "gzip-3", 7, "gzip-4", 8, "gzip-5", 9,
		"gzip-6", 10, "gzip-7", 11, "gzip-8", 12, "gzip-9", 13, "zle", 14, "lz4", 15, "zstd", zstd,
		"zstd-fast", zstd|zstdFast1<<levelBits)
	for i := range 19 {
		t = append(t, indexValue{"zstd-" + strconv.Itoa(i+1), uint64(zstd | (i+1)<<levelBits)})
	}
	for i, n := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 500, 1000} {
		t = append(t, indexValue{"zstd-fast-" + strconv.Itoa(n), uint64(zstd | (zstdFast1+i)<<levelBits)})
	}
	return t
}

var (
	onOff     = names("off", "on")
	noYes     = names("no", "yes")
	caches    = names("none", "metadata", "all")
	checksums = index("on", 1, "off", 2, "fletcher2", 6, "fletcher4", 7, "sha256", 8, "noparity", 10, "sha512", 11,
		"skein", 12, "edonr", 13, "blake3", 14)
	dedups = index("on", 1, "off", 2, "verify", 1|verify, "sha256", 8, "sha256,verify", 8|verify, "sha512", 11,
		"sha512,verify", 11|verify, "skein", 12, "skein,verify", 12|verify, "edonr,verify", 13|verify, "blake3", 14,
		"blake3,verify", 14|verify)
	ciphers = index("on", 1, "off", 2, "aes-128-ccm", 3, "aes-192-ccm", 4, "aes-256-ccm", 5, "aes-128-gcm", 6,
		"aes-192-gcm", 7, "aes-256-gcm", 8)
)

func number(kinds Kind, attr propAttr, def string) property {
	return property{typ: propNumber, kinds: kinds, attr: attr, def: def}
}
func text(kinds Kind, attr propAttr, def string) property {
	return property{typ: propString, kinds: kinds, attr: attr, def: def}
}
func choice(kinds Kind, attr propAttr, def string, t []indexValue) property {
	return property{typ: propIndex, kinds: kinds, attr: attr, def: def, index: t}
}
func (p property) from(minor int) property {
	p.since = minor
	return p
}
func (p property) onVolumes(minor int) property {
	p.onVol = minor
	return p
}
func (p property) before(minor int, def string) property {
	p.minor, p.old = minor, def
	return p
}

// properties are the native properties of datasets, zfsprops(7).
var properties = map[string]property{
	"redundant_metadata": choice(heads, inherits, "all", names("all", "most", "some", "none")),
	"sync":               choice(heads, inherits, "standard", names("standard", "always", "disabled")),
	"checksum":           choice(heads, inherits, "on", checksums),
	"dedup":              choice(heads, inherits, "off", dedups),
	"compression":        choice(heads, inherits, "on", compressions()).before(2, "off"),
	"snapdir":            choice(fsKind, inherits, "hidden", names("hidden", "visible", "disabled")),
	"snapdev":            choice(heads, inherits, "hidden", names("hidden", "visible")),
	"aclmode":            choice(fsKind, inherits, "discard", index("discard", 0, "groupmask", 2, "passthrough", 3, "restricted", 4)),
	"acltype":            choice(Filesystem|Snapshot, inherits, defaultACL, index("off", 0, "posix", 1, "nfsv4", 2, "disabled", 0, "noacl", 0, "posixacl", 1)),
	"aclinherit": choice(fsKind, inherits, "restricted", index("discard", 0, "noallow", 1, "restricted", 4, "passthrough", 3,
		"secure", 4, "passthrough-x", 5)),
	"copies":         choice(heads, inherits, "1", index("1", 1, "2", 2, "3", 3)),
	"primarycache":   choice(dataset, inherits, "all", caches),
	"secondarycache": choice(dataset, inherits, "all", caches),
	"prefetch":       choice(dataset, inherits, "all", caches).from(3),
	"logbias":        choice(heads, inherits, "latency", names("latency", "throughput")),
	"xattr":          choice(Filesystem|Snapshot, inherits, "sa", index("off", 0, "sa", 2, "on", 2, "dir", 1)).before(4, "on"),
	"dnodesize": choice(fsKind, inherits, "legacy", index("legacy", 0, "auto", 1, "1k", 1024, "2k", 2048, "4k", 4096,
		"8k", 8192, "16k", 16384)),
	"volmode":         choice(heads, inherits, "default", index("default", 0, "full", 1, "geom", 1, "dev", 2, "none", 3)),
	"direct":          choice(fsKind, inherits, "standard", names("disabled", "standard", "always")).from(3),
	"atime":           choice(fsKind, inherits, "on", onOff),
	"relatime":        choice(fsKind, inherits, "on", onOff).before(2, "off"),
	"devices":         choice(Filesystem|Snapshot, inherits, "on", onOff),
	"exec":            choice(Filesystem|Snapshot, inherits, "on", onOff),
	"setuid":          choice(Filesystem|Snapshot, inherits, "on", onOff),
	"readonly":        choice(heads, inherits, "off", onOff),
	zonedProp:         choice(fsKind, inherits, "off", onOff),
	"vscan":           choice(fsKind, inherits, "off", onOff),
	"nbmand":          choice(Filesystem|Snapshot, inherits, "off", onOff),
	"overlay":         choice(fsKind, inherits, "on", onOff),
	"version":         choice(Filesystem|Snapshot, zpl, "", index("1", 1, "2", 2, "3", 3, "4", 4, "5", 5, "current", 5)),
	"canmount":        choice(fsKind, 0, "on", names("off", "on", "noauto")),
	"mounted":         choice(fsKind, readOnly, "", noYes),
	"defer_destroy":   choice(Snapshot, readOnly, "off", onOff),
	"keystatus":       choice(dataset, readOnly, "none", names("none", "unavailable", "available")),
	"normalization":   choice(Filesystem|Snapshot, once|zpl, "none", index("none", 0, "formD", 0x10, "formKC", 0x60, "formC", 0x50, "formKD", 0x20)),
	"casesensitivity": choice(Filesystem|Snapshot, once|zpl, "sensitive", names("sensitive", "insensitive", "mixed")),
	"keyformat":       choice(heads, once, "none", names("none", "raw", "hex", "passphrase")),
	"encryption":      choice(dataset, once, "off", ciphers),
	"utf8only":        choice(Filesystem|Snapshot, once|zpl, "off", onOff),
	"longname":        choice(fsKind, inherits, "off", onOff).from(3),
	"volthreading":    choice(Volume, 0, "on", onOff).from(3),

	"origin":               text(heads, readOnly, ""),
	"clones":               text(Snapshot, readOnly, ""),
	"mountpoint":           text(fsKind, inherits, "/"),
	"sharenfs":             text(fsKind, inherits, "off"),
	"type":                 text(marks, readOnly, ""),
	"sharesmb":             text(fsKind, inherits, "off"),
	"mlslabel":             text(dataset, inherits, "none"),
	"context":              text(dataset, 0, "none"),
	"fscontext":            text(dataset, 0, "none"),
	"defcontext":           text(dataset, 0, "none"),
	"rootcontext":          text(dataset, 0, "none"),
	"receive_resume_token": text(heads, readOnly, ""),
	"encryptionroot":       text(dataset, readOnly, ""),
	"keylocation":          text(heads, 0, "none"),
	"redact_snaps":         text(marks, readOnly, ""),

	"used": number(dataset, readOnly, ""), "available": number(heads, readOnly, ""),
	"referenced": number(marks, readOnly, ""), "compressratio": number(marks, readOnly, ""),
	"refcompressratio": number(dataset, readOnly, ""), "volblocksize": number(Volume, once, "16384").before(2, "8192"),
	"usedbysnapshots": number(heads, readOnly, ""), "usedbydataset": number(heads, readOnly, ""),
	"usedbychildren": number(heads, readOnly, ""), "usedbyrefreservation": number(heads, readOnly, ""),
	"userrefs": number(Snapshot, readOnly, ""), "written": number(dataset, readOnly, ""),
	"logicalused": number(heads, readOnly, ""), "logicalreferenced": number(marks, readOnly, ""),
	"filesystem_count": number(fsKind, readOnly, "none"), "snapshot_count": number(heads, readOnly, "none"),
	"guid": number(marks, readOnly, ""), "createtxg": number(marks, readOnly, ""),
	"pbkdf2iters": number(heads, once, "0"), "objsetid": number(dataset, readOnly, ""),
	"quota": number(fsKind, 0, "0"), "reservation": number(heads, 0, "0"), "volsize": number(Snapshot|Volume, 0, ""),
	"refquota": number(fsKind, 0, "0"), "refreservation": number(heads, 0, "0"),
	"filesystem_limit": number(fsKind, 0, "none"), "snapshot_limit": number(heads, 0, "none"),
	"recordsize": number(fsKind, inherits, "131072"), "special_small_blocks": number(heads, inherits, "0").onVolumes(4),
	"creation": number(marks, readOnly, ""), "snapshots_changed": number(heads, readOnly, ""),
	"snapshots_changed_nsecs": number(heads, readOnly, ""),
	"defaultuserquota":        number(Filesystem|Snapshot, zpl, "0").from(4), "defaultgroupquota": number(Filesystem|Snapshot, zpl, "0").from(4),
	"defaultprojectquota":    number(Filesystem|Snapshot, zpl, "0").from(4),
	"defaultuserobjquota":    number(Filesystem|Snapshot, zpl, "0").from(4),
	"defaultgroupobjquota":   number(Filesystem|Snapshot, zpl, "0").from(4),
	"defaultprojectobjquota": number(Filesystem|Snapshot, zpl, "0").from(4),
	"zoned_uid":              number(fsKind, inherits, "0").from(5),
}

// aliases are the short names of zfsprops(7).
var aliases = map[string]string{
	"avail": "available", "lrefer": "logicalreferenced", "lused": "logicalused", "refer": "referenced",
	"compress": "compression", "volblock": "volblocksize", "recsize": "recordsize", "refreserv": "refreservation",
	"reserv": "reservation", "rdonly": "readonly", "usedds": "usedbydataset", "usedsnap": "usedbysnapshots",
	"usedchild": "usedbychildren", "usedrefreserv": "usedbyrefreservation",
}
