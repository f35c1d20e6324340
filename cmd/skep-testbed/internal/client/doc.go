// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

// Package client runs a program in a testbed as if it ran here: it sends the
// binary and the files it needs, passes input, output, signals and the exit
// code on, and puts back the files that the program wrote.
//
// It is imported by cmd/skep-testbed alone.
package client
