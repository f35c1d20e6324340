// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// testKey is a public key whose private half nobody has.
func testKey() string {
	k, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

// TestValidate breaks each rule by itself.
func TestValidate(t *testing.T) {
	good := MachineSpec{
		Namespace: "0123456789abcdef0123456789abcdef", Name: "vm_1-a", Image: "debian12", CPUs: 16, Memory: 2 * GiB, Disk: 10 * GiB,
		Keys: []string{testKey()}, User: "admin", Hostname: "vm1.example.org", Packages: []string{"nginx", "g++", "libc6:amd64", "www/nginx@default"},
		RunCommands: []string{"echo 'ü'"}, Address: netip.MustParseAddr("10.77.0.9"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
		Labels: map[string]string{"vm_os_type": "linux"},
	}
	if err := good.Validate(); err != nil {
		t.Fatalf("a good specification: %v", err)
	}
	for name, c := range map[string]struct {
		field string
		spoil func(s *MachineSpec)
	}{
		"no name":             {"Name", func(s *MachineSpec) { s.Name = "" }},
		"a name with dots":    {"Name", func(s *MachineSpec) { s.Name = ".." }},
		"a name with a slash": {"Name", func(s *MachineSpec) { s.Name = "a/b" }},
		"a name with NUL":     {"Name", func(s *MachineSpec) { s.Name = "a\x00" }},
		"a name with newline": {"Name", func(s *MachineSpec) { s.Name = "a\n" }},
		"a long name":         {"Name", func(s *MachineSpec) { s.Name = strings.Repeat("a", 41) }},
		"a name in capitals":  {"Name", func(s *MachineSpec) { s.Name = "VM" }},
		"a namespace with /":  {"Namespace", func(s *MachineSpec) { s.Namespace = "../x" }},
		"no image":            {"Image", func(s *MachineSpec) { s.Image = "" }},
		"an image's path":     {"Image", func(s *MachineSpec) { s.Image = "../debian" }},
		"17 CPUs":             {"CPUs", func(s *MachineSpec) { s.CPUs = 17 }},
		"-1 CPUs":             {"CPUs", func(s *MachineSpec) { s.CPUs = -1 }},
		"8 bytes of memory":   {"Memory", func(s *MachineSpec) { s.Memory = 8 }},
		"an odd memory":       {"Memory", func(s *MachineSpec) { s.Memory = GiB + MiB }},
		"too much memory":     {"Memory", func(s *MachineSpec) { s.Memory = 2 * TiB }},
		"a negative disk":     {"Disk", func(s *MachineSpec) { s.Disk = -1 }},
		"a vast disk":         {"Disk", func(s *MachineSpec) { s.Disk = 65 * TiB }},
		"a bad host name":     {"Hostname", func(s *MachineSpec) { s.Hostname = "-a" }},
		"a bad key":           {"Keys[0]", func(s *MachineSpec) { s.Keys = []string{"ssh-ed25519 AAAA x"} }},
		"two keys in one":     {"Keys[0]", func(s *MachineSpec) { s.Keys = []string{testKey() + "\n" + testKey()} }},
		"too many keys":       {"Keys", func(s *MachineSpec) { s.Keys = make([]string, maxKeys+1) }},
		"a bad user":          {"User", func(s *MachineSpec) { s.User = "Root" }},
		"a bad package":       {"Packages[1]", func(s *MachineSpec) { s.Packages = []string{"ok", "--allow-all"} }},
		"a command with NUL":  {"RunCommands[0]", func(s *MachineSpec) { s.RunCommands = []string{"a\x00"} }},
		"user-data and more":  {"UserData", func(s *MachineSpec) { s.UserData = []byte("#cloud-config\n") }},
		"an IPv6 address":     {"Address", func(s *MachineSpec) { s.Address = netip.MustParseAddr("fe80::1") }},
		"a multicast MAC":     {"MAC", func(s *MachineSpec) { s.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }},
		"a bad label":         {"Labels", func(s *MachineSpec) { s.Labels = map[string]string{"a b": ""} }},
		"a long label":        {"Labels", func(s *MachineSpec) { s.Labels = map[string]string{"a": strings.Repeat("x", 1025)} }},
	} {
		s := good.clone()
		c.spoil(&s)
		err := s.Validate()
		var fe *FieldError
		if !errors.Is(err, ErrInvalid) || !errors.As(err, &fe) || fe.Field != c.field {
			t.Errorf("%s: %v", name, err)
		} else if len(err.Error()) > 300 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "1": 1, "512m": 512 * MiB, "1G": GiB, "2t": 2 * TiB, "1k": KiB} {
		if n, err := ParseSize(s); err != nil || n != want {
			t.Errorf("ParseSize(%q) = %d, %v", s, n, err)
		}
	}
	for _, s := range []string{"", "g", "-1", "+1", "1.5g", "1gb", "9999999999g", " 1", "1 g", "0x10"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d", s, n)
		}
	}
	for _, n := range []int64{0, 1, 1023, KiB, 1536 * MiB, 3 * TiB, 1<<62 + 7} {
		if back, err := ParseSize(FormatSize(n)); err != nil || back != n {
			t.Errorf("%d is written %q and read %d, %v", n, FormatSize(n), back, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]Config{
		"no store":         {},
		"a relative store": {Store: "dir:x"},
		"a strange store":  {Store: "s3:bucket"},
		"an IPv6 network":  {Store: "dir:/x", Network: NetworkConfig{Address: netip.MustParsePrefix("fd00::1/64")}},
		"a tiny network":   {Store: "dir:/x", Network: NetworkConfig{Address: netip.MustParsePrefix("10.0.0.1/31")}},
		"half a range":     {Store: "dir:/x", Network: NetworkConfig{First: netip.MustParseAddr("10.77.0.5")}},
		"a range outside":  {Store: "dir:/x", Network: NetworkConfig{First: netip.MustParseAddr("10.78.0.5"), Last: netip.MustParseAddr("10.78.0.6")}},
		"a long run dir":   {Store: "dir:/x", RunDir: "/" + strings.Repeat("x", 100)},
		"a tiny MTU":       {Store: "dir:/x", Network: NetworkConfig{MTU: 60}},
		"99 CPUs":          {Store: "dir:/x", Limits: Limits{CPUs: 99}},
	} {
		p := newPlace(t)
		if c.RunDir == "" {
			c.RunDir = p.run()
		}
		h, err := open(t.Context(), c, p.parts(func(string) {}))
		if err == nil {
			h.Close()
		}
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRecord: a record that somebody wrote into is refused or is one that the
// host can live with, and never takes it down.
func FuzzRecord(f *testing.F) {
	id := "0123456789abcdef0123456789abcdef"
	r := &record{Version: recordVersion, ID: id, Spec: spec("vm1").withDefaults(), State: StateRunning, Run: &run{Boot: "b", PID: 7}}
	b, err := r.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"id":"` + id + `","state":"stopped","spec":{"name":"..","namespace":"local"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := decodeRecord(in, id)
		if err != nil {
			return
		}
		if r.ID != id || strings.ContainsAny(r.Spec.Name+r.Spec.Namespace, "./\x00") {
			t.Fatalf("taken: %+v", r)
		}
		b, err := r.encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := decodeRecord(b, id); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}

// FuzzSpec: whatever a caller asks for is refused or makes a seed.
func FuzzSpec(f *testing.F) {
	b, _ := json.Marshal(MachineSpec{Name: "vm1", Image: "debian12", Keys: []string{testKey()}, Packages: []string{"nginx"}, RunCommands: []string{"a: b"}})
	f.Add(b)
	f.Add([]byte(`{"name":"vm1","image":"x","user_data":"I2Nsb3VkLWNvbmZpZwo="}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var s MachineSpec
		if json.Unmarshal(in, &s) != nil || s.Validate() != nil {
			return
		}
		cfg, err := Config{Store: "dir:/x"}.resolve()
		if err != nil {
			t.Fatal(err)
		}
		r := &record{
			ID: "0123456789abcdef0123456789abcdef", Spec: s.withDefaults(),
			Address: netip.MustParsePrefix("10.77.0.9/24"), Gateway: netip.MustParseAddr("10.77.0.1"),
			MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Image: imageRef{User: "debian"},
		}
		seed := seedOf(r, &cfg)
		if _, err := seed.Files(); err != nil {
			t.Fatalf("a specification that was found good makes no seed: %v\n%s", err, in)
		}
	})
}
