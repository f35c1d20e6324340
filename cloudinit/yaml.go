// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// A tree of YAML nodes, in the order in which it is built. Every string is
// double quoted: what a plain scalar means differs between YAML 1.1, which
// cloud-init's PyYAML reads, and 1.2 (yes, 1:30, 0o17, =), and a quoted one is a
// string to both. Keys are ours, and plain, or quoted too.

func scalar(tag, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
}

func str(s string) *yaml.Node {
	n := scalar("!!str", s)
	n.Style = yaml.DoubleQuotedStyle
	return n
}

func integer(i int) *yaml.Node { return scalar("!!int", strconv.Itoa(i)) }

func boolean(b bool) *yaml.Node { return scalar("!!bool", strconv.FormatBool(b)) }

func list[T any](of []T, node func(T) *yaml.Node) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, v := range of {
		n.Content = append(n.Content, node(v))
	}
	return n
}

// mapping is a YAML mapping in the making.
type mapping struct{ n yaml.Node }

func newMapping() *mapping { return &mapping{yaml.Node{Kind: yaml.MappingNode}} }

func (m *mapping) set(key string, v *yaml.Node) {
	m.n.Content = append(m.n.Content, scalar("!!str", key), v)
}

// str, strs and flag leave out what is not set.
func (m *mapping) str(key, v string) {
	if v != "" {
		m.set(key, str(v))
	}
}

func (m *mapping) strs(key string, v []string) {
	if len(v) > 0 {
		m.set(key, list(v, str))
	}
}

func (m *mapping) flag(key string, v *bool) {
	if v != nil {
		m.set(key, boolean(*v))
	}
}

func (m *mapping) node() *yaml.Node { return &m.n }

func (m *mapping) empty() bool { return len(m.n.Content) == 0 }

func encode(header string, n *yaml.Node) ([]byte, error) {
	b := bytes.NewBufferString(header)
	e := yaml.NewEncoder(b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, fmt.Errorf("cloudinit: encode: %w", err)
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("cloudinit: encode: %w", err)
	}
	return b.Bytes(), nil
}

// isText is whether b survives as a YAML string, character for character.
func isText(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || r == 0xfeff || r == 0xfffe || r == 0xffff {
			return false
		}
	}
	return true
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
