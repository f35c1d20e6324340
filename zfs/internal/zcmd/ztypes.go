// SPDX-License-Identifier: BSD-2-Clause

package zcmd

// layout is zfs_cmd_t (include/sys/zfs_ioctl.h), stable from OpenZFS 2.0 to
// 2.4. Only the lengths of two path buffers differ between the systems.
type layout[Path, Value any] struct {
	Name          Path
	NvlistSrc     uint64
	NvlistSrcSize uint64
	NvlistDst     uint64
	NvlistDstSize uint64
	DstFilled     int32
	_             int32
	History       uint64
	Value         Value
	String        [256]byte
	GUID          uint64
	NvlistConf    uint64
	NvlistConfLen uint64
	Cookie        uint64
	ObjsetType    uint64
	PermAction    uint64
	HistoryLen    uint64
	HistoryOffset uint64
	Obj           uint64
	Iflags        uint64
	Share         [4]uint64
	ObjsetStats   ObjsetStats
	BeginRecord   [304]byte
	Inject        [352]byte
	DeferDestroy  uint32
	Flags         uint32
	ActionHandle  uint64
	CleanupFD     int32
	Simple        uint8
	_             [3]byte
	SendObj       uint64
	FromObj       uint64
	CreateTxg     uint64
	Stat          Stat
	ZoneID        uint64
}

// ObjsetStats is dmu_objset_stats_t.
type ObjsetStats struct {
	NumClones    uint64
	CreationTxg  uint64
	GUID         uint64
	Type         uint32 // dmu_objset_type_t: 2 file system, 3 volume
	IsSnapshot   uint8
	Inconsistent uint8
	Redacted     uint8
	Origin       [256]byte
	Flags        uint8
}

// Stat is zfs_stat_t.
type Stat struct {
	Gen   uint64
	Mode  uint64
	Links uint64
	Ctime [2]uint64
}

// Op is the number of a request, relative to ZFS_IOC_FIRST.
type Op uint32

// The requests (zfs_ioc_t), the same on both systems up to 0x7f.
const (
	PoolCreate      Op = 0x00
	PoolDestroy     Op = 0x01
	PoolImport      Op = 0x02
	PoolExport      Op = 0x03
	PoolConfigs     Op = 0x04
	PoolStats       Op = 0x05
	PoolTryimport   Op = 0x06
	PoolScan        Op = 0x07
	PoolUpgrade     Op = 0x09
	PoolGetHistory  Op = 0x0a
	VdevAdd         Op = 0x0b
	VdevRemove      Op = 0x0c
	VdevSetState    Op = 0x0d
	VdevAttach      Op = 0x0e
	VdevDetach      Op = 0x0f
	VdevSetpath     Op = 0x10
	ObjsetStatsOp   Op = 0x12
	ObjsetZplprops  Op = 0x13
	DatasetListNext Op = 0x14
	SnapshotList    Op = 0x15
	SetProp         Op = 0x16
	Create          Op = 0x17
	Destroy         Op = 0x18
	Rollback        Op = 0x19
	Rename          Op = 0x1a
	ErrorLog        Op = 0x20
	Clear           Op = 0x21
	Promote         Op = 0x22
	Snapshot        Op = 0x23
	DsobjToDsname   Op = 0x24
	ObjToPath       Op = 0x25
	PoolSetProps    Op = 0x26
	PoolGetProps    Op = 0x27
	InheritProp     Op = 0x2b
	UserspaceOne    Op = 0x2d
	UserspaceMany   Op = 0x2e
	Hold            Op = 0x30
	Release         Op = 0x31
	GetHolds        Op = 0x32
	ObjsetRecvd     Op = 0x33
	VdevSplit       Op = 0x34
	NextObj         Op = 0x35
	Diff            Op = 0x36
	TmpSnapshot     Op = 0x37
	ObjToStats      Op = 0x38
	SpaceWritten    Op = 0x39
	SpaceSnaps      Op = 0x3a
	DestroySnaps    Op = 0x3b
	PoolReguid      Op = 0x3c
	PoolReopen      Op = 0x3d
	SendProgress    Op = 0x3e
	LogHistory      Op = 0x3f
	SendNew         Op = 0x40
	SendSpace       Op = 0x41
	Clone           Op = 0x42
	Bookmark        Op = 0x43
	GetBookmarks    Op = 0x44
	DestroyBookmark Op = 0x45
	RecvNew         Op = 0x46
	PoolSync        Op = 0x47
	ChannelProgram  Op = 0x48
	LoadKey         Op = 0x49
	UnloadKey       Op = 0x4a
	ChangeKey       Op = 0x4b
	PoolCheckpoint  Op = 0x4d
	PoolDiscardChk  Op = 0x4e
	PoolInitialize  Op = 0x4f
	PoolTrim        Op = 0x50
	GetBookmarkProp Op = 0x52
	Wait            Op = 0x53
	WaitFS          Op = 0x54
	PoolScrub       Op = 0x57
	EventsNext      Op = 0x81
	EventsClear     Op = 0x82
	EventsSeek      Op = 0x83
)

// FreeBSD only.
const (
	Jail   Op = 0x85
	Unjail Op = 0x86
)
