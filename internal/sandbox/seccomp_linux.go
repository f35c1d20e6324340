// SPDX-License-Identifier: BSD-2-Clause

package sandbox

import (
	"fmt"
	"runtime"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// allowed are the system calls that need no look at their arguments. By whom
// each is used is said beside it.
var allowed = []uintptr{
	// disks, the console's log, the exit file, taps, sockets, eventfds
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV,
	unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_PREADV2, unix.SYS_PWRITEV2,
	unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_LSEEK, unix.SYS_FSTAT,
	unix.SYS_CLOSE, unix.SYS_FCNTL, unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_DUP,
	// connections on the control socket; there is no call that makes or binds one
	unix.SYS_ACCEPT4, unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SHUTDOWN,
	// the Go runtime: its poller, memory, threads, timers, signals
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_WAIT, unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2,
	unix.SYS_MADVISE, unix.SYS_MUNMAP, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETPID, unix.SYS_GETTID,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_GETRANDOM,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_TIMER_CREATE, unix.SYS_TIMER_SETTIME, unix.SYS_TIMER_DELETE, unix.SYS_SETITIMER, unix.SYS_RESTART_SYSCALL,
	// counters
	unix.SYS_GETRUSAGE,
}

// Of ioctl(2): those of block devices that discard and zero, those of a tap, and
// of the hypervisor those of a machine that is made (linux/kvm.h): it runs, is
// interrupted, reset and looked at. None makes a machine, a vCPU or a device, or
// gives a guest other memory.
var ioctls = []uint32{
	0xae80, // KVM_RUN, which is looked for first
	unix.BLKDISCARD, unix.BLKZEROOUT, unix.BLKGETSIZE64, unix.BLKSSZGET, unix.BLKPBSZGET, unix.BLKFLSBUF,
	unix.TUNSETOFFLOAD, unix.TUNSETVNETHDRSZ, unix.TUNGETVNETHDRSZ, unix.TUNGETIFF, unix.TUNGETFEATURES,
	0x4008ae61,                         // KVM_IRQ_LINE
	0x4008ae6a, 0x4020ae76, 0x4040ae79, // KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_IOEVENTFD
	0x8090ae81, 0x4090ae82, // KVM_GET_REGS, KVM_SET_REGS
	0x8138ae83, 0x4138ae84, // KVM_GET_SREGS, KVM_SET_SREGS
	0xc008ae88, 0x4008ae89, // KVM_GET_MSRS, KVM_SET_MSRS
	0x4400ae8f, 0x4004ae99, // KVM_SET_LAPIC, KVM_SET_MP_STATE
	0x4040aea0, 0x4080aea2, // KVM_SET_VCPU_EVENTS, KVM_SET_DEBUGREGS
	0x5000aea5, 0x4188aea7, // KVM_SET_XSAVE, KVM_SET_XCRS
	0x8208ae63, 0x4070aea0, // KVM_SET_IRQCHIP, KVM_SET_PIT2
	0xaead, // KVM_KVMCLOCK_CTRL
}

// Where struct seccomp_data of linux/seccomp.h has what.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16 // uint64 each; the lower half first
)

func arg(n uint32) uint32 { return dataArgs + 8*n }

var (
	allow  = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	refuse = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	absent = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
	kill   = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
)

func load32(off uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: off, Size: 4} }

// when runs body, which must return, for one system call.
func when(nr uintptr, body ...bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(nr), SkipTrue: uint8(len(body))},
	}, body...)
}

// atMost goes on if the nth argument is no greater than max, and refuses else.
func atMost(n uint32, max uint64) []bpf.Instruction {
	return []bpf.Instruction{
		load32(arg(n) + 4),
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(max >> 32), SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(max >> 32), SkipTrue: 3},
		load32(arg(n)),
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: uint32(max), SkipTrue: 1},
		refuse,
	}
}

// program is the filter. pid is this process, as it sees itself; file is how large
// a file may be.
func program(pid int, file uint64) []bpf.Instruction {
	p := []bpf.Instruction{
		load32(dataArch),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AUDIT_ARCH_X86_64, SkipTrue: 1},
		kill,
		load32(dataNr),
		// The x32 calls have numbers of their own.
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 0x40000000, SkipTrue: 1},
		refuse,
	}
	// First what every exit of the guest comes by: of calls whose arguments do not
	// count the kernel remembers the verdict, of ioctl it cannot.
	io := []bpf.Instruction{load32(arg(1))}
	for _, req := range ioctls {
		io = append(io, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: req, SkipTrue: 1}, allow)
	}
	p = append(p, when(unix.SYS_IOCTL, append(io, refuse)...)...)
	for _, nr := range allowed {
		p = append(p, when(nr, allow)...)
	}
	// A log is emptied, no file is given another length.
	p = append(p, when(unix.SYS_FTRUNCATE, append(atMost(1, 0), allow)...)...)
	// A disk's holes and zeroes. What is allocated so behind the end of a file no
	// limit of the kernel's knows of.
	holes := []bpf.Instruction{
		load32(arg(1)),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE, SkipTrue: 1},
		refuse,
	}
	holes = append(holes, atMost(2, file)...)
	holes = append(holes, atMost(3, file)...)
	p = append(p, when(unix.SYS_FALLOCATE, append(holes, allow)...)...)
	// Threads, never processes: and nothing that would come with a namespace.
	const thread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD
	const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	p = append(p, when(unix.SYS_CLONE,
		load32(arg(0)),
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: thread | namespaces},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: thread, SkipTrue: 1},
		refuse,
		allow,
	)...)
	// Its arguments are in memory, where no filter can look.
	p = append(p, when(unix.SYS_CLONE3, absent)...)
	// No memory becomes code.
	for _, nr := range []uintptr{unix.SYS_MMAP, unix.SYS_MPROTECT} {
		p = append(p, when(nr,
			load32(arg(2)),
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.PROT_EXEC, SkipFalse: 1},
			refuse,
			allow,
		)...)
	}
	// Signals to itself.
	for _, nr := range []uintptr{unix.SYS_TGKILL, unix.SYS_KILL} {
		p = append(p, when(nr,
			load32(arg(0)),
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(pid), SkipTrue: 1},
			refuse,
			allow,
		)...)
	}
	// The runtime names its mappings.
	p = append(p, when(unix.SYS_PRCTL,
		load32(arg(0)),
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PR_SET_VMA, SkipTrue: 1},
		refuse,
		allow,
	)...)
	return append(p, refuse)
}

// filter assembles the filter and puts it in force.
func filter(file uint64) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("seccomp: no filter for %s", runtime.GOARCH)
	}
	raw, err := bpf.Assemble(program(unix.Getpid(), file))
	if err != nil {
		return fmt.Errorf("seccomp: assemble the filter: %w", err)
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return load(prog)
}
