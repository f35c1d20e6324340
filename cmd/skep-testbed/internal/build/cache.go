// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// DirEnv names the cache directory; without it DefaultDir is used.
const DirEnv = "SKEP_TESTBED_CACHE"

// A Cache holds artifacts.
type Cache struct {
	dir string
	out io.Writer // progress
}

// OpenCache opens the cache, which it makes if it is missing. Progress is
// written to out.
func OpenCache(out io.Writer) (*Cache, error) {
	dir := os.Getenv(DirEnv)
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("cache directory: %w (set %s)", err, DirEnv)
		}
		dir = filepath.Join(base, "skep-testbed")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	return &Cache{dir: dir, out: out}, nil
}

// Dir returns the cache's directory.
func (c *Cache) Dir() string { return c.dir }

// Say prints a line of progress.
func (c *Cache) Say(format string, args ...any) {
	fmt.Fprintf(c.out, "skep-testbed: "+format+"\n", args...)
}

// artifact returns the directory of the artifact name, made of recipe. make
// fills it if it is not there yet; another process that makes the same one is
// waited for.
func (c *Cache) artifact(ctx context.Context, name, recipe string, make func(ctx context.Context, dir string) error) (string, error) {
	sum := sha256.Sum256([]byte(recipe))
	final := filepath.Join(c.dir, name+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(final); err == nil {
		now := time.Now()
		_ = os.Chtimes(final, now, now) // it is in use: see prune
		return final, nil
	}
	unlock, err := c.lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	// Under the lock what lies about is from a build that was killed.
	tmp := filepath.Join(c.dir, ".making-"+name)
	if err := os.RemoveAll(tmp); err != nil {
		return "", fmt.Errorf("remove the rest of an interrupted build: %w", err)
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	begin := time.Now()
	c.Say("%s: making it (once)", name)
	if err := make(ctx, tmp); err != nil {
		return "", fmt.Errorf("make %s: %w", name, err)
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", err
	}
	c.Say("%s: made in %s", name, time.Since(begin).Round(time.Second))
	c.prune(name + "-*")
	return final, nil
}

// unused is how long what an older recipe made is kept: another checkout may
// still use it.
const unused = 48 * time.Hour

// prune removes what was not used for a long time.
func (c *Cache) prune(pattern string) {
	paths, err := filepath.Glob(filepath.Join(c.dir, pattern))
	if err != nil {
		return
	}
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && time.Since(st.ModTime()) > unused {
			_ = os.RemoveAll(p)
		}
	}
}

// lock takes the lock of that name and waits for it if need be.
func (c *Cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, "."+name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != syscall.EWOULDBLOCK {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if n%60 == 0 {
			c.Say("%s: waiting for another process that makes it", name)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// run runs a command and tells every half minute that it still does. Its
// output is shown if it fails.
func (c *Cache) run(ctx context.Context, what string, cmd *exec.Cmd) error {
	_, err := c.output(ctx, what, cmd)
	return err
}

// output is run that returns standard output.
func (c *Cache) output(ctx context.Context, what string, cmd *exec.Cmd) (string, error) {
	if path, err := exec.LookPath(cmd.Path); err != nil {
		return "", fmt.Errorf("%s: %s is not installed (make deps installs it): %w", what, filepath.Base(cmd.Path), err)
	} else {
		cmd.Path = path
	}
	var stdout, log tail
	log.max = 64 << 10
	cmd.Stderr = &log
	if cmd.Stdout == nil {
		stdout.max = 1 << 20
		stdout.also = &log
		cmd.Stdout = &stdout
	}
	// Its own group, so that the whole of it ends with us and Ctrl-C reaches
	// it once, from here.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if cmd.Env == nil {
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	stop := ctx.Done()
	var kill <-chan time.Time
	for {
		select {
		case err := <-done:
			if ctx.Err() != nil {
				return "", fmt.Errorf("%s: %w", what, ctx.Err())
			}
			if err != nil {
				return "", fmt.Errorf("%s: %w\n%s", what, err, log.String())
			}
			return stdout.String(), nil
		case <-tick.C:
			c.Say("%s (%s): %s", what, time.Since(begin).Round(time.Second), log.lastLine())
		case <-stop:
			stop = nil
			syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			kill = time.After(10 * time.Second)
		case <-kill:
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}
}

// tail keeps the last max bytes written to it.
type tail struct {
	max  int
	also io.Writer

	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - t.max; n > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[n:])]
	}
	if t.also != nil {
		t.also.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

func (t *tail) lastLine() string {
	s := strings.TrimSpace(t.String())
	s = s[strings.LastIndexAny(s, "\r\n")+1:]
	return s[:min(len(s), 100)]
}
