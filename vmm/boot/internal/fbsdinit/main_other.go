// SPDX-License-Identifier: BSD-2-Clause

//go:build !freebsd

package main

func main() { panic("an init for FreeBSD only") }
