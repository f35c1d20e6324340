// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/internal/worker"
	"github.com/skepvm/skep/internal/worker/ctl"
	"github.com/skepvm/skep/vmm"
	"github.com/skepvm/skep/vmm/boot"
)

// defaultCmdline boots the first disk's first partition by label or number,
// as an image says that says nothing.
const defaultCmdline = "console=ttyS0 root=/dev/vda1 ro"

// defaultEnv is the same of a FreeBSD image: its root file system's label as
// FreeBSD's own VM images have it.
const defaultEnv = "vfs.root.mountfrom=ufs:/dev/gpt/rootfs"

// guest is a vmm.Machine as a worker wants it.
type guest struct {
	m     *vmm.Machine
	files []*os.File
}

// buildGuest makes the machine that a worker was told to run.
func buildGuest(cfg worker.Config, env worker.Env) (_ worker.Guest, err error) {
	g := &guest{}
	defer func() {
		if err != nil {
			g.closeFiles()
		}
	}()
	file := func(name string) *os.File {
		f := cfg.File(name)
		if f != nil {
			g.files = append(g.files, f)
		}
		return f
	}
	c := vmm.Config{
		Name: cfg.Machine, CPUs: cfg.CPUs, Memory: uint64(cfg.Memory),
		Serial: env.Console, Log: env.Log,
		Events: g.events(env.Changed),
	}
	disk, seed := file(worker.FileDisk), file(worker.FileSeed)
	if disk == nil {
		return nil, errors.New("no disk was handed over")
	}
	c.Disks = append(c.Disks, vmm.Disk{File: disk})
	if seed != nil {
		c.Disks = append(c.Disks, vmm.Disk{File: seed, ReadOnly: true, Queues: 1})
	}
	if fd, ok := cfg.Files[worker.FileTap]; ok {
		// Handing it over made it blocking.
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		c.NICs = []vmm.NIC{{Tap: file(worker.FileTap), MAC: cfg.MAC, MTU: cfg.MTU}}
	}
	kernel := file(worker.FileKernel)
	if kernel == nil {
		return nil, fmt.Errorf("%w: the image brings no kernel, and this build has no firmware that would find one on the disk", errors.ErrUnsupported)
	}
	if c.Boot, err = bootSource(kernel, file(worker.FileInitrd), cfg.Cmdline); err != nil {
		return nil, err
	}
	g.m, err = vmm.New(c)
	if err != nil {
		return nil, err
	}
	return g, nil
}

