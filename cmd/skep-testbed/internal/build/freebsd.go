// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// FreeBSDEnv names a FreeBSD disk image or /boot directory.
const FreeBSDEnv = "SKEP_FREEBSD"

// ErrNoFreeBSD says that there is no FreeBSD to run.
var ErrNoFreeBSD = errors.New("there is no FreeBSD: set " + FreeBSDEnv + " to a disk image or a /boot directory, or put one at ~/.cache/skep-testbed/freebsd")

// A FreeBSD is what a FreeBSD testbed boots.
type FreeBSD struct {
	Disk  string // raw or qcow2
	Image bool   // a whole system that boots its own loader and init, not one of ours
}

// freebsdModules are loaded by the loader if the /boot directory has them: a
// small kernel needs the first few to see its disk. Not so vmm, which the agent
// loads: what the loader has loaded the kernel never unloads, and tests do that.
var freebsdModules = []string{
	"virtio", "virtio_pci", "virtio_blk", "virtio_console", "virtio_random", "virtio_balloon",
	"tmpfs", "fdescfs", "nullfs", "opensolaris", "zfs", "nmdm",
	"if_bridge", "if_epair", "if_tuntap", "if_vxlan", "if_vlan", "pf",
}

const (
	espSize = 64 << 20
	ufsSize = 6 << 30
	// freebsdConf is /boot/loader.conf. ULE lets whoever sleeps much go before whoever
	// computes, always: on one emulated processor the start of a program is computing
	// enough to stand still for minutes while others wake. With interact, whose name
	// 15 has changed, all share it.
	freebsdConf = `autoboot_delay="-1"
beastie_disable="YES"
loader_logo="none"
console="comconsole"
boot_serial="YES"
vfs.root.mountfrom="ufs:/dev/vtbd0p2"
vfs.root.mountfrom.options="ro"
kern.racct.enable="1"
kern.sched.interact="0"
kern.sched.ule.interact="0"
hw.vmm.maxcpu="16"
vfs.zfs.bclone_enabled="1"
hw.memtest.tests="0"
kern.timecounter.smp_tsc="1"
`
)

// freebsdSource returns what FreeBSDEnv names, or the default.
func (c *Cache) freebsdSource() (string, error) {
	source := os.Getenv(FreeBSDEnv)
	if source == "" {
		source = filepath.Join(c.dir, "freebsd")
		if _, err := os.Stat(source); errors.Is(err, os.ErrNotExist) {
			return "", ErrNoFreeBSD
		}
	}
	if _, err := os.Stat(source); err != nil {
		return "", fmt.Errorf("%s: %w", FreeBSDEnv, err)
	}
	return source, nil
}

// HasFreeBSD returns ErrNoFreeBSD if there is none to run.
func (c *Cache) HasFreeBSD() error {
	_, err := c.freebsdSource()
	return err
}

// FreeBSD finds the FreeBSD to run and makes a disk of it if it is a /boot
// directory, with the agent as its init.
func (c *Cache) FreeBSD(ctx context.Context, agent string) (*FreeBSD, error) {
	source, err := c.freebsdSource()
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(source)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return &FreeBSD{Disk: source, Image: true}, nil
	}
	boot := source
	if _, err := os.Stat(filepath.Join(boot, "loader.efi")); err != nil {
		boot = filepath.Join(source, "boot")
		if _, err := os.Stat(filepath.Join(boot, "loader.efi")); err != nil {
			return nil, fmt.Errorf("%s is no FreeBSD /boot directory: %w", source, err)
		}
	}
	state, err := treeState(boot)
	if err != nil {
		return nil, err
	}
	sum, err := fileSum(agent)
	if err != nil {
		return nil, err
	}
	dir, err := c.artifact(ctx, "freebsddisk", recipe("freebsd 3", state, sum, freebsdModules, freebsdConf, fmt.Sprint(ufsSize)),
		func(ctx context.Context, dir string) error { return c.freebsdDisk(ctx, boot, agent, dir) })
	return &FreeBSD{Disk: filepath.Join(dir, "disk.raw")}, err
}

// treeState describes a directory's files without reading them.
func treeState(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.Mode().IsRegular() {
			fmt.Fprintf(&b, "%s %d %d\n", path, st.Size(), st.ModTime().UnixNano())
		}
		return nil
	})
	return b.String(), err
}

func (c *Cache) freebsdDisk(ctx context.Context, boot, agent, dir string) error {
	tree := filepath.Join(dir, "tree")
	if err := os.CopyFS(filepath.Join(tree, "boot"), os.DirFS(boot)); err != nil {
		return err
	}
	for _, d := range []string{"dev", "etc", "sbin", "bin", "usr/bin", "usr/sbin", "root", "tmp", "var/tmp", "var/run", "var/log", "mnt", "proc", "opt/skep/images"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	conf := freebsdConf
	for _, m := range freebsdModules {
		for _, sub := range []string{"kernel", "modules"} {
			if _, err := os.Stat(filepath.Join(boot, sub, m+".ko")); err == nil {
				conf += m + "_load=\"YES\"\n"
				break
			}
		}
	}
	for name, content := range map[string]string{
		"boot/loader.conf": conf,
		"etc/fstab":        "/dev/vtbd0p2 / ufs rw 1 1\n",
		"etc/hosts":        "127.0.0.1 localhost testbed\n::1 localhost\n",
		"etc/passwd":       "root:*:0:0:root:/root:/bin/sh\nnobody:*:65534:65534:nobody:/:/bin/sh\n",
		"etc/group":        "wheel:*:0:root\nnobody:*:65534:\n",
	} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	init := filepath.Join(tree, "sbin/init")
	if err := copyFile(agent, init); err != nil {
		return err
	}
	if err := os.Chmod(init, 0o755); err != nil {
		return err
	}

	esp := filepath.Join(dir, "esp")
	if err := sparseFile(esp, espSize); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"mformat", "-i", esp, "-v", "EFI", "::"},
		{"mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", esp, filepath.Join(boot, "loader.efi"), "::/EFI/BOOT/BOOTX64.EFI"},
	} {
		if err := c.run(ctx, "writing an EFI partition", command(args[0], args[1:]...)); err != nil {
			return err
		}
	}
	ufs := filepath.Join(dir, "ufs")
	if err := c.run(ctx, "writing a UFS root", command("makefs", "-B", "little", "-t", "ffs", "-o", "version=1",
		"-s", fmt.Sprint(ufsSize), ufs, tree)); err != nil {
		return err
	}
	if err := assemble(filepath.Join(dir, "disk.raw"), esp, ufs); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(tree), os.Remove(esp), os.Remove(ufs))
}

// assemble makes the disk: a partition table and the two file systems.
func assemble(path, esp, ufs string) error {
	const first = 1 << 20
	parts := []gptPart{
		{kind: gptEFI, name: "efi", offset: first, size: espSize},
		{kind: gptUFS, name: "root", offset: first + espSize, size: ufsSize},
	}
	size := int64(first + espSize + ufsSize + first)
	if err := sparseFile(path, size); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeGPT(f, size, parts); err != nil {
		return err
	}
	for i, name := range []string{esp, ufs} {
		if err := copySparse(f, parts[i].offset, name); err != nil {
			return err
		}
	}
	return nil
}

func sparseFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

// copySparse copies a file into another and leaves out what is zero.
func copySparse(dst io.WriterAt, offset int64, name string) error {
	src, err := os.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	buf := make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(src, buf)
		if n > 0 && strings.Trim(string(buf[:n]), "\x00") != "" {
			if _, err := dst.WriteAt(buf[:n], offset); err != nil {
				return err
			}
		}
		offset += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
