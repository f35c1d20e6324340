// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files of testdata")

const testKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8zW2vO4f2pXGZr0d7CFO7PbJ0VQ0m3u7c1d8hM3k1a user@example"

func ptr[T any](v T) *T { return &v }

// fullSeed uses everything that there is.
func fullSeed() *Seed {
	return &Seed{
		InstanceID: "skep/0a1b2c/vm1:1",
		Hostname:   "vm1",
		PublicKeys: []string{testKey},
		User: &Config{
			Hostname: "vm1", FQDN: "vm1.example.org", ManageHosts: true, Timezone: "Europe/Berlin", Locale: "en_US.UTF-8",
			AuthorizedKeys: []string{testKey},
			Users: []User{
				{Name: "anna", Gecos: `Anna "the first" O'Neil, #1`, Groups: []string{"adm", "sudo"}, Shell: "/bin/bash", Sudo: "ALL=(ALL) NOPASSWD:ALL", AuthorizedKeys: []string{testKey}},
				{Name: "yes", HashedPassword: "$6$rounds=4096$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g.", Home: "/srv/yes", System: true},
			},
			DisableRoot: ptr(true), PasswordAuth: ptr(false),
			PackageUpdate: ptr(true), PackageUpgrade: ptr(false), Packages: []string{"nginx", "libc6=2.36-9", "1.0"},
			WriteFiles: []WriteFile{
				{Path: "/etc/motd", Content: []byte("yes: *no* & {x}\n\t- 'a'\n# end"), Owner: "root:root", Permissions: "0644"},
				{Path: "/opt/bin", Content: []byte{0, 1, 0xff, '\n'}, Append: true, Defer: true},
				{Path: "/opt/empty"},
			},
			BootCmd:      []Command{{Shell: "echo 'boot: $HOME' > /dev/null"}},
			RunCmd:       []Command{{Args: []string{"printf", "%s\n", "no", "1:30", "=", "<<", "~", ""}}, {Shell: "touch /root/done"}},
			FinalMessage: "up after $UPTIME",
		},
		Vendor: &Config{Timezone: "UTC"},
		Network: &Network{Interfaces: []Interface{
			{
				Name: "net0", SetName: true, MAC: net.HardwareAddr{0x02, 0xab, 0, 0, 0, 1}, MTU: 1450, AcceptRA: ptr(false),
				Addresses:   []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24"), netip.MustParsePrefix("2001:db8::7/64")},
				Gateway4:    netip.MustParseAddr("10.0.0.1"),
				Gateway6:    netip.MustParseAddr("fe80::1"),
				Routes:      []Route{{To: netip.MustParsePrefix("192.168.0.0/16"), Via: netip.MustParseAddr("10.0.0.254"), Metric: 100}},
				Nameservers: []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("2620:fe::fe")},
				Search:      []string{"example.org"},
			},
			{Name: "net1", MAC: net.HardwareAddr{0x02, 0xab, 0, 0, 0, 2}, DHCP4: true, DHCP6: true, Optional: true},
			{Name: "net2", MAC: net.HardwareAddr{0x02, 0xab, 0, 0, 0, 3}, Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/32")}, Gateway4: netip.MustParseAddr("192.0.2.1")},
		}},
	}
}

func TestGolden(t *testing.T) {
	for _, version := range []int{1, 2} {
		s := fullSeed()
		s.NetworkVersion = version
		files, err := s.Files()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			name := f.Name
			if name == "network-config" {
				name += map[int]string{1: "-v1", 2: "-v2"}[version]
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, f.Data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(f.Data, want) {
				t.Errorf("%s is\n%s\nwant\n%s", name, f.Data, want)
			}
		}
	}
}

