// SPDX-License-Identifier: BSD-2-Clause

// Package ifabi holds the structures and numbers of FreeBSD's interface ioctls
// (net/if.h, net/if_bridgevar.h, net/if_vxlan.h, net/if_vlan_var.h, net/if_tap.h,
// netinet/in_var.h, netinet6/in6_var.h) as Go has them. It builds on every
// system, so that its tests hold them against the table in testdata everywhere.
//
// Imported by netif alone. It imports nothing of skep.
package ifabi
