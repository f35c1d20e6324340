// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"fmt"
	"testing"
)

const ftableDump = "\nS 0x02 02:00:00:00:00:01       192.0.2.1 00000000\n" +
	"D 0x01 02:00:00:00:00:02                                  2001:db8::7 00001200\n"

func TestParseForwards(t *testing.T) {
	got := fmt.Sprint(parseForwards(ftableDump + "S 0x02 02:00:00:00:00:03       192.0.")) // cut short
	if want := "[{02:00:00:00:00:01 192.0.2.1} {02:00:00:00:00:02 2001:db8::7}]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := parseForwards(""); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

func FuzzParseForwards(f *testing.F) {
	f.Add(ftableDump)
	f.Add("S 0x02 0200.0000.0001 192.0.2.1 0\n")
	f.Fuzz(func(t *testing.T, dump string) {
		for _, e := range parseForwards(dump) {
			if len(e.MAC) != 6 || !e.To.IsValid() || e.To.Zone() != "" {
				t.Errorf("%q: %v", dump, e)
			}
		}
	})
}
