// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/skepvm/skep/api/client"
)

// escape is Ctrl-], as of telnet and virsh: it leaves the console.
const escape = 0x1d

func (a *app) consoleCmd() *cobra.Command {
	return &cobra.Command{
		Use: "console NAME", Short: "Open a machine's serial console",
		Long: `Open the machine's first serial line: what it last wrote is shown first, then
what it writes from now on. Ctrl-] leaves; the machine does not notice.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.machineNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			line, err := c.Console(ctx, args[0])
			if err != nil {
				return err
			}
			defer line.Close()
			restore, err := rawTerminal(a.in)
			if err != nil {
				return err
			}
			defer restore()
			fmt.Fprintf(a.err, "console of %s; Ctrl-] leaves\r\n", args[0])
			return a.attach(ctx, cancel, line)
		}),
	}
}

// rawTerminal puts the terminal behind in, if it is one, into raw mode.
func rawTerminal(in io.Reader) (restore func(), err error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return func() {}, nil
	}
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	return func() { _ = term.Restore(int(f.Fd()), old) }, nil
}

// attach joins the terminal to line until the escape key, the end of the
// machine, or the end of ctx. The end of input alone does not end it, so that
// `skep console vm1 < /dev/null` shows what the machine writes.
func (a *app) attach(ctx context.Context, cancel context.CancelFunc, line io.ReadWriteCloser) error {
	// The reader of the terminal cannot be woken and ends with the program.
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := a.in.Read(buf)
			for i := range n {
				if buf[i] == escape {
					_, _ = line.Write(buf[:i])
					cancel()
					return
				}
			}
			if _, werr := line.Write(buf[:n]); n > 0 && werr != nil || err != nil {
				return
			}
		}
	}()
	_, err := io.Copy(a.out, line)
	fmt.Fprint(a.err, "\r\n")
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (a *app) logCmd() *cobra.Command {
	return &cobra.Command{
		Use: "log NAME", Short: "Print what a machine, running or not, last wrote to its console",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.machineNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			b, err := c.Log(ctx, args[0])
			if err != nil {
				return err
			}
			if _, err := a.out.Write(b); err != nil {
				return fmt.Errorf("print: %w", err)
			}
			return nil
		}),
	}
}
