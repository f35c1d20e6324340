// SPDX-License-Identifier: BSD-2-Clause

package limits

import "testing"

func TestMemory(t *testing.T) {
	const mib = 1 << 20
	for guest, want := range map[int64]int64{
		0:           512 * mib,
		64 * mib:    (512+64)*mib + mib/4,
		65536 * mib: (512 + 65536 + 256) * mib,
	} {
		if got := (Bounds{CPUs: 1, Memory: guest}).memory(); got != want {
			t.Errorf("a guest of %d bytes makes a worker of %d, want %d", guest, got, want)
		}
	}
}
