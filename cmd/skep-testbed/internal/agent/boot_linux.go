// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/kmod"
	"golang.org/x/sys/unix"
)

// Parameters of the kernel's command line.
const (
	paramLayers = "skep.layers="  // block device serials, the top of the overlay first
	paramMounts = "skep.mounts="  // serial:type:ro|rw:directory, separated by commas
	paramMods   = "skep.modules=" // modules to load once the root is there: name[:param=value]
)

// boot turns an initramfs into a running system and returns the path under
// which this binary can be run in it.
func boot() (string, error) {
	for _, m := range []struct{ src, dst, typ, data string }{
		{"proc", "/proc", "proc", ""}, {"sysfs", "/sys", "sysfs", ""}, {"dev", "/dev", "devtmpfs", "mode=0755"},
	} {
		if err := mount(m.src, m.dst, m.typ, 0, m.data); err != nil {
			return "", err
		}
	}
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return "", err
	}
	for _, name := range strings.Fields(string(list)) {
		if err := loadModule("/modules/"+name, ""); err != nil {
			return "", err
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return "", err
	}
	params := strings.Fields(string(cmdline))
	if err := mountRoot(param(params, paramLayers)); err != nil {
		return "", err
	}
	for _, spec := range strings.Split(param(params, paramMounts), ",") {
		if err := mountDisk(spec); err != nil {
			return "", err
		}
	}
	if err := switchRoot(); err != nil {
		return "", err
	}
	if err := settle(); err != nil {
		return "", err
	}
	return agentPath, loadNamed(param(params, paramMods))
}

const agentPath = "/run/skep-testbed/agent"

func param(params []string, name string) string {
	for _, p := range params {
		if v, ok := strings.CutPrefix(p, name); ok {
			return v
		}
	}
	return ""
}

func mount(src, dst, typ string, flags uintptr, data string) error {
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(src, dst, typ, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", src, dst, err)
	}
	return nil
}

// mountRoot mounts the read-only layers and an overlay of them at /newroot
// whose changes live in memory.
func mountRoot(layers string) error {
	var lower []string
	for _, serial := range strings.Split(layers, ",") {
		dev, err := diskBySerial(serial)
		if err != nil {
			return err
		}
		dir := "/layers/" + serial
		if err := mount(dev, dir, "squashfs", unix.MS_RDONLY, ""); err != nil {
			return err
		}
		lower = append(lower, dir)
	}
	if err := mount("rw", "/rw", "tmpfs", 0, "mode=0755,size=75%"); err != nil {
		return err
	}
	for _, d := range []string{"/rw/upper", "/rw/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	return mount("root", "/newroot", "overlay", 0,
		"lowerdir="+strings.Join(lower, ":")+",upperdir=/rw/upper,workdir=/rw/work")
}

func mountDisk(spec string) error {
	if spec == "" {
		return nil
	}
	f := strings.SplitN(spec, ":", 4)
	if len(f) != 4 {
		return fmt.Errorf("bad %s%s", paramMounts, spec)
	}
	dev, err := diskBySerial(f[0])
	if err != nil {
		return err
	}
	var flags uintptr = unix.MS_NOATIME
	var data string
	switch {
	case f[2] == "ro":
		flags |= unix.MS_RDONLY
		if f[1] == "ext4" {
			data = "noload" // its journal cannot be written either
		}
	case f[1] == "ext4":
		data = "discard"
	}
	return mount(dev, "/newroot"+f[3], f[1], flags, data)
}

// diskBySerial finds a virtio disk by the serial that QEMU gave it.
func diskBySerial(serial string) (string, error) {
	for range 200 {
		files, _ := filepath.Glob("/sys/block/vd*/serial")
		for _, f := range files {
			if s, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(s)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(f)), nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("no disk has the serial %q", serial)
}

func switchRoot() error {
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		if err := mount(d, "/newroot"+d, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	if err := mount("run", "/newroot/run", "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if err := os.MkdirAll("/newroot"+filepath.Dir(agentPath), 0o755); err != nil {
		return err
	}
	if err := copyFile("/init", "/newroot"+agentPath, 0o755); err != nil {
		return err
	}
	if err := os.Remove("/init"); err != nil { // gives its memory back
		return err
	}
	if err := unix.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	return unix.Chdir("/")
}

func copyFile(src, dst string, perm os.FileMode) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// settle does what an init does before it starts services.
func settle() error {
	for _, m := range []struct{ src, dst, typ, data string }{
		{"tmp", "/tmp", "tmpfs", "mode=1777,size=75%"},
		{"shm", "/dev/shm", "tmpfs", "mode=1777"},
		{"devpts", "/dev/pts", "devpts", "mode=0620,gid=5,ptmxmode=0666"},
		{"cgroup", "/sys/fs/cgroup", "cgroup2", ""},
	} {
		if err := mount(m.src, m.dst, m.typ, 0, m.data); err != nil {
			return err
		}
	}
	if err := os.Chmod("/var/tmp", 0o1777); err != nil {
		return err
	}
	for dst, src := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(src, dst); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// Mounts of one session must not reach another through propagation.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("testbed")); err != nil {
		return err
	}
	_ = os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost testbed\n::1 localhost\n"), 0o644)
	_ = os.WriteFile("/etc/hostname", []byte("testbed\n"), 0o644)
	for _, c := range []string{"+cpu", "+memory", "+pids", "+io"} {
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte(c), 0)
	}
	return loopbackUp()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

func loadModule(path, params string) error {
	content, err := kmod.Read(path)
	if err != nil {
		return err
	}
	if err := unix.InitModule(content, params); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s %s: %w", path, params, err)
	}
	return nil
}

// loadNamed loads modules of the running kernel's tree. A name that ends in
// "?" may be missing or fail.
func loadNamed(specs string) error {
	if specs == "" {
		return nil
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	tree, err := kmod.Scan("/usr/lib/modules/" + unix.ByteSliceToString(uts.Release[:]))
	if err != nil {
		return err
	}
	for _, spec := range strings.Split(specs, ",") {
		name, params, _ := strings.Cut(spec, ":")
		name, optional := strings.CutSuffix(name, "?")
		files, err := tree.Order(name)
		for i, f := range files {
			if err == nil {
				p := ""
				if i == len(files)-1 {
					p = strings.ReplaceAll(params, ":", " ")
				}
				err = loadModule(f, p)
			}
		}
		if err != nil && !optional {
			return err
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "skep-testbed agent: %v\n", err)
		}
	}
	return nil
}

// portDrops: virtio-serial waits for the reader.
const portDrops = false

// mailboxes: none is needed, the control port is fast.
var mailboxes []string

// openControl opens the port through which the command outside speaks.
func openControl() (io.ReadWriteCloser, error) {
	for range 500 {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, n := range names {
			if s, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(s)) == ControlPort {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(n)), os.O_RDWR, 0)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio port is named %s", ControlPort)
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
