// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// DirEnv names a directory with vmlinuz and initrd that is used instead of
// Dir.
const DirEnv = "SKEP_GUEST_DIR"

// Dir is where a testbed has the guest.
const Dir = "/opt/skep/guest"

// Marker is a file in the initrd by which its init knows what it is.
const Marker = "/skep-guest"

// Consoles for Cmdline.
const (
	Serial = "ttyS0" // the 16550 at 0x3f8
	Virtio = "hvc0"  // the first virtio console
)

// CloudParam on the guest's command line makes it a cloud guest: it takes its
// host name, addresses and keys from the NoCloud seed on one of its disks, and
// lets whoever has a key in by ssh, under any name; a command, whichever it is,
// answers the host name.
const CloudParam = "skep.cloud"

// Files is the guest: a bzImage and an initrd.
type Files struct {
	Kernel, Initrd string
}

// Find returns the guest's files. It fails where there is no testbed.
func Find() (Files, error) {
	dir := os.Getenv(DirEnv)
	if dir == "" {
		dir = Dir
	}
	f := Files{Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd")}
	for _, p := range []string{f.Kernel, f.Initrd} {
		if _, err := os.Stat(p); err != nil {
			return Files{}, fmt.Errorf("the test guest is part of a testbed (go test -exec 'skep-testbed exec') or named by %s: %w", DirEnv, err)
		}
	}
	return f, nil
}

// Cmdline returns a kernel command line with the console on which the guest's
// init speaks.
func Cmdline(console string, extra ...string) string {
	args := []string{
		"console=" + console, "quiet", "panic=-1", "mitigations=off", "nokaslr", "random.trust_cpu=on",
		"no_timer_check", // an emulated host may be too slow for it
		"skep.console=" + console,
	}
	if console == Serial {
		args = append(args, "8250.nr_uarts=1")
	}
	return strings.Join(append(args, extra...), " ")
}
