// SPDX-License-Identifier: BSD-2-Clause

// Package build makes what a testbed boots from Debian's packages: the kernel,
// the root file system, OpenZFS for that kernel, the guests' kernels and
// images. Each is an artifact: made once, kept in a cache under a key of what
// it was made from, and never changed afterwards.
//
// It is imported by cmd/skep-testbed alone. It runs Debian's tools (apt-get,
// dpkg-deb, mmdebstrap, mksquashfs, mke2fs, depmod); packages come through an apt
// directory of its own, the machine's package sources stay as they are.
package build
