// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// nodeWait is how long WaitVolume waits at most, whatever the context allows.
const nodeWait = 30 * time.Second

// VolumePath gives the device node of a volume, ErrNotFound while there is
// none: nodes appear after the volume does.
func (h *Handle) VolumePath(name string) (string, error) {
	const op = "volume"
	if err := checkAny(op, name); err != nil {
		return "", err
	}
	p, err := volumeNode(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &Error{Op: op, Name: name, Kind: ErrNotFound, Hint: "no device node", Err: err}
	}
	if err != nil {
		return "", &Error{Op: op, Name: name, Err: err}
	}
	return p, nil
}

// prodAfter is how long a volume's node is waited for before the kernel is asked again.
const prodAfter = 500 * time.Millisecond

// WaitVolume waits for the device node of a volume and gives its path. It
// gives up when the context ends, and after 30 seconds at the latest. On
// FreeBSD it sets a local volmode of dev anew where the kernel did not make the
// node that goes with it; a parent that has volmode dev saves that.
func (h *Handle) WaitVolume(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nodeWait, errors.New("no device node within "+nodeWait.String()))
	defer cancel()
	wait := time.Millisecond
	start := time.Now()
	for {
		p, err := h.VolumePath(name)
		if !isKind(err, ErrNotFound) {
			return p, err
		}
		if time.Since(start) > prodAfter {
			if err := h.prodVolume(ctx, name); err != nil && !isKind(err, ErrNotFound) && ctx.Err() == nil {
				return "", err
			}
			start = time.Now().Add(prodAfter) // and then less often
		}
		select {
		case <-ctx.Done():
			return "", &Error{Op: "volume", Name: name, Kind: ErrNotFound, Err: context.Cause(ctx)}
		case <-time.After(wait):
			wait = min(2*wait, 100*time.Millisecond)
		}
	}
}
