// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"net"
	"net/netip"
	"os"
)

// kernel is the system's part. Its methods change one thing each and return
// the bare error of the system call; Conn composes them, checks arguments
// before, undoes what failed half-way, and says in errors what was tried.
// All of them may be called from many goroutines.
//
// A create method makes the interface under the scratch name that it is given,
// down and unmarked (a kernel that chooses names itself renames at once). When
// it fails, nothing is left.
type kernel interface {
	close() error

	// list and get fill all fields of Interface but Owner and Ours; Groups
	// only where hasGroups. get of a missing name is ENXIO, ENODEV or
	// ErrNotFound.
	list() ([]Interface, error)
	get(name string) (Interface, error)

	createBridge(scratch string, s *BridgeSpec) (made, error)
	createTap(scratch string, s *TapSpec) (made, error)
	createPair(scratch, peerScratch string, s *PairSpec) (made, error)
	createVLAN(scratch string, s *VLANSpec) (made, error)
	createVXLAN(scratch string, s *VXLANSpec) (made, error)
	// openTap opens the existing tap name; dev is what made.dev was.
	openTap(name, dev string, s *TapSpec) ([]*os.File, error)

	destroy(name string) error
	rename(from, to string) error
	setDescription(name, text string) error
	setUp(name string, up bool) error
	setMTU(name string, mtu int) error
	setMAC(name string, mac net.HardwareAddr) error
	// addAddress of an address that is there, and removeAddress of one that is
	// not, succeed.
	addAddress(name string, p netip.Prefix) error
	removeAddress(name string, p netip.Prefix) error
	// addMember of a member that is there, and removeMember of one that is in
	// no bridge, succeed; a member of another bridge is EBUSY.
	addMember(bridge, member string) error
	removeMember(bridge, member string) error
	setPrivate(bridge, member string, private bool) error
	// addForward replaces the entry of the MAC (for the zero MAC: adds to the
	// list); removeForward of an absent one succeeds.
	addForward(vxlan string, f Forward) error
	removeForward(vxlan string, f Forward) error
	forwards(vxlan string) ([]Forward, error)

	// hasGroups is whether the kernel has groups with names. Where it has not,
	// Conn keeps them in the mark.
	hasGroups() bool
	addGroup(name, group string) error
	removeGroup(name, group string) error
}

// made is what a create method made.
type made struct {
	files []*os.File // of a tap, one a queue
	dev   string     // see mark.dev; empty where the name tells it
}
