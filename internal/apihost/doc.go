// SPDX-License-Identifier: BSD-2-Clause

// Package apihost is the border between package api and a skep.Host: what the
// handlers use of one, so that their tests, and those of clients, need none.
//
// It may be imported by api and by tests. It imports skep alone.
package apihost
