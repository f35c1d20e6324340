// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"net"
	"net/netip"
	"strings"
)

// parseForwards reads what FreeBSD's sysctl net.link.vxlan.N.ftable.dump says:
// a line for each entry, "S 0x02 02:00:00:00:00:01 192.0.2.1 00000000", the
// address padded with spaces. A line that is none is left out.
func parseForwards(dump string) []Forward {
	var out []Forward
	for line := range strings.Lines(dump) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		mac, err := net.ParseMAC(f[2])
		if err != nil || len(mac) != 6 {
			continue
		}
		to, err := netip.ParseAddr(f[3])
		if err != nil {
			continue
		}
		out = append(out, Forward{MAC: mac, To: to.WithZone("").Unmap()})
	}
	return out
}
