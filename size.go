// SPDX-License-Identifier: BSD-2-Clause

package skep

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Sizes in bytes.
const (
	KiB = 1 << 10
	MiB = 1 << 20
	GiB = 1 << 30
	TiB = 1 << 40
)

// ParseSize reads a size as people write it: a whole number and one of the
// letters k, m, g, t of either case (powers of 1024), or bytes without one.
func ParseSize(s string) (int64, error) {
	num, unit := s, int64(1)
	if s != "" {
		switch s[len(s)-1] {
		case 'k', 'K':
			unit = KiB
		case 'm', 'M':
			unit = MiB
		case 'g', 'G':
			unit = GiB
		case 't', 'T':
			unit = TiB
		}
	}
	if unit != 1 {
		num = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n < 0 || strings.HasPrefix(num, "+") || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("size %q: want a whole number and k, m, g or t, as in 512m or 10g", s)
	}
	return n * unit, nil
}

// FormatSize writes n in the shortest form that ParseSize reads back exactly:
// 1g, 1536m, 100.
func FormatSize(n int64) string {
	for _, u := range []struct {
		unit   int64
		letter string
	}{{TiB, "t"}, {GiB, "g"}, {MiB, "m"}, {KiB, "k"}} {
		if n != 0 && n%u.unit == 0 {
			return strconv.FormatInt(n/u.unit, 10) + u.letter
		}
	}
	return strconv.FormatInt(n, 10)
}
