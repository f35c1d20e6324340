// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/kmod"
)

// Host is what a Linux testbed boots.
type Host struct {
	Version  string   // the kernel's release
	Kernel   string   // bzImage
	InitrdKO []string // modules of the initramfs, in the order in which to load them
	Modules  string   // squashfs: /usr/lib/modules
	Root     string   // squashfs: the tools
	Scratch  string   // raw, sparse, ext4: the disk that becomes /var/tmp
	Headers  string   // directory of packages to build modules with
}

// earlyModules are what the agent needs to reach the root file system and the
// command outside.
var earlyModules = []string{
	"virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "virtio_balloon",
	"crc32c_generic", "lz4_decompress", "squashfs", "overlay", "ext4",
}

// uselessModules are parts of the kernel package that no testbed has devices for.
var uselessModules = []string{
	"kernel/sound", "kernel/drivers/gpu", "kernel/drivers/media", "kernel/drivers/staging",
	"kernel/drivers/net/wireless", "kernel/drivers/net/ethernet", "kernel/drivers/infiniband",
	"kernel/drivers/bluetooth", "kernel/drivers/iio", "kernel/drivers/usb", "kernel/drivers/input",
	"kernel/drivers/scsi", "kernel/drivers/hwmon", "kernel/drivers/isdn", "kernel/drivers/hid",
}

// rootPackages are the tools that tests use: as oracles, and as peers in
// benchmarks.
var rootPackages = []string{
	"kmod", "udev", "iproute2", "iputils-ping", "procps", "psmisc", "util-linux", "nftables", "ethtool",
	"e2fsprogs", "dosfstools", "fdisk", "gdisk", "xz-utils", "zstd", "lz4", "file",
	"openssh-client", "curl", "netcat-openbsd", "socat", "iperf3", "tcpdump", "strace",
	"fio", "qemu-system-x86", "qemu-utils", "ovmf", "genisoimage", "cloud-init", "python3",
	// what OpenZFS's tools are linked with
	"libssl3", "libblkid1", "libuuid1", "libudev1", "zlib1g", "libtirpc3", "libcurl4", "libunwind8", "libpam0g",
}

const scratchSize = 20 << 30

// Host makes or finds what a Linux testbed boots.
func (c *Cache) Host(ctx context.Context) (*Host, error) {
	kernel, err := c.hostKernel(ctx)
	if err != nil {
		return nil, err
	}
	root, err := c.hostRoot(ctx)
	if err != nil {
		return nil, err
	}
	scratch, err := c.scratch(ctx)
	if err != nil {
		return nil, err
	}
	h := &Host{
		Kernel:  filepath.Join(kernel, "vmlinuz"),
		Modules: filepath.Join(kernel, "modules.squashfs"),
		Root:    filepath.Join(root, "root.squashfs"),
		Scratch: filepath.Join(scratch, "scratch.raw"),
		Headers: filepath.Join(kernel, "headers"),
	}
	version, err := os.ReadFile(filepath.Join(kernel, "version"))
	if err != nil {
		return nil, err
	}
	h.Version = strings.TrimSpace(string(version))
	list, err := os.ReadFile(filepath.Join(kernel, "initrd.list"))
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Fields(string(list)) {
		h.InitrdKO = append(h.InitrdKO, filepath.Join(kernel, "initrd", name))
	}
	return h, nil
}

var kernelPackage = regexp.MustCompile(`^linux-image-[0-9].*-amd64$`)

func (c *Cache) hostKernel(ctx context.Context) (string, error) {
	recipe := recipe("kernel 4", suite, earlyModules, uselessModules)
	return c.artifact(ctx, "kernel", recipe, func(ctx context.Context, dir string) error {
		a, err := c.openApt(ctx)
		if err != nil {
			return err
		}
		work := filepath.Join(dir, "work")
		version, err := a.kernel(ctx, "linux-image-amd64", work)
		if err != nil {
			return err
		}
		// Kept beside the kernel, since Debian's archive forgets old ones.
		if err := a.headers(ctx, version, filepath.Join(dir, "headers")); err != nil {
			return err
		}
		tree := filepath.Join(work, "root/usr/lib/modules", version)
		for _, d := range uselessModules {
			if err := os.RemoveAll(filepath.Join(tree, d)); err != nil {
				return err
			}
		}
		if err := c.run(ctx, "indexing modules", command("depmod", "-b", filepath.Join(work, "root/usr"), version)); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(work, "root/boot/vmlinuz-"+version), filepath.Join(dir, "vmlinuz")); err != nil {
			return err
		}
		mods, err := kmod.Scan(tree)
		if err != nil {
			return err
		}
		if err := stageModules(mods, earlyModules, dir); err != nil {
			return err
		}
		pack := filepath.Join(work, "pack/usr/lib")
		if err := os.MkdirAll(pack, 0o755); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(work, "root/usr/lib/modules"), filepath.Join(pack, "modules")); err != nil {
			return err
		}
		if err := c.squash(ctx, filepath.Join(work, "pack"), filepath.Join(dir, "modules.squashfs")); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644); err != nil {
			return err
		}
		return os.RemoveAll(work)
	})
}

