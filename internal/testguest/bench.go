// SPDX-License-Identifier: BSD-2-Clause

package testguest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// BenchDevice is what BenchDisk measures.
type BenchDevice interface {
	io.ReaderAt
	io.WriterAt
	// Buffer returns memory that reads and writes take.
	Buffer(n int) ([]byte, error)
}

// BenchDisk is the command disk-bench: it keeps depth requests under way for a
// time, and answers how many were done and the nanoseconds that they took.
func BenchDisk(d BenchDevice, size int64, mode string, block, depth uint64, lasts time.Duration) (string, error) {
	if block < Sector || block > 16<<20 || depth < 1 || depth > 256 {
		return "", fmt.Errorf("bad block %d or depth %d", block, depth)
	}
	if size < int64(block) {
		return "", fmt.Errorf("a disk of %d bytes is smaller than a block", size)
	}
	kind, random := strings.CutPrefix(mode, "rand")
	do := d.ReadAt
	switch kind {
	case "read":
	case "write":
		do = d.WriteAt
	default:
		return "", fmt.Errorf("bad mode %q", mode)
	}
	blocks := size / int64(block)
	var ops, next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, depth)
	begin := time.Now()
	until := begin.Add(lasts)
	for i := range depth {
		wg.Go(func() {
			buf, err := d.Buffer(int(block))
			if err != nil {
				errs <- err
				return
			}
			Pattern(buf, i, 0)
			for time.Now().Before(until) {
				at := next.Add(1) - 1
				if random {
					at = rand.Int64()
				}
				if _, err := do(buf, at%blocks*int64(block)); err != nil {
					errs <- err
					return
				}
				ops.Add(1)
			}
		})
	}
	wg.Wait()
	spent := time.Since(begin)
	select {
	case err := <-errs:
		return "", err
	default:
	}
	return fmt.Sprintf("%d %d", ops.Load(), spent.Nanoseconds()), nil
}

// Numbers reads the decimal arguments of a command.
func Numbers(args []string) ([]uint64, error) {
	out := make([]uint64, len(args))
	for i, a := range args {
		n, err := strconv.ParseUint(a, 10, 63)
		if err != nil {
			return nil, err
		}
		out[i] = n
	}
	return out, nil
}
