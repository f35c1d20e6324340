// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"fmt"
	"strings"
)

// MaxName is the longest name of a dataset, snapshot or bookmark, in bytes.
const MaxName = 255

// maxDepth is the deepest nesting of datasets (zfs_max_dataset_nesting).
const maxDepth = 50

// Kind is what a name names.
type Kind uint8

// The kinds, as a set where several are asked for.
const (
	Filesystem Kind = 1 << iota
	Snapshot
	Volume
	Bookmark
)

// String gives the word of zfsprops(7).
func (k Kind) String() string {
	switch k {
	case Filesystem:
		return "filesystem"
	case Snapshot:
		return "snapshot"
	case Volume:
		return "volume"
	case Bookmark:
		return "bookmark"
	}
	return fmt.Sprintf("kind %#x", uint8(k))
}

// pool is the pool's part of any name.
func pool(name string) string {
	if i := strings.IndexAny(name, "/@#"); i >= 0 {
		return name[:i]
	}
	return name
}

// cutSnapshot splits "fs@snap".
func cutSnapshot(name string) (fs, snap string, ok bool) { return strings.Cut(name, "@") }

func validChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '_' || c == '.' || c == ':' || c == ' '
}

// checkName holds a name against the rules of zfs_namecheck.c before the
// kernel sees it, whose EINVAL would not say what is wrong. delim is '@' or
// '#' for the name of a snapshot or bookmark, 0 for that of a dataset.
func checkName(op, name string, delim byte) error {
	if len(name) > MaxName {
		return &Error{Op: op, Name: name[:40] + "…", Kind: ErrNameTooLong, Hint: fmt.Sprintf("%d bytes, %d at most", len(name), MaxName)}
	}
	ds := name
	if delim != 0 {
		i := strings.IndexByte(name, delim)
		if i < 0 {
			return invalidName(op, name, fmt.Sprintf("want DATASET%cNAME", delim))
		}
		ds = name[:i]
		if why := badComponent(name[i+1:]); why != "" {
			return invalidName(op, name, why)
		}
	}
	parts := strings.Split(ds, "/")
	for i, c := range parts {
		why := badComponent(c)
		if why == "" && i > 0 && (c == "." || c == "..") {
			why = "a component is . or .."
		}
		if why != "" {
			return invalidName(op, name, why)
		}
	}
	if len(parts) > maxDepth {
		return &Error{Op: op, Name: name, Kind: ErrNameTooLong, Hint: fmt.Sprintf("nested %d deep, %d at most", len(parts), maxDepth)}
	}
	return checkPoolName(op, name, parts[0])
}

func badComponent(c string) string {
	if c == "" {
		return "an empty component"
	}
	for i := range len(c) {
		if !validChar(c[i]) {
			return fmt.Sprintf("the character %q", c[i])
		}
	}
	return ""
}

func checkPoolName(op, name, p string) error {
	if !('a' <= p[0] && p[0] <= 'z' || 'A' <= p[0] && p[0] <= 'Z') {
		return invalidName(op, name, "a pool's name begins with a letter")
	}
	return nil
}

// reservedPools may not be the name of a new pool (pool_namecheck, and zpool(8)).
var reservedPools = []string{"mirror", "raidz", "draid", "spare", "log", "cache", "special", "dedup"}

func checkNewPool(op, name string) error {
	if why := badComponent(name); why != "" {
		return invalidName(op, name, why)
	}
	if len(name) > MaxName-15 {
		return &Error{Op: op, Name: name[:40] + "…", Kind: ErrNameTooLong}
	}
	for _, r := range reservedPools {
		if name == r || r == "mirror" && strings.HasPrefix(name, r) || strings.HasPrefix(name, "raidz") || strings.HasPrefix(name, "draid") {
			return invalidName(op, name, "the name is reserved")
		}
	}
	return checkPoolName(op, name, name)
}

// checkAny takes the name of a dataset, snapshot or bookmark.
func checkAny(op, name string) error {
	switch {
	case strings.Contains(name, "@"):
		return checkName(op, name, '@')
	case strings.Contains(name, "#"):
		return checkName(op, name, '#')
	}
	return checkName(op, name, 0)
}
