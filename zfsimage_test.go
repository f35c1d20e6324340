// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// One at a time makes an image's volume; who waits for it can stop to, and who
// makes another does not wait.
func TestLockImage(t *testing.T) {
	s := &zfsStore{making: map[string]chan struct{}{}}
	unlock, err := s.lockImage(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.lockImage(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	given := errors.New("given up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(given)
	if _, err := s.lockImage(ctx, "a"); !errors.Is(err, given) {
		t.Errorf("who gave up: %v", err)
	}
	var wg sync.WaitGroup
	have := 0 // guarded by the lock
	for range 20 {
		wg.Go(func() {
			unlock, err := s.lockImage(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			have++
		})
	}
	if have != 0 {
		t.Error("two have it")
	}
	unlock()
	wg.Wait()
	if have != 20 || len(s.making) != 0 {
		t.Errorf("%d had it, %d are left", have, len(s.making))
	}
}
