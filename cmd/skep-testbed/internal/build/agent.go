// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

const modulePath = "github.com/skepvm/skep"

// Agent returns a static binary of skep-testbed for the operating system.
// This very file serves if it is one; else it is built from source.
func (c *Cache) Agent(ctx context.Context, goos string) (string, error) {
	if goos == runtime.GOOS {
		self := "/proc/self/exe"
		static, err := isStatic(self)
		if err != nil {
			return "", err
		}
		if static {
			return self, nil
		}
	}
	return c.GoBinary(ctx, goos, "./cmd/skep-testbed")
}

// GoBinary builds a package of this module as a static binary and keeps it
// under the hash of its content.
func (c *Cache) GoBinary(ctx context.Context, goos, pkg string) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	unlock, err := c.lock(ctx, "go-"+goos)
	if err != nil {
		return "", err
	}
	defer unlock()
	bin := filepath.Join(c.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	tmp := filepath.Join(bin, ".making-"+goos)
	defer os.Remove(tmp)
	cmd := command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", tmp, pkg)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH=amd64", "GOFLAGS=")
	if err := c.run(ctx, "building "+pkg+" for "+goos, cmd); err != nil {
		return "", err
	}
	f, err := os.Open(tmp)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	out := filepath.Join(bin, fmt.Sprintf("%s-%s-%s", filepath.Base(pkg), goos, hex.EncodeToString(h.Sum(nil)[:6])))
	c.prune("bin/*")
	return out, os.Rename(tmp, out)
}

// moduleRoot finds this module's source: around the working directory, or
// where this binary was built.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", modulePath).Output()
	if dir := strings.TrimSpace(string(out)); err == nil && dir != "" {
		return dir, nil
	}
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		dir := filepath.Join(filepath.Dir(file), "../../../..")
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the agent must be built from the source of %s, which is not here: run in its tree, or, for Linux, with a skep-testbed that was built with CGO_ENABLED=0", modulePath)
}

func isStatic(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}
