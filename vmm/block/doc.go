// SPDX-License-Identifier: BSD-2-Clause

// Package block is what a disk is backed by: a raw file or a block device (a
// zvol). Offsets and lengths are bytes; callers check them against Size.
//
// It may be imported by the disk devices and vmm. It imports nothing of skep.
package block
