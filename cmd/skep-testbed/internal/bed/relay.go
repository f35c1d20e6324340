// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package bed

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/skepvm/skep/cmd/skep-testbed/internal/wire"
	"golang.org/x/sys/unix"
)

// relay passes one session's frames between a client and the agent. request is
// the first frame if it was read already.
func (b *Bed) relay(client *wire.Conn, request []byte) {
	fail := func(err error) { _ = client.WriteJSON(wire.KindExit, wire.Exit{Error: err.Error(), Code: 126}) }
	stream, err := b.open()
	if err != nil {
		fail(err)
		return
	}
	agent := wire.NewConn(stream)
	if request != nil {
		if err := agent.Write(wire.KindRequest, request); err != nil {
			stream.Close()
			fail(err)
			return
		}
	}
	var l *letter
	if b.mailbox != nil {
		l = b.mailbox.letter()
		defer l.drop()
	}
	up := make(chan struct{})
	go func() {
		defer close(up)
		defer stream.Close() // tells the agent that the client is gone
		for {
			kind, body, err := client.Read()
			if err != nil {
				return
			}
			if l != nil && kind == wire.KindFiles {
				if l.write(body) != nil {
					return
				}
				continue
			}
			if l != nil && kind == wire.KindStart {
				if agent.WriteJSON(wire.KindMailbox, wire.Mailbox{Offset: l.offset, Length: l.length}) != nil {
					return
				}
			}
			if agent.Write(kind, body) != nil {
				return
			}
		}
	}()
	for {
		kind, body, err := agent.Read()
		if err != nil {
			break
		}
		if client.Write(kind, body) != nil {
			break
		}
	}
	select {
	case <-b.done:
		fail(b.Err())
	default:
	}
	client.Close()
	<-up
}

// A mailbox is a disk through which files reach a machine whose control port
// is slow: we write to the file, the machine reads the disk.
type mailbox struct {
	f *os.File

	mu   sync.Mutex // guards next
	next int64
}

const (
	mailboxSize = 256 << 30
	letterSize  = 4 << 30 // at most
)

// addMailbox adds the disk.
func (m *machine) addMailbox() error {
	f, err := unnamedFile("/var/tmp")
	if err != nil {
		return err
	}
	if err := f.Truncate(mailboxSize); err != nil {
		f.Close()
		return fmt.Errorf("mailbox: %w", err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		f.Close()
		return err
	}
	m.mailbox = &mailbox{f: os.NewFile(uintptr(fd), "mailbox")}
	m.diskFile("mailbox", f, true)
	return nil
}

// A letter is what one session sends.
type letter struct {
	box            *mailbox
	offset, length int64
}

func (b *mailbox) letter() *letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &letter{box: b, offset: b.next}
	b.next = (b.next + letterSize) % mailboxSize
	return l
}

func (l *letter) write(p []byte) error {
	if l.length+int64(len(p)) > letterSize {
		return io.ErrShortBuffer
	}
	n, err := l.box.f.WriteAt(p, l.offset+l.length)
	l.length += int64(n)
	return err
}

// drop gives the space back.
func (l *letter) drop() {
	if l.length > 0 {
		_ = unix.Fallocate(int(l.box.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, l.offset, (l.length+4095)&^4095)
	}
}
