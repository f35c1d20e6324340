// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// childOf is the root directory, or "-", that the test's child changes to first.
const childOf = "SKEP_SANDBOX_CHILD"

func TestMain(m *testing.M) {
	if root := os.Getenv(childOf); root != "" {
		if err := child(root); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child empties its root and looks at what is left.
func child(root string) error {
	if root != "-" {
		if err := unix.Chroot(root); err != nil {
			return err
		}
	}
	if err := emptyRoot(); err != nil {
		return err
	}
	for _, dir := range []string{"/", ".", "/..", "../../.."} {
		list, err := os.ReadDir(dir)
		if err != nil || len(list) != 0 {
			return fmt.Errorf("%s has %v (%v)", dir, list, err)
		}
	}
	for _, path := range []string{"/proc/self/exe", "/etc/passwd", "/dev/null"} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			return fmt.Errorf("%s: %v", path, err)
		}
	}
	if err := os.WriteFile("/file", nil, 0o600); err == nil || !os.IsNotExist(err) && err.(*os.PathError).Err != unix.EROFS {
		return fmt.Errorf("writing a file: %v", err)
	}
	return nil
}

// The root is empty, wherever the process's own was: a chroot is no mount point.
func TestEmptyRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN without root: the empty root of a worker (CI is root)")
	}
	for name, root := range map[string]string{"host": "-", "chroot": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			before, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childOf+"="+root)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: CloneFlags()}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(after) != string(before) {
				t.Errorf("the host sees it: %s\nwas %s", after, before)
			}
		})
	}
}
