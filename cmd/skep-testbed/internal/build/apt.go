// SPDX-License-Identifier: BSD-2-Clause

package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// suite is the Debian release that testbeds and guests are made of, whatever
// release the machine runs.
const suite = "bookworm"

const defaultMirror = "http://deb.debian.org/debian"
const defaultSecurity = "http://deb.debian.org/debian-security"

// apt is a package directory of our own: sources, lists and archives.
type apt struct {
	c        *Cache
	dir      string
	mirror   string
	security string
	options  []string // of the machine's configuration: proxies, timeouts
}

// openApt prepares the directory and refreshes its lists once a day.
func (c *Cache) openApt(ctx context.Context) (*apt, error) {
	a := &apt{c: c, dir: filepath.Join(c.dir, "apt")}
	a.mirror, a.security = machineMirrors("/etc/apt")
	unlock, err := c.lock(ctx, "apt")
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, d := range []string{"etc/preferences.d", "state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if a.options, err = machineOptions(ctx); err != nil {
		return nil, err
	}
	conf := strings.Join(a.options, "\n") + "\n" +
		`APT::Sandbox::User "root";` + "\n" +
		`Acquire::Retries "3";` + "\n" +
		`Acquire::Languages "none";` + "\n"
	files := map[string]string{
		"etc/apt.conf":     conf,
		"etc/sources.list": strings.Join(a.sources(), "\n") + "\n",
		"state/status":     "",
	}
	fresh := true
	for name, content := range files {
		path := filepath.Join(a.dir, name)
		if old, err := os.ReadFile(path); err == nil && string(old) == content {
			continue
		}
		fresh = false
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	stamp := filepath.Join(a.dir, "updated")
	if st, err := os.Stat(stamp); fresh && err == nil && time.Since(st.ModTime()) < 24*time.Hour {
		return a, nil
	}
	if err := c.run(ctx, "fetching Debian's package lists", a.cmd(ctx, "apt-get", "update")); err != nil {
		return nil, err
	}
	return a, os.WriteFile(stamp, nil, 0o644)
}

// sources returns the lines that mmdebstrap and apt are given.
func (a *apt) sources() []string {
	return []string{
		"deb " + a.mirror + " " + suite + " main contrib",
		"deb " + a.mirror + " " + suite + "-updates main contrib",
		"deb " + a.security + " " + suite + "-security main contrib",
		"deb " + a.mirror + " " + suite + "-backports main contrib",
	}
}

func (a *apt) cmd(ctx context.Context, name string, args ...string) *exec.Cmd {
	opts := []string{
		"-o", "Dir=" + a.dir,
		"-o", "Dir::Etc=etc", "-o", "Dir::Etc::main=apt.conf", "-o", "Dir::Etc::parts=/nonexistent",
		"-o", "Dir::Etc::sourcelist=sources.list", "-o", "Dir::Etc::sourceparts=/nonexistent",
		"-o", "Dir::Etc::trusted=/nonexistent", "-o", "Dir::Etc::trustedparts=/usr/share/keyrings",
		"-o", "Dir::State=state", "-o", "Dir::State::status=" + filepath.Join(a.dir, "state/status"),
		"-o", "Dir::Cache=cache", "-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64",
		"-o", "Debug::NoLocking=true",
	}
	cmd := command(name, append(opts, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "APT_CONFIG="+filepath.Join(a.dir, "etc/apt.conf"))
	return cmd
}

// command is exec.Command whose path is looked up when it is run, so that a
// missing tool gets our error.
func command(name string, args ...string) *exec.Cmd {
	return &exec.Cmd{Path: name, Args: append([]string{name}, args...)}
}

// download puts the named packages ("name" or "name/suite") into dest and
// returns the files.
func (a *apt) download(ctx context.Context, dest string, pkgs ...string) ([]string, error) {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return nil, err
	}
	cmd := a.cmd(ctx, "apt-get", append([]string{"download"}, pkgs...)...)
	cmd.Dir = dest
	if err := a.c.run(ctx, "downloading "+strings.Join(pkgs, " "), cmd); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dest, "*.deb"))
}

// depends returns the packages that pkg ("name" or "name/suite") depends on
// whose names match.
func (a *apt) depends(ctx context.Context, pkg string, match *regexp.Regexp) ([]string, error) {
	name, release, _ := strings.Cut(pkg, "/")
	args := []string{"depends", "--no-recommends", "--no-suggests", name}
	if release != "" {
		args = append([]string{"-t", release}, args...)
	}
	out, err := a.c.output(ctx, "asking apt for "+pkg, a.cmd(ctx, "apt-cache", args...))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, line := range strings.Split(out, "\n") {
		dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && match.MatchString(dep) {
			found = append(found, dep)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("apt knows no dependency of %s that looks like %s", pkg, match)
	}
	return found, nil
}

// unpack unpacks packages into dir without installing them.
func (a *apt) unpack(ctx context.Context, dir string, debs ...string) error {
	for _, d := range debs {
		if err := a.c.run(ctx, "unpacking "+filepath.Base(d), command("dpkg-deb", "-x", d, dir)); err != nil {
			return err
		}
	}
	return nil
}

// machineMirrors returns the Debian mirrors that the machine uses, or
// Debian's own.
func machineMirrors(etc string) (mirror, security string) {
	mirror, security = defaultMirror, defaultSecurity
	files, _ := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	uri := regexp.MustCompile(`(?:https?|mirror\+https?|file)://?[^\s\]]+/debian(-security)?/?(?:\s|$)`)
	for _, f := range append([]string{filepath.Join(etc, "sources.list")}, files...) {
		content, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(content), "\n") {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "deb ") && !strings.HasPrefix(line, "URIs:") {
				continue
			}
			for _, m := range uri.FindAllStringSubmatch(line+" ", -1) {
				u := strings.TrimRight(strings.TrimSpace(m[0]), "/")
				switch {
				case m[1] != "" && security == defaultSecurity:
					security = u
				case m[1] == "" && mirror == defaultMirror:
					mirror = u
				}
			}
		}
	}
	return mirror, security
}

// machineOptions returns the lines of the machine's apt configuration that say
// how to reach its package sources.
func machineOptions(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	keep := regexp.MustCompile(`(?i)^Acquire::(https?|ftp|Check-|Retries|ForceIP|Max-Default|Proxy)`)
	var lines []string
	for _, line := range strings.Split(string(out), "\n") {
		if keep.MatchString(line) && !strings.HasSuffix(line, ` "";`) {
			lines = append(lines, line)
		}
	}
	return lines, nil
}
