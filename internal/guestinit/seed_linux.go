// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"

	"github.com/kdomanski/iso9660"
	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"
)

// errNoSeed: a disk that is no seed.
var errNoSeed = errors.New("no volume labelled cidata")

// maxSeedFile bounds what is read of a file of the seed.
const maxSeedFile = 1 << 20

// seed is what the guest heeds of a NoCloud seed: its name, the keys that may
// log in as anybody, its interfaces (network-config version 2).
type seed struct {
	hostname string
	keys     []ssh.PublicKey
	nets     []seedNet
}

type seedNet struct {
	mac       string // lower case, colons
	mtu       int    // 0: as it is
	addresses []netip.Prefix
	gateway   netip.Addr // IPv4, invalid if none
}

// allows tells whether a key may log in.
func (s *seed) allows(k ssh.PublicKey) bool {
	want := k.Marshal()
	return slices.ContainsFunc(s.keys, func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), want) })
}

// readSeed reads the seed on a disk (cloud-init, "NoCloud").
func readSeed(disk io.ReaderAt) (*seed, error) {
	img, err := iso9660.OpenImage(disk)
	if err != nil {
		return nil, errNoSeed // any other disk
	}
	if label, err := img.Label(); err != nil || label != "cidata" {
		return nil, errNoSeed
	}
	root, err := img.RootDir()
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	files, err := root.GetChildren()
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	content := map[string][]byte{}
	for _, f := range files {
		if f.IsDir() || f.Size() > maxSeedFile {
			continue
		}
		if content[f.Name()], err = io.ReadAll(f.Reader()); err != nil {
			return nil, fmt.Errorf("seed: %s: %w", f.Name(), err)
		}
	}
	return parseSeed(content["user-data"], content["network-config"])
}

func parseSeed(userData, networkConfig []byte) (*seed, error) {
	var user struct {
		Hostname string
		Keys     []string `yaml:"ssh_authorized_keys"`
		Users    []yaml.Node
	}
	if err := yaml.Unmarshal(userData, &user); err != nil {
		return nil, fmt.Errorf("seed: user-data: %w", err)
	}
	s := &seed{hostname: user.Hostname}
	keys := user.Keys
	for _, u := range user.Users {
		var one struct {
			Keys []string `yaml:"ssh_authorized_keys"`
		}
		if u.Kind == yaml.MappingNode { // not the word "default"
			if err := u.Decode(&one); err != nil {
				return nil, fmt.Errorf("seed: user-data: users: %w", err)
			}
			keys = append(keys, one.Keys...)
		}
	}
	for _, line := range keys {
		k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("seed: ssh_authorized_keys %q: %w", line, err)
		}
		s.keys = append(s.keys, k)
	}
	var network struct {
		Version   int
		Ethernets map[string]struct {
			Match     struct{ MACAddress string }
			MTU       int
			Addresses []netip.Prefix
			Gateway4  netip.Addr
		}
	}
	if err := yaml.Unmarshal(networkConfig, &network); err != nil {
		return nil, fmt.Errorf("seed: network-config: %w", err)
	}
	if len(networkConfig) > 0 && network.Version != 2 {
		return nil, fmt.Errorf("seed: network-config: version %d, want 2", network.Version)
	}
	for name, e := range network.Ethernets {
		mac, err := net.ParseMAC(e.Match.MACAddress)
		if err != nil {
			return nil, fmt.Errorf("seed: network-config: %s: %w", name, err)
		}
		s.nets = append(s.nets, seedNet{mac: mac.String(), mtu: e.MTU, addresses: e.Addresses, gateway: e.Gateway4})
	}
	return s, nil
}
