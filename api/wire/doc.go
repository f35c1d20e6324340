// SPDX-License-Identifier: BSD-2-Clause

// Package wire holds the values that version 2 of the API sends and takes,
// shared by the server and the Go client.
//
// It may be imported by any program. It imports nothing of skep, so that one
// which only calls a host stays small.
package wire
