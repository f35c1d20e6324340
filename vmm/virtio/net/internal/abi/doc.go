// SPDX-License-Identifier: BSD-2-Clause

// Package abi holds numbers of tap(4) that golang.org/x/sys lacks. It builds on
// every system, so that its tests hold them against the table in testdata
// everywhere.
//
// Imported by virtio/net alone. It imports nothing of skep.
package abi
