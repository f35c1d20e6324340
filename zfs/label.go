// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"fmt"
	"io"
	"os"

	"github.com/skepvm/skep/zfs/nvlist"
)

// A device carries four labels of 256 KiB, two at its start and two at its end
// (vdev_impl.h): 8 KiB blank, 8 KiB boot environment, 112 KiB of configuration
// in XDR with a checksum at its end, and the ring of uberblocks.
const (
	labelSize   = 256 << 10
	labelSkip   = 16 << 10
	labelNvlist = 112<<10 - 40 // less the zio_eck_t
	labels      = 4
)

// LabelState is what a label says of its pool (pool_state_t).
type LabelState uint64

// The states.
const (
	LabelActive LabelState = iota
	LabelExported
	LabelDestroyed
	LabelSpare
	LabelCache
)

// String names the state.
func (s LabelState) String() string {
	if s > LabelCache {
		return fmt.Sprintf("state %d", uint64(s))
	}
	return [...]string{"active", "exported", "destroyed", "spare", "cache"}[s]
}

// Label is what a device says of itself.
type Label struct {
	State    LabelState
	PoolName string
	PoolGUID uint64
	GUID     uint64 // of the device
	Txg      uint64
	Hostname string
	Count    int          // how many of the four labels can be read
	Config   *nvlist.List // all that it says
}

// ReadLabel reads the label of a device or file; nil without an error if it carries none.
func ReadLabel(path string) (*Label, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{Op: "read label", Name: path, Err: err}
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, &Error{Op: "read label", Name: path, Err: err}
	}
	l, err := readLabels(f, size)
	if err != nil {
		return nil, &Error{Op: "read label", Name: path, Err: err}
	}
	return l, nil
}

// readLabels gives the newest of the labels.
func readLabels(r io.ReaderAt, size int64) (*Label, error) {
	size -= size % labelSize
	if size < labels*labelSize {
		return nil, nil
	}
	var best *Label
	count := 0
	buf := make([]byte, labelNvlist)
	for i := range int64(labels) {
		off := i * labelSize
		if i >= labels/2 {
			off = size - (labels-i)*labelSize
		}
		if _, err := r.ReadAt(buf, off+labelSkip); err != nil {
			if i == 0 {
				return nil, err
			}
			continue
		}
		l := parseLabel(buf)
		if l == nil {
			continue
		}
		count++
		if best == nil || l.Txg > best.Txg {
			best = l
		}
	}
	if best != nil {
		best.Count = count
	}
	return best, nil
}

func parseLabel(b []byte) *Label {
	config, _, err := nvlist.DecodePrefix(b)
	if err != nil {
		return nil
	}
	l := &Label{Config: config, PoolName: config.Str("name"), Hostname: config.Str("hostname")}
	state, ok := config.Uint("state")
	l.State = LabelState(state)
	l.GUID, _ = config.Uint("guid")
	l.PoolGUID, _ = config.Uint("pool_guid")
	l.Txg, _ = config.Uint("txg")
	if !ok || l.GUID == 0 || l.State > LabelCache {
		return nil
	}
	if l.State < LabelSpare && (l.Txg == 0 || l.PoolGUID == 0) {
		return nil
	}
	return l
}
