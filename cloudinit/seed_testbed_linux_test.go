// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package cloudinit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mountISO mounts an image by a loop device, and returns where.
func mountISO(t *testing.T, img []byte) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "seed.iso")
	if err := os.WriteFile(path, img, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"loop", "isofs"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			t.Fatalf("modprobe %s: %v: %s", module, err, out)
		}
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	loop, err := os.OpenFile(fmt.Sprint("/dev/loop", n), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer loop.Close()
	err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
		Fd:   uint32(file.Fd()),
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
	})
	if err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(loop.Name(), mnt, "iso9660", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	return mnt
}

func TestLinuxMountsTheSeed(t *testing.T) {
	s := fullSeed()
	img, err := s.ISO()
	if err != nil {
		t.Fatal(err)
	}
	mnt := mountISO(t, img)
	files, err := s.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if got, err := os.ReadFile(filepath.Join(mnt, f.Name)); err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("%s: %v, %d bytes of %d", f.Name, err, len(got), len(f.Data))
		}
	}
	all, err := os.ReadDir(mnt)
	if err != nil || len(all) != len(files) {
		t.Errorf("%v, %v", all, err)
	}
	// blkid is how cloud-init finds the label.
	iso := filepath.Join(filepath.Dir(mnt), "seed.iso")
	if out, err := exec.Command("blkid", "-o", "export", iso).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("LABEL=cidata\n")) || !bytes.Contains(out, []byte("TYPE=iso9660\n")) {
		t.Errorf("blkid: %v: %s", err, out)
	}
}

// cloudInit runs cloud-init's command line with each list of arguments, in one
// process: to start Python takes long in the testbed.
const cloudInit = `
import json, sys
from cloudinit.cmd.main import main
for args in json.loads(sys.argv[1]):
    try:
        status = main(["cloud-init"] + args) or 0
    except SystemExit as e:
        status = e.code or 0
    print(args[0], "status", status, flush=True)
    if status: sys.exit("cloud-init %s: %s" % (args, status))
`

// TestCloudInitAccepts asks Debian's cloud-init: its schema, and what its
// renderers make of the network configuration.
func TestCloudInitAccepts(t *testing.T) {
	dir := t.TempDir()
	var calls [][]string
	rendered := map[string]string{} // by what it is, where it is
	for _, version := range []int{1, 2} {
		s := fullSeed()
		s.NetworkVersion = version
		files, err := s.Files()
		if err != nil {
			t.Fatal(err)
		}
		sub := filepath.Join(dir, fmt.Sprint(version))
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(sub, f.Name), f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		calls = append(calls, []string{"schema", "--config-file", filepath.Join(sub, map[int]string{1: "user-data", 2: "vendor-data"}[version])})
		for _, kind := range []string{"netplan", "eni"} {
			to := filepath.Join(sub, kind)
			rendered[fmt.Sprint(kind, " of version ", version)] = to
			args := []string{"devel", "net-convert", "-p", filepath.Join(sub, "network-config"), "-k", "yaml", "-d", to, "-D", "debian", "-O", kind}
			for _, i := range s.Network.Interfaces {
				args = append(args, "-m", i.Name+","+i.MAC.String())
			}
			calls = append(calls, args)
		}
	}
	arg, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "python3", "-c", cloudInit, string(arg)).CombinedOutput()
	if err != nil || bytes.Count(out, []byte("Valid cloud-config")) != 2 || bytes.Contains(bytes.ToLower(out), []byte("deprecat")) {
		t.Fatalf("%v: %s", err, out)
	}
	for what, to := range rendered {
		var all strings.Builder
		err := filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		for _, want := range []string{"10.0.0.7/24", "2001:db8::7/64", "10.0.0.1", "fe80::1", "9.9.9.9", "2620:fe::fe", "example.org", "10.0.0.254", "198.51.100.9/32", "192.0.2.1", "1450"} {
			if !strings.Contains(all.String(), want) {
				t.Errorf("%s lacks %s:\n%s", what, want, all.String())
			}
		}
		if strings.Contains(all.String(), " ::/64") {
			t.Errorf("%s has a route that nobody asked for:\n%s", what, all.String())
		}
	}
}
