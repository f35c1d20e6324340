// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package bed

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/build"
	"github.com/skepvm/skep/internal/cpio"
	"golang.org/x/sys/unix"
)

// emulation is QEMU's, with AMD's nested virtualization. It is trusted with one
// processor only:
//
// - Where a thread stands for each processor, the translation of code that
// another one patches meanwhile may stay: a page is protected only after its
// first translation. Kernels patch themselves whenever a machine starts.
//
// - Where one thread stands for all, it changes between them by a timer. If that
// comes after VMRUN has injected an interrupt and before the next exit, QEMU
// delivers the interrupt again, to a guest that has interrupts disabled: the
// injection (helper_vmrun, up to 10.0 at least) leaves exception_index set.
//
// Kernels and their guests hang or crash of either, now and then. With one
// processor the second is left for the rare other reasons that QEMU has to take
// the thread out of the guest.
//
// - Every exit of a guest clears a flag of the processor's pending interrupts
// without a lock (do_vmexit, before 10.2). An interrupt that a timer or device
// raises at that moment is lost until the next: see beat.
//
// QEMU before 10.0.3 reads 32 bytes for VINSERTI128's 16, which faults at the end
// of a mapping, as in FreeBSD's SHA-256: without AVX2 nothing uses it.
func emulation() []string {
	return []string{"-accel", "tcg,thread=single,tb-size=1024", "-cpu", "EPYC,+svm,+npt,-avx2"}
}

// linuxMachine describes a Debian host with KVM.
func linuxMachine(ctx context.Context, cache *build.Cache, spec Spec, m *machine) error {
	host, err := cache.Host(ctx)
	if err != nil {
		return err
	}
	agent, err := cache.Agent(ctx, "linux")
	if err != nil {
		return err
	}
	kvm, flag := trueKVM()
	module := "kvm_amd"
	if kvm {
		m.arg("-accel", "kvm", "-cpu", "host")
		if flag == "vmx" {
			module = "kvm_intel"
		}
	} else {
		m.arg(emulation()...)
	}
	m.arg("-machine", "q35", "-smp", fmt.Sprint(spec.CPUs), "-m", fmt.Sprint(spec.MemoryMB))
	m.arg("-object", "rng-random,filename=/dev/urandom,id=rng", "-device", "virtio-rng-pci,rng=rng")
	m.arg("-device", "virtio-balloon-pci,free-page-reporting=on")

	guest, err := cache.Guest(ctx, agent)
	if err != nil {
		return err
	}
	images, err := cache.ImagesDisk(ctx)
	if err != nil {
		return err
	}
	layers := []string{"guest", "modules", "root"}
	if err := m.disk("guest", guest, true); err != nil {
		return err
	}
	if err := m.disk("images", images, true); err != nil {
		return err
	}
	modules := []string{module + ":nested=1", "tun", "vhost_net?", "bridge", "veth", "loop:max_loop=16"}
	if v := spec.zfs(); v != "none" {
		layer, err := cache.ZFS(ctx, host, v)
		if err != nil {
			return err
		}
		if err := m.disk("zfs", layer, true); err != nil {
			return err
		}
		layers = append([]string{"zfs"}, layers...)
		modules = append(modules, fmt.Sprintf("zfs:zfs_arc_max=%d", arcMax(spec.MemoryMB)))
	}
	if err := m.disk("modules", host.Modules, true); err != nil {
		return err
	}
	if err := m.disk("root", host.Root, true); err != nil {
		return err
	}
	mounts := []string{"scratch:ext4:rw:/var/tmp", "images:ext4:ro:/opt/skep/images"}
	if err := m.scratch(host.Scratch); err != nil {
		return err
	}
	initrd, err := initramfs(agent, host.InitrdKO)
	if err != nil {
		return err
	}
	m.arg("-kernel", host.Kernel, "-initrd", fmt.Sprintf("/dev/fd/%d", m.fd(initrd)))
	m.arg("-append", strings.Join([]string{
		"console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off tsc=reliable nokaslr no_timer_check",
		"skep.layers=" + strings.Join(layers, ","),
		"skep.mounts=" + strings.Join(mounts, ","),
		"skep.modules=" + strings.Join(modules, ","),
	}, " "))
	return nil
}

