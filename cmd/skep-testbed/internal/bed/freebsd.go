// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package bed

import (
	"context"
	"fmt"
	"os"

	"github.com/skepvm/skep/cloudinit"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/agent"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/build"
	"golang.org/x/sys/unix"
)

// firmware is Debian's OVMF.
const firmware = "/usr/share/ovmf/OVMF.fd"

// freebsdMachine describes a FreeBSD host.
func freebsdMachine(ctx context.Context, cache *build.Cache, spec Spec, m *machine) error {
	agentPath, err := cache.Agent(ctx, "freebsd")
	if err != nil {
		return err
	}
	fb, err := cache.FreeBSD(ctx, agentPath)
	if err != nil {
		return err
	}
	if _, err := os.Stat(firmware); err != nil {
		return fmt.Errorf("OVMF is not installed (make deps installs it): %w", err)
	}
	if kvm, _ := trueKVM(); kvm {
		m.arg("-accel", "kvm", "-cpu", "host")
	} else {
		m.arg(emulation()...)
	}
	m.arg("-machine", "q35", "-smp", fmt.Sprint(spec.CPUs), "-m", fmt.Sprint(spec.MemoryMB), "-bios", firmware)
	m.arg("-object", "rng-random,filename=/dev/urandom,id=rng", "-device", "virtio-rng-pci,rng=rng")
	f, err := os.Open(fb.Disk)
	if err != nil {
		return err
	}
	format, err := diskFormat(f)
	if err != nil {
		return err
	}
	// The snapshot is a file that QEMU unlinks as soon as it has opened it.
	m.arg("-drive", fmt.Sprintf("if=none,id=root,file=/dev/fd/%d,format=%s,snapshot=on,cache=unsafe,file.locking=off", m.fd(f), format))
	m.arg("-device", "virtio-blk-pci,drive=root")
	if err := m.addMailbox(); err != nil {
		return err
	}
	images, err := cache.ImagesUFS(ctx)
	if err != nil {
		return err
	}
	if err := m.disk("images", images, true); err != nil || !fb.Image {
		return err
	}
	scratch, err := unnamedFile("/var/tmp")
	if err != nil {
		return err
	}
	m.diskFile("scratch", scratch, false)
	if err := scratch.Truncate(scratchSize); err != nil {
		return fmt.Errorf("scratch disk: %w", err)
	}
	return m.addSeed(agentPath)
}

// diskFormat tells a qcow2 file from a raw one and refuses what is neither.
func diskFormat(f *os.File) (string, error) {
	var magic [6]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil {
		return "", fmt.Errorf("FreeBSD image %s: %w", f.Name(), err)
	}
	switch {
	case string(magic[:4]) == "QFI\xfb":
		return "qcow2", nil
	case string(magic[:]) == "\xfd7zXZ\x00", string(magic[:2]) == "\x1f\x8b", string(magic[:4]) == "\x28\xb5\x2f\xfd":
		return "", fmt.Errorf("FreeBSD image %s is compressed: unpack it first", f.Name())
	}
	return "raw", nil
}

// seedScript is what nuageinit(7) runs at the end of the image's first boot: it
// makes of the image what a /boot directory becomes and starts the agent. Disks
// are found by their serial numbers, which the kernel may be told not to label.
const seedScript = `#!/bin/sh
# By default vmm gives a guest no more vCPUs than there are processors.
kenv hw.vmm.maxcpu=16 >/dev/null
for m in virtio_console tmpfs fdescfs if_bridge if_epair if_tuntap if_vxlan nmdm pf vmm zfs; do
	kldload -n $m >/dev/null 2>&1
done
disk() {
	for d in /dev/vtbd?; do
		[ "$(diskinfo -s $d)" = $1 ] && echo $d
	done
}
newfs $(disk scratch) >/dev/null && mount $(disk scratch) /var/tmp && chmod 1777 /var/tmp
mkdir -p /opt/skep/images && mount -r $(disk images) /opt/skep/images
hostname testbed
mkdir -p /var/run/skep-testbed
dd if=$(disk agent) of=/var/run/skep-testbed/agent bs=1m 2>/dev/null
chmod 755 /var/run/skep-testbed/agent
export HOME=/root PATH=` + agent.GuestPath + `
/usr/sbin/daemon -f -o /dev/console /var/run/skep-testbed/agent ` + agent.ServeArg + `
`

// scratchSize is that of the empty disk at /var/tmp: an image has little room.
const scratchSize = 20 << 30

// addSeed adds the NoCloud seed and the disk with the agent.
func (m *machine) addSeed(agentPath string) error {
	seed := cloudinit.Seed{InstanceID: "skep-testbed", Hostname: "testbed", UserRaw: []byte(seedScript)}
	iso, err := seed.ISO()
	if err != nil {
		return fmt.Errorf("seed of the FreeBSD image: %w", err)
	}
	binary, err := os.ReadFile(agentPath)
	if err != nil {
		return err
	}
	for _, d := range []struct {
		serial  string
		content []byte
	}{{"agent", binary}, {"seed", iso}} {
		f, err := memoryFile(d.serial, d.content)
		if err != nil {
			return err
		}
		m.diskFile(d.serial, f, true)
	}
	return nil
}

// memoryFile makes a file in memory, padded to whole MiB.
func memoryFile(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(content)
	if err == nil {
		err = f.Truncate((int64(len(content)) + 1<<20 - 1) &^ (1<<20 - 1))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	return f, nil
}
