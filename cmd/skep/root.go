// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
)

// app is what every command shares.
type app struct {
	in       io.Reader
	out, err io.Writer

	endpoint string
	keyFile  string
	json     bool
	sshPort  string
}

// The sockets that skepd listens on where its configuration says nothing.
var defaultSockets = []string{"/run/skep/api.sock", "/var/run/skep/api.sock"}

const defaultEndpoint = "http://127.0.0.1:8080"

func newRoot(in io.Reader, out, errw io.Writer) *cobra.Command {
	return newApp(in, out, errw).root()
}

func newApp(in io.Reader, out, errw io.Writer) *app {
	return &app{in: in, out: out, err: errw, sshPort: "22"}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "skep",
		Short: "Virtual machines from cloud images, on this host or another",
		Long: `skep makes and drives the virtual machines of a skep host.

Whose machines are meant is said by an SSH public key: the one of --key, of the
environment variable SSH_KEY, or the first found of ~/.ssh/id_ed25519.pub,
id_ecdsa.pub and id_rsa.pub. A new machine lets that key in. The host's operator
(who may open skepd's socket) can do without one.`,
		Example: `  skep create vm1 --image debian12 --cpus 2 --ram 1g --disk 10g
  skep ssh vm1
  skep list`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	f := root.PersistentFlags()
	f.StringVarP(&a.endpoint, "host", "H", "", "the host: http://HOST:PORT or unix:/PATH (default $SKEP_HOST, then skepd's socket, then "+defaultEndpoint+")")
	f.StringVarP(&a.keyFile, "key", "k", "", "SSH public key file (default $SSH_KEY, then ~/.ssh/id_ed25519.pub, id_ecdsa.pub, id_rsa.pub)")
	f.BoolVar(&a.json, "json", false, "print JSON")
	_ = root.MarkPersistentFlagFilename("key", "pub") // the flag is defined above
	root.AddGroup(&cobra.Group{ID: "machine", Title: "Machines:"}, &cobra.Group{ID: "host", Title: "The host:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("machine", a.createCmd(), a.listCmd(), a.statusCmd(), a.startCmd(), a.stopCmd(), a.rebootCmd(), a.resetCmd(),
		a.pauseCmd(), a.resumeCmd(), a.destroyCmd(), a.consoleCmd(), a.logCmd(), a.sshCmd(), a.snapshotCmd(), a.cloneCmd())
	add("host", a.imageCmd(), a.hostCmd(), a.eventsCmd())
	root.AddCommand(manCmd(root))
	return root
}

// publicKey finds the caller's SSH public key; empty where there is none.
func (a *app) publicKey() (key string, err error) {
	path := a.keyFile
	if path == "" {
		path = os.Getenv("SSH_KEY")
	}
	candidates := []string{path}
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", nil // no home, no key: the operator may go without
		}
		candidates = nil
		for _, n := range []string{"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"} {
			candidates = append(candidates, filepath.Join(home, ".ssh", n))
		}
	}
	for _, c := range candidates {
		b, err := os.ReadFile(c)
		switch {
		case err == nil:
			// Exactly one newline is not part of the key: so other clients count.
			return strings.TrimSuffix(string(b), "\n"), nil
		case path != "":
			return "", fmt.Errorf("read the SSH public key: %w", err)
		}
	}
	return "", nil
}

func (a *app) client() (*client.Client, error) {
	key, err := a.publicKey()
	if err != nil {
		return nil, err
	}
	endpoint := a.endpoint
	if endpoint == "" {
		endpoint = os.Getenv("SKEP_HOST")
	}
	for _, s := range defaultSockets {
		if endpoint == "" {
			if f, err := os.Stat(s); err == nil && f.Mode()&os.ModeSocket != 0 && os.Geteuid() == 0 {
				endpoint = "unix:" + s
			}
		}
	}
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	cid := ""
	if key != "" {
		cid = wire.CID(key)
	} else if !strings.HasPrefix(endpoint, "unix:") {
		return nil, fmt.Errorf("no SSH public key found: it says whose machines are meant; name one by --key, or make one with ssh-keygen")
	}
	return client.New(endpoint, cid)
}

// run makes of f the body of a command, with a client for its length.
func (a *app) run(f func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(cmd.Context(), c, args)
	}
}

// machineNames completes the names of machines.
func (a *app) machineNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer c.Close()
	list, err := c.Machines(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name+"\t"+m.State+", "+m.Image)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// imageNames completes the names of images.
func (a *app) imageNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer c.Close()
	list, err := c.Images(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// printJSON writes v for programs.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
