// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// zfsSuites says which Debian suite has which OpenZFS.
var zfsSuites = []struct{ version, suite string }{
	{"2.1", suite},
	{"2.3", suite + "-backports"},
}

// compilerPackages build kernel modules: what linux-kbuild and zfs-dkms need.
var compilerPackages = []string{"build-essential", "kmod", "libelf1", "libssl3", "file", "perl", "python3", "bc", "gawk"}

var zfsLibrary = regexp.MustCompile(`^lib(nvpair|uutil|zfs|zpool)[0-9]+linux$`)

// ZFS makes or finds a layer with OpenZFS's modules for the host's kernel and
// its tools.
func (c *Cache) ZFS(ctx context.Context, h *Host, version string) (string, error) {
	dir, err := c.artifact(ctx, "zfs", recipe("zfs 1", h.Version, zfsSuites, compilerPackages), func(ctx context.Context, dir string) error {
		a, err := c.openApt(ctx)
		if err != nil {
			return err
		}
		chroot := filepath.Join(dir, "chroot")
		if err := a.bootstrap(ctx, "a compiler", chroot, compilerPackages); err != nil {
			return err
		}
		if err := c.installHeaders(ctx, chroot, h); err != nil {
			return err
		}
		for _, z := range zfsSuites {
			if err := a.zfs(ctx, chroot, dir, h, z.version, z.suite); err != nil {
				return fmt.Errorf("OpenZFS %s: %w", z.version, err)
			}
		}
		return os.RemoveAll(chroot)
	})
	if err != nil {
		return "", err
	}
	layer := filepath.Join(dir, "zfs-"+version+".squashfs")
	if _, err := os.Stat(layer); err != nil {
		return "", fmt.Errorf("OpenZFS %s: %w", version, err)
	}
	return layer, nil
}

func (c *Cache) installHeaders(ctx context.Context, chroot string, h *Host) error {
	debs, err := filepath.Glob(filepath.Join(h.Headers, "*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("no packages in %s: %v", h.Headers, err)
	}
	args := []string{chroot, "dpkg", "--force-depends", "-i"}
	for _, d := range debs {
		content, err := os.ReadFile(d)
		if err != nil {
			return err
		}
		name := "/root/" + filepath.Base(d)
		if err := os.WriteFile(chroot+name, content, 0o644); err != nil {
			return err
		}
		args = append(args, name)
	}
	return c.run(ctx, "installing kernel headers", command("chroot", args...))
}

// zfs builds the modules in the chroot and packs them with the tools.
func (a *apt) zfs(ctx context.Context, chroot, dir string, h *Host, version, release string) error {
	libs, err := a.depends(ctx, "zfsutils-linux/"+release, zfsLibrary)
	if err != nil {
		return err
	}
	pkgs := []string{"zfs-dkms/" + release, "zfsutils-linux/" + release}
	for _, l := range libs {
		pkgs = append(pkgs, l+"/"+release)
	}
	work := filepath.Join(dir, "work-"+version)
	debs, err := a.download(ctx, filepath.Join(work, "debs"), pkgs...)
	if err != nil {
		return err
	}
	raw := filepath.Join(work, "raw")
	if err := a.unpack(ctx, raw, debs...); err != nil {
		return err
	}
	sources, err := filepath.Glob(filepath.Join(raw, "usr/src/zfs-*"))
	if err != nil || len(sources) != 1 {
		return fmt.Errorf("package zfs-dkms holds sources %q", sources)
	}
	source := "/usr/src/" + filepath.Base(sources[0])
	if err := os.Rename(sources[0], chroot+source); err != nil {
		return err
	}
	build := "/usr/lib/modules/" + h.Version
	script := strings.Join([]string{
		"set -e", "cd " + source,
		"./configure --disable-dependency-tracking --prefix=/usr --with-config=kernel" +
			" --with-linux=" + build + "/source --with-linux-obj=" + build + "/build ||" +
			" { find build -name 'build.log*' | xargs -r tail -n 30; exit 1; }",
		fmt.Sprintf("make -j%d", runtime.NumCPU()),
		"find module -name '*.ko' -exec strip -g {} +",
	}, "\n")
	what := "building OpenZFS " + strings.TrimPrefix(filepath.Base(source), "zfs-") + " for " + h.Version
	if err := a.c.run(ctx, what, command("nice", "chroot", chroot, "sh", "-c", script)); err != nil {
		return err
	}
	layer := filepath.Join(work, "layer")
	modules := filepath.Join(layer, "usr/lib/modules", h.Version, "updates/dkms")
	if err := os.MkdirAll(modules, 0o755); err != nil {
		return err
	}
	n := 0
	err = filepath.WalkDir(filepath.Join(chroot, source, "module"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".ko") {
			return err
		}
		n++
		return os.Rename(path, filepath.Join(modules, d.Name()))
	})
	if err != nil {
		return err
	}
	if n < 2 {
		return fmt.Errorf("the build made %d modules", n)
	}
	if err := mergeUsr(raw, layer); err != nil {
		return err
	}
	for _, d := range []string{"usr/src", "usr/lib/systemd", "usr/lib/udev"} {
		if err := os.RemoveAll(filepath.Join(layer, d)); err != nil {
			return err
		}
	}
	if err := a.c.squash(ctx, layer, filepath.Join(dir, "zfs-"+version+".squashfs")); err != nil {
		return err
	}
	return os.RemoveAll(work)
}

// mergeUsr moves unpacked packages into a tree for a system on which /bin,
// /sbin and /lib are links into /usr.
func mergeUsr(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		top, _, _ := strings.Cut(rel, "/")
		if top == "bin" || top == "sbin" || top == "lib" {
			rel = filepath.Join("usr", rel)
		}
		dst := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
			return err
		}
		return os.Rename(path, dst)
	})
}
