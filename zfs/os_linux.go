// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"os"
	"syscall"
)

func moduleVersion() (string, error) {
	b, err := os.ReadFile("/sys/module/zfs/version")
	return string(b), err
}

const (
	defaultACL = "off"
	zonedProp  = "zoned"
)

// deviceDirs are where devices of pools are looked for, the lasting names first.
var deviceDirs = []string{"/dev/disk/by-id", "/dev/disk/by-partuuid", "/dev"}

func isDisk(fi os.FileInfo) bool { return fi.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice }

// exclusive fails if a block device is in use: mounted, or part of another.
func exclusive(path string) error {
	fi, err := os.Stat(path)
	if err != nil || !isDisk(fi) {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_EXCL, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// Errnos that OpenZFS spells as it can on each system (sys/errno.h of its SPL).
const (
	eTime  = syscall.ETIME
	eCksum = syscall.EBADE // ECKSUM
)