// kernel unpacks the kernel that the meta package depends on into work/root,
// its modules below usr/lib as on a system with merged /usr, and returns its
// release.
func (a *apt) kernel(ctx context.Context, meta, work string) (version string, err error) {
	pkgs, err := a.depends(ctx, meta, kernelPackage)
	if err != nil {
		return "", err
	}
	pkg := pkgs[0]
	debs, err := a.download(ctx, filepath.Join(work, "debs"), pkg)
	if err != nil {
		return "", err
	}
	root := filepath.Join(work, "root")
	if err := a.unpack(ctx, root, debs...); err != nil {
		return "", err
	}
	version = strings.TrimPrefix(pkg, "linux-image-")
	if err := os.MkdirAll(filepath.Join(root, "usr/lib"), 0o755); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(root, "lib/modules")); err == nil {
		if err := os.Rename(filepath.Join(root, "lib/modules"), filepath.Join(root, "usr/lib/modules")); err != nil {
			return "", err
		}
	}
	if _, err := os.Stat(filepath.Join(root, "usr/lib/modules", version)); err != nil {
		return "", fmt.Errorf("package %s: %w", pkg, err)
	}
	return version, nil
}

// headers downloads what modules for that kernel are built with.
func (a *apt) headers(ctx context.Context, version, dest string) error {
	pkg := "linux-headers-" + version
	deps, err := a.depends(ctx, pkg, regexp.MustCompile(`^linux-(headers|kbuild)-`))
	if err != nil {
		return err
	}
	_, err = a.download(ctx, dest, append(deps, pkg)...)
	return err
}

// stageModules copies the named modules and their dependencies, unpacked, to
// dir/initrd and writes their order to dir/initrd.list.
func stageModules(mods *kmod.Tree, names []string, dir string) error {
	var present []string
	for _, n := range names {
		if mods.Has(n) { // else it is built into the kernel
			present = append(present, n)
		}
	}
	order, err := mods.Order(present...)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "initrd"), 0o755); err != nil {
		return err
	}
	var list strings.Builder
	for _, path := range order {
		content, err := kmod.Read(path)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.Base(path), ".xz")
		if err := os.WriteFile(filepath.Join(dir, "initrd", name), content, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(&list, name)
	}
	return os.WriteFile(filepath.Join(dir, "initrd.list"), []byte(list.String()), 0o644)
}

func (c *Cache) hostRoot(ctx context.Context) (string, error) {
	return c.artifact(ctx, "root", recipe("root 2", suite, rootPackages), func(ctx context.Context, dir string) error {
		a, err := c.openApt(ctx)
		if err != nil {
			return err
		}
		tree := filepath.Join(dir, "tree")
		if err := a.bootstrap(ctx, "the testbed's root file system", tree, rootPackages); err != nil {
			return err
		}
		if err := c.squash(ctx, tree, filepath.Join(dir, "root.squashfs")); err != nil {
			return err
		}
		return os.RemoveAll(tree)
	})
}

// bootstrap installs a minimal Debian with the packages into the new
// directory tree.
func (a *apt) bootstrap(ctx context.Context, what, tree string, pkgs []string, extra ...string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("bootstrap %s: only root can make it; run it once as root with %s=%s", what, DirEnv, a.c.dir)
	}
	args := []string{
		"--mode=root", "--variant=minbase", "--format=directory", "--components=main,contrib",
		"--include=" + strings.Join(pkgs, ","),
		`--aptopt=Acquire::Languages "none"`, `--aptopt=Acquire::Retries "3"`,
		`--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/locale/*`,
		`--dpkgopt=path-exclude=/usr/share/doc/*`, `--dpkgopt=path-exclude=/usr/share/info/*`,
	}
	for _, o := range a.options {
		args = append(args, "--aptopt="+strings.TrimSuffix(o, ";"))
	}
	args = append(args, extra...)
	args = append(args, suite, tree)
	args = append(args, a.sources()...)
	return a.c.run(ctx, "installing "+what, command("mmdebstrap", args...))
}

// squash packs a directory.
func (c *Cache) squash(ctx context.Context, dir, out string) error {
	return c.run(ctx, "packing "+filepath.Base(out), command("mksquashfs", dir, out,
		"-comp", "lz4", "-noappend", "-no-progress", "-all-time", "0"))
}

// scratch is an empty file system, made once and copied (it is a few MiB of
// data) for each testbed.
func (c *Cache) scratch(ctx context.Context) (string, error) {
	return c.artifact(ctx, "scratch", recipe("scratch 1", fmt.Sprint(scratchSize)), func(ctx context.Context, dir string) error {
		path := filepath.Join(dir, "scratch.raw")
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := f.Truncate(scratchSize); err != nil {
			return err
		}
		return c.run(ctx, "formatting a disk", command("mke2fs", "-q", "-F", "-t", "ext4", "-L", "scratch",
			"-O", "^has_journal", "-m", "0", "-i", "262144",
			"-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", path))
	})
}

// recipe joins what an artifact is made of.
func recipe(parts ...any) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "%q\n", p)
	}
	return b.String()
}
