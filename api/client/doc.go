// SPDX-License-Identifier: BSD-2-Clause

// Package client calls the HTTP API (version 2) of a skep host.
//
// It may be imported by any program. It imports api/wire and nothing else of
// skep.
package client
