// SPDX-License-Identifier: BSD-2-Clause

package bhyve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/skepvm/skep/vmm/hv"
)

// doorbell is one that Ring alone rings: vmm(4) has none, so the guest's write
// reaches the Handler, whose device rings.
//
// It is a pipe, and who waits blocks a thread in read(2). That thread is woken by
// the ringing vCPU's directly. A channel, or the runtime's poller, first needs
// another of the runtime's threads to look for work: on an emulated host the device
// had a request after 1.3 ms, and has it after 0.3 now.
type doorbell struct {
	r, w *os.File
	rung atomic.Bool // a byte is in the pipe, or about to be
}

func newDoorbell() (*doorbell, error) {
	r, w, err := pipe()
	if err != nil {
		return nil, err
	}
	return &doorbell{r: r, w: w}, nil
}

// Wait blocks until rung since the last Wait, or closed.
func (d *doorbell) Wait() error {
	var b [1]byte
	_, err := d.r.Read(b[:])
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed):
		return hv.ErrClosed
	case err != nil:
		return fmt.Errorf("bhyve: doorbell: %w", err)
	}
	// Who rings from here on writes again; who rang before is seen by the caller,
	// who looks at the queue after this.
	d.rung.Store(false)
	return nil
}

// Ring wakes Wait. On a closed doorbell it does nothing.
func (d *doorbell) Ring() {
	if !d.rung.Swap(true) {
		_, _ = d.w.Write([]byte{1})
	}
}

// Close ends Wait, by the end of the pipe.
func (d *doorbell) Close() error {
	err := d.w.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return errors.Join(err, d.r.Close())
}
