// SPDX-License-Identifier: BSD-2-Clause

package ifabi

// Requests.
const (
	SIOCIFCREATE2   = 0xc020697c
	SIOCIFDESTROY   = 0x80206979
	SIOCGIFSTATUS   = 0xc331693b
	SIOCSIFNAME     = 0x80206928
	SIOCSIFDESCR    = 0x80206929
	SIOCGIFDESCR    = 0xc020692a
	SIOCGIFFLAGS    = 0xc0206911
	SIOCSIFFLAGS    = 0x80206910
	SIOCSIFMTU      = 0x80206934
	SIOCSIFLLADDR   = 0x8020693c
	SIOCGIFCAP      = 0xc020691f
	SIOCSIFCAP      = 0x8020691e
	SIOCAIFADDR     = 0x8044692b
	SIOCDIFADDR     = 0x80206919
	SIOCAIFADDR_IN6 = 0x8088691b
	SIOCDIFADDR_IN6 = 0x81206919
	SIOCAIFGROUP    = 0x80286987
	SIOCDIFGROUP    = 0x80286989
	SIOCGIFGROUP    = 0xc0286988
	SIOCGIFGMEMB    = 0xc028698a
	SIOCGDRVSPEC    = 0xc028697b
	SIOCSDRVSPEC    = 0x8028697b
	SIOCGETVLAN     = 0xc020693a
	SIOCSETVLAN     = 0x80206939
	TAPSVNETHDR     = 0x8004745b
	TAPGIFNAME      = 0x4020745d
	BRDGADD         = 0
	BRDGDEL         = 1
	BRDGGIFFLGS     = 2
	BRDGSIFFLGS     = 3
	BRDGGIFS        = 6
	IFBIF_PRIVATE   = 2048
	IFF_UP          = 1
)

// Commands of a vxlan interface through SIOCGDRVSPEC and SIOCSDRVSPEC.
const (
	VXLAN_CMD_GET_CONFIG       = 0
	VXLAN_CMD_SET_REMOTE_ADDR  = 4
	VXLAN_CMD_FTABLE_ENTRY_ADD = 13
	VXLAN_CMD_FTABLE_ENTRY_REM = 14
)

// Which members of Vxlanparam count.
const (
	VXLAN_PARAM_WITH_VNI          = 1
	VXLAN_PARAM_WITH_LOCAL_ADDR4  = 2
	VXLAN_PARAM_WITH_LOCAL_ADDR6  = 4
	VXLAN_PARAM_WITH_REMOTE_ADDR4 = 8
	VXLAN_PARAM_WITH_REMOTE_ADDR6 = 16
	VXLAN_PARAM_WITH_LOCAL_PORT   = 32
	VXLAN_PARAM_WITH_REMOTE_PORT  = 64
	VXLAN_PARAM_WITH_MULTICAST_IF = 1024
	VXLAN_PARAM_WITH_TTL          = 2048
	VXLAN_PARAM_WITH_LEARN        = 0x1000
)

// Capabilities of an interface (net/if.h; not in the table).
const (
	IFCAP_TXCSUM      = 0x2
	IFCAP_TSO4        = 0x100
	IFCAP_TSO6        = 0x200
	IFCAP_TXCSUM_IPV6 = 0x400000
)

// From other headers, not in the table.
const (
	AF_INET  = 2  // sys/socket.h
	AF_LINK  = 18 // sys/socket.h
	AF_INET6 = 28 // sys/socket.h

	IN6_IFF_NODAD         = 0x20       // netinet6/in6_var.h
	ND6_INFINITE_LIFETIME = 0xffffffff // netinet6/nd6.h

	ETHERTYPE_VLAN = 0x8100 // net/ethernet.h
)

// Name is an interface's name with its NUL.
type Name [16]byte

// Ifreq is struct ifreq with its union as bytes; the methods of package netif
// write what each request wants. ifr_buffer {int length; void *buffer} and
// ifr_data have their own shapes: IfreqBuffer, IfreqData.
type Ifreq struct {
	Name Name
	Ifru [16]byte
}

// IfreqBuffer is struct ifreq with ifr_buffer.
type IfreqBuffer struct {
	Name   Name
	Length uint64
	Buffer *byte
}

// Ifstat is struct ifstat.
type Ifstat struct {
	Name  Name
	ASCII [801]byte
}

