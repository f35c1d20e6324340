// SPDX-License-Identifier: BSD-2-Clause

// Package twohosts is a test and nothing else: two hosts of different OpenZFS
// versions send each other streams, by package zfs and by zfs(8), over a pipe
// as between any two hosts. twohosts_test.go runs outside and holds the pipe;
// program_test.go is what runs on the hosts. It imports package zfs as a program
// of somebody else's would, and nothing imports it.
package twohosts
