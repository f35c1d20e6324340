// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// imagePackages make a Debian cloud image.
var imagePackages = []string{
	"linux-image-cloud-amd64", "initramfs-tools", "lz4", "systemd-sysv", "systemd-timesyncd", "systemd-resolved", "dbus", "udev",
	"cloud-init", "cloud-guest-utils", "netplan.io", "openssh-server", "sudo", "python3", "ca-certificates",
	"iproute2", "iputils-ping", "netcat-openbsd", "procps", "e2fsprogs", "util-linux", "fdisk", "less", "vim-tiny",
	"fio", "iperf3", "acpid",
}

// imageModules are in the image's initrd: nothing else is needed to find the
// root.
var imageModules = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "ext4"}

const (
	imageSize  = 1 << 30
	imageLabel = "cloudimg-rootfs"
	// Each character on the serial line is an exit, which emulation makes dear;
	// and there 90 s are not enough to find the serial line itself.
	imageCmdline = "root=LABEL=" + imageLabel + " ro console=ttyS0 quiet systemd.show_status=1 systemd.default_device_timeout_sec=600"
)

// imageFiles are written into the image before it is packed.
var imageFiles = map[string]string{
	"etc/fstab":    "LABEL=" + imageLabel + " / ext4 defaults,noatime 0 1\n",
	"etc/hostname": "debian\n",
	"etc/hosts":    "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
	// cloud-init generates any other locale, for which the image has no package.
	"etc/default/locale": "LANG=C.UTF-8\n",
	// Empty: each machine makes its own.
	"etc/machine-id":                    "",
	"etc/cloud/cloud.cfg.d/90_dpkg.cfg": "datasource_list: [ NoCloud, ConfigDrive, None ]\n",
	// RSA keys take minutes where the processor is emulated.
	"etc/cloud/cloud.cfg.d/95_skep.cfg": "ssh_genkeytypes: [ ed25519, ecdsa ]\nmanage_etc_hosts: true\n" +
		"apt: { preserve_sources_list: true }\n",
	"etc/systemd/journald.conf.d/skep.conf": "[Journal]\nStorage=volatile\n",
	"etc/apt/sources.list": "deb http://deb.debian.org/debian " + suite + " main\n" +
		"deb http://deb.debian.org/debian-security " + suite + "-security main\n",
}

// imageMasked are units that a test guest has no use for.
var imageMasked = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"man-db.timer", "systemd-networkd-wait-online.service",
}

// An ImageInfo describes a cloud image beside its files.
type ImageInfo struct {
	Name      string `json:"name"`
	OS        string `json:"os"`
	User      string `json:"user"`       // cloud-init's default user
	Disk      string `json:"disk"`       // raw, an ext4 file system without partitions
	DiskBytes int64  `json:"disk_bytes"` // its size: no disk may be smaller
	SHA256    string `json:"sha256"`     // of Disk
	Kernel    string `json:"kernel"`     // bzImage
	Initrd    string `json:"initrd"`
	Cmdline   string `json:"cmdline"` // what the kernel needs to find the root
	Release   string `json:"release"` // of the kernel
}

// Images makes or finds the directory of cloud images: for each NAME.raw,
// NAME.vmlinuz, NAME.initrd and NAME.json (an ImageInfo).
func (c *Cache) Images(ctx context.Context) (string, error) {
	return c.artifact(ctx, "images", recipe("images 1", suite, imageCmdline, imagePackages, imageModules, fmt.Sprint(imageFiles), imageMasked, imageSize),
		func(ctx context.Context, dir string) error {
			a, err := c.openApt(ctx)
			if err != nil {
				return err
			}
			return a.debianImage(ctx, dir)
		})
}

