// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package skep

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/vmm"
	"github.com/skepvm/skep/vmm/hv"
	hvbhyve "github.com/skepvm/skep/vmm/hv/bhyve"
)

// TestRealKernel runs on a FreeBSD kernel what needs no guest: the store, the
// worker's process with its lock, socket, identity and capability mode, and the
// daemon's death at every point.
func TestRealKernel(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"Life", TestLife},
		{"Console", TestConsole},
		{"HowGuestsEnd", TestHowGuestsEnd},
		{"CreateThatFails", TestCreateThatFails},
		{"Reopen", TestReopen},
		{"HostRestarted", TestHostRestarted},
		{"Snapshots", TestSnapshots},
		{"Sandbox", TestSandbox},
	} {
		t.Run(c.name, c.test)
	}
}

// tripleFaultsEnd: vmm's AMD code (svm.c of FreeBSD 14 and 15) answers a shutdown
// with #UD and enters the guest again, for ever; it can still be stopped.
func tripleFaultsEnd() bool {
	_, err := unix.Sysctl("hw.vmm.svm.features")
	return err != nil
}

// machinesLeft are all the machines of skep's in the kernel.
func machinesLeft(t *testing.T) []string {
	t.Helper()
	b, err := hvbhyve.Open()
	if errors.Is(err, hv.ErrUnavailable) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	names, err := b.Machines()
	if err := errors.Join(err, b.Close()); err != nil {
		t.Error(err)
	}
	return names
}

// TestLeftoverMachine: what looks for leftovers sees a machine in the kernel, and
// Destroy's part takes it away.
func TestLeftoverMachine(t *testing.T) {
	b, err := hvbhyve.Open()
	if errors.Is(err, hv.ErrUnavailable) {
		t.Skipf("NOT RUN: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	vm, err := b.NewVM(hv.Config{Name: "left", VCPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Close()
	if left := machinesLeft(t); !slices.Equal(left, []string{"left"}) {
		t.Errorf("machines %q", left)
	}
	if err := vmm.RemoveLeftover("left"); err != nil {
		t.Error(err)
	}
	if left := machinesLeft(t); len(left) != 0 {
		t.Errorf("machines %q", left)
	}
}

// checkOverhead holds a worker to nothing: what it has is told.
func checkOverhead(t *testing.T, pid int, guest int64) { tellOverhead(t, pid, guest) }

func tellOverhead(t *testing.T, pid int, guest int64) {
	anon, file := overhead(t, pid, guest)
	t.Logf("beside its guest's memory the worker has %s, and %s of files", people(anon), people(file))
}

// overhead is what a process has resident beside its guest's memory, by the
// kernel's list of its mappings (struct kinfo_vmentry): anonymous memory, and
// pages of files that it maps, which others may have, too.
func overhead(t testing.TB, pid int, guest int64) (anon, file int64) {
	t.Helper()
	b, err := unix.SysctlRaw("kern.proc.vmmap", pid)
	if err != nil {
		t.Fatalf("mappings of process %d: %v", pid, err)
	}
	const typeVnode = 2 // KVME_TYPE_VNODE
	le := binary.LittleEndian
	page := int64(os.Getpagesize())
	big := map[string]int64{}
	for len(b) >= 136 {
		n := int(le.Uint32(b))
		if n < 136 || n > len(b) {
			t.Fatalf("struct kinfo_vmentry has %d bytes", n)
		}
		e := b[:n]
		b = b[n:]
		size := int64(le.Uint64(e[16:]) - le.Uint64(e[8:]))
		resident := int64(le.Uint32(e[48:])) * page
		path, _, _ := bytes.Cut(e[136:], []byte{0})
		what := fmt.Sprintf("%d %s", le.Uint32(e[4:]), path)
		switch {
		case size >= guest/2 && resident > 16*MiB:
			what = "guest"
		case le.Uint32(e[4:]) == typeVnode:
			file += resident
		default:
			anon += resident
		}
		big[what] += resident >> 10
	}
	t.Logf("resident, KiB: %v", big)
	return anon, file
}
