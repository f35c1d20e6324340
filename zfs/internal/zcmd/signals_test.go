// SPDX-License-Identifier: BSD-2-Clause

package zcmd

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// A request that moves a stream is not sent twice, whatever comes of it.
func TestDoStreamOnce(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EINTR, syscall.ENOMEM} {
		calls := 0
		d := Fake(func(Op, *Cmd, []byte, []byte, []byte) syscall.Errno { calls++; return errno })
		for _, op := range []Op{SendNew, RecvNew} {
			calls = 0
			if err := d.Request("tank").DoStream(t.Context(), op); !errors.Is(err, errno) || calls != 1 {
				t.Errorf("%#x: %v after %d calls", op, err, calls)
			}
		}
	}
}

// A signal to the thread does not end the kernel's sleep; it comes after it.
func TestDoStreamSignals(t *testing.T) {
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGWINCH)
	defer signal.Stop(got)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id := threadID()
	d := Fake(func(Op, *Cmd, []byte, []byte, []byte) syscall.Errno {
		time.AfterFunc(20*time.Millisecond, func() { signalThread(id, syscall.SIGWINCH) })
		return sleep(200 * time.Millisecond)
	})
	// Asleep without it, the thread is woken.
	if err := d.Request("tank").DoOnce(t.Context(), SendNew); !errors.Is(err, syscall.EINTR) {
		t.Errorf("undefended: %v", err)
	}
	<-got
	if err := d.Request("tank").DoStream(t.Context(), SendNew); err != nil {
		t.Error(err)
	}
	select {
	case <-got:
	case <-time.After(5 * time.Second):
		t.Error("the signal is lost")
	}
	// The thread hears again.
	if err := d.Request("tank").DoOnce(t.Context(), SendNew); !errors.Is(err, syscall.EINTR) {
		t.Errorf("afterwards: %v", err)
	}
}
