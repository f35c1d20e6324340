// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/kmod"
	"github.com/skepvm/skep/internal/testguest"
)

// Guest makes or finds a layer with the small guest of package testguest:
// Debian's cloud kernel and an initrd whose init is the given static binary of
// skep-testbed.
func (c *Cache) Guest(ctx context.Context, init string) (string, error) {
	kernel, err := c.guestKernel(ctx)
	if err != nil {
		return "", err
	}
	sum, err := fileSum(init)
	if err != nil {
		return "", err
	}
	dir, err := c.artifact(ctx, "guest", recipe("guest 2", kernel, sum), func(ctx context.Context, dir string) error {
		list, err := os.ReadFile(filepath.Join(kernel, "initrd.list"))
		if err != nil {
			return err
		}
		var modules []testguest.Module
		for _, name := range strings.Fields(string(list)) {
			content, err := os.ReadFile(filepath.Join(kernel, "initrd", name))
			if err != nil {
				return err
			}
			modules = append(modules, testguest.Module{Name: name, Content: content})
		}
		binary, err := os.ReadFile(init)
		if err != nil {
			return err
		}
		tree := filepath.Join(dir, "tree")
		dest := tree + testguest.Dir
		if err := os.MkdirAll(dest, 0o755); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(dest, "initrd"))
		if err != nil {
			return err
		}
		defer f.Close()
		w := bufio.NewWriterSize(f, 1<<20)
		if err := testguest.WriteInitrd(w, binary, modules); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if err := copyFile(filepath.Join(kernel, "vmlinuz"), filepath.Join(dest, "vmlinuz")); err != nil {
			return err
		}
		if err := c.squash(ctx, tree, filepath.Join(dir, "guest.squashfs")); err != nil {
			return err
		}
		// Beside it, for a testbed that does not mount it.
		for _, name := range []string{"vmlinuz", "initrd"} {
			if err := os.Rename(filepath.Join(dest, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return os.RemoveAll(tree)
	})
	return filepath.Join(dir, "guest.squashfs"), err
}

func (c *Cache) guestKernel(ctx context.Context) (string, error) {
	return c.artifact(ctx, "guestkernel", recipe("guestkernel 1", suite, testguest.Modules), func(ctx context.Context, dir string) error {
		a, err := c.openApt(ctx)
		if err != nil {
			return err
		}
		work := filepath.Join(dir, "work")
		version, err := a.kernel(ctx, "linux-image-cloud-amd64", work)
		if err != nil {
			return err
		}
		mods, err := kmod.Scan(filepath.Join(work, "root/usr/lib/modules", version))
		if err != nil {
			return err
		}
		if err := stageModules(mods, testguest.Modules, dir); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(work, "root/boot/vmlinuz-"+version), filepath.Join(dir, "vmlinuz")); err != nil {
			return err
		}
		return os.RemoveAll(work)
	})
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func copyFile(src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