// bootSource is how an image's kernel is booted: an ELF file as FreeBSD's, whose
// initrd is the image of a memory disk and whose command line is the kernel's
// environment, name=value and name="two words"; all else as a Linux bzImage.
func bootSource(kernel, initrd *os.File, cmdline string) (boot.Source, error) {
	var magic [4]byte
	if _, err := kernel.ReadAt(magic[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the kernel: %w", err)
	}
	if string(magic[:]) != elf.ELFMAG {
		linux := boot.Linux{Kernel: kernel, Cmdline: cmp.Or(cmdline, defaultCmdline) + linuxArgs}
		if initrd != nil {
			linux.Initrd = initrd
		}
		return linux, nil
	}
	env, err := kernelEnv(cmp.Or(cmdline, defaultEnv))
	if err != nil {
		return nil, err
	}
	freebsd := boot.FreeBSD{Kernel: kernel, Env: env}
	if initrd != nil {
		freebsd.Modules = []boot.FreeBSDModule{{Name: "/boot/mfsroot", Type: "mfs_root", File: initrd}}
	}
	return freebsd, nil
}

// kernelEnv parses a FreeBSD command line.
func kernelEnv(line string) (map[string]string, error) {
	env := map[string]string{}
	for line = strings.TrimLeft(line, " \t"); line != ""; line = strings.TrimLeft(line, " \t") {
		name, rest, ok := strings.Cut(line, "=")
		if !ok || name == "" || strings.ContainsAny(name, " \t\"") {
			return nil, fmt.Errorf("FreeBSD kernel environment %q: want name=value or name=\"value\"", line)
		}
		var value string
		if quoted, is := strings.CutPrefix(rest, `"`); is {
			if value, line, ok = strings.Cut(quoted, `"`); !ok {
				return nil, fmt.Errorf("FreeBSD kernel environment: the value of %s lacks its closing quote", name)
			}
		} else {
			value, line = rest, ""
			if end := strings.IndexAny(rest, " \t"); end >= 0 {
				value, line = rest[:end], rest[end:]
			}
		}
		env[name] = value
	}
	return env, nil
}

// events turns the machine's into the worker's. They come from one goroutine.
func (g *guest) events(changed func(ctl.State, int)) func(vmm.Event) {
	state, resets := ctl.Starting, 0
	return func(e vmm.Event) {
		switch e.Kind {
		case vmm.EventStarted, vmm.EventResumed:
			state = ctl.Running
		case vmm.EventPaused:
			state = ctl.Paused
		case vmm.EventRebooted:
			resets++
		default:
			return
		}
		changed(state, resets)
	}
}

func (g *guest) Run(ctx context.Context) ctl.Exit {
	end, err := g.m.Run(ctx)
	e := ctl.Exit{Kind: ctl.Failed, Resets: end.Reboots, Time: time.Now().UTC(), Detail: end.Detail}
	switch end.Cause {
	case vmm.PowerOff:
		e.Kind = ctl.PowerOff
	case vmm.Killed:
		e.Kind = ctl.Killed
	case vmm.TripleFault:
		e.Kind = ctl.TripleFault
	case vmm.Halted:
		e.Kind = ctl.Halted
	}
	if e.Kind == ctl.Failed && err != nil {
		e.Detail = err.Error()
	}
	if end.Registers != nil {
		e.Detail = strings.TrimSuffix(fmt.Sprintf("vCPU %d at rip %#x: %s", end.VCPU, end.Registers.RIP, e.Detail), ": ")
		e.Registers = end.Registers.String()
	}
	return e
}

func (g *guest) Confine() error                        { return g.m.Confine() }
func (g *guest) Pause(ctx context.Context) error       { return g.m.Pause(ctx) }
func (g *guest) Resume(ctx context.Context) error      { return g.m.Resume(ctx) }
func (g *guest) Reset(ctx context.Context) error       { return g.m.Reset(ctx) }
func (g *guest) PowerButton(ctx context.Context) error { return g.m.PowerButton(ctx) }
func (g *guest) Kill()                                 { g.m.Kill() }
func (g *guest) Input() io.Writer                      { return g.m.SerialInput() }

func (g *guest) Counters() map[string]uint64 {
	s := g.m.Stats()
	c := map[string]uint64{"uptime_seconds": uint64(s.Uptime.Seconds())}
	for i, v := range s.VCPUs {
		p := fmt.Sprintf("cpu%d.", i)
		c[p+"port_accesses"], c[p+"mmio_accesses"], c[p+"kicks"] = v.PortAccesses, v.MMIOAccesses, v.Kicks
	}
	for i, d := range s.Disks {
		p := fmt.Sprintf("disk%d.", i)
		c[p+"reads"], c[p+"writes"], c[p+"flushes"], c[p+"discards"] = d.Reads, d.Writes, d.Flushes, d.Discards
		c[p+"read_bytes"], c[p+"written_bytes"], c[p+"errors"] = d.ReadBytes, d.WrittenBytes, d.Errors
	}
	for i, n := range s.NICs {
		p := fmt.Sprintf("net%d.", i)
		c[p+"rx_frames"], c[p+"rx_bytes"], c[p+"rx_dropped"] = n.RxFrames, n.RxBytes, n.RxDropped
		c[p+"tx_frames"], c[p+"tx_bytes"], c[p+"tx_dropped"] = n.TxFrames, n.TxBytes, n.TxDropped
	}
	return c
}

func (g *guest) Close() error { return errors.Join(g.m.Close(), g.closeFiles()) }

func (g *guest) closeFiles() error {
	var errs []error
	for _, f := range g.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
