// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"
)

// seedFiles are the files of a specification's seed, decoded.
func seedFiles(t *testing.T, s MachineSpec) map[string]map[string]any {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	cfg, err := Config{Store: "dir:/x"}.resolve()
	if err != nil {
		t.Fatal(err)
	}
	seed := seedOf(&record{ID: "0123456789abcdef0123456789abcdef", Spec: s.withDefaults(), Image: imageRef{User: "debian"}}, &cfg)
	files, err := seed.Files()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, f := range files {
		m := map[string]any{}
		if err := yaml.Unmarshal(f.Data, &m); err != nil {
			t.Fatalf("%s: %v in\n%s", f.Name, err, f.Data)
		}
		out[f.Name] = m
	}
	return out
}

// TestSeed: what a specification asks of the guest stands in its user-data, all
// of it and nothing else.
func TestSeed(t *testing.T) {
	key := testKey()
	keys := []any{key}
	for name, c := range map[string]struct {
		change func(*MachineSpec)
		want   map[string]any // on top of the hostname and /etc/hosts
	}{
		"keys of the image's user": {func(s *MachineSpec) {}, map[string]any{"ssh_authorized_keys": keys}},
		"the image's user by name": {func(s *MachineSpec) { s.User = "debian" }, map[string]any{"ssh_authorized_keys": keys}},
		"another user": {func(s *MachineSpec) { s.User = "anna" }, map[string]any{"users": []any{"default", map[string]any{
			"name": "anna", "shell": "/bin/sh", "sudo": "ALL=(ALL) NOPASSWD:ALL", "passwd": "*", "lock_passwd": true, "ssh_authorized_keys": keys,
		}}}},
		"packages": {func(s *MachineSpec) { s.Packages = []string{"mc", "libc6:amd64"} },
			map[string]any{"ssh_authorized_keys": keys, "packages": []any{"mc", "libc6:amd64"}, "package_update": true}},
		"commands": {func(s *MachineSpec) { s.RunCommands = []string{"echo a: b >/x", "yes"} },
			map[string]any{"ssh_authorized_keys": keys, "runcmd": []any{"echo a: b >/x", "yes"}}},
		"a domain": {func(s *MachineSpec) { s.Hostname = "www.example.org" },
			map[string]any{"ssh_authorized_keys": keys, "hostname": "www.example.org", "fqdn": "www.example.org"}},
	} {
		s := spec("vm1")
		s.Keys = []string{key}
		c.change(&s)
		want := map[string]any{"hostname": "vm1", "manage_etc_hosts": true}
		for k, v := range c.want {
			want[k] = v
		}
		files := seedFiles(t, s)
		if got := files["user-data"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: user-data %v, want %v", name, got, want)
		}
		if got := files["meta-data"]; got["local-hostname"] != want["hostname"] || !reflect.DeepEqual(got["public-keys"], any(keys)) {
			t.Errorf("%s: meta-data %v", name, got)
		}
	}
	// A whole file of the caller's is all that there is.
	s := spec("vm1")
	s.UserData = []byte("#cloud-config\npackages: [theirs]\n")
	if got := seedFiles(t, s)["user-data"]; !reflect.DeepEqual(got, map[string]any{"packages": []any{"theirs"}}) {
		t.Errorf("user-data of the caller's: %v", got)
	}
}
