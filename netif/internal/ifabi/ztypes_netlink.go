// SPDX-License-Identifier: BSD-2-Clause

package ifabi

// Of netlink/netlink.h and netlink/route/interface.h, FreeBSD 14 and later. The numbers
// are Linux's, but for AF_NETLINK; the table of FreeBSD's has none of them.
const (
	AF_NETLINK    = 38
	NETLINK_ROUTE = 0

	NLMSG_ERROR = 2
	RTM_NEWLINK = 16

	NLM_F_REQUEST = 0x1
	NLM_F_ACK     = 0x4
	NLM_F_EXCL    = 0x200
	NLM_F_CREATE  = 0x400

	NLMSGERR_ATTR_COOKIE = 3

	IFLA_IFNAME    = 3
	IFLA_LINKINFO  = 18
	IFLA_IFALIAS   = 20
	IFLA_INFO_KIND = 1
)

const (
	SizeofNlmsghdr  = 16
	SizeofNlmsgerr  = 4 + SizeofNlmsghdr
	SizeofNlattr    = 4
	SizeofIfinfomsg = 16
)