// readISO reads an image by upstream's reader.
func readISO(t testing.TB, img []byte) (label string, files map[string]string) {
	t.Helper()
	i, err := iso9660.OpenImage(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	label, err = i.Label()
	if err != nil {
		t.Fatal(err)
	}
	root, err := i.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	children, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for _, c := range children {
		var b bytes.Buffer
		if _, err := b.ReadFrom(c.Reader()); err != nil {
			t.Fatal(err)
		}
		files[c.Name()] = b.String()
	}
	return label, files
}

func TestISO(t *testing.T) {
	s := fullSeed()
	img, err := s.ISO()
	if err != nil {
		t.Fatal(err)
	}
	if len(img)%sector != 0 {
		t.Errorf("%d bytes are no whole sectors", len(img))
	}
	again, err := fullSeed().ISO()
	if err != nil || !bytes.Equal(img, again) {
		t.Errorf("the same seed gives other bytes (%v)", err)
	}
	label, got := readISO(t, img)
	if label != "cidata" {
		t.Errorf("label %q", label)
	}
	want := map[string]string{}
	files, err := s.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		want[f.Name] = string(f.Data)
	}
	if !reflect.DeepEqual(got, want) || len(want) != 4 {
		t.Errorf("image holds %q\nwant %q", got, want)
	}
}

func TestISOOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]string{}
		var files []File
		for range rapid.IntRange(0, 12).Draw(t, "files") {
			name := rapid.StringMatching(`[a-z0-9_-]{1,15}(\.[a-z0-9_-]{1,14})?`).Draw(t, "name")
			if _, ok := want[name]; ok {
				continue
			}
			data := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "data")
			want[name], files = string(data), append(files, File{name, data})
		}
		var b bytes.Buffer
		if err := WriteISO(&b, "x_1", files); err != nil {
			t.Fatal(err)
		}
		i, err := iso9660.OpenImage(bytes.NewReader(b.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		root, err := i.RootDir()
		if err != nil {
			t.Fatal(err)
		}
		children, err := root.GetChildren()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, c := range children {
			var d bytes.Buffer
			if _, err := d.ReadFrom(c.Reader()); err != nil {
				t.Fatal(err)
			}
			got[c.Name()] = d.String()
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%d files, want %d", len(got), len(want))
		}
	})
}

type brokenWriter struct{ after int }

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.after -= len(b); w.after < 0 {
		return 0, os.ErrClosed
	}
	return len(b), nil
}