// Catalogue makes or finds a directory of the images' files with a catalogue
// of them, images.yaml, as package image reads it. It gives no checksum of a
// disk: that is in NAME.json for who wants it, and under emulation it takes
// longer than all the rest of a machine's creation.
func (c *Cache) Catalogue(ctx context.Context) (string, error) {
	images, err := c.Images(ctx)
	if err != nil {
		return "", err
	}
	return c.artifact(ctx, "catalogue", recipe("catalogue 2", images), func(ctx context.Context, dir string) error {
		entries, err := os.ReadDir(images)
		if err != nil {
			return err
		}
		var list strings.Builder
		list.WriteString("images:\n")
		for _, e := range entries {
			path := filepath.Join(images, e.Name())
			if err := os.Link(path, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
			if filepath.Ext(path) != ".json" {
				continue
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var info ImageInfo
			if err := json.Unmarshal(content, &info); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			kernel, err := fileSum(filepath.Join(images, info.Kernel))
			if err != nil {
				return err
			}
			initrd, err := fileSum(filepath.Join(images, info.Initrd))
			if err != nil {
				return err
			}
			fmt.Fprintf(&list, `- name: %s
  description: Debian from its own packages, with cloud-init
  source: %s
  format: raw
  os: linux
  profile: %s
  user: %s
  min_disk: %d
  min_ram: 256m
  kernel: {source: %s, checksum: "sha256:%s"}
  initrd: {source: %s, checksum: "sha256:%s"}
  cmdline: %s
`, info.Name, info.Disk, info.OS, info.User, info.DiskBytes, info.Kernel, kernel, info.Initrd, initrd, info.Cmdline)
		}
		return os.WriteFile(filepath.Join(dir, "images.yaml"), []byte(list.String()), 0o644)
	})
}

// ImagesDisk makes or finds a read-only disk of that directory for testbeds.
func (c *Cache) ImagesDisk(ctx context.Context) (string, error) {
	images, err := c.Catalogue(ctx)
	if err != nil {
		return "", err
	}
	dir, err := c.artifact(ctx, "imagesdisk", recipe("imagesdisk 2", images), func(ctx context.Context, dir string) error {
		return c.ext4(ctx, "packing the images", images, filepath.Join(dir, "images.raw"), 2*imageSize, "images")
	})
	return filepath.Join(dir, "images.raw"), err
}

// ImagesUFS is the same for a FreeBSD testbed.
func (c *Cache) ImagesUFS(ctx context.Context) (string, error) {
	images, err := c.Catalogue(ctx)
	if err != nil {
		return "", err
	}
	dir, err := c.artifact(ctx, "imagesufs", recipe("imagesufs 1", images), func(ctx context.Context, dir string) error {
		return c.run(ctx, "packing the images", command("makefs", "-B", "little", "-t", "ffs", "-o", "version=1", filepath.Join(dir, "images.raw"), images))
	})
	return filepath.Join(dir, "images.raw"), err
}

func (a *apt) debianImage(ctx context.Context, dir string) error {
	tree := filepath.Join(dir, "tree")
	// The configuration must be there before the kernel's installation makes
	// the initrd.
	modules := "printf '%s\\n'"
	for _, m := range imageModules {
		modules += " " + m
	}
	early := `mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d" && ` +
		`printf 'MODULES=list\nCOMPRESS=lz4\n' > "$1/etc/initramfs-tools/conf.d/skep" && ` +
		modules + ` > "$1/usr/share/initramfs-tools/modules.d/skep"`
	if err := a.bootstrap(ctx, "a Debian cloud image", tree, imagePackages, "--essential-hook="+early); err != nil {
		return err
	}
	for name, content := range imageFiles {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, unit := range imageMasked {
		path := filepath.Join(tree, "etc/systemd/system", unit)
		os.Remove(path)
		if err := os.Symlink("/dev/null", path); err != nil {
			return err
		}
	}
	// A machine's own, never an image's.
	for _, pattern := range []string{"etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "var/log/*.log", "var/lib/apt/lists/*", "var/cache/apt/*.bin"} {
		files, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := os.RemoveAll(f); err != nil {
				return err
			}
		}
	}
	// systemd-resolved's stub, as on Debian's own cloud images.
	resolv := filepath.Join(tree, "etc/resolv.conf")
	os.Remove(resolv)
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", resolv); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("the image holds kernels %q", kernels)
	}
	release := filepath.Base(kernels[0])[len("vmlinuz-"):]
	const name = "debian12"
	if err := copyFile(kernels[0], filepath.Join(dir, name+".vmlinuz")); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(tree, "boot/initrd.img-"+release), filepath.Join(dir, name+".initrd")); err != nil {
		return err
	}
	disk := filepath.Join(dir, name+".raw")
	if err := a.c.ext4(ctx, "writing the Debian cloud image", tree, disk, imageSize, imageLabel); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	sum, err := fileSum(disk)
	if err != nil {
		return err
	}
	info, err := json.MarshalIndent(ImageInfo{
		Name: name, OS: "debian12", User: "debian", Disk: name + ".raw", DiskBytes: imageSize, SHA256: sum,
		Kernel: name + ".vmlinuz", Initrd: name + ".initrd", Release: release,
		Cmdline: imageCmdline,
	}, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), append(info, '\n'), 0o644)
}

// ext4 writes a directory as a file system of that size into a sparse file.
func (c *Cache) ext4(ctx context.Context, what, tree, out string, size int64, label string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return c.run(ctx, what, command("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", tree,
		"-E", "nodiscard,root_owner=0:0", out))
}
