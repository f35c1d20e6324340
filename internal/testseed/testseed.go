// SPDX-License-Identifier: BSD-2-Clause

// Package testseed says which sequence a random test plays: another one each time,
// or again that of SKEP_SEED. It is imported by tests only.
package testseed

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// Get returns the seed, and logs it in the form in which it is given again.
func Get(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("SKEP_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("SKEP_SEED: %v", err)
		}
	}
	t.Logf("SKEP_SEED=%d", seed)
	return seed
}

// Rand returns a source of Get's sequence.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(Get(t), 0))
}
