// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	console()
	if err := run(os.Stdin); err != nil {
		fmt.Println("init:", err)
	}
	reboot(rbPowerOff)
}

// console makes descriptors 0, 1 and 2 the kernel's console.
func console() {
	fd, err := syscall.Open("/dev/console", syscall.O_RDWR, 0)
	if err != nil {
		reboot(rbPowerOff)
	}
	for i := range 3 {
		if fd != i {
			_ = syscall.Dup2(fd, i)
		}
	}
}

const rbPowerOff = 0x4000 // sys/reboot.h

func reboot(how uintptr) {
	_, _, _ = syscall.RawSyscall(syscall.SYS_REBOOT, how, 0, 0)
	time.Sleep(time.Minute) // the kernel is at it
}

// run tells what it sees and then obeys orders, a line each.
func run(in io.Reader) error {
	cpus, err := unix.SysctlUint32("hw.ncpu")
	if err != nil {
		return err
	}
	mem, err := unix.SysctlUint64("hw.physmem")
	if err != nil {
		return err
	}
	release, err := unix.Sysctl("kern.osrelease")
	if err != nil {
		return err
	}
	fmt.Printf("SKEP-INIT up cpus=%d mem=%dMiB release=%s\n", cpus, mem>>20, release)
	fmt.Println("@@ READY")
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		order, arg, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		switch order {
		case "work":
			fmt.Printf("SKEP-INIT worked on %d cpus\n", work(int(cpus)))
		case "disk":
			fmt.Println("SKEP-INIT disk", disk(arg))
		case "module":
			fmt.Printf("SKEP-INIT module %s %v\n", arg, module(arg))
		case "time":
			fmt.Printf("SKEP-INIT time %d\n", time.Now().Unix())
		case "reboot":
			fmt.Println("SKEP-INIT reboots")
			reboot(0)
		case "poweroff":
			fmt.Println("SKEP-INIT powers off")
			reboot(rbPowerOff)
		case "":
		default:
			if _, err := strconv.Atoi(order); err == nil {
				answer(order, strings.Fields(arg))
				continue
			}
			fmt.Printf("SKEP-INIT unknown order %q\n", order)
		}
	}
	return lines.Err()
}

// work runs a thread bound to each processor and returns on how many it ran.
func work(cpus int) int {
	var wg sync.WaitGroup
	ran := make([]bool, cpus)
	for i := range cpus {
		wg.Go(func() {
			runtime.LockOSThread()
			err := bind(i)
			sum := 0
			for n := range 1 << 20 {
				sum += n
			}
			ran[i] = err == nil && sum > 0
			time.Sleep(50 * time.Millisecond) // timers work on that processor
		})
	}
	wg.Wait()
	n := 0
	for _, r := range ran {
		if r {
			n++
		}
	}
	return n
}

// disk writes a pattern, syncs, and reads it back.
func disk(path string) string {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	for i := range b {
		b[i] = byte(i * 7)
	}
	if _, err := f.WriteAt(b, 1<<20); err != nil {
		return err.Error()
	}
	got := make([]byte, len(b))
	if _, err := f.ReadAt(got, 1<<20); err != nil {
		return err.Error()
	}
	if string(got) != string(b) {
		return "reads something else than was written"
	}
	return "ok"
}
