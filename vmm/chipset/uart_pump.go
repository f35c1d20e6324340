// SPDX-License-Identifier: BSD-2-Clause

package chipset

// Start begins to carry the guest's output away.
func (u *UART) Start() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.started || u.halted {
		return
	}
	u.started = true
	if u.out == nil {
		close(u.done)
		return
	}
	go u.pump()
}

// Pause holds back the host's input. Output that has left the guest flows on.
func (u *UART) Pause() {
	u.mu.Lock()
	u.paused = true
	u.mu.Unlock()
}

// Resume lets input through again.
func (u *UART) Resume() {
	u.mu.Lock()
	u.paused = false
	u.signalRoom()
	u.update()
	u.mu.Unlock()
}

// Reset takes the port to its power-on state. Output that has left the guest is
// kept.
func (u *UART) Reset() {
	u.mu.Lock()
	u.reset()
	u.mu.Unlock()
}

// Halt ends the port: waiting senders get ErrHalted, and what the guest has
// transmitted is written out. Where Output stays blocked it is given a second,
// then left behind.
func (u *UART) Halt() {
	u.mu.Lock()
	if u.halted {
		u.mu.Unlock()
		return
	}
	u.halted = true
	u.signalRoom()
	started := u.started
	u.wakePump()
	u.mu.Unlock()
	if !started {
		return
	}
	late := make(chan struct{})
	t := u.clock.AfterFunc(uartGrace, func() { close(late) })
	defer t.Stop()
	select {
	case <-u.done:
	case <-late:
	}
}

func (u *UART) wakePump() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// pump writes to Output until the port is halted and nothing is left. Two
// buffers take turns: the guest fills one while the other is being written.
func (u *UART) pump() {
	defer close(u.done)
	spare := make([]byte, 0, uartOutput)
	for range u.wake {
		for {
			u.mu.Lock()
			take := u.fill
			if len(take) == 0 {
				halted := u.halted
				u.mu.Unlock()
				if halted {
					return
				}
				break
			}
			u.fill = spare[:0]
			if len(take) == cap(take) { // the guest was waiting for us
				u.thre = true
				u.update()
			}
			u.mu.Unlock()
			// A failed write loses its bytes, as a line without a listener does.
			_, _ = u.out.Write(take)
			spare = take
		}
	}
}
