// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/skepvm/skep/image"
)

const shipped = "../../../../dist/images.yaml"

// TestShippedCatalogue: dist/images.yaml is a catalogue, and says of debian12
// what debianImage makes.
func TestShippedCatalogue(t *testing.T) {
	c, err := image.LoadCatalogue(shipped)
	if err != nil {
		t.Fatal(err)
	}
	i, err := c.Lookup("debian12")
	if err != nil {
		t.Fatal(err)
	}
	if i.MinDisk != imageSize || i.User != "debian" || i.Format != image.FormatRaw || i.Kernel == nil || i.Initrd == nil {
		t.Fatalf("%+v", i)
	}
	if !strings.HasPrefix(i.Cmdline, "root=LABEL="+imageLabel+" ro console=ttyS0") {
		t.Errorf("command line %q: the file system's label is %s", i.Cmdline, imageLabel)
	}
	for source, want := range map[string]string{i.Source: "debian12.raw", i.Kernel.Source: "debian12.vmlinuz", i.Initrd.Source: "debian12.initrd"} {
		if filepath.Base(source) != want || filepath.Dir(source) != "/var/lib/skep-images" {
			t.Errorf("source %s, want %s in the directory that the README copies it to", source, want)
		}
	}
}

// TestShippedExample: what the file has in comments is an entry, too.
func TestShippedExample(t *testing.T) {
	b, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?m)^# ([- ] )`).ReplaceAllString(string(b), "$1")
	text = strings.ReplaceAll(text, "sha256:...", "sha256:"+strings.Repeat("0", 64))
	c, err := image.ReadCatalogue(strings.NewReader(text), "/")
	if err != nil {
		t.Fatal(err)
	}
	if all := c.Images(); len(all) != 2 {
		t.Errorf("%d images, want the one and the example", len(all))
	}
}
