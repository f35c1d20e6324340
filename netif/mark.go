// SPDX-License-Identifier: BSD-2-Clause

package netif

import (
	"regexp"
	"slices"
	"strings"
)

// mark is what the description of an interface of ours says:
//
//	skep owner=OWNER [dev=DEVICE] [groups=A,B]
//
// It is kept under 255 bytes, Linux's IFALIASZ less one.
type mark struct {
	owner  string
	dev    string   // the kernel's own name, where a rename hides it (FreeBSD's /dev/tapN)
	groups []string // sorted; only where the kernel has no named groups
}

const (
	markWord   = "skep"
	maxOwner   = 100
	maxMark    = 255
	maxGroup   = 15
	groupsRoom = 6
)

var (
	ownerRE = regexp.MustCompile(`^[A-Za-z0-9._:/@+-]+$`)
	groupRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*[A-Za-z_-]$|^[A-Za-z_]$`)
)

// checkOwner: the owner names the store and machine that an interface was made
// for, in 1-100 characters that need no quoting.
func checkOwner(owner string) error {
	if owner == "" || len(owner) > maxOwner || !ownerRE.MatchString(owner) {
		return invalid("owner %q: 1-%d letters, digits or any of ._:/@+-", owner, maxOwner)
	}
	return nil
}

// checkGroup follows FreeBSD, which wants a group's name not to end in a digit.
func checkGroup(group string) error {
	if len(group) > maxGroup || !groupRE.MatchString(group) {
		return invalid("group %q: 1-%d letters, digits, '_' or '-', the last one no digit", group, maxGroup)
	}
	return nil
}

func (m mark) String() string {
	var b strings.Builder
	b.WriteString(markWord + " owner=" + m.owner)
	if m.dev != "" {
		b.WriteString(" dev=" + m.dev)
	}
	if len(m.groups) > 0 {
		b.WriteString(" groups=" + strings.Join(m.groups, ","))
	}
	return b.String()
}

// parseMark reads a description; ok is false when it is not ours. Descriptions
// are anybody's to write, so whatever is not exactly of our making is foreign.
func parseMark(s string) (m mark, ok bool) {
	if len(s) > maxMark {
		return mark{}, false
	}
	words := strings.Split(s, " ")
	if words[0] != markWord {
		return mark{}, false
	}
	for _, w := range words[1:] {
		key, val, found := strings.Cut(w, "=")
		if !found || val == "" {
			return mark{}, false
		}
		switch key {
		case "owner":
			m.owner = val
		case "dev":
			m.dev = val
		case "groups":
			m.groups = strings.Split(val, ",")
		default:
			return mark{}, false
		}
	}
	if checkOwner(m.owner) != nil || m.dev != "" && checkForeignName(m.dev) != nil || len(m.groups) > groupsRoom {
		return mark{}, false
	}
	for _, g := range m.groups {
		if checkGroup(g) != nil {
			return mark{}, false
		}
	}
	slices.Sort(m.groups)
	return m, true
}
