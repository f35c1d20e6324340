// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

const (
	minMemory    = 64 * MiB
	maxMemory    = 1 * TiB
	memoryStep   = 2 * MiB // what guest memory is given out in
	maxDisk      = 64 * TiB
	maxKeys      = 32
	maxKey       = 16 << 10
	maxPackages  = 256
	maxCommands  = 64
	maxCommand   = 4 << 10
	maxUserData  = 512 << 10
	maxLabels    = 32
	maxLabelKey  = 64
	maxLabel     = 1024
	maxCPUs      = 16
	defaultDisk  = 10 * GiB
	defaultRAM   = 1 * GiB
	maxImageName = 128
)

var (
	nameRule      = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,39}$`)
	namespaceRule = regexp.MustCompile(`^[a-z0-9_][a-z0-9_-]{0,63}$`)
	imageRule     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+:-]*$`)
	userRule      = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	packageRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+:~_=/@-]{0,127}$`)
	labelRule     = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	hostLabelRule = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	snapshotRule  = nameRule
)

// withDefaults fills in what does not depend on the image.
func (s MachineSpec) withDefaults() MachineSpec {
	s = s.clone()
	if s.Namespace == "" {
		s.Namespace = LocalNamespace
	}
	if s.CPUs == 0 {
		s.CPUs = 1
	}
	if s.Memory == 0 {
		s.Memory = defaultRAM
	}
	if s.Hostname == "" {
		s.Hostname = strings.Trim(strings.ReplaceAll(s.Name, "_", "-"), "-")
		if s.Hostname == "" {
			s.Hostname = "vm"
		}
	}
	return s
}

func (s MachineSpec) clone() MachineSpec {
	s.Keys = slices.Clone(s.Keys)
	s.Packages = slices.Clone(s.Packages)
	s.RunCommands = slices.Clone(s.RunCommands)
	s.UserData = slices.Clone(s.UserData)
	s.VendorData = slices.Clone(s.VendorData)
	s.MAC = slices.Clone(s.MAC)
	s.Labels = maps.Clone(s.Labels)
	return s
}

// Validate says what is wrong with a specification, as far as that can be seen
// without a host. The error is a *FieldError and matches ErrInvalid.
func (s MachineSpec) Validate() error {
	s = s.withDefaults()
	switch {
	case !namespaceRule.MatchString(s.Namespace):
		return invalid("Namespace", s.Namespace, "want 1 to 64 of a-z 0-9 _ -, not beginning with -")
	case !nameRule.MatchString(s.Name):
		return invalid("Name", s.Name, "want 1 to 40 of a-z 0-9 _ -, beginning with a letter or _")
	case len(s.Image) > maxImageName || !imageRule.MatchString(s.Image):
		return invalid("Image", s.Image, "want the name of an image: 1 to %d of A-Z a-z 0-9 . _ + : -", maxImageName)
	case s.CPUs < 1 || s.CPUs > maxCPUs:
		return invalid("CPUs", fmt.Sprint(s.CPUs), "want 1 to %d", maxCPUs)
	case s.Memory < minMemory || s.Memory > maxMemory:
		return invalid("Memory", FormatSize(s.Memory), "want %s to %s", FormatSize(minMemory), FormatSize(maxMemory))
	case s.Memory%memoryStep != 0:
		return invalid("Memory", FormatSize(s.Memory), "want a multiple of %s", FormatSize(memoryStep))
	case s.Disk < 0 || s.Disk > maxDisk:
		return invalid("Disk", FormatSize(s.Disk), "want at most %s", FormatSize(maxDisk))
	}
	for _, check := range []func() error{s.checkHostname, s.checkLogin, s.checkFirstBoot, s.checkNetwork, s.checkLabels} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *MachineSpec) checkHostname() error {
	const why = "want a host name: labels of letters, digits and -, 63 bytes each, 253 in all"
	if len(s.Hostname) > 253 {
		return invalid("Hostname", s.Hostname, why)
	}
	for label := range strings.SplitSeq(s.Hostname, ".") {
		if !hostLabelRule.MatchString(label) {
			return invalid("Hostname", s.Hostname, why)
		}
	}
	return nil
}

func (s *MachineSpec) checkLogin() error {
	if len(s.Keys) > maxKeys {
		return invalid("Keys", "", "%d keys, at most %d", len(s.Keys), maxKeys)
	}
	for i, k := range s.Keys {
		field := fmt.Sprintf("Keys[%d]", i)
		if len(k) > maxKey || strings.ContainsAny(strings.TrimRight(k, "\r\n"), "\r\n\x00") {
			return invalid(field, k, "want one line of authorized_keys, at most %d bytes", maxKey)
		}
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k)); err != nil {
			return &FieldError{Field: field, Why: "not an SSH public key", Err: err}
		}
	}
	if s.User != "" && !userRule.MatchString(s.User) {
		return invalid("User", s.User, "want 1 to 32 of a-z 0-9 _ -, beginning with a letter or _")
	}
	return nil
}

func (s *MachineSpec) checkFirstBoot() error {
	if len(s.UserData) > maxUserData {
		return invalid("UserData", "", "%d bytes, at most %d", len(s.UserData), maxUserData)
	}
	if len(s.VendorData) > maxUserData {
		return invalid("VendorData", "", "%d bytes, at most %d", len(s.VendorData), maxUserData)
	}
	if len(s.UserData) > 0 && (len(s.Keys) > 0 || s.User != "" || len(s.Packages) > 0 || len(s.RunCommands) > 0) {
		return invalid("UserData", "", "is given whole, so Keys, User, Packages and RunCommands must be empty")
	}
	if len(s.Packages) > maxPackages {
		return invalid("Packages", "", "%d packages, at most %d", len(s.Packages), maxPackages)
	}
	for i, p := range s.Packages {
		if !packageRule.MatchString(p) {
			return invalid(fmt.Sprintf("Packages[%d]", i), p, "want a package's name: 1 to 128 of A-Z a-z 0-9 . + : ~ _ = / @ -")
		}
	}
	if len(s.RunCommands) > maxCommands {
		return invalid("RunCommands", "", "%d commands, at most %d", len(s.RunCommands), maxCommands)
	}
	for i, c := range s.RunCommands {
		if c == "" || len(c) > maxCommand || !utf8.ValidString(c) || strings.ContainsRune(c, 0) {
			return invalid(fmt.Sprintf("RunCommands[%d]", i), c, "want 1 to %d bytes of UTF-8 without NUL", maxCommand)
		}
	}
	return nil
}

func (s *MachineSpec) checkNetwork() error {
	if a := s.Address; a.IsValid() && (!a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback()) {
		return invalid("Address", a.String(), "want an IPv4 address of the host's network")
	}
	if m := s.MAC; m != nil && (len(m) != 6 || m[0]&1 != 0 || m[0]|m[1]|m[2]|m[3]|m[4]|m[5] == 0) {
		return invalid("MAC", m.String(), "want a unicast address of 6 bytes")
	}
	return nil
}

func (s *MachineSpec) checkLabels() error {
	if len(s.Labels) > maxLabels {
		return invalid("Labels", "", "%d labels, at most %d", len(s.Labels), maxLabels)
	}
	for k, v := range s.Labels {
		if len(k) > maxLabelKey || !labelRule.MatchString(k) {
			return invalid("Labels", k, "want keys of 1 to %d of A-Z a-z 0-9 . _ -", maxLabelKey)
		}
		if len(v) > maxLabel || !utf8.ValidString(v) {
			return invalid("Labels", k, "its value is longer than %d bytes or not UTF-8", maxLabel)
		}
	}
	return nil
}

// resolved is a Config with its defaults, checked.
type resolved struct{ Config }

func (c Config) resolve() (resolved, error) {
	r := resolved{Config: c}
	n := &r.Network
	if n.Bridge == "" {
		n.Bridge = "skep0"
	}
	if !n.Address.IsValid() {
		n.Address = netip.MustParsePrefix("10.77.0.1/24")
	}
	if !n.Address.Addr().Is4() || n.Address.Bits() > 30 {
		return r, invalid("Network.Address", n.Address.String(), "want an IPv4 address with a length of at most 30, as in 10.77.0.1/24")
	}
	if n.MTU == 0 {
		n.MTU = 1500
	}
	if n.MTU < 576 || n.MTU > 9216 {
		return r, invalid("Network.MTU", fmt.Sprint(n.MTU), "want 576 to 9216")
	}
	for _, a := range []netip.Addr{n.First, n.Last} {
		if a.IsValid() && !n.Address.Masked().Contains(a) {
			return r, invalid("Network.First, Last", a.String(), "outside %s", n.Address.Masked())
		}
	}
	if n.First.IsValid() != n.Last.IsValid() {
		return r, invalid("Network.First, Last", "", "give both or neither")
	}
	if len(r.Flavors) == 0 {
		r.Flavors = DefaultFlavors()
	}
	if r.RunDir == "" {
		r.RunDir = defaultRunDir
	}
	// A control socket's path: the directory, a slash, 32 digits, ".sock".
	if len(r.RunDir)+1+32+5 > maxSocketPath {
		return r, invalid("RunDir", r.RunDir, "longer than %d bytes, too long for a unix socket in it", maxSocketPath-38)
	}
	if r.WorkerUID == 0 {
		// Above what systemd.io/UIDS-GIDS gives to containers, below 2^31.
		r.WorkerUID = 0x70600000
	}
	l := &r.Limits
	if l.DiskOvercommit == 0 {
		l.DiskOvercommit = 4
	}
	if l.DiskOvercommit < 0 {
		return r, invalid("Limits.DiskOvercommit", fmt.Sprint(l.DiskOvercommit), "want more than 0")
	}
	if l.Machines == 0 {
		l.Machines = 4096
	}
	if l.PerNamespace == 0 {
		l.PerNamespace = 255
	}
	if l.CPUs == 0 {
		l.CPUs = maxCPUs
	}
	if l.CPUs < 1 || l.CPUs > maxCPUs {
		return r, invalid("Limits.CPUs", fmt.Sprint(l.CPUs), "want 1 to %d", maxCPUs)
	}
	if l.Memory < 0 || l.Machines < 0 || l.PerNamespace < 0 {
		return r, invalid("Limits", "", "want no negative number")
	}
	return r, nil
}
