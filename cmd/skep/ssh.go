// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"

	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
)

func (a *app) sshCmd() *cobra.Command {
	var user, identity string
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "ssh NAME [-- COMMAND...]", Short: "Log into a machine, or run a command in it",
		Long: `Log into a machine by ssh with the private key that belongs to --key, or one
that the ssh agent holds, and run a shell or the COMMAND; its exit status is
skep's. A machine that is still booting is waited for.

The machine's host key is kept at the first login, under the machine's own id,
and must be the same ever after: a new machine of the same name is another one.`,
		Example: `  skep ssh vm1
  skep ssh vm1 -- uname -a`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.machineNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			patience, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			m, err := a.reachable(patience, c, args[0])
			if err != nil {
				return err
			}
			if user != "" {
				m.User = user
			}
			conn, err := a.login(patience, m, identity)
			if err != nil {
				return err
			}
			defer conn.Close()
			return a.session(ctx, conn, strings.Join(args[1:], " "))
		}),
	}
	cmd.Flags().StringVarP(&user, "user", "l", "", "login name (default the image's own)")
	cmd.Flags().StringVarP(&identity, "identity", "I", "", "private key file (default the --key file without .pub)")
	cmd.Flags().DurationVar(&wait, "wait", 2*time.Minute, "how long to wait for the machine to let us in")
	return cmd
}

