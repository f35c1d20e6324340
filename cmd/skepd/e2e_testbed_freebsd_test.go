// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed && guests

package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// holes: UFS writes zeroes instead (fspacectl(2)).
const holes = false

// slow stretches limits: the FreeBSD testbed's processor is emulated.
const slow = 3

// workers lists the machines whose lock a worker holds: there is no /proc.
func (d *skepd) workers(t *testing.T) (machines []string) {
	t.Helper()
	locks, err := filepath.Glob(filepath.Join(d.dir, "store", "machines", "*", "worker.lock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range locks {
		f, err := os.Open(l)
		if err != nil {
			continue // it ended meanwhile
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			machines = append(machines, filepath.Base(filepath.Dir(l)))
		}
		f.Close()
	}
	return machines
}
