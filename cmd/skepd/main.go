// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skepvm/skep"
)

func main() {
	skep.MaybeWorker()
	// Nothing of what SIGHUP usually asks for is to be done: the catalogue is
	// read again when it changes. It must not end the daemon, though.
	signal.Ignore(syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot(os.Stdout, os.Stderr).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "skepd:", err)
		os.Exit(1)
	}
}

func newRoot(out, errw io.Writer) *cobra.Command {
	var path string
	var flags config
	cmd := &cobra.Command{
		Use:   "skepd",
		Short: "The daemon of a skep host",
		Long: `skepd keeps the virtual machines of this host and answers the HTTP API.

What the configuration file says a flag overrides; without either there are
defaults for everything. Guests run on when skepd is stopped, killed or
replaced.`,
		Example:           "  skepd --store " + defaultStore + " --listen " + defaultListen + "\n  skepd --config " + defaultConfig,
		Version:           version(),
		Args:              cobra.NoArgs,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	cmd.SetOut(out)
	cmd.SetErr(errw)
	f := cmd.Flags()
	f.StringVarP(&path, "config", "c", "", "configuration file (default "+defaultConfig+", if it is there)")
	f.StringVar(&flags.Store, "store", "", "where machines and images are kept: dir:/PATH or zfs:POOL/DATASET (default "+defaultStore+")")
	f.StringVar(&flags.RunDir, "run-dir", "", "directory of control sockets (default /run/skep, on FreeBSD /var/run/skep)")
	f.StringSliceVarP(&flags.Listen, "listen", "l", nil, "TCP address to answer on, may be repeated; \"none\" for none (default "+defaultListen+")")
	f.StringVar(&flags.Socket, "socket", "", "the operator's Unix socket (default api.sock in the run directory)")
	f.StringVar(&flags.PublicURL, "public-url", "", "how clients reach this host, as http://cloud.example:8080")
	f.StringVar(&flags.Catalogue, "catalogue", "", "file of the images on offer (default "+defaultCatalogue+", if it is there)")
	f.StringVar(&flags.AllowedKeys, "allowed-keys", "", "file of the SSH public keys that may make machines (default: all may)")
	f.StringVar(&flags.Network.Bridge, "bridge", "", "the machines' bridge (default skep0)")
	f.StringVar(&flags.Network.Address, "network", "", "the host's address on it, with the network's length (default 10.77.0.1/24)")
	f.StringVar(&flags.Log.Level, "log-level", "", "debug, info, warn or error (default info)")
	f.StringVar(&flags.Log.Format, "log-format", "", "text or json (default text)")
	f.BoolVar(&flags.NoSandbox, "no-sandbox", false, "run guests without a sandbox, to look for faults in it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(path)
		if err != nil {
			return err
		}
		if err := cfg.override(flags); err != nil {
			return err
		}
		return serve(cmd.Context(), cfg, errw)
	}
	return cmd
}

// version is what the build says of itself: the module's version, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v += "-" + s.Value[:12]
			}
		}
	}
	return v
}