// reachable waits until the machine runs and has an address.
func (a *app) reachable(ctx context.Context, c *client.Client, name string) (wire.Machine, error) {
	for {
		m, err := c.Machine(ctx, name)
		switch {
		case err != nil:
			return m, err
		case m.State == "creating" || m.State == "starting":
		case m.State != "running":
			return m, fmt.Errorf("ssh %s: the machine is %s; start it with: skep start %s", name, m.State, name)
		case m.Address == "":
			return m, fmt.Errorf("ssh %s: the machine has no network", name)
		default:
			return m, nil
		}
		select {
		case <-ctx.Done():
			return m, fmt.Errorf("ssh %s: still %s: %w", name, m.State, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// login dials the machine until it lets us in or ctx ends. What cannot mend
// itself (a changed host key, no key that it takes) ends it at once.
func (a *app) login(ctx context.Context, m wire.Machine, identity string) (*ssh.Client, error) {
	auth, done, err := a.auth(identity)
	if err != nil {
		return nil, err
	}
	defer done()
	hosts, err := openHostKeys(m.ID)
	if err != nil {
		return nil, err
	}
	cfg := &ssh.ClientConfig{User: m.User, Auth: auth, HostKeyCallback: hosts.check, Timeout: 10 * time.Second}
	addr := net.JoinHostPort(m.Address, a.sshPort)
	denied := 0
	for {
		conn, err := dial(ctx, addr, cfg)
		if err == nil {
			return conn, nil
		}
		if errors.Is(err, errHostKey) {
			return nil, fmt.Errorf("ssh %s@%s: %w", m.User, m.Address, err)
		}
		// sshd may answer before cloud-init has made the user: be patient a little.
		if strings.Contains(err.Error(), "unable to authenticate") {
			if denied++; denied > 20 {
				return nil, fmt.Errorf("ssh %s@%s: %w (name the private key by --identity)", m.User, m.Address, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("ssh %s@%s: gave up: %w; see what it does with: skep console %s", m.User, m.Address, err, m.Name)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func dial(ctx context.Context, addr string, cfg *ssh.ClientConfig) (*ssh.Client, error) {
	nc, err := (&net.Dialer{Timeout: cfg.Timeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second)) // a TCP connection has deadlines
	sc, chans, reqs, err := ssh.NewClientConn(nc, addr, cfg)
	if err != nil {
		nc.Close()
		return nil, err
	}
	_ = nc.SetDeadline(time.Time{})
	return ssh.NewClient(sc, chans, reqs), nil
}

// auth gathers what may prove who we are: the private key's file, asked for its
// passphrase if it has one, and the agent.
func (a *app) auth(identity string) (methods []ssh.AuthMethod, done func(), err error) {
	done = func() {}
	given := identity != ""
	for _, path := range a.identities(identity) {
		b, err := os.ReadFile(path)
		if err != nil {
			if given {
				return nil, nil, fmt.Errorf("read the private key: %w", err)
			}
			continue
		}
		signer, err := ssh.ParsePrivateKey(b)
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			methods = append(methods, ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return a.unlock(path, b) }))
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("private key %s: %w", path, err)
		}
		methods = append(methods, ssh.PublicKeys(signer))
	}
	if sock := os.Getenv("SSH_AUTH_SOCK"); sock != "" {
		if c, err := net.Dial("unix", sock); err == nil {
			done = func() { c.Close() }
			// Before the files: an agent's key needs no passphrase.
			methods = append([]ssh.AuthMethod{ssh.PublicKeysCallback(agent.NewClient(c).Signers)}, methods...)
		}
	}
	if len(methods) == 0 {
		return nil, nil, errors.New("no private key found: name one by --identity, or start an ssh agent")
	}
	return methods, done, nil
}

func (a *app) identities(identity string) []string {
	if identity != "" {
		return []string{identity}
	}
	for _, pub := range []string{a.keyFile, os.Getenv("SSH_KEY")} {
		if pub != "" {
			return []string{strings.TrimSuffix(pub, ".pub")}
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil
	}
	var list []string
	for _, n := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		list = append(list, filepath.Join(home, ".ssh", n))
	}
	return list
}

func (a *app) unlock(path string, key []byte) ([]ssh.Signer, error) {
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, fmt.Errorf("private key %s has a passphrase and there is no terminal to ask at", path)
	}
	fmt.Fprintf(a.err, "passphrase of %s: ", path)
	pass, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.err)
	if err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	s, err := ssh.ParsePrivateKeyWithPassphrase(key, pass)
	if err != nil {
		return nil, fmt.Errorf("private key %s: %w", path, err)
	}
	return []ssh.Signer{s}, nil
}

// session runs a command, or a shell on a terminal where there is one.
func (a *app) session(ctx context.Context, conn *ssh.Client, command string) error {
	s, err := conn.NewSession()
	if err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	defer s.Close()
	s.Stdout, s.Stderr = a.out, a.err
	stdin, err := s.StdinPipe()
	if err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	// The reader of our input cannot be woken and ends with the program.
	go func() { _, _ = io.Copy(stdin, a.in); stdin.Close() }()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if command != "" {
		err = s.Run(command)
	} else {
		err = a.shell(s)
	}
	var status *ssh.ExitError
	if errors.As(err, &status) {
		return exitStatus(status.ExitStatus())
	}
	if err != nil {
		return fmt.Errorf("the session was lost: %w", err)
	}
	return nil
}

func (a *app) shell(s *ssh.Session) error {
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		w, h, err := term.GetSize(int(f.Fd()))
		if err != nil {
			w, h = 80, 24
		}
		kind := os.Getenv("TERM")
		if kind == "" {
			kind = "xterm"
		}
		if err := s.RequestPty(kind, h, w, ssh.TerminalModes{}); err != nil {
			return fmt.Errorf("ask for a terminal: %w", err)
		}
		restore, err := rawTerminal(a.in)
		if err != nil {
			return err
		}
		defer restore()
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		done := make(chan struct{})
		defer func() { signal.Stop(resized); close(resized); <-done }()
		go func() {
			defer close(done)
			for range resized {
				if w, h, err := term.GetSize(int(f.Fd())); err == nil {
					_ = s.WindowChange(h, w) // a session that is gone ends by itself
				}
			}
		}()
	}
	if err := s.Shell(); err != nil {
		return fmt.Errorf("start a shell: %w", err)
	}
	return s.Wait()
}
