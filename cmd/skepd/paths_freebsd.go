// SPDX-License-Identifier: BSD-2-Clause

package main

// What hier(7) gives to programs that are not the system's.
const (
	configDir = "/usr/local/etc/skep"
	stateDir  = "/var/db/skep"
)
