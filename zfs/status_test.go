// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"testing"
	"time"
)

// A scan has ended when the kernel says when: it says that it does a little earlier.
func TestScanEnd(t *testing.T) {
	for _, c := range []struct {
		state ScanState
		end   uint64
		want  ScanState
	}{
		{Scanning, 0, Scanning},
		{ScanFinished, 0, Scanning},
		{ScanFinished, 100, ScanFinished},
		{ScanCanceled, 0, Scanning},
		{ScanCanceled, 100, ScanCanceled},
	} {
		s := make(stats, pssIssued+1)
		s[pssFunc], s[pssState], s[pssStart], s[pssEnd] = uint64(Resilver), uint64(c.state), 50, c.end
		got := parseScan(s)
		if got.State != c.want || got.Active() != (c.want == Scanning) {
			t.Errorf("state %d, end %d: %d", c.state, c.end, got.State)
		}
		if !got.Active() && !got.End.Equal(time.Unix(int64(c.end), 0)) {
			t.Errorf("state %d: ended %s", c.state, got.End)
		}
	}
	if parseScan(nil) != nil {
		t.Error("a scan where there was none")
	}
}
