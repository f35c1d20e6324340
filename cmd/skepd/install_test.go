// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInstall: what make install puts in place is whole, and the service files
// start the daemon where it lies.
func TestInstall(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Fatalf("make deps installs it: %v", err)
	}
	bin := t.TempDir()
	for _, name := range []string{"skep", "skepd"} {
		// As much of skep as the installation calls.
		script := "#!/bin/sh\ncase $1 in man) echo .TH >\"$2/skep.1\" ;; completion) echo $2 ;; *) exit 1 ;; esac\n"
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		os, prefix, service string
		mode                fs.FileMode
		daemon              *regexp.Regexp
	}{
		{"Linux", "/opt/x", "lib/systemd/system/skepd.service", 0o644, regexp.MustCompile(`(?m)^ExecStart=(\S+)`)},
		{"FreeBSD", "/opt/x", "etc/rc.d/skepd", 0o755, regexp.MustCompile(`(?m)^procname="(\S+)"`)},
		{"Linux", "/usr/local", "lib/systemd/system/skepd.service", 0o644, regexp.MustCompile(`(?m)^ExecStart=(\S+)`)},
	} {
		t.Run(c.os+c.prefix, func(t *testing.T) {
			dest := filepath.Join(t.TempDir(), "a b")
			cmd := exec.Command("make", "-C", "../..", "install-files", "BIN="+bin, "DESTDIR="+dest, "PREFIX="+c.prefix, "INSTALL_OS="+c.os)
			// The flags of a make that runs this test are not for this one.
			for _, v := range os.Environ() {
				if !strings.HasPrefix(v, "MAKE") && !strings.HasPrefix(v, "MFLAGS=") {
					cmd.Env = append(cmd.Env, v)
				}
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			service := checkFile(t, filepath.Join(dest, c.prefix, c.service), c.mode)
			m := c.daemon.FindStringSubmatch(service)
			if m == nil {
				t.Fatalf("it starts nothing:\n%s", service)
			}
			checkFile(t, filepath.Join(dest, m[1]), 0o755)
			if strings.Contains(service, "@") || c.prefix != "/usr/local" && strings.Contains(service, "/usr/local") {
				t.Errorf("the prefix is not %s everywhere:\n%s", c.prefix, service)
			}
			for name, mode := range map[string]fs.FileMode{
				"bin/skep": 0o755, "sbin/skepd": 0o755, "share/man/man1/skep.1": 0o644,
				"share/bash-completion/completions/skep": 0o644, "share/zsh/site-functions/_skep": 0o644,
				"share/fish/vendor_completions.d/skep.fish": 0o644, "share/examples/skep/skepd.yaml": 0o644,
				"share/examples/skep/images.yaml": 0o644,
			} {
				checkFile(t, filepath.Join(dest, c.prefix, name), mode)
			}
			for _, name := range []string{"skepd.yaml", "images.yaml"} {
				example := checkFile(t, filepath.Join(dest, c.prefix, "share/examples/skep", name), 0o644)
				want, never := "# /etc/skep/"+name, "/var/db/"
				if c.os == "FreeBSD" {
					want, never = "# /usr/local/etc/skep/"+name, "/var/lib/"
				}
				if !strings.HasPrefix(example, want) || strings.Contains(example, never) {
					t.Errorf("%s has another system's paths:\n%s", name, example)
				}
			}
		})
	}
}

func checkFile(t *testing.T, path string, mode fs.FileMode) string {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The umask decides about what a shell's redirection writes.
	if got := fi.Mode(); got&0o700 != mode&0o700 || len(b) == 0 {
		t.Errorf("%s: %v, %d bytes; want %v", path, got, len(b), mode)
	}
	return string(b)
}
