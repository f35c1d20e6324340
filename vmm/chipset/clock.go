// SPDX-License-Identifier: BSD-2-Clause

package chipset

import "time"

// Clock is the host's time as the devices see it.
type Clock interface {
	// Now is the time of day; differences between two of its answers are
	// monotonic where the host's clock is.
	Now() time.Time
	// AfterFunc calls f once, on a goroutine of its own, after d.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a call that has been arranged. Stop cancels it if it has not begun.
type Timer interface{ Stop() bool }

// SystemClock is the host's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// AfterFunc implements Clock.
func (SystemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
