// SPDX-License-Identifier: BSD-2-Clause

//go:build testbed

package netif

import "testing"

// isolate does nothing: the names that the tests use are theirs alone.
func isolate(*testing.T) {}
