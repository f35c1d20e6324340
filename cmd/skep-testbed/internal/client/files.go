// SPDX-License-Identifier: BSD-2-Clause

//go:build linux

package client

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// FilesEnv names more files and directories to send, separated by colons; a
// relative path counts from the working directory.
const FilesEnv = "SKEP_TESTBED_FILES"

// A plan is what a session sends and takes back.
type plan struct {
	send     []string // files, and directories with all below
	files    []string // to take back
	dirs     []string // of which to take back what is new or changed
	wholeDir bool
}

// outputFlags are the test binary's flags that name a file it writes; those
// that are true lie in -test.outputdir.
var outputFlags = map[string]bool{
	"coverprofile": true, "cpuprofile": true, "memprofile": true, "blockprofile": true,
	"mutexprofile": true, "trace": true, "testlogfile": false,
}

// planFor finds what a program with these arguments needs and writes.
func planFor(dir string, args, env []string) (*plan, error) {
	p := &plan{}
	if strings.Contains(args[0], "/") {
		p.send = append(p.send, args[0])
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	// A package's directory: its own files and testdata, but not the packages
	// below it.
	if isPackage(entries) {
		p.wholeDir = true
		for _, e := range entries {
			if e.Type().IsRegular() || e.Type()&fs.ModeSymlink != 0 || e.IsDir() && e.Name() == "testdata" {
				p.send = append(p.send, filepath.Join(dir, e.Name()))
			}
		}
	}
	outputDir := dir
	values := testFlags(args[1:])
	if v := values["outputdir"]; v != "" {
		outputDir = abs(dir, v)
	}
	for name, inOutputDir := range outputFlags {
		v := values[name]
		switch {
		case v == "":
		case inOutputDir:
			p.files = append(p.files, abs(outputDir, v))
		default:
			p.files = append(p.files, abs(dir, v))
		}
	}
	for _, name := range []string{"gocoverdir", "fuzzcachedir"} {
		if v := values[name]; v != "" {
			p.dirs = append(p.dirs, abs(dir, v))
			if name == "fuzzcachedir" {
				p.send = append(p.send, abs(dir, v))
			}
		}
	}
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "GOCOVERDIR="); ok && v != "" {
			p.dirs = append(p.dirs, abs(dir, v))
		}
	}
	for _, f := range filepath.SplitList(os.Getenv(FilesEnv)) {
		if f != "" {
			if _, err := os.Lstat(abs(dir, f)); err != nil {
				return nil, fmt.Errorf("%s: %w", FilesEnv, err)
			}
			p.send = append(p.send, abs(dir, f))
		}
	}
	slices.Sort(p.files)
	slices.Sort(p.dirs)
	return p, nil
}

func isPackage(entries []fs.DirEntry) bool {
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return strings.HasSuffix(e.Name(), ".go") || e.Name() == "testdata"
	})
}

func abs(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

// testFlags returns the values of -test.NAME=VALUE and -test.NAME VALUE.
func testFlags(args []string) map[string]string {
	out := map[string]string{}
	for i, a := range args {
		if a == "--" {
			break
		}
		// One dash or two, as package flag has it.
		name, ok := strings.CutPrefix(strings.TrimPrefix(a, "-"), "-test.")
		if !ok {
			name, ok = strings.CutPrefix(a, "-test.")
		}
		if !ok {
			continue
		}
		name, value, hasValue := strings.Cut(name, "=")
		if !hasValue && i+1 < len(args) {
			value = args[i+1]
		}
		out[name] = value
	}
	return out
}

// sendFiles writes the tar stream of what goes in.
func sendFiles(w io.Writer, paths []string) error {
	tw := tar.NewWriter(w)
	seen := map[string]bool{}
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, os.ErrNotExist) {
				return nil // it went while we looked
			}
			if err != nil || seen[path] {
				return err
			}
			seen[path] = true
			if path == root && d.Type()&fs.ModeSymlink != 0 && root == paths[0] {
				return sendFile(tw, path, true)
			}
			return sendFile(tw, path, false)
		})
		if err != nil {
			return err
		}
	}
	return tw.Close()
}

func sendFile(tw *tar.Writer, path string, follow bool) error {
	st, err := os.Lstat(path)
	if err == nil && follow {
		st, err = os.Stat(path)
	}
	if err != nil {
		return err
	}
	h := &tar.Header{Name: path, Mode: int64(st.Mode().Perm()), ModTime: st.ModTime(), Format: tar.FormatPAX}
	switch {
	case st.Mode().IsRegular():
		h.Typeflag, h.Size = tar.TypeReg, st.Size()
	case st.IsDir():
		h.Typeflag = tar.TypeDir
	case st.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(path); err != nil {
			return err
		}
	default:
		return nil // sockets and the like
	}
	if err := tw.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := io.Copy(tw, io.LimitReader(f, h.Size)); err != nil || n != h.Size {
		return fmt.Errorf("send %s: %d of %d bytes: %w", path, n, h.Size, errOr(err, io.ErrUnexpectedEOF))
	}
	return nil
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// takeBack unpacks the returned files: only those that the plan allows, since
// what runs inside is not trusted with the rest of the disk.
func (p *plan) takeBack(r io.Reader, dir string) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return fmt.Errorf("files from the testbed: %w", err)
		}
		path := filepath.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !p.allows(path, dir) {
			return fmt.Errorf("files from the testbed: %q was not asked for", h.Name)
		}
		if err := replaceFile(path, h, tr); err != nil {
			return fmt.Errorf("files from the testbed: %w", err)
		}
	}
}

func (p *plan) allows(path, dir string) bool {
	if slices.Contains(p.files, path) {
		return true
	}
	below := p.dirs
	if p.wholeDir {
		below = append(slices.Clone(below), dir)
	}
	return slices.ContainsFunc(below, func(d string) bool { return strings.HasPrefix(path, strings.TrimSuffix(d, "/")+"/") })
}

func replaceFile(path string, h *tar.Header, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	// In place: a profile's file may be there already, made by go test.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, fs.FileMode(h.Mode).Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
