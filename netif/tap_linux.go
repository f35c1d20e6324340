// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// vnetHeaderSize is that of virtio_net_hdr_v1, with num_buffers (virtio 1.2,
// section 5.1.6).
const vnetHeaderSize = 12

func (k *linux) createTap(scratch string, s *TapSpec) (made, error) {
	var files []*os.File
	err := k.inNamespace(func() (err error) {
		files, err = openQueues(scratch, s, unix.IFF_TUN_EXCL)
		return err
	})
	if err != nil {
		return made{}, err
	}
	if s.Persist {
		if err := control(files[0], func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1) }); err != nil {
			return made{}, errors.Join(fmt.Errorf("TUNSETPERSIST: %w", err), closeAll(files))
		}
	}
	return made{files: files}, nil
}

func (k *linux) openTap(name, _ string, s *TapSpec) (files []*os.File, err error) {
	before, err := k.index(name)
	if err != nil {
		return nil, err
	}
	err = k.inNamespace(func() (err error) {
		files, err = openQueues(name, s, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	// TUNSETIFF makes what is not there: when the tap went since, the new one
	// goes again with its descriptor.
	if after, err := k.index(name); err != nil || after != before {
		return nil, errors.Join(unix.ENODEV, closeAll(files))
	}
	return files, nil
}

// inNamespace runs do on a thread in the namespace that the connection was
// opened in: /dev/net/tun makes taps where the opening thread is.
func (k *linux) inNamespace(do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := netns.Get()
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer here.Close()
	if here.Equal(k.ns) {
		return do()
	}
	if err := netns.Set(k.ns); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = do()
	if back := netns.Set(here); back != nil {
		// This thread must not serve anybody again: locked once more, it ends
		// with its goroutine.
		runtime.LockOSThread()
		return errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
	}
	return err
}

func openQueues(name string, s *TapSpec, extra uint16) ([]*os.File, error) {
	n := max(s.Queues, 1)
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if s.VnetHeader {
		flags |= unix.IFF_VNET_HDR
	}
	if n > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	var files []*os.File
	for q := range n {
		f, err := openQueue(name, flags|extra, s.VnetHeader)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("queue %d: %w", q, err), closeAll(files))
		}
		files = append(files, f)
		extra = 0 // the second queue finds what the first one made
	}
	return files, nil
}

func openQueue(name string, flags uint16, vnet bool) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("/dev/net/tun (is the module tun there?): %w: %v", errors.ErrUnsupported, err)
		}
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	if err := attach(fd, name, flags, vnet); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	// Only now: the poller gets no events of a descriptor that was added to it
	// before TUNSETIFF.
	return os.NewFile(uintptr(fd), "tap:"+name), nil
}

func attach(fd int, name string, flags uint16, vnet bool) error {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("name: %w", err)
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	if !vnet {
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHeaderSize); err != nil {
		return fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return nil
}

func control(f *os.File, do func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func setOffloads(f *os.File, o Offloads) error {
	flags := 0
	for _, b := range []struct {
		have Offloads
		want int
	}{
		{OffloadChecksum, unix.TUN_F_CSUM},
		{OffloadTSO4, unix.TUN_F_TSO4},
		{OffloadTSO6, unix.TUN_F_TSO6},
		{OffloadECN, unix.TUN_F_TSO_ECN},
		{OffloadUSO4, unix.TUN_F_USO4},
		{OffloadUSO6, unix.TUN_F_USO6},
	} {
		if o&b.have != 0 {
			flags |= b.want
		}
	}
	err := control(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, flags) })
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("TUNSETOFFLOAD %#x: %w: %w", flags, errors.ErrUnsupported, err)
	}
	return err
}
