// SPDX-License-Identifier: BSD-2-Clause

package zfs

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/skepvm/skep/zfs/nvlist"
)

// Props are properties to set, values in the words of zfsprops(7): sizes as
// bytes or with a unit ("10G"), user properties under names with a colon.
type Props map[string]string

// Source tells where a property's value is from.
type Source uint8

// The sources, in the words of zfs-get(8).
const (
	SourceNone Source = iota
	SourceDefault
	SourceLocal
	SourceInherited
	SourceReceived
	SourceTemporary // of the mount alone
)

// String gives the word that zfs-get(8) prints.
func (s Source) String() string {
	return [...]string{"-", "default", "local", "inherited", "received", "temporary"}[s]
}

// Property is a property of a dataset, snapshot or bookmark.
type Property struct {
	Name   string
	Value  string // as zfs get -p prints it
	Number uint64 // of a number or a choice
	Source Source
	From   string // the dataset that an inherited value is from
}

// The kernel's marks in place of a dataset's name (ZPROP_SOURCE_VAL_RECVD).
const (
	receivedMark = "$recvd"
	maxUserValue = 8191 // ZAP_MAXVALUELEN less its NUL
)

// isUser reports whether name is of the form of a user property's.
func isUser(name string) bool { return strings.Contains(name, ":") }

func checkUserProperty(name, value string) string {
	if len(name) > MaxName {
		return "the name is too long"
	}
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':') {
			return fmt.Sprintf("the name has the character %q", c)
		}
	}
	if len(value) > maxUserValue {
		return fmt.Sprintf("the value has %d bytes, %d at most", len(value), maxUserValue)
	}
	return ""
}

func propError(op, on, name, value, why string) error {
	return &Error{Op: op, Name: on, Kind: ErrProperty, Hint: fmt.Sprintf("%s=%.60q: %s", name, value, why)}
}

// encodeProps checks properties that are to be set on a dataset of the kind and
// gives them as the kernel wants them. creating allows those that are set once.
func encodeProps(op, on string, kind Kind, props Props, creating bool) (*nvlist.List, error) {
	l := nvlist.New()
	var errs []error
	for _, name := range sortedNames(props) {
		value := props[name]
		if full, ok := aliases[name]; ok {
			name = full
		}
		v, why := encodeProp(kind, name, value, creating)
		if why != "" {
			errs = append(errs, propError(op, on, name, value, why))
			continue
		}
		if l.Has(name) {
			errs = append(errs, propError(op, on, name, value, "given twice"))
			continue
		}
		l.Set(name, v)
	}
	return l, errors.Join(errs...)
}

func sortedNames(p Props) []string {
	out := make([]string, 0, len(p))
	for n := range p {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func encodeProp(kind Kind, name, value string, creating bool) (nvlist.Value, string) {
	if strings.IndexByte(value, 0) >= 0 {
		return nvlist.Value{}, "a NUL in the value"
	}
	if isUser(name) {
		return nvlist.Of(value), checkUserProperty(name, value)
	}
	p, ok := properties[name]
	switch {
	case !ok:
		return nvlist.Value{}, "no such property"
	case p.attr&readOnly != 0:
		return nvlist.Value{}, "the property is read-only"
	case p.attr&once != 0 && !creating:
		return nvlist.Value{}, "the property is set at creation only"
	case kind != 0 && p.kinds&kind == 0:
		return nvlist.Value{}, "the property does not apply to a " + kind.String()
	}
	switch p.typ {
	case propString:
		return nvlist.Of(value), ""
	case propIndex:
		for _, iv := range p.index {
			if iv.name == value {
				return nvlist.Of(iv.value), ""
			}
		}
		return nvlist.Value{}, "want one of " + choices(p.index)
	}
	n, err := ParseSize(value)
	if value == "none" {
		n, err = 0, nil
		if strings.HasSuffix(name, "_limit") {
			n = math.MaxUint64
		}
	}
	if err != nil {
		return nvlist.Value{}, "want a number, with a unit of K to E if need be"
	}
	return nvlist.Of(n), ""
}

func choices(t []indexValue) string {
	n := make([]string, len(t))
	for i := range t {
		n[i] = t[i].name
	}
	return strings.Join(n, ", ")
}

// ParseSize reads a size as ZFS does: bytes, or a number, fraction included,
// with a unit of K, M, G, T, P or E (powers of 1024), with or without B or iB.
func ParseSize(s string) (uint64, error) {
	num := strings.TrimRight(s, "kKmMgGtTpPeEiIbB")
	unit := strings.ToUpper(s[len(num):])
	shift := 0
	if unit != "" && unit != "B" {
		i := strings.IndexByte("KMGTPE", unit[0])
		if i < 0 || unit[1:] != "" && unit[1:] != "B" && unit[1:] != "IB" {
			return 0, fmt.Errorf("zfs: size %.40q: %w", s, ErrInvalid)
		}
		shift = 10 * (i + 1)
	}
	if n, err := strconv.ParseUint(num, 10, 64); err == nil {
		if n > math.MaxUint64>>shift {
			return 0, fmt.Errorf("zfs: size %.40q is too large: %w", s, ErrInvalid)
		}
		return n << shift, nil
	}
	r, ok := new(big.Rat).SetString(num)
	if !ok || len(num) > 30 || shift == 0 || strings.ContainsAny(num, "/xX_-+pPeE") {
		return 0, fmt.Errorf("zfs: size %.40q: %w", s, ErrInvalid)
	}
	r.Mul(r, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(shift))))
	q := new(big.Int).Quo(r.Num(), r.Denom())
	if !q.IsUint64() {
		return 0, fmt.Errorf("zfs: size %.40q is too large: %w", s, ErrInvalid)
	}
	return q.Uint64(), nil
}

// sourceOf reads the "source" of one property in the kernel's reply.
func sourceOf(entry *nvlist.List, on string) (Source, string) {
	v, ok := entry.Value("source")
	src, _ := v.Str()
	switch {
	case !ok:
		return SourceNone, ""
	case src == "":
		return SourceDefault, ""
	case strings.HasPrefix(src, receivedMark):
		return SourceReceived, ""
	case src == on:
		return SourceLocal, ""
	}
	return SourceInherited, src
}

// show gives a number or choice as zfs get -p prints it.
func (p property) show(name string, n uint64) string {
	if p.typ == propIndex {
		for _, iv := range p.index {
			if iv.value == n {
				return iv.name
			}
		}
		return strconv.FormatUint(n, 10)
	}
	switch name {
	case "filesystem_limit", "snapshot_limit", "filesystem_count", "snapshot_count":
		if n == math.MaxUint64 {
			return "none"
		}
	case "compressratio", "refcompressratio":
		return fmt.Sprintf("%d.%02d", n/100, n%100)
	}
	return strconv.FormatUint(n, 10)
}

// defaultProperty is the property as it stands where nothing sets it.
func (p property) defaultProperty(name string, v Version) (Property, bool) {
	def := p.def
	if p.old != "" && !v.AtLeast(2, p.minor) {
		def = p.old
	}
	if def == "" || p.attr&zpl != 0 || p.attr&readOnly != 0 && p.typ == propIndex {
		return Property{}, false
	}
	out := Property{Name: name, Value: def, Source: SourceDefault}
	switch p.typ {
	case propIndex:
		for _, iv := range p.index {
			if iv.name == def {
				out.Number = iv.value
				break
			}
		}
	case propNumber:
		if def == "none" {
			out.Number = math.MaxUint64
		} else {
			out.Number, _ = strconv.ParseUint(def, 10, 64)
		}
	}
	return out, true
}
