// SPDX-License-Identifier: BSD-2-Clause

package vmm

// Syscalls lists the system calls that Run, Close and the Go runtime make after
// New on this system, by name: what a seccomp filter must allow. Of ioctl only
// KVM's (type 0xae) and the block and tap ones of open descriptors are used.
func Syscalls() []string {
	return []string{
		// the machine
		"ioctl", "eventfd2", "read", "write", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
		"readv", "writev", "fsync", "fdatasync", "fallocate", "lseek", "fstat", "newfstatat", "close", "fcntl", "tgkill", "getpid", "gettid",
		"madvise", "mmap", "munmap", "mprotect",
		// the Go runtime
		"futex", "clone", "clone3", "set_robust_list", "rseq", "exit", "exit_group", "sched_yield", "sched_getaffinity",
		"nanosleep", "clock_nanosleep", "clock_gettime", "gettimeofday", "getrandom", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
		"pipe2", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "timer_create", "timer_settime", "timer_delete",
		"setitimer", "kill", "prctl", "mincore", "brk", "restart_syscall",
	}
}
