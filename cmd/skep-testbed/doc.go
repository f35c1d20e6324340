// SPDX-License-Identifier: BSD-2-Clause

// Command skep-testbed runs a program on a disposable host: a virtual machine
// under QEMU that is root's to break, with KVM, bridges, taps and, if asked
// for, OpenZFS. It is made for go test:
//
//	go test -tags testbed -exec 'skep-testbed exec' ./...
//
// The program's binary, the files of the working directory and its testdata,
// the arguments and the environment go in; output, exit code and signals, and
// the files that the test wrote (coverage and other profiles, GOCOVERDIR, what
// is new or changed in the package's directory) come back. $HOME is /root and
// SKEP_IN_TESTBED=1 is set. Nothing needs a network.
//
//	skep-testbed up [-zfs 2.1|2.3] [-name x]   boot one and leave it up; exec uses it
//	skep-testbed exec [options] program args   run a program (without one up: in one of its own, 7 s)
//	skep-testbed shell                         look around in it
//	skep-testbed status
//	skep-testbed down [-all]
//	skep-testbed build                         make all that is cached
//	skep-testbed guest                         where the small guest of package testguest is (on a Linux testbed: /opt/skep/guest)
//	skep-testbed images                        where the cloud images are (on a Linux testbed: /opt/skep/images)
//
// A program without a slash in its name is one of the testbed's own:
// skep-testbed exec ip link.
//
// # Environment
//
//	SKEP_TESTBED          the testbed's name: those of different names are different machines
//	SKEP_ZFS              2.1, 2.3 or none: which OpenZFS is loaded
//	SKEP_TESTBED_FILES    more files and directories to send, separated by colons
//	SKEP_TESTBED_MEMORY   MiB of memory, 4096
//	SKEP_TESTBED_CPUS     processors: 1 in emulation, which is trusted with no more, 2 on a true KVM
//	SKEP_TESTBED_CACHE    what is made once, ~/.cache/skep-testbed
//	SKEP_FREEBSD          a FreeBSD disk image or /boot directory, for -os freebsd
//	SKEP_QEMU             another qemu-system-x86_64
//
// # Inside
//
// The root file system is Debian's, with the tools that tests compare with, and
// changes to it live in memory. /var/tmp is an empty disk of 20 GiB. All that a
// test started ends with it; pools, taps and bridges that it left stay until
// the testbed goes down.
//
// # What is left behind
//
// Nothing, whatever way this program ends: QEMU dies with it, its disk is a
// file without a name, and other processes find the testbed by an abstract
// socket.
package main
