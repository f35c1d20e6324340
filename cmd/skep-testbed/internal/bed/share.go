// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package bed

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/build"
	"github.com/skepvm/skep/cmd/skep-testbed/internal/wire"
	"golang.org/x/sys/unix"
)

// ErrNotUp says that no such testbed is running.
var ErrNotUp = errors.New("no testbed is up")

// ErrUp says that such a testbed is running already.
var ErrUp = errors.New("this testbed is up already")

// prefix is how the addresses of this user's testbeds over this cache begin.
// The cache's identity is in it since abstract addresses are seen in every
// chroot.
func prefix(cache *build.Cache) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(cache.Dir(), &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", cache.Dir(), err)
	}
	return fmt.Sprintf("@skep-testbed/%d/%x-%x/", os.Getuid(), st.Dev, st.Ino), nil
}

func address(cache *build.Cache, spec Spec) (string, error) {
	p, err := prefix(cache)
	return p + spec.OS + "/" + spec.zfs() + "/" + spec.Name, err
}

// Share serves the testbed to other processes until ctx ends, one of them
// asks for the end, or the machine ends.
func (b *Bed) Share(ctx context.Context, cache *build.Cache, ready func()) error {
	addr, err := address(cache, b.Spec)
	if err != nil {
		return err
	}
	l, err := net.Listen("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return ErrUp
	}
	if err != nil {
		return err
	}
	ready()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Add(1)
	go func() {
		defer wg.Done()
		select {
		case <-ctx.Done():
		case <-b.done:
		}
		l.Close()
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case <-b.done:
				return b.Err()
			default:
			}
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			b.answer(conn, cancel)
		}()
	}
}

// answer handles one connection: status and down itself, a session by passing
// bytes on.
func (b *Bed) answer(conn net.Conn, down func()) {
	if !sameUser(conn) {
		return
	}
	c := wire.NewConn(conn)
	kind, body, err := c.Read()
	if err != nil || kind != wire.KindRequest {
		return
	}
	var req wire.Request
	if json.Unmarshal(body, &req) != nil {
		return
	}
	switch req.Op {
	case wire.OpStatus:
		_ = c.WriteJSON(wire.KindReply, b.status())
	case wire.OpDown:
		b.Close()
		_ = c.WriteJSON(wire.KindReply, b.status())
		down()
	default:
		b.relay(c, body)
	}
}

func (b *Bed) status() wire.Status {
	return wire.Status{Name: b.Spec.Name, OS: b.Spec.OS, ZFS: b.Spec.zfs(), PID: os.Getpid(), Sessions: b.Sessions(), Kernel: b.Kernel}
}

func sameUser(conn net.Conn) bool {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return false
	}
	same := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		same = err == nil && int(cred.Uid) == os.Getuid()
	})
	return err == nil && same
}

// Dial connects to a running testbed that fits spec. A spec without a ZFS
// version takes one without ZFS before others.
func Dial(cache *build.Cache, spec Spec) (net.Conn, error) {
	if err := spec.Complete(); err != nil {
		return nil, err
	}
	versions := []string{spec.ZFS}
	if spec.ZFS == "" {
		versions = ZFSVersions
	}
	for _, v := range versions {
		spec.ZFS = v
		addr, err := address(cache, spec)
		if err != nil {
			return nil, err
		}
		conn, err := net.Dial("unix", addr)
		if err == nil && !sameUser(conn) {
			conn.Close()
			return nil, fmt.Errorf("the testbed at %s belongs to another user", addr)
		}
		if err == nil {
			return conn, nil
		}
	}
	return nil, ErrNotUp
}

// Running lists this user's testbeds over the cache.
func Running(cache *build.Cache) ([]Spec, error) {
	p, err := prefix(cache)
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []Spec
	for sc := bufio.NewScanner(f); sc.Scan(); {
		_, rest, ok := strings.Cut(sc.Text(), p)
		parts := strings.SplitN(rest, "/", 3)
		if !ok || len(parts) != 3 {
			continue
		}
		s := Spec{OS: parts[0], ZFS: parts[1], Name: parts[2]}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

// Ask sends a request that has one reply.
func Ask(cache *build.Cache, spec Spec, op string) (*wire.Status, error) {
	conn, err := Dial(cache, spec)
	if err != nil {
		return nil, err
	}
	c := wire.NewConn(conn)
	defer c.Close()
	if err := c.WriteJSON(wire.KindRequest, wire.Request{Op: op}); err != nil {
		return nil, err
	}
	_, body, err := c.Read()
	if err != nil {
		return nil, fmt.Errorf("testbed %s: %w", spec.Name, err)
	}
	st := new(wire.Status)
	return st, json.Unmarshal(body, st)
}
