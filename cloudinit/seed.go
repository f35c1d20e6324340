// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"bytes"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

// Seed is everything that a guest is told.
type Seed struct {
	// InstanceID tells cloud-init whether this is the machine that it saw
	// before: with a new one, all that happens once happens again. Required,
	// 1-128 of [A-Za-z0-9._:@/+-].
	InstanceID string
	// Hostname is the guest's. Required, RFC 1123.
	Hostname string
	// PublicKeys go into meta-data, for the image's default user.
	PublicKeys []string

	// User is user-data that skep writes. UserRaw is a whole user-data file of
	// the caller's, verbatim, whatever cloud-init or nuageinit makes of it. Not
	// both.
	User    *Config
	UserRaw []byte
	// Vendor and VendorRaw are the same for vendor-data, which user-data
	// overrides.
	Vendor    *Config
	VendorRaw []byte

	// Network is the guest's network configuration, in version NetworkVersion:
	// 2 (also 0) or 1. NetworkRaw is a whole file of the caller's. With neither,
	// the guest does as its image says.
	Network        *Network
	NetworkVersion int
	NetworkRaw     []byte
}

const (
	cloudConfig = "#cloud-config\n"
	emptyConfig = cloudConfig + "{}\n"
)

// Files makes the seed's files: meta-data, user-data and vendor-data always,
// network-config if there is any. What cannot be right is ErrInvalid.
func (s *Seed) Files() ([]File, error) {
	meta, err := s.metaData()
	if err != nil {
		return nil, err
	}
	user, err := data("user-data", s.User, s.UserRaw)
	if err != nil {
		return nil, err
	}
	vendor, err := data("vendor-data", s.Vendor, s.VendorRaw)
	if err != nil {
		return nil, err
	}
	network, err := s.networkConfig()
	if err != nil {
		return nil, err
	}
	files := []File{{"meta-data", meta}, {"user-data", user}, {"vendor-data", vendor}}
	if network != nil {
		files = append(files, File{"network-config", network})
	}
	for _, f := range files {
		if len(f.Data) > MaxFileSize {
			return nil, invalid("%s has %d bytes, at most %d", f.Name, len(f.Data), MaxFileSize)
		}
	}
	return files, nil
}

// WriteISO writes the seed as an ISO 9660 image labelled cidata. The same seed
// gives the same bytes.
func (s *Seed) WriteISO(w io.Writer) error {
	files, err := s.Files()
	if err != nil {
		return err
	}
	return WriteISO(w, Label, files)
}

// ISO is the image in memory: at most 4 MiB and a few sectors.
func (s *Seed) ISO() ([]byte, error) {
	var b bytes.Buffer
	if err := s.WriteISO(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (s *Seed) metaData() ([]byte, error) {
	var k checker
	if !idRE.MatchString(s.InstanceID) {
		return nil, invalid("instance id %q: 1-128 letters, digits or any of ._:@/+-", clip(s.InstanceID))
	}
	if err := CheckHostname(s.Hostname); err != nil {
		return nil, err
	}
	if k.keys(s.PublicKeys); len(k.errs) > 0 {
		return nil, k.errs[0]
	}
	m := newMapping()
	m.str("instance-id", s.InstanceID)
	m.str("local-hostname", s.Hostname)
	m.strs("public-keys", s.PublicKeys)
	m.strs("public_keys", s.PublicKeys) // as nuageinit(7) looks for them
	return encode("", m.node())
}

// data is a file of cloud-config, or the caller's own.
func data(name string, c *Config, raw []byte) ([]byte, error) {
	switch {
	case c != nil && raw != nil:
		return nil, invalid("%s: both fields and a whole file are given", name)
	case raw != nil:
		if len(raw) > MaxFileSize {
			return nil, invalid("%s has %d bytes, at most %d", name, len(raw), MaxFileSize)
		}
		return raw, nil
	case c == nil:
		return []byte(emptyConfig), nil
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return encode(cloudConfig, c.node())
}

func (s *Seed) networkConfig() ([]byte, error) {
	switch {
	case s.Network != nil && s.NetworkRaw != nil:
		return nil, invalid("network-config: both fields and a whole file are given")
	case s.NetworkRaw != nil:
		return s.NetworkRaw, nil
	case s.Network == nil:
		return nil, nil
	}
	if err := s.Network.check(); err != nil {
		return nil, fmt.Errorf("network-config: %w", err)
	}
	var n *yaml.Node
	switch s.NetworkVersion {
	case 0, 2:
		n = s.Network.v2()
	case 1:
		n = s.Network.v1()
	default:
		return nil, invalid("network-config: version %d, 1 or 2 are known", s.NetworkVersion)
	}
	return encode("", n)
}
