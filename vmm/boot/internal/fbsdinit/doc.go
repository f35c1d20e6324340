// SPDX-License-Identifier: BSD-2-Clause

// Command fbsdinit is the init of the FreeBSD guest that the tests of package
// boot run: it tells what it sees on the console and obeys orders from there. Of
// the protocol of package testguest it knows what benchmarks ask for, and
//
//	port-reads PORT SECONDS                   read a port, as often as it goes; reads and nanoseconds
//	sysctl NAME                               of one that is a string
//
// Nothing imports it.
package main