func TestISORefuses(t *testing.T) {
	for name, files := range map[string][]File{
		"path":      {{"../x", nil}},
		"upper":     {{"User", nil}},
		"empty":     {{"", nil}},
		"dots":      {{"..", nil}},
		"two dots":  {{"a.b.c", nil}},
		"last dot":  {{"a.", nil}},
		"NUL":       {{"a\x00b", nil}},
		"separator": {{"a;1", nil}},
		"twice":     {{"a", nil}, {"b", nil}, {"a", nil}},
		"long":      {{strings.Repeat("a", 31), nil}},
		"large":     {{"a", make([]byte, maxISOFileSize+1)}},
		"many": func() (f []File) {
			for i := range 200 {
				f = append(f, File{"file" + string(rune('a'+i%26)) + strings.Repeat("x", i/26), nil})
			}
			return f
		}(),
	} {
		if err := WriteISO(&bytes.Buffer{}, Label, files); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, label := range []string{"", "a b", strings.Repeat("x", 33)} {
		if err := WriteISO(&bytes.Buffer{}, label, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("label %q: %v", label, err)
		}
	}
	for after := 0; after < 50000; after += 1000 {
		if err := fullSeed().WriteISO(&brokenWriter{after}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a writer that breaks after %d bytes: %v", after, err)
			break
		}
	}
}

func TestVerbatim(t *testing.T) {
	s := &Seed{InstanceID: "i", Hostname: "h", UserRaw: []byte("#!/bin/sh\necho \x00\xff"), VendorRaw: []byte{}, NetworkRaw: []byte("version: 2")}
	img, err := s.ISO()
	if err != nil {
		t.Fatal(err)
	}
	_, got := readISO(t, img)
	if got["user-data"] != string(s.UserRaw) || got["vendor-data"] != "" || got["network-config"] != "version: 2" {
		t.Errorf("%q", got)
	}
	minimal := &Seed{InstanceID: "i", Hostname: "h"}
	files, err := minimal.Files()
	if err != nil || len(files) != 3 {
		t.Errorf("%v, %v", files, err)
	}
}

func TestRefuses(t *testing.T) {
	base := func(f func(*Seed)) *Seed {
		s := &Seed{InstanceID: "i", Hostname: "h", User: &Config{}, Network: &Network{}}
		f(s)
		return s
	}
	user := func(u User) func(*Seed) { return func(s *Seed) { s.User.Users = []User{u} } }
	file := func(w WriteFile) func(*Seed) { return func(s *Seed) { s.User.WriteFiles = []WriteFile{w} } }
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	nic := func(i Interface) func(*Seed) {
		return func(s *Seed) { s.Network.Interfaces = append(s.Network.Interfaces, i) }
	}
	for name, f := range map[string]func(*Seed){
		"no instance id":   func(s *Seed) { s.InstanceID = "" },
		"instance id":      func(s *Seed) { s.InstanceID = "a\nb: c" },
		"long instance id": func(s *Seed) { s.InstanceID = strings.Repeat("a", 129) },
		"no host name":     func(s *Seed) { s.Hostname = "" },
		"host name":        func(s *Seed) { s.Hostname = "a_b" },
		"host name dash":   func(s *Seed) { s.Hostname = "-a" },
		"host name dots":   func(s *Seed) { s.Hostname = "a..b" },
		"host name quote":  func(s *Seed) { s.Hostname = "a\"\n" },
		"long host name":   func(s *Seed) { s.Hostname = strings.Repeat("a", 64) },
		"fqdn":             func(s *Seed) { s.User.FQDN = "a b" },
		"key of two lines": func(s *Seed) { s.User.AuthorizedKeys = []string{testKey + "\n" + testKey} },
		"key of one word":  func(s *Seed) { s.User.AuthorizedKeys = []string{"ssh-rsa"} },
		"meta key":         func(s *Seed) { s.PublicKeys = []string{"a\x00b c"} },
		"large key":        func(s *Seed) { s.User.AuthorizedKeys = []string{testKey + strings.Repeat("x", maxString)} },
		"many keys":        func(s *Seed) { s.User.AuthorizedKeys = make([]string, maxItems+1) },
		"both":             func(s *Seed) { s.UserRaw = []byte("x") },
		"both networks":    func(s *Seed) { s.NetworkRaw = []byte("x") },
		"network version":  func(s *Seed) { s.NetworkVersion = 3 },
		"large user-data":  func(s *Seed) { s.User, s.UserRaw = nil, make([]byte, MaxFileSize+1) },
		"large network":    func(s *Seed) { s.Network, s.NetworkRaw = nil, make([]byte, MaxFileSize+1) },
		"large in sum": func(s *Seed) {
			for range 3 {
				s.User.WriteFiles = append(s.User.WriteFiles, WriteFile{Path: "/a", Content: make([]byte, MaxFileSize/3)})
			}
		},
		"time zone":       func(s *Seed) { s.User.Timezone = "../../etc/shadow" },
		"locale":          func(s *Seed) { s.User.Locale = "a\nb" },
		"package":         func(s *Seed) { s.User.Packages = []string{"-o=x"} },
		"package space":   func(s *Seed) { s.User.Packages = []string{"a b"} },
		"no command":      func(s *Seed) { s.User.RunCmd = []Command{{}} },
		"two commands":    func(s *Seed) { s.User.RunCmd = []Command{{Shell: "a", Args: []string{"b"}}} },
		"binary command":  func(s *Seed) { s.User.BootCmd = []Command{{Shell: "a\x00"}} },
		"no UTF-8":        func(s *Seed) { s.User.RunCmd = []Command{{Args: []string{"\xff"}}} },
		"user":            user(User{Name: "Root"}),
		"no user":         user(User{}),
		"gecos":           user(User{Name: "a", Gecos: "a:0:0"}),
		"gecos line":      user(User{Name: "a", Gecos: "a\nroot"}),
		"group":           user(User{Name: "a", Groups: []string{"a,b"}}),
		"shell":           user(User{Name: "a", Shell: "sh"}),
		"password":        user(User{Name: "a", HashedPassword: "secret word"}),
		"sudo":            user(User{Name: "a", Sudo: "ALL\nroot ALL"}),
		"file":            file(WriteFile{Path: "etc/motd"}),
		"file NUL":        file(WriteFile{Path: "/etc/\x00"}),
		"permissions":     file(WriteFile{Path: "/a", Permissions: "rwx"}),
		"owner":           file(WriteFile{Path: "/a", Owner: "root root"}),
		"large file":      file(WriteFile{Path: "/a", Content: make([]byte, MaxFileSize+1)}),
		"interface":       nic(Interface{Name: "a b", MAC: mac}),
		"no mac":          nic(Interface{Name: "a"}),
		"mtu":             nic(Interface{Name: "a", MAC: mac, MTU: 1}),
		"address":         nic(Interface{Name: "a", MAC: mac, Addresses: []netip.Prefix{{}}}),
		"gateway family":  nic(Interface{Name: "a", MAC: mac, Gateway4: netip.MustParseAddr("::1")}),
		"gateway zone":    nic(Interface{Name: "a", MAC: mac, Gateway6: netip.MustParseAddr("fe80::1%eth0")}),
		"route":           nic(Interface{Name: "a", MAC: mac, Routes: []Route{{To: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("10.0.0.1")}}}),
		"name server":     nic(Interface{Name: "a", MAC: mac, Nameservers: []netip.Addr{{}}}),
		"search":          nic(Interface{Name: "a", MAC: mac, Search: []string{"a b"}}),
		"interface twice": func(s *Seed) { nic(Interface{Name: "a", MAC: mac})(s); nic(Interface{Name: "b", MAC: mac})(s) },
	} {
		files, err := base(f).Files()
		if !errors.Is(err, ErrInvalid) || files != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 4000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is in the error: %v", err)
		}
	}
}

