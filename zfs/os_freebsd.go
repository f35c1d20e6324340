// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func moduleVersion() (string, error) { return unix.Sysctl("vfs.zfs.version.module") }

const (
	defaultACL = "nfsv4"
	zonedProp  = "jailed"
)

// deviceDirs are where devices of pools are looked for, the lasting names first.
var deviceDirs = []string{"/dev/gpt", "/dev/diskid", "/dev"}

func isDisk(fi os.FileInfo) bool {
	return fi.Mode()&os.ModeDevice != 0 && strings.ContainsAny(fi.Name(), "0123456789")
}

// exclusive fails if a device cannot be had for writing: GEOM refuses one that is in use.
func exclusive(path string) error {
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().IsRegular() {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Errnos that OpenZFS spells as it can on each system (sys/errno.h of its SPL).
const (
	eTime  = syscall.ETIMEDOUT
	eCksum = syscall.Errno(97) // ECKSUM is EINTEGRITY
)
