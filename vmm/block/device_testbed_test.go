// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package block

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// A block device: a loop device on Linux, on FreeBSD the disk that the host was
// booted from, which is only looked at.
func TestDevice(t *testing.T) {
	if runtime.GOOS == "freebsd" {
		b, err := OpenFile("/dev/vtbd0", true)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if g := b.Geometry(); g.Size < 1<<20 || g.Logical != 512 || g.Physical < 512 {
			t.Errorf("%+v", g)
		}
		p := make([]byte, 512)
		if err := b.ReadV([][]byte{p[:100], p[100:]}, 512); err != nil || string(p[:8]) != "EFI PART" {
			t.Errorf("%q, %v", p[:8], err)
		}
		return
	}
	_, want, path := filled(t)
	out, err := exec.Command("losetup", "-f", "--show", path).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", dev).Run()
	b, err := OpenFile(dev, false)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if g := b.Geometry(); g.Size != size || g.Logical != 512 {
		t.Errorf("%+v", g)
	}
	if err := b.WriteZeroes(1<<20, 1<<20, true); err != nil {
		t.Fatal(err)
	}
	if err := b.Discard(2<<20, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := b.WriteV(cut(want[3<<20:], 10), 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:1<<20], want[3<<20:]) || !bytes.Equal(got[1<<20:2<<20], make([]byte, 1<<20)) || !bytes.Equal(got[3<<20:], want[3<<20:]) {
		t.Error("the file behind the device differs")
	}
	if !b.hole.Load() || !b.zero.Load() {
		t.Error("the device's discard or zero was refused")
	}
}
