// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"os"
	"testing"
	"time"
)

// A pipe that is closed under the pump, at whichever end and however far it is, is os.ErrClosed.
func TestPumpClosed(t *testing.T) {
	for _, which := range []string{"reader", "writer, full", "closed before"} {
		r, src, err := bigPipe()
		if err != nil {
			t.Fatal(err)
		}
		dst, w, err := bigPipe()
		if err != nil {
			t.Fatal(err)
		}
		closing := r
		switch which {
		case "writer, full":
			closing = w
			go func() { _, _ = src.Write(make([]byte, 4*pumpSize)) }()
		case "closed before":
			_ = w.Close()
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = closing.Close() })
		if err := pump(w, r, nil); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v", which, err)
		}
		for _, f := range []*os.File{r, src, dst, w} {
			_ = f.Close()
		}
	}
}
