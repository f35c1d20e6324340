// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package zfs

import (
	"bytes"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Streams come whole, and once, while every thread gets signal after signal.
func TestRealSignals(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	p, q := streamPool(t, h), testPool(t, h, 512*mib)
	var quiet bytes.Buffer
	if err := h.Send(ctx, &quiet, p+"/fs@b", SendOptions{LargeBlocks: true}); err != nil {
		t.Fatal(err)
	}
	got := make(chan os.Signal, 1)
	signal.Notify(got, syscall.SIGWINCH)
	defer signal.Stop(got)
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			tasks, err := os.ReadDir("/proc/self/task")
			if err != nil {
				t.Error(err)
				return
			}
			for _, task := range tasks {
				id, _ := strconv.Atoi(task.Name())
				if unix.Tgkill(os.Getpid(), id, syscall.SIGWINCH) == nil {
					n++
				}
			}
		}
	}()
	var noisy bytes.Buffer
	if err := h.Send(ctx, &noisy, p+"/fs@b", SendOptions{LargeBlocks: true}); err != nil || !bytes.Equal(noisy.Bytes(), quiet.Bytes()) {
		t.Errorf("%d bytes sent of %d: %v", noisy.Len(), quiet.Len(), err)
	}
	if _, err := h.Receive(ctx, bytes.NewReader(quiet.Bytes()), q+"/received", ReceiveOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := h.Copy(ctx, p+"/fs@b", q+"/copied", SendOptions{LargeBlocks: true}, ReceiveOptions{}); err != nil {
		t.Error(err)
	}
	close(stop)
	t.Logf("%d signals", <-stopped)
	for _, name := range []string{"/received@b", "/copied@b"} {
		if guid(t, h, q+name) != guid(t, h, p+"/fs@b") {
			t.Error(name)
		}
	}
}
