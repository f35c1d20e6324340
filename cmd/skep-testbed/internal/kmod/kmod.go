// SPDX-License-Identifier: BSD-2-Clause

package kmod

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ulikunitz/xz"
)

// maxModule bounds an unpacked module.
const maxModule = 64 << 20

// A Tree is a set of modules.
type Tree struct {
	paths map[string]string // by canonical name
}

// Scan indexes the modules below dir. Of two with the same name the one found
// last in lexical order counts, so that updates/ wins over kernel/.
func Scan(dir string) (*Tree, error) {
	t := &Tree{paths: map[string]string{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base, isModule := strings.CutSuffix(strings.TrimSuffix(d.Name(), ".xz"), ".ko")
		if isModule && d.Type().IsRegular() {
			t.paths[Canonical(base)] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("scan modules in %s: %w", dir, err)
	}
	return t, nil
}

// Canonical returns a module's name as the kernel spells it.
func Canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Has tells whether the tree holds the module.
func (t *Tree) Has(name string) bool { _, ok := t.paths[Canonical(name)]; return ok }

// Order returns the files of the named modules and of all that they need,
// each after those that it depends on.
func (t *Tree) Order(names ...string) ([]string, error) {
	var out []string
	state := map[string]int{} // 1: being visited, 2: done
	var visit func(name, by string) error
	visit = func(name, by string) error {
		name = Canonical(name)
		switch state[name] {
		case 1:
			return fmt.Errorf("module %s depends on itself through %s", name, by)
		case 2:
			return nil
		}
		path, ok := t.paths[name]
		if !ok {
			return fmt.Errorf("module %s (needed by %s) is missing", name, by)
		}
		state[name] = 1
		content, err := Read(path)
		if err != nil {
			return err
		}
		deps, err := depends(content)
		if err != nil {
			return fmt.Errorf("module %s: %w", path, err)
		}
		for _, d := range deps {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		state[name] = 2
		out = append(out, path)
		return nil
	}
	for _, n := range names {
		if err := visit(n, "the list"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Read returns a module's content, unpacked.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".xz") {
		if r, err = xz.NewReader(f); err != nil {
			return nil, fmt.Errorf("read module %s: %w", path, err)
		}
	}
	content, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	if len(content) > maxModule {
		return nil, fmt.Errorf("read module %s: longer than %d bytes", path, maxModule)
	}
	return content, nil
}

// depends returns what a module's .modinfo names in "depends=".
func depends(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, field := range bytes.Split(info, []byte{0}) {
		list, ok := strings.CutPrefix(string(field), "depends=")
		if !ok {
			continue
		}
		for _, d := range strings.Split(list, ",") {
			if d != "" {
				out = append(out, d)
			}
		}
	}
	return out, nil
}
