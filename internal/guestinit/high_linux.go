// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/skepvm/skep/internal/testguest"
	"golang.org/x/sys/unix"
)

const (
	pageSize = 4096
	highFrom = 4 << 30 // where memory goes on that has no room below the devices

	// Linux's Documentation/admin-guide/mm/pagemap.rst.
	pagePresent = 1 << 63
	pageFrame   = 1<<55 - 1

	// highTries is how many buffers are held before one must lie high. The
	// kernel takes memory from there first.
	highTries = 64
)

// lowest is the lowest physical address of a buffer whose pages are there.
func lowest(buf []byte) (uint64, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	entries := make([]byte, (len(buf)+pageSize-1)/pageSize*8)
	if _, err := f.ReadAt(entries, int64(addressOf(buf)/pageSize*8)); err != nil {
		return 0, fmt.Errorf("pagemap: %w", err)
	}
	low := ^uint64(0)
	for ; len(entries) > 0; entries = entries[8:] {
		e := binary.LittleEndian.Uint64(entries)
		if e&pagePresent == 0 || e&pageFrame == 0 {
			return 0, errors.New("pagemap: a page is not there, or it may not be told where it is")
		}
		low = min(low, e&pageFrame*pageSize)
	}
	return low, nil
}

// high returns a locked buffer that lies above 4 GiB with every page, and its
// lowest address.
func high(n int) (buf []byte, at uint64, free func(), err error) {
	var held [][]byte
	free = func() {
		for _, b := range held {
			_ = unix.Munmap(b)
		}
	}
	for range highTries {
		if buf, err = aligned(n); err != nil {
			break
		}
		held = append(held, buf)
		if err = unix.Mlock(buf); err != nil { // so that the pages are there, and stay
			break
		}
		if at, err = lowest(buf); err != nil {
			break
		}
		if at >= highFrom {
			return buf, at, free, nil
		}
		err = fmt.Errorf("no memory above 4 GiB: the buffer lies at %#x", at)
	}
	free()
	return nil, 0, nil, err
}

// diskHigh writes the Pattern by a buffer above 4 GiB, clears the buffer, and
// reads the disk back into it.
func diskHigh(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[1:4])
	if err != nil {
		return "", err
	}
	return withDisk(a[0], os.O_RDWR, func(d *planDisk) (string, error) {
		buf, at, free, err := high(chunk)
		if err != nil {
			return "", err
		}
		defer free()
		wrote, err := writePattern(d.File, buf, n[0], n[1], n[2])
		if err == nil {
			err = d.Sync()
		}
		if err != nil {
			return "", err
		}
		read, err := readSum(d.File, buf, n[0], n[1])
		return fmt.Sprintf("%s %s %d", wrote, read, at), err
	})
}
