// SPDX-License-Identifier: BSD-2-Clause

//go:build !freebsd

package main

// What the Filesystem Hierarchy Standard gives to a host's services.
const (
	configDir = "/etc/skep"
	stateDir  = "/var/lib/skep"
)
