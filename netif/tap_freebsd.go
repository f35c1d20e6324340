// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/skepvm/skep/netif/internal/ifabi"
)

// vnetHeaderSize is that of virtio_net_hdr_v1, with num_buffers (virtio 1.2,
// section 5.1.6).
const vnetHeaderSize = 12

func (k *freebsd) createTap(scratch string, s *TapSpec) (made, error) {
	if s.Queues > 1 {
		return made{}, fmt.Errorf("%w: a tap of FreeBSD's has one queue", errors.ErrUnsupported)
	}
	dev, err := cloneNamed(k, "tap", scratch)
	if err != nil {
		return made{}, err
	}
	files, err := k.openTap(scratch, dev, s)
	if err != nil {
		return made{}, errors.Join(err, k.destroy(scratch))
	}
	return made{files: files, dev: dev}, nil
}

func (k *freebsd) openTap(name, dev string, s *TapSpec) ([]*os.File, error) {
	if s.Queues > 1 {
		return nil, fmt.Errorf("%w: a tap of FreeBSD's has one queue", errors.ErrUnsupported)
	}
	if dev == "" {
		dev = name // never renamed
	}
	fd, err := unix.Open("/dev/"+dev, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/%s: %w", dev, err)
	}
	header := int32(0)
	if s.VnetHeader {
		header = vnetHeaderSize
	}
	if err := ioctl(fd, ifabi.TAPSVNETHDR, &header); err != nil {
		return nil, errors.Join(fmt.Errorf("TAPSVNETHDR: %w", err), unix.Close(fd))
	}
	return []*os.File{os.NewFile(uintptr(fd), "tap:"+name)}, nil
}

// setOffloads says what the network stack may leave to the tap's reader: the
// interface's transmit capabilities. It needs a socket, so it must be called
// outside of capability mode.
func setOffloads(f *os.File, o Offloads) error {
	if o&(OffloadECN|OffloadUSO4|OffloadUSO6) != 0 {
		return fmt.Errorf("FreeBSD has no ECN or UDP segmentation offload on taps: %w", errors.ErrUnsupported)
	}
	r := new(ifabi.Ifreq)
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := c.Control(func(fd uintptr) { inner = ioctl(int(fd), ifabi.TAPGIFNAME, r) }); err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("TAPGIFNAME: %w", inner)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(s)
	if err := ioctl(s, ifabi.SIOCGIFCAP, r); err != nil {
		return fmt.Errorf("SIOCGIFCAP: %w", err)
	}
	// ifr_reqcap is what it can, ifr_curcap what is on.
	can, on := binary.LittleEndian.Uint32(r.Ifru[:]), binary.LittleEndian.Uint32(r.Ifru[4:])
	for _, b := range []struct {
		have Offloads
		want uint32
	}{
		{OffloadChecksum, ifabi.IFCAP_TXCSUM | ifabi.IFCAP_TXCSUM_IPV6},
		{OffloadTSO4, ifabi.IFCAP_TSO4},
		{OffloadTSO6, ifabi.IFCAP_TSO6},
	} {
		on &^= b.want
		if o&b.have == 0 {
			continue
		}
		if can&b.want != b.want {
			return fmt.Errorf("capabilities %#x of %#x: %w", b.want, can, errors.ErrUnsupported)
		}
		on |= b.want
	}
	binary.LittleEndian.PutUint32(r.Ifru[:], on)
	if err := ioctl(s, ifabi.SIOCSIFCAP, r); err != nil {
		return fmt.Errorf("SIOCSIFCAP: %w", err)
	}
	return nil
}