// IfreqData is struct ifreq with ifr_data.
type IfreqData[T any] struct {
	Name Name
	Data *T
	_    uint64
}

// Drv is struct ifdrv.
type Drv[T any] struct {
	Name Name
	Cmd  uint64
	Len  uint64
	Data *T
}

// Groupreq is struct ifgroupreq with ifgr_groups: Len bytes of Ifgreq.
type Groupreq struct {
	Name   Name
	Len    uint32
	_      uint32
	Groups *Ifgreq
	_      uint64
}

// GroupreqName is struct ifgroupreq with ifgr_group.
type GroupreqName struct {
	Name  Name
	Len   uint32
	_     uint32
	Group Name
}

// Ifgreq is struct ifg_req: the name of a group or of a member.
type Ifgreq struct{ Name Name }

// Bridgereq is struct ifbreq.
type Bridgereq struct {
	Ifsname      Name
	Ifsflags     uint32
	Stpflags     uint32
	PathCost     uint32
	Portno       uint8
	Priority     uint8
	Proto        uint8
	Role         uint8
	State        uint8
	_            [3]byte
	Addrcnt      uint32
	Addrmax      uint32
	Addrexceeded uint32
	Pvid         uint16
	Vlanproto    uint16
	Pad          [28]byte
}

// Bridgelist is struct ifbifconf: Len bytes of Bridgereq.
type Bridgelist struct {
	Len uint32
	_   uint32
	Req *Bridgereq
}

// Sockaddr4 is struct sockaddr_in.
type Sockaddr4 struct {
	Len    uint8
	Family uint8
	Port   [2]byte // big endian
	Addr   [4]byte
	_      [8]byte
}

// Sockaddr6 is struct sockaddr_in6.
type Sockaddr6 struct {
	Len      uint8
	Family   uint8
	Port     [2]byte // big endian
	Flowinfo uint32
	Addr     [16]byte
	ScopeID  uint32
}

// Aliasreq is struct ifaliasreq, with IPv4 addresses.
type Aliasreq struct {
	Name      Name
	Addr      Sockaddr4
	Broadaddr Sockaddr4
	Mask      Sockaddr4
	Vhid      int32
}

// Aliasreq6 is struct in6_aliasreq.
type Aliasreq6 struct {
	Name       Name
	Addr       Sockaddr6
	Broadaddr  Sockaddr6
	Prefixmask Sockaddr6
	Flags      int32
	Lifetime   Lifetime
	Vhid       int32
	_          int32
}

// Lifetime is struct in6_addrlifetime.
type Lifetime struct {
	Expire    int64
	Preferred int64
	Vltime    uint32
	Pltime    uint32
}

// Ifreq6 is struct in6_ifreq with its address.
type Ifreq6 struct {
	Name Name
	Addr Sockaddr6
	_    [244]byte
}

// Vlanreq is struct vlanreq.
type Vlanreq struct {
	Parent Name
	Tag    uint16
	Proto  uint16
}

// VxlanAddr is union vxlan_sockaddr: a Sockaddr4 or Sockaddr6 as bytes.
type VxlanAddr [28]byte

// Vxlanparam is struct ifvxlanparam.
type Vxlanparam struct {
	With          uint64
	Vni           uint32
	LocalSa       VxlanAddr
	RemoteSa      VxlanAddr
	LocalPort     uint16
	RemotePort    uint16
	MinPort       uint16
	MaxPort       uint16
	McIfname      Name
	FtableTimeout uint32
	FtableMax     uint32
	Ttl           uint8
	Learn         uint8
	_             [2]byte
}

// Vxlancfg is struct ifvxlancfg.
type Vxlancfg struct {
	Vni           uint32
	LocalSa       VxlanAddr
	RemoteSa      VxlanAddr
	McIfindex     int32
	FtableCnt     uint32
	FtableMax     uint32
	FtableTimeout uint32
	PortMin       uint16
	PortMax       uint16
	Learn         uint8
	Ttl           uint8
	_             [2]byte
}

// Vxlancmd is struct ifvxlancmd.
type Vxlancmd struct {
	Flags         uint32
	Vni           uint32
	FtableTimeout uint32
	FtableMax     uint32
	Port          uint16
	PortMin       uint16
	PortMax       uint16
	Mac           [6]byte
	Ttl           uint8
	_             [3]byte
	Sa            VxlanAddr
	Ifname        Name
}
