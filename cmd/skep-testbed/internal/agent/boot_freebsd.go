// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// freebsdModules are loaded if the kernel has them and not yet in itself.
var freebsdModules = []string{"virtio_console", "tmpfs", "fdescfs", "if_bridge", "if_epair", "if_tuntap", "if_vxlan", "nmdm", "pf", "vmm", "zfs"}

// boot turns a kernel that has just started its init into a running system.
func boot() (string, error) {
	// The kernel starts init without files and Go's runtime opens /dev/null in
	// their place.
	console, err := unix.Open("/dev/console", unix.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	for fd := range 3 {
		if err := unix.Dup2(console, fd); err != nil {
			return "", err
		}
	}
	if err := nmount(unix.MNT_UPDATE, "fstype", "ufs", "fspath", "/", "from", "/dev/vtbd0p2", "rw", ""); err != nil {
		return "", err
	}
	for _, m := range freebsdModules {
		// ENOENT: not in this kernel's directory, or in the kernel itself.
		if err := kldload(m); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) {
			logf("%v", err)
		}
	}
	if err := bringUpLoopback(); err != nil {
		return "", err
	}
	for _, d := range []string{"/tmp", "/var/tmp", "/var/run", "/root", "/usr/bin"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	for _, d := range []string{"/tmp", "/var/run"} {
		if err := nmount(0, "fstype", "tmpfs", "fspath", d, "from", "tmpfs"); err != nil {
			return "", err
		}
	}
	for _, d := range []string{"/tmp", "/var/tmp"} {
		if err := os.Chmod(d, 0o1777); err != nil {
			return "", err
		}
	}
	for _, disk := range imagesDisks {
		if _, err := os.Stat(disk); err != nil {
			continue
		}
		if err := nmount(unix.MNT_RDONLY, "fstype", "ufs", "fspath", "/opt/skep/images", "from", disk); err != nil {
			return "", err
		}
		break
	}
	return "/sbin/init", nil
}

// portDrops: the control port is a terminal, which drops what does not fit its
// input queue.
const portDrops = true

// mailboxes are the names of the disk through which files come: by its serial,
// or by its place where the kernel does not label disks.
var mailboxes = []string{"/dev/diskid/DISK-mailbox", "/dev/vtbd1"}

// imagesDisks are those of the disk with the cloud images.
var imagesDisks = []string{"/dev/diskid/DISK-images", "/dev/vtbd2"}

// openControl opens the port through which the command outside speaks.
func openControl() (io.ReadWriteCloser, error) {
	if err := becomeReaper(); err != nil {
		return nil, err
	}
	path := "/dev/vtcon/" + ControlPort
	for range 500 {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TIOCGETA)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		// cfmakeraw(3), and a speed that sizes the queues.
		t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON | unix.IXOFF | unix.IMAXBEL
		t.Oflag &^= unix.OPOST
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		t.Ispeed, t.Ospeed = 921600, 921600
		if err := unix.IoctlSetTermios(int(f.Fd()), unix.TIOCSETA, t); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return f, nil
	}
	return nil, fmt.Errorf("no virtio port: %s is missing", path)
}
