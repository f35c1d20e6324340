// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"golang.org/x/sys/unix"
)

// commands are those of package testguest that are answered here, with how many
// arguments each takes.
var commands = map[string]struct {
	args int
	run  func(a []string) (string, error)
}{
	"ping":       {0, func([]string) (string, error) { return "pong", nil }},
	"disk-bench": {5, diskBench},
	"sysctl":     {1, func(a []string) (string, error) { return unix.Sysctl(a[0]) }},
	"net-up":     {2, func(a []string) (string, error) { return "", netUp(a[0], a[1]) }},
	"tcp-serve":  {1, tcpServe},
	"tcp-send":   {3, tcpSend},
	"tcp-rr":     {3, tcpRoundTrips},
	"port-reads": {2, portReads},
}

// answer runs a command.
func answer(id string, f []string) {
	if len(f) == 0 {
		return
	}
	c, ok := commands[f[0]]
	text, err := "", error(nil)
	switch {
	case !ok:
		err = fmt.Errorf("unknown command %q", f[0])
	case len(f)-1 < c.args:
		err = fmt.Errorf("%s takes %d arguments", f[0], c.args)
	default:
		text, err = c.run(f[1:])
	}
	if err != nil {
		fmt.Printf("@@ ERR %s %s\n", id, strings.ReplaceAll(err.Error(), "\n", `\n`))
		return
	}
	fmt.Printf("@@ OK %s %s\n", id, text)
}

type diskLoad = testguest.DiskLoad

func diskBench(a []string) (string, error) {
	n, err := testguest.Numbers(a[2:5])
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile("/dev/"+a[0], os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var size int64
	if err := ioctl(f.Fd(), diocgmediasize, &size); err != nil {
		return "", fmt.Errorf("size of %s: %w", a[0], err)
	}
	load, err := testguest.ParseDiskLoad(size, a[1], n[0], n[1])
	if err != nil {
		return "", err
	}
	buf := make([]byte, load.Block) // each process has its own, once it is written to
	testguest.Pattern(buf, 1, 0)
	done, ns, err := timed(int(load.Depth), time.Duration(n[2])*time.Second, diskUser(f.Fd(), load, buf))
	if err != nil {
		return "", fmt.Errorf("%s: %w", a[0], err)
	}
	return fmt.Sprintf("%d %d", done, ns), nil
}

// inet is struct sockaddr_in.
type inet struct {
	len, family byte
	_           [2]byte
	addr        [4]byte
	_           [8]byte
}

func netUp(name, address string) error {
	p, err := netip.ParsePrefix(address)
	if err != nil || !p.Addr().Is4() {
		return fmt.Errorf("bad address %q", address)
	}
	var r struct { // struct in_aliasreq
		name                  [16]byte
		addr, broadcast, mask inet
		vhid                  int32
	}
	copy(r.name[:len(r.name)-1], name)
	r.addr = inet{len: syscall.SizeofSockaddrInet4, family: syscall.AF_INET, addr: p.Addr().As4()}
	r.mask = inet{len: syscall.SizeofSockaddrInet4, family: syscall.AF_INET, addr: [4]byte(net.CIDRMask(p.Bits(), 32))}
	r.broadcast = r.addr
	for i, m := range r.mask.addr {
		r.broadcast.addr[i] |= ^m
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return ioctl(uintptr(fd), siocaifaddr, &r)
}

func tcpServe(a []string) (string, error) {
	l, err := net.Listen("tcp", ":"+a[0])
	if err != nil {
		return "", err
	}
	go testguest.ServeTCP(l, func(err error) { fmt.Println("@@ EVENT tcp-error", err) })
	return "", nil
}

func tcpSend(a []string) (string, error) {
	n, err := testguest.Numbers(a[1:3])
	if err != nil {
		return "", err
	}
	theirs, ours, took, err := testguest.SendTCP(a[0], n[0], n[1])
	return fmt.Sprintf("%s %s %d", theirs, ours, took.Nanoseconds()), err
}

func tcpRoundTrips(a []string) (string, error) {
	n, err := testguest.Numbers(a[1:3])
	if err != nil {
		return "", err
	}
	took, err := testguest.TripTCP(a[0], n[0], n[1])
	return strconv.FormatInt(took.Nanoseconds(), 10), err
}

// portReads reads a port for a time: each leaves the guest.
func portReads(a []string) (string, error) {
	n, err := testguest.Numbers(a[:2])
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile("/dev/io", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	steps, ns, err := timed(1, time.Duration(n[1])*time.Second, portReader(f.Fd(), uint32(n[0])))
	if err != nil {
		return "", fmt.Errorf("read port %#x: %w", n[0], err)
	}
	return fmt.Sprintf("%d %d", steps*portReadsAStep, ns), nil
}
