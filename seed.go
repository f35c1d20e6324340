// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"io"
	"net/netip"
	"strings"

	"github.com/skepvm/skep/cloudinit"
)

// writeSeed writes a machine's cloud-init seed.
func writeSeed(w io.Writer, r *record, cfg *resolved) error {
	s := seedOf(r, cfg)
	return s.WriteISO(w)
}

func seedOf(r *record, cfg *resolved) cloudinit.Seed {
	s := cloudinit.Seed{InstanceID: r.ID, Hostname: r.Spec.Hostname, PublicKeys: r.Spec.Keys, VendorRaw: r.Spec.VendorData}
	if len(r.Spec.UserData) > 0 {
		s.UserRaw = r.Spec.UserData
	} else {
		s.User = userConfig(r)
	}
	if r.Address.IsValid() {
		s.Network = &cloudinit.Network{Interfaces: []cloudinit.Interface{{
			Name: "net0", MAC: r.MAC, MTU: cfg.Network.MTU,
			Addresses: []netip.Prefix{r.Address}, Gateway4: r.Gateway, Nameservers: cfg.Network.DNS,
		}}}
	}
	return s
}

func userConfig(r *record) *cloudinit.Config {
	c := &cloudinit.Config{
		Hostname: r.Spec.Hostname, ManageHosts: true, Packages: r.Spec.Packages,
	}
	if strings.Contains(r.Spec.Hostname, ".") {
		c.FQDN = r.Spec.Hostname
	}
	if len(r.Spec.Packages) > 0 {
		yes := true
		c.PackageUpdate = &yes
	}
	for _, line := range r.Spec.RunCommands {
		c.RunCmd = append(c.RunCmd, cloudinit.Command{Shell: line})
	}
	if r.Spec.User == "" || r.Spec.User == r.Image.User {
		c.AuthorizedKeys = r.Spec.Keys
	} else {
		c.Users = []cloudinit.User{{
			Name: r.Spec.User, Shell: "/bin/sh", Sudo: "ALL=(ALL) NOPASSWD:ALL", AuthorizedKeys: r.Spec.Keys,
		}}
	}
	return c
}
