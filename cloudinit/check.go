// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// ErrInvalid marks a seed that no guest could use, or that is too large.
var ErrInvalid = errors.New("invalid")

func invalid(format string, args ...any) error {
	return fmt.Errorf("cloudinit: %w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// The bounds of what a client can make us hold.
const (
	MaxFileSize = 1 << 20 // bytes of one of the seed's four files
	maxItems    = 1024    // of one list
	maxString   = 16 << 10
)

var (
	labelRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) // RFC 1123 section 2.1
	userRE  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	crypRE  = regexp.MustCompile(`^(\$[A-Za-z0-9]+\$|_)[A-Za-z0-9./$=,+-]+$`) // crypt(5)
	permRE  = regexp.MustCompile(`^[0-7]{3,4}$`)
	ownerRE = regexp.MustCompile(`^[a-z_][a-z0-9_.-]*(:[a-z_][a-z0-9_.-]*)?$`)
	pkgRE   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@+._:~/=-]*$`)
	zoneRE  = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
	idRE    = regexp.MustCompile(`^[A-Za-z0-9._:@/+-]{1,128}$`)
)

// CheckHostname says why a name cannot be a host's by RFC 1123: labels of 1-63
// letters, digits and '-', at most 253 bytes in all.
func CheckHostname(name string) error {
	if name == "" || len(name) > 253 {
		return invalid("host name %q: 1-253 bytes", clip(name))
	}
	for label := range strings.SplitSeq(name, ".") {
		if !labelRE.MatchString(label) {
			return invalid("host name %q: %q: 1-63 letters, digits and '-', none at either end", clip(name), clip(label))
		}
	}
	return nil
}

// clip keeps a hostile string from filling an error message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

// checker collects what is wrong, up to a bound.
type checker struct{ errs []error }

func (c *checker) add(err error) {
	if err != nil && len(c.errs) < 16 {
		c.errs = append(c.errs, err)
	}
}

func (c *checker) match(what, s string, re *regexp.Regexp, want string) {
	if s != "" && (len(s) > maxString || !re.MatchString(s)) {
		c.add(invalid("%s %q: %s", what, clip(s), want))
	}
}

// text: printable, one line, not too long.
func (c *checker) text(what, s string) {
	switch {
	case len(s) > maxString:
		c.add(invalid("%s: %d bytes, at most %d", what, len(s), maxString))
	case !isText([]byte(s)) || strings.ContainsAny(s, "\n"):
		c.add(invalid("%s %q: one line of printable UTF-8 is wanted", what, clip(s)))
	}
}

func (c *checker) count(what string, n int) bool {
	if n > maxItems {
		c.add(invalid("%d %s, at most %d", n, what, maxItems))
		return false
	}
	return true
}

func (c *checker) keys(keys []string) {
	if !c.count("keys", len(keys)) {
		return
	}
	for _, k := range keys {
		c.text("key", k)
		if len(strings.Fields(k)) < 2 {
			c.add(invalid("key %q: not a line of authorized_keys", clip(k)))
		}
	}
}

func (c *checker) commands(what string, cmds []Command) {
	if !c.count(what, len(cmds)) {
		return
	}
	for _, cmd := range cmds {
		if (cmd.Shell == "") == (len(cmd.Args) == 0) {
			c.add(invalid("%s: a command is either a shell line or arguments", what))
			continue
		}
		if !c.count("arguments of "+what, len(cmd.Args)) {
			continue
		}
		for _, a := range append([]string{cmd.Shell}, cmd.Args...) {
			if !utf8.ValidString(a) || !isText([]byte(a)) || len(a) > MaxFileSize {
				c.add(invalid("%s %q: printable UTF-8 is wanted", what, clip(a)))
			}
		}
	}
}

func (c *Config) check() error {
	var k checker
	if c.Hostname != "" {
		k.add(CheckHostname(c.Hostname))
	}
	if c.FQDN != "" {
		k.add(CheckHostname(c.FQDN))
	}
	k.match("time zone", c.Timezone, zoneRE, "a name of the tz database is wanted")
	k.text("locale", c.Locale)
	k.text("final message", c.FinalMessage)
	k.keys(c.AuthorizedKeys)
	if k.count("users", len(c.Users)) {
		for _, u := range c.Users {
			u.check(&k)
		}
	}
	if k.count("packages", len(c.Packages)) {
		for _, p := range c.Packages {
			if p == "" || len(p) > 256 || !pkgRE.MatchString(p) {
				k.add(invalid("package %q: letters, digits and any of @+._:~/=- only", clip(p)))
			}
		}
	}
	k.commands("boot commands", c.BootCmd)
	k.commands("run commands", c.RunCmd)
	if k.count("files", len(c.WriteFiles)) {
		for _, f := range c.WriteFiles {
			f.check(&k)
		}
	}
	return errors.Join(k.errs...)
}

func (u *User) check(k *checker) {
	if !userRE.MatchString(u.Name) {
		k.add(invalid("user %q: 1-32 lower-case letters, digits, '_' or '-'", clip(u.Name)))
	}
	k.text("user's full name", u.Gecos)
	if strings.ContainsAny(u.Gecos, ":") { // it would end the field in passwd(5)
		k.add(invalid("user's full name %q has a ':'", clip(u.Gecos)))
	}
	if k.count("groups", len(u.Groups)) {
		for _, g := range u.Groups {
			if !userRE.MatchString(g) {
				k.add(invalid("group %q: 1-32 lower-case letters, digits, '_' or '-'", clip(g)))
			}
		}
	}
	for _, s := range [][2]string{{"shell", u.Shell}, {"home", u.Home}} {
		what, p := s[0], s[1]
		if p != "" && (!path.IsAbs(p) || strings.Contains(p, ":") || len(p) > 1023) {
			k.add(invalid("%s of user %q: %q: an absolute path is wanted", what, clip(u.Name), clip(p)))
		}
		k.text(what, p)
	}
	k.text("sudo rule", u.Sudo)
	if u.HashedPassword != "" && (len(u.HashedPassword) > 1024 || !crypRE.MatchString(u.HashedPassword)) {
		// Not quoted: it may well be a password.
		k.add(invalid("password of user %q: a crypt(3) hash is wanted, not a password", clip(u.Name)))
	}
	k.keys(u.AuthorizedKeys)
}

func (f *WriteFile) check(k *checker) {
	if !path.IsAbs(f.Path) || len(f.Path) > 4095 {
		k.add(invalid("file %q: an absolute path is wanted", clip(f.Path)))
	}
	k.text("path", f.Path)
	k.match("owner of "+clip(f.Path), f.Owner, ownerRE, "user or user:group is wanted")
	k.match("permissions of "+clip(f.Path), f.Permissions, permRE, "3 or 4 octal digits are wanted")
	if len(f.Content) > MaxFileSize {
		k.add(invalid("file %q has %d bytes, at most %d", clip(f.Path), len(f.Content), MaxFileSize))
	}
}
