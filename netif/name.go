// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"net"
	"regexp"
	"strings"
)

// MaxName is the longest interface name in bytes: IFNAMSIZ (16) less the NUL,
// on Linux and FreeBSD alike.
const MaxName = 15

var nameRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)

// CheckName says why name cannot be the name of an interface that skep makes:
// 1 to 15 letters, digits, '_', '-' or '.', the first one a letter.
func CheckName(name string) error {
	switch {
	case name == "":
		return invalid("interface name is empty")
	case len(name) > MaxName:
		return invalid("interface name %q is %d bytes long, the kernel takes at most %d", name, len(name), MaxName)
	case !nameRE.MatchString(name):
		return invalid("interface name %q: letters, digits, '_', '-' and '.' only, the first one a letter", name)
	case scratchRE.MatchString(name):
		return invalid("interface name %q: names of this form are for interfaces in the making", name)
	}
	return nil
}

// checkForeignName is for names that somebody else may have chosen.
func checkForeignName(name string) error {
	if name == "" || len(name) > MaxName || strings.ContainsAny(name, "\x00/ \t\n") {
		return invalid("%q cannot be an interface name", name)
	}
	return nil
}

// NameFor derives a name of at most 15 bytes from a machine's identity, which
// may be longer than a name: the prefix (at most 3 letters are kept), a '-' and
// 11 characters (55 bits) of a hash. The same arguments give the same name.
func NameFor(prefix, machineID string, nic int) string {
	if len(prefix) > 3 {
		prefix = prefix[:3]
	}
	h := identityHash("skep interface name", machineID, nic)
	return prefix + "-" + strings.ToLower(base32.StdEncoding.EncodeToString(h[:7]))[:11]
}

// MACFor derives a unicast, locally administered MAC address (IEEE 802, the
// bits 0x02 set and 0x01 clear in the first byte) from a machine's identity and
// the number of the interface in it. 46 bits come from a hash, so that machines
// of many hosts may share one segment; the same arguments give the same address.
func MACFor(machineID string, nic int) net.HardwareAddr {
	h := identityHash("skep mac address", machineID, nic)
	mac := net.HardwareAddr(append([]byte(nil), h[:6]...))
	mac[0] = mac[0]&^0x03 | 0x02
	return mac
}

func identityHash(purpose, machineID string, nic int) [sha256.Size]byte {
	b := append([]byte(purpose), 0)
	b = append(b, machineID...)
	b = append(b, 0)
	return sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(nic)))
}
