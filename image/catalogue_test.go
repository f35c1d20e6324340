// SPDX-License-Identifier: BSD-2-Clause

package image

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const catalogueYAML = `
images:
  - name: debian12
    aliases: [debian, bookworm]
    description: Debian 12, cloud kernel
    source: https://cloud.example.org/debian-12.qcow2
    checksum: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
    format: qcow2
    os: linux
    profile: debian
    user: debian
    min_disk: 2g
    min_ram: 256M
    kernel: {source: vmlinuz}
    initrd: {source: /boot/initrd}
    cmdline: root=/dev/vda1 console=ttyS0
  - {name: freebsd15, source: freebsd.raw.xz, min_disk: 1048576}
`

func TestCatalogue(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "catalogue.yaml")
	write(t, path, []byte(catalogueYAML))
	c, err := LoadCatalogue(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Image{
		Name: "debian12", Aliases: []string{"debian", "bookworm"}, Description: "Debian 12, cloud kernel",
		Source:   "https://cloud.example.org/debian-12.qcow2",
		Checksum: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", Format: FormatQcow2,
		OS: "linux", Profile: "debian", User: "debian", MinDisk: 2 << 30, MinRAM: 256 << 20,
		Kernel: &File{Source: dir + "/vmlinuz"}, Initrd: &File{Source: "/boot/initrd"}, Cmdline: "root=/dev/vda1 console=ttyS0",
	}
	for _, name := range []string{"debian12", "debian", "bookworm"} {
		if got, err := c.Lookup(name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := c.Lookup("freebsd15"); err != nil || got.Source != dir+"/freebsd.raw.xz" || got.MinDisk != 1<<20 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.Lookup("none"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if all := c.Images(); len(all) != 2 || all[0].Name != "debian12" {
		t.Errorf("%+v", all)
	}
	if _, err := LoadCatalogue(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if c, err := ReadCatalogue(strings.NewReader(""), ""); err != nil || len(c.Images()) != 0 {
		t.Errorf("an empty file: %v", err)
	}
	if _, err := ReadCatalogue(io.LimitReader(zeroReader{}, maxCatalogue+1), ""); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"unknown field":   "images: [{name: a, source: b, sauce: c}]",
		"no name":         "images: [{source: b}]",
		"no source":       "images: [{name: a}]",
		"name":            "images: [{name: A/b, source: b}]",
		"alias":           "images: [{name: a, source: b, aliases: ['..']}]",
		"twice":           "images: [{name: a, source: b}, {name: a, source: b}]",
		"alias twice":     "images: [{name: a, source: b}, {name: c, source: b, aliases: [a]}]",
		"format":          "images: [{name: a, source: b, format: vmdk}]",
		"checksum":        "images: [{name: a, source: b, checksum: 'md5:00'}]",
		"short checksum":  "images: [{name: a, source: b, checksum: 'sha256:00'}]",
		"no checksum":     "images: [{name: a, source: 'http://example.org/a'}]",
		"kernel unsafe":   "images: [{name: a, source: b, kernel: {source: 'http://example.org/a'}}]",
		"initrd alone":    "images: [{name: a, source: b, initrd: {source: c}}]",
		"size":            "images: [{name: a, source: b, min_disk: 2x}]",
		"negative":        "images: [{name: a, source: b, min_disk: -2}]",
		"size of a list":  "images: [{name: a, source: b, min_disk: [2]}]",
		"command line":    "images: [{name: a, source: b, cmdline: \"a\\nb\"}]",
		"user":            "images: [{name: a, source: b, user: 'a b'}]",
		"not a catalogue": "[1, 2]",
		"not YAML":        "images: [",
		"alias bomb":      "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\nimages: [*d,*d,*d,*d,*d,*d]",
	} {
		if _, err := ReadCatalogue(strings.NewReader(text), "/d"); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]Size{"0": 0, "512": 512, "1k": 1 << 10, "2M": 2 << 20, "3g": 3 << 30, "4T": 4 << 40} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "g", "-1", "1.5g", "1gb", "1 g", "0x10", "99999999999999999999", "9999999999t", "１"} {
		if got, err := ParseSize(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
}