// trueKVM tells whether the processor and the kernel offer hardware
// virtualization, and by which flag. A /dev/kvm without either flag is the
// software kind, which runs no ordinary kernel.
func trueKVM() (ok bool, flag string) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false, ""
	}
	f.Close()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false, ""
	}
	flags := strings.Fields(string(info))
	for _, flag := range []string{"svm", "vmx"} {
		if slices.Contains(flags, flag) {
			return true, flag
		}
	}
	return false, ""
}

// arcMax is what OpenZFS may cache, in bytes. The pools of most tests are small: it
// leaves the memory to guests, and takes half of what a machine has above the default.
func arcMax(memoryMB int) int { return 256<<20 + max(0, memoryMB-defaultMemoryMB)<<20/2 }

// disk adds a virtio disk of that serial over an open file.
func (m *machine) disk(serial, path string, readOnly bool) error {
	mode := os.O_RDWR
	if readOnly {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return err
	}
	m.diskFile(serial, f, readOnly)
	return nil
}

func (m *machine) diskFile(serial string, f *os.File, readOnly bool) {
	ro := "off"
	if readOnly {
		ro = "on"
	}
	fd := m.fd(f)
	m.arg("-drive", fmt.Sprintf("if=none,id=%s,file=/dev/fd/%d,format=raw,read-only=%s,discard=unmap,cache=unsafe,file.locking=off", serial, fd, ro))
	m.arg("-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", serial, serial))
}

// scratch adds a copy of the empty file system that has no name and goes when
// QEMU goes.
func (m *machine) scratch(template string) error {
	f, err := sparseCopy(template)
	if err != nil {
		return fmt.Errorf("scratch disk: %w", err)
	}
	m.diskFile("scratch", f, false)
	return nil
}

func sparseCopy(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	size, err := src.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	dst, err := unnamedFile("/var/tmp")
	if err != nil {
		return nil, err
	}
	if err := copyData(dst, src, size); err != nil {
		dst.Close()
		return nil, err
	}
	return dst, nil
}

func copyData(dst, src *os.File, size int64) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		from, err := unix.Seek(int(src.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		to, err := unix.Seek(int(src.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, from), io.NewSectionReader(src, from, to-from)); err != nil {
			return err
		}
		off = to
	}
	return nil
}

// unnamedFile makes a file without a name in dir.
func unnamedFile(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, fmt.Errorf("unnamed file in %s: %w", dir, err)
	}
	f, err := os.CreateTemp(dir, "skep-testbed")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// initramfs builds the archive that the kernel unpacks: the agent as /init and
// the modules that it loads first.
func initramfs(agent string, modules []string) (*os.File, error) {
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	buf := bufio.NewWriterSize(f, 1<<20)
	w := cpio.NewWriter(buf)
	err = func() error {
		for _, d := range []string{"dev", "proc", "sys", "modules", "layers", "rw", "newroot"} {
			if err := w.Dir(d, 0o755); err != nil {
				return err
			}
		}
		if err := w.CharDevice("dev/console", 0o600, 5, 1); err != nil {
			return err
		}
		binary, err := os.ReadFile(agent)
		if err != nil {
			return err
		}
		if err := w.File("init", 0o755, binary); err != nil {
			return err
		}
		var list bytes.Buffer
		for _, path := range modules {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintln(&list, filepath.Base(path))
			if err := w.File("modules/"+filepath.Base(path), 0o644, content); err != nil {
				return err
			}
		}
		if err := w.File("modules/list", 0o644, list.Bytes()); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		return buf.Flush()
	}()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("initramfs: %w", err)
	}
	return f, nil
}