// decode reads YAML back into plain values.
func decode(t testing.TB, b []byte) (out map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal(b, &out); err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	return out
}

// FuzzHostileStrings: whatever a client puts into a field is either refused or
// comes out of the YAML as it went in, in the place where it belongs.
func FuzzHostileStrings(f *testing.F) {
	for _, s := range []string{"yes", "1:30", "0o17", "=", "<<", "a: b", "- a", "#", "*a", "&a", "!!python/object:os.system", "\u2028", "\u0085", "\ufeff", "a\n...\n---\nusers: []", "{{ ds }}", "'\"", "\\", "%YAML 1.1", "|", ">", "a\tb", " a ", "\U0001f41d", "\r\n", "~", "null", "?", "@x", "`x`"} {
		f.Add(s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, s string, content []byte) {
		seed := &Seed{InstanceID: "i", Hostname: "h", User: &Config{
			RunCmd:         []Command{{Shell: s}, {Args: []string{s, "x"}}},
			FinalMessage:   s,
			Users:          []User{{Name: "u", Gecos: s, Sudo: s}},
			AuthorizedKeys: []string{"ssh-rsa " + s},
			WriteFiles:     []WriteFile{{Path: "/x" + s, Content: content}},
		}}
		files, err := seed.Files()
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			seed.User = &Config{WriteFiles: []WriteFile{{Path: "/x", Content: content}}}
			if files, err = seed.Files(); err != nil {
				if len(content) > MaxFileSize/2 {
					return
				}
				t.Fatalf("content refused: %v", err)
			}
		}
		got := decode(t, files[1].Data)
		w := got["write_files"].([]any)[0].(map[string]any)
		var have []byte
		if w["encoding"] == "b64" {
			have = unbase64(t, w["content"].(string))
		} else {
			have = []byte(w["content"].(string))
		}
		if !bytes.Equal(have, content) {
			t.Fatalf("content %q came out as %q", content, have)
		}
		if seed.User.RunCmd == nil {
			return
		}
		want := map[string]any{
			"users":               []any{"default", map[string]any{"name": "u", "gecos": s, "sudo": s, "passwd": "*", "lock_passwd": true}},
			"ssh_authorized_keys": []any{"ssh-rsa " + s},
			"write_files":         got["write_files"],
			"runcmd":              []any{s, "'" + strings.ReplaceAll(s, "'", `'\''`) + "' 'x'"},
			"final_message":       s,
		}
		if w["path"] != "/x"+s || !reflect.DeepEqual(got, want) {
			t.Fatalf("%q came out as %#v", s, got)
		}
	})
}

// FuzzHostname: a name that passes is one that a shell, a file and a header
// could take unquoted.
func FuzzHostname(f *testing.F) {
	f.Add("vm1.example.org")
	f.Add("a\n")
	f.Add("-")
	f.Fuzz(func(t *testing.T, s string) {
		if CheckHostname(s) == nil && (len(s) > 253 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" || strings.Contains(s, "..")) {
			t.Fatalf("%q passes", s)
		}
	})
}

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
