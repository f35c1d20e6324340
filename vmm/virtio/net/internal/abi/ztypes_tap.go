// SPDX-License-Identifier: BSD-2-Clause

package abi

// TAPSVNETHDR is the ioctl that sets the size of the frame header (an int).
const TAPSVNETHDR = 0x8004745b
