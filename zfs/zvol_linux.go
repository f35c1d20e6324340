// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// volumeNode gives udev's link if it is there and leads to a zvol of that
// name, and asks the zvols for their names where there is no udev.
func volumeNode(name string) (string, error) {
	link := "/dev/zvol/" + strings.ReplaceAll(name, " ", "+")
	if dev, err := filepath.EvalSymlinks(link); err == nil {
		if n, err := volumeName(dev); err == nil && n == name {
			return link, nil
		}
	}
	devs, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", err
	}
	for _, d := range devs {
		dev := "/dev/" + d.Name()
		if !strings.HasPrefix(d.Name(), "zd") {
			continue
		}
		if n, err := volumeName(dev); err == nil && n == name {
			return dev, nil
		}
	}
	return "", &fs.PathError{Op: "stat", Path: link, Err: fs.ErrNotExist}
}

// prodVolume is for FreeBSD, whose kernel may have to be asked twice.
func (h *Handle) prodVolume(context.Context, string) error { return nil }

func volumeName(dev string) (string, error) {
	f, err := os.Open(dev)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return blkZname(f)
}
