// SPDX-License-Identifier: BSD-2-Clause

// Package testguest gives tests a small Linux guest: where its kernel and
// initrd lie in the testbed, and a Client that speaks with its init
// (internal/guestinit) over the guest's console.
//
//	files, err := testguest.Find()
//	... boot files.Kernel and files.Initrd with testguest.Cmdline(testguest.Serial) ...
//	guest := testguest.NewClient(consoleOut, consoleIn)
//	err = guest.Ready(ctx)
//	n, err := guest.Do(ctx, "cpus")
//
// It is imported by tests, benchmarks and cmd/skep-testbed, never by the
// library or the daemon.
//
// # Protocol
//
// The guest prints "@@ INIT" as the first thing its init does, "@@ READY" when
// its modules are loaded and it takes commands, "@@ EVENT name" when something
// happens (power-button). A command is a line "id name arguments...", answered
// by "@@ OK id result" or "@@ ERR id text"; commands run side by side, results
// have no line breaks. Everything else on the console is the kernel's.
//
//	ping                                      pong
//	cpus | memory | uptime | cmdline          online processors; bytes; seconds; the kernel's command line
//	time                                      the wall clock, Unix nanoseconds
//	clock                                     CLOCK_MONOTONIC, nanoseconds
//	sleep DURATION                            (Go syntax)
//	cat PATH | write PATH TEXT...             a file, line breaks as \n; for /proc and /sys
//	load SECONDS N                            burn N processors; loops done
//	disks                                     name:bytes ...
//	disk-fill DEV OFFSET LENGTH SEED          write and flush the Pattern; its Sum
//	disk-write DEV OFFSET LENGTH SEED         write the Pattern; its Sum
//	disk-flush DEV
//	disk-sum DEV OFFSET LENGTH                read past the cache; Sum
//	disk-high DEV OFFSET LENGTH SEED          fill and sum by a buffer above 4 GiB; both Sums, its lowest physical address
//	disk-bench DEV MODE BLOCK DEPTH SECONDS   MODE read, write, randread, randwrite; operations and nanoseconds
//	disk-discard | disk-zero DEV OFFSET LENGTH
//	disk-serial DEV
//	disk-verify DEV OFFSET LENGTH WRITERS REQUESTS SEED   plays a Plan; its PlanCounts
//	nets                                      name:MAC:MTU ...
//	net-up DEV ADDRESS/PREFIX [GATEWAY]
//	net-shape DEV MTU SEGMENTS                and how many segments TCP gives the device at once, at most
//	tcp-serve PORT                            answers until the guest ends (see tcp-send, tcp-rr)
//	tcp-send ADDRESS:PORT BYTES SEED          the receiver's Sum of the Pattern, ours, nanoseconds
//	tcp-rr ADDRESS:PORT ROUNDS SIZE           nanoseconds for all round trips
//	udp-serve PORT                            echoes until the guest ends
//	udp-play ADDRESS:PORT COUNT SEED          datagrams of mixed sizes to an echo and back, compared; how many were lost
//	rng BYTES                                 that many bytes of /dev/hwrng, hexadecimal, at most 4096
//	vport NAME TEXT...                        write a line to a virtio-serial port
//	vport-read NAME                           read a line from it
//	reboot | poweroff | halt | crash | triple-fault
package testguest
