// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package bed

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kdomanski/iso9660"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/agent"
)

// TestSeed reads back the two disks that a FreeBSD image gets its orders by.
func TestSeed(t *testing.T) {
	// Not a whole MiB: what is read back is padded.
	binary := bytes.Repeat([]byte("agent"), 1<<18)
	path := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(path, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &machine{}
	defer m.close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	m.fd(null) // descriptors are counted on from what is there
	if err := m.addSeed(path); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-drive", "if=none,id=agent,file=/dev/fd/4,format=raw,read-only=on,discard=unmap,cache=unsafe,file.locking=off",
		"-device", "virtio-blk-pci,drive=agent,serial=agent",
		"-drive", "if=none,id=seed,file=/dev/fd/5,format=raw,read-only=on,discard=unmap,cache=unsafe,file.locking=off",
		"-device", "virtio-blk-pci,drive=seed,serial=seed",
	}
	if !slices.Equal(m.args, want) {
		t.Errorf("QEMU gets\n%q\nwant\n%q", m.args, want)
	}
	if len(m.files) != 3 {
		t.Fatalf("%d files", len(m.files))
	}
	disk := whole(t, m.files[1])
	if !bytes.Equal(disk[:len(binary)], binary) || len(disk)%(1<<20) != 0 || len(disk)-len(binary) >= 1<<20 {
		t.Errorf("the agent's disk has %d bytes, the agent %d", len(disk), len(binary))
	}

	iso := whole(t, m.files[2])
	image, err := iso9660.OpenImage(bytes.NewReader(iso))
	if err != nil {
		t.Fatal(err)
	}
	if label, err := image.Label(); err != nil || label != "cidata" {
		t.Errorf("label %q, %v", label, err)
	}
	root, err := image.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	children, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, c := range children {
		b, err := io.ReadAll(c.Reader())
		if err != nil {
			t.Fatal(err)
		}
		files[c.Name()] = string(b)
	}
	script := files["user-data"]
	if script != seedScript || !strings.HasPrefix(script, "#!/bin/sh\n") {
		t.Errorf("user-data:\n%s", script)
	}
	// It must find the disk by the serial number that QEMU gives it, and start
	// what it finds there as the agent.
	for _, line := range []string{
		"dd if=$(disk agent) of=/var/run/skep-testbed/agent ",
		`[ "$(diskinfo -s $d)" = $1 ]`,
		"/var/run/skep-testbed/agent " + agent.ServeArg + "\n",
	} {
		if !strings.Contains(script, line) {
			t.Errorf("user-data has no %q", line)
		}
	}
	if meta := files["meta-data"]; !strings.Contains(meta, "skep-testbed") || !strings.Contains(meta, "instance-id:") || !strings.Contains(meta, "local-hostname:") {
		t.Errorf("meta-data:\n%s", meta)
	}
}

func TestSeedWithoutAgent(t *testing.T) {
	m := &machine{}
	defer m.close()
	if err := m.addSeed(filepath.Join(t.TempDir(), "none")); err == nil || len(m.args) != 0 || len(m.files) != 0 {
		t.Errorf("%v, %q", err, m.args)
	}
}

func TestDeadEnd(t *testing.T) {
	for console, want := range map[string]string{
		"": "",
		"Starting syslogd.\nMounting late filesystems:.":    "",
		"FreeBSD/amd64 (freebsd) (ttyu0)\n\nlogin:":         "nuageinit",
		"Last login: today\nExecuting user_data script":     "",
		"startup.nsh\n\x1b[1mShell> \x1b[0m":                "loader",
		"Manual root filesystem specification:\nmountroot>": "root",
	} {
		err := deadEnd(console)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", console, err, want)
		}
	}
}

func TestDiskFormat(t *testing.T) {
	for content, want := range map[string]string{
		"QFI\xfb\x00\x00\x00\x03":  "qcow2",
		"\xeb\x3c\x90FreeBSD":      "raw",
		"\xfd7zXZ\x00\x00\x04":     "compressed",
		"\x1f\x8b\x08\x00\x00\x00": "compressed",
		"\x28\xb5\x2f\xfd\x04\x00": "compressed",
		"":                         "EOF",
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := diskFormat(f)
		f.Close()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: %s, want %s", content, got, want)
		}
	}
}

func whole(t *testing.T, f *os.File) []byte {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}
