// SPDX-License-Identifier: BSD-2-Clause

package cloudinit

import (
	"cmp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Config is the part of cloud-config that skep writes itself, for user-data or
// vendor-data. What is left at its zero value is left to the image.
type Config struct {
	Hostname string // a host name of RFC 1123
	FQDN     string
	// ManageHosts lets the guest resolve its own name by /etc/hosts.
	ManageHosts bool
	Timezone    string
	Locale      string

	// AuthorizedKeys are for the image's default user.
	AuthorizedKeys []string
	// Users are made besides the image's default user, or instead of it.
	Users         []User
	NoDefaultUser bool
	// DisableRoot and PasswordAuth say whether ssh refuses root, and takes
	// passwords.
	DisableRoot  *bool
	PasswordAuth *bool

	PackageUpdate  *bool
	PackageUpgrade *bool
	Packages       []string

	WriteFiles []WriteFile
	BootCmd    []Command // on every boot, early
	RunCmd     []Command // on the first boot, late

	FinalMessage string
}

// User is an account.
type User struct {
	Name   string
	Gecos  string
	Groups []string
	Shell  string
	Home   string
	Sudo   string // a rule of sudoers(5), such as "ALL=(ALL) NOPASSWD:ALL"
	// HashedPassword is a crypt(3) hash, never a password. Without one the
	// account's password is locked.
	HashedPassword string
	AuthorizedKeys []string
	System         bool
}

// Command is either a line for the guest's shell or an argument vector.
type Command struct {
	Shell string
	Args  []string
}

// WriteFile is a file in the guest.
type WriteFile struct {
	Path        string // absolute
	Content     []byte // any bytes
	Owner       string // "user:group"
	Permissions string // octal, such as "0644"
	Append      bool
	Defer       bool // write after users and packages are there
}

func (c *Config) node() *yaml.Node {
	m := newMapping()
	m.str("hostname", c.Hostname)
	m.str("fqdn", c.FQDN)
	if c.ManageHosts {
		m.set("manage_etc_hosts", boolean(true))
	}
	m.str("timezone", c.Timezone)
	m.str("locale", c.Locale)
	if len(c.Users) > 0 || c.NoDefaultUser {
		users := list(c.Users, (User).node)
		if !c.NoDefaultUser {
			users.Content = append([]*yaml.Node{scalar("!!str", "default")}, users.Content...)
		}
		m.set("users", users)
	}
	m.strs("ssh_authorized_keys", c.AuthorizedKeys)
	m.flag("disable_root", c.DisableRoot)
	m.flag("ssh_pwauth", c.PasswordAuth)
	m.flag("package_update", c.PackageUpdate)
	m.flag("package_upgrade", c.PackageUpgrade)
	m.strs("packages", c.Packages)
	if len(c.WriteFiles) > 0 {
		m.set("write_files", list(c.WriteFiles, (WriteFile).node))
	}
	if len(c.BootCmd) > 0 {
		m.set("bootcmd", list(c.BootCmd, (Command).node))
	}
	if len(c.RunCmd) > 0 {
		m.set("runcmd", list(c.RunCmd, (Command).node))
	}
	m.str("final_message", c.FinalMessage)
	return m.node()
}

func (u User) node() *yaml.Node {
	m := newMapping()
	m.str("name", u.Name)
	m.str("gecos", u.Gecos)
	m.str("groups", strings.Join(u.Groups, ", "))
	m.str("shell", u.Shell)
	m.str("homedir", u.Home)
	m.str("sudo", u.Sudo)
	// "*" is no hash of any password. Without one, nuageinit(7) gives the account
	// an empty password.
	m.str("passwd", cmp.Or(u.HashedPassword, "*"))
	m.set("lock_passwd", boolean(u.HashedPassword == ""))
	m.strs("ssh_authorized_keys", u.AuthorizedKeys)
	if u.System {
		m.set("system", boolean(true))
	}
	return m.node()
}

// node is a line for the shell also of arguments, each in single quotes:
// cloud-init does the same with a list, and nuageinit(7) stumbles over one.
func (c Command) node() *yaml.Node {
	if len(c.Args) == 0 {
		return str(c.Shell)
	}
	quoted := make([]string, len(c.Args))
	for i, a := range c.Args {
		quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return str(strings.Join(quoted, " "))
}

func (f WriteFile) node() *yaml.Node {
	m := newMapping()
	m.str("path", f.Path)
	if isText(f.Content) {
		m.set("content", str(string(f.Content)))
	} else {
		m.set("encoding", str("b64"))
		m.set("content", str(b64(f.Content)))
	}
	m.str("owner", f.Owner)
	m.str("permissions", f.Permissions)
	if f.Append {
		m.set("append", boolean(true))
	}
	if f.Defer {
		m.set("defer", boolean(true))
	}
	return m.node()
}
