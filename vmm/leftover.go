// SPDX-License-Identifier: BSD-2-Clause

package vmm

// RemoveLeftover takes out of the kernel what a process that is gone left there
// of the machine called name (Config.Name). On FreeBSD the kernel keeps a machine
// until it is told not to; on Linux it goes with its process. The caller knows
// that no process runs the machine: one that does would see it vanish. A machine
// that is not there is no error.
func RemoveLeftover(name string) error { return removeLeftover(name) }
