// SPDX-License-Identifier: BSD-2-Clause

package guestinit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skepvm/skep/internal/testguest"
	"golang.org/x/sys/unix"
)

var diskCommands = map[string]handler{
	"disks":        {0, disks},
	"disk-fill":    {4, diskWrite((*os.File).Sync)},
	"disk-write":   {4, diskWrite(nil)},
	"disk-flush":   {1, diskFlush},
	"disk-sum":     {3, diskSum},
	"disk-high":    {4, diskHigh},
	"disk-bench":   {5, diskBench},
	"disk-discard": {3, diskRange(unix.BLKDISCARD)},
	"disk-zero":    {3, diskRange(unix.BLKZEROOUT)},
	"disk-serial":  {1, diskSerial},
	"disk-verify":  {6, diskVerify},
}

const chunk = 1 << 20

func disks(context.Context, *guest, []string) (string, error) {
	files, err := filepath.Glob("/sys/block/vd*/size")
	if err != nil {
		return "", err
	}
	var out []string
	for _, f := range files {
		s, err := readTrimmed(f)
		if err != nil {
			return "", err
		}
		sectors, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return "", err
		}
		out = append(out, fmt.Sprintf("%s:%d", filepath.Base(filepath.Dir(f)), sectors*512))
	}
	return strings.Join(out, " "), nil
}

// withDisk opens a disk past the page cache for what f does with it.
func withDisk(name string, mode int, f func(*planDisk) (string, error)) (string, error) {
	file, err := os.OpenFile("/dev/"+strings.TrimPrefix(name, "/dev/"), mode|unix.O_DIRECT, 0)
	if err != nil {
		return "", err
	}
	d := &planDisk{File: file}
	defer d.free()
	return f(d)
}

// aligned returns memory that O_DIRECT takes.
func aligned(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// diskWrite writes the Pattern; then, if not nil, what makes it last is done.
func diskWrite(last func(*os.File) error) func(context.Context, *guest, []string) (string, error) {
	return func(_ context.Context, _ *guest, a []string) (string, error) {
		n, err := testguest.Numbers(a[1:4])
		if err != nil {
			return "", err
		}
		return withDisk(a[0], os.O_WRONLY, func(d *planDisk) (string, error) {
			buf, err := d.Buffer(chunk)
			if err != nil {
				return "", err
			}
			sum, err := writePattern(d.File, buf, n[0], n[1], n[2])
			if err == nil && last != nil {
				err = last(d.File)
			}
			return sum.String(), err
		})
	}
}

func diskFlush(_ context.Context, _ *guest, a []string) (string, error) {
	return withDisk(a[0], os.O_WRONLY, func(d *planDisk) (string, error) { return "", d.Sync() })
}

// writePattern writes the Pattern in pieces of buf.
func writePattern(f *os.File, buf []byte, offset, length, seed uint64) (sum testguest.Sum, err error) {
	for end := offset + length; offset < end; offset += uint64(len(buf)) {
		p := buf[:min(end-offset, uint64(len(buf)))]
		testguest.Pattern(p, seed, offset)
		sum.Add(p)
		if _, err := f.WriteAt(p, int64(offset)); err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// readSum sums what is read in pieces into buf.
func readSum(f *os.File, buf []byte, offset, length uint64) (sum testguest.Sum, err error) {
	for end := offset + length; offset < end; offset += uint64(len(buf)) {
		p := buf[:min(end-offset, uint64(len(buf)))]
		clear(p)
		if _, err := f.ReadAt(p, int64(offset)); err != nil {
			return sum, err
		}
		sum.Add(p)
	}
	return sum, nil
}

func diskSum(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[1:3])
	if err != nil {
		return "", err
	}
	return withDisk(a[0], os.O_RDONLY, func(d *planDisk) (string, error) {
		buf, err := d.Buffer(chunk)
		if err != nil {
			return "", err
		}
		sum, err := readSum(d.File, buf, n[0], n[1])
		return sum.String(), err
	})
}

func diskBench(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[2:5])
	if err != nil {
		return "", err
	}
	mode := os.O_RDONLY
	if strings.HasSuffix(a[1], "write") {
		mode = os.O_WRONLY
	}
	return withDisk(a[0], mode, func(d *planDisk) (string, error) {
		size, err := d.Seek(0, 2)
		if err != nil {
			return "", err
		}
		load, err := testguest.ParseDiskLoad(size, a[1], n[0], n[1])
		if err != nil {
			return "", err
		}
		return testguest.BenchDisk(d, load, time.Duration(n[2])*time.Second)
	})
}

func diskRange(request uint) func(context.Context, *guest, []string) (string, error) {
	return func(_ context.Context, _ *guest, a []string) (string, error) {
		n, err := testguest.Numbers(a[1:3])
		if err != nil {
			return "", err
		}
		return withDisk(a[0], os.O_RDWR, func(d *planDisk) (string, error) {
			return "", ioctlRange(d.File, request, n[0], n[1])
		})
	}
}

func diskSerial(_ context.Context, _ *guest, a []string) (string, error) {
	return readTrimmed("/sys/block/" + filepath.Base(a[0]) + "/serial")
}

// diskVerify plays a testguest.Plan.
func diskVerify(_ context.Context, _ *guest, a []string) (string, error) {
	n, err := testguest.Numbers(a[1:6])
	if err != nil {
		return "", err
	}
	p := testguest.Plan{Offset: int64(n[0]), Length: int64(n[1]), Writers: int(n[2]), Requests: int(n[3]), Seed: n[4]}
	return withDisk(a[0], os.O_RDWR, func(d *planDisk) (string, error) {
		done, err := p.Run(d)
		return done.String(), err
	})
}

// planDisk is a disk past the page cache.
type planDisk struct {
	*os.File
	mu   sync.Mutex
	bufs [][]byte
}

func (d *planDisk) Buffer(n int) ([]byte, error) {
	p, err := aligned(n)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.bufs = append(d.bufs, p)
	}
	return p, err
}

func (d *planDisk) free() {
	d.Close()
	for _, p := range d.bufs {
		_ = unix.Munmap(p)
	}
}

func (d *planDisk) Flush() error { return d.Sync() }

func (d *planDisk) Discard(off, n int64) error {
	return ioctlRange(d.File, unix.BLKDISCARD, uint64(off), uint64(n))
}

func (d *planDisk) Zero(off, n int64) error {
	return ioctlRange(d.File, unix.BLKZEROOUT, uint64(off), uint64(n))
}
