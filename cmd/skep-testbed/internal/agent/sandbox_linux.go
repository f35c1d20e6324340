// SPDX-License-Identifier: BSD-2-Clause

package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// privateDirs: mount namespaces give each session a directory of its own.
const privateDirs = true

type sandboxSys struct {
	cgroup string
}

const cgroupRoot = "/sys/fs/cgroup"

// newSandbox gives the session a control group, so that all it starts can be
// ended, and a private working directory at the path that it has outside.
func (s *server) newSandbox(id int, dir string) (*sandbox, error) {
	b, err := s.claimDir(dir)
	if err != nil {
		return nil, err
	}
	b.sys.cgroup = fmt.Sprintf("%s/session-%d", cgroupRoot, id)
	if err := os.Mkdir(b.sys.cgroup, 0o755); err != nil {
		return nil, err
	}
	if b.owned {
		b.backing = fmt.Sprintf("/run/skep-testbed/session-%d", id)
		if err := os.MkdirAll(b.backing, 0o755); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// start starts the process in the sandbox.
func (b *sandbox) start(cmd *exec.Cmd) error {
	group, err := os.Open(b.sys.cgroup)
	if err != nil {
		return err
	}
	defer group.Close()
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(group.Fd())
	done := make(chan error)
	go func() {
		// The thread's mount namespace is the child's too. It is never
		// unlocked, so it ends with this goroutine.
		runtime.LockOSThread()
		done <- func() error {
			if b.backing != "" {
				if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
					return fmt.Errorf("new mount namespace: %w", err)
				}
				if err := unix.Mount(b.backing, b.dir, "", unix.MS_BIND, ""); err != nil {
					return fmt.Errorf("bind the working directory: %w", err)
				}
			}
			return cmd.Start()
		}()
	}()
	return <-done
}

// kill ends every process of the sandbox.
func (b *sandbox) kill() {
	_ = os.WriteFile(filepath.Join(b.sys.cgroup, "cgroup.kill"), []byte("1"), 0)
}

func (b *sandbox) remove() {
	b.kill()
	for range 100 {
		if err := removeGroups(b.sys.cgroup); err == nil || errors.Is(err, os.ErrNotExist) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.removeFiles()
	if b.backing != "" {
		os.RemoveAll(b.backing)
		b.server.releaseDir(b.dir)
	}
}

// removeGroups removes a control group and those that the session made in it.
func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}
