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

// DiskLoad is what the command disk-bench asks a disk for.
type DiskLoad struct {
	Write, Random bool
	Block, Blocks int64  // bytes, and how many of these the disk has
	Depth         uint64 // requests under way at once, 1..256
}

// ParseDiskLoad checks the arguments of disk-bench for a disk of size bytes.
func ParseDiskLoad(size int64, mode string, block, depth uint64) (DiskLoad, error) {
	if block < Sector || block > 16<<20 || depth < 1 || depth > 256 {
		return DiskLoad{}, fmt.Errorf("bad block %d or depth %d", block, depth)
	}
	if size < int64(block) {
		return DiskLoad{}, fmt.Errorf("a disk of %d bytes is smaller than a block", size)
	}
	kind, random := strings.CutPrefix(mode, "rand")
	if kind != "read" && kind != "write" {
		return DiskLoad{}, fmt.Errorf("bad mode %q", mode)
	}
	return DiskLoad{Write: kind == "write", Random: random, Block: int64(block), Blocks: size / int64(block), Depth: depth}, nil
}

// BenchDisk is the command disk-bench: it keeps a load's requests under way for a
// time, and answers how many were done and the nanoseconds that they took.
func BenchDisk(d BenchDevice, load DiskLoad, lasts time.Duration) (string, error) {
	do := d.ReadAt
	if load.Write {
		do = d.WriteAt
	}
	var ops, next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, load.Depth)
	begin := time.Now()
	until := begin.Add(lasts)
	for i := range load.Depth {
		wg.Go(func() {
			buf, err := d.Buffer(int(load.Block))
			if err != nil {
				errs <- err
				return
			}
			Pattern(buf, i, 0)
			for time.Now().Before(until) {
				at := next.Add(1) - 1
				if load.Random {
					at = rand.Int64()
				}
				if _, err := do(buf, at%load.Blocks*load.Block); err != nil {
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
