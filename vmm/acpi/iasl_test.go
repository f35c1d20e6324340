// SPDX-License-Identifier: BSD-2-Clause

//go:build iasl

package acpi

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestIASL has Intel's compiler (Debian: acpica-tools) read every golden table
// and write it again: it must find nothing to say, and come to the same bytes.
func TestIASL(t *testing.T) {
	files, err := filepath.Glob("testdata/*.aml")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden tables", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			run := func(args ...string) string {
				cmd := exec.Command("iasl", args...)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				if err != nil || strings.Contains(string(out), "Invalid") {
					t.Fatalf("iasl %q: %v\n%s", args, err, out)
				}
				return string(out)
			}
			if err := os.WriteFile(filepath.Join(dir, "in.aml"), want, 0o600); err != nil {
				t.Fatal(err)
			}
			run("-d", "in.aml")
			dsl, err := os.ReadFile(filepath.Join(dir, "in.dsl"))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(dsl, []byte("Unknown")) || bytes.Contains(dsl, []byte("**** Length")) {
				t.Errorf("iasl could not read it all:\n%s", dsl)
			}
			out := run("-p", "out", "in.dsl")
			if !strings.Contains(out, "0 Errors") || !strings.Contains(out, "0 Warnings") {
				t.Errorf("iasl complains:\n%s", out)
			}
			got, err := os.ReadFile(filepath.Join(dir, "out.aml"))
			if err != nil {
				t.Fatal(err)
			}
			// The compiler writes its own name into the header's bytes 28-35, and
			// so another checksum (byte 9). FACS has no such header.
			blank := func(b []byte) []byte {
				b = bytes.Clone(b)
				if string(b[:4]) != "FACS" {
					b[9] = 0
					clear(b[28:36])
				}
				return b
			}
			a, b := blank(want), blank(got)
			n := 0
			for n < len(a) && n < len(b) && a[n] == b[n] {
				n++
			}
			if n != len(a) || n != len(b) {
				t.Errorf("compiled again it differs from byte %#x on:\nours % x\niasl % x", n,
					a[n:min(n+16, len(a))], b[n:min(n+16, len(b))])
			}
		})
	}
}
