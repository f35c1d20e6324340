// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/client"
	"github.com/skepvm/skep/api/wire"
)

func (a *app) createCmd() *cobra.Command {
	var in wire.Create
	var ram, disk, userData string
	var noWait bool
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a machine from a cloud image and start it",
		Long: `Make a machine from a cloud image and start it. Without a NAME it is the first
free of vm1 to vm255. The progress is shown until the machine runs; a machine
that cannot be made leaves nothing behind.`,
		Example: `  skep create vm1 --image debian12 --cpus 2 --ram 1g --disk 10g
  skep create web --image debian12 --package nginx --hostname www`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 1 {
				in.Name = args[0]
			}
			if in.Memory, err = flagSize("ram", ram); err != nil {
				return err
			}
			if in.Disk, err = flagSize("disk", disk); err != nil {
				return err
			}
			if userData != "" {
				b, err := os.ReadFile(userData)
				if err != nil {
					return fmt.Errorf("read the user-data: %w", err)
				}
				in.UserData = string(b)
			} else if key, err := a.publicKey(); err != nil {
				return err
			} else if key != "" {
				in.Keys = append(in.Keys, strings.TrimSpace(key))
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			m, err := c.Create(cmd.Context(), in)
			if err != nil {
				return err
			}
			if !noWait {
				if m, err = a.follow(cmd.Context(), c, m); err != nil {
					return err
				}
			}
			if a.json {
				return a.printJSON(m)
			}
			fmt.Fprintf(a.out, "%s is %s", m.Name, m.State)
			if m.Address != "" {
				fmt.Fprintf(a.out, " at %s: skep ssh %s", m.Address, m.Name)
			}
			fmt.Fprintln(a.out)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&in.Image, "image", "i", "", "name of the image; skep image list shows them")
	f.IntVarP(&in.CPUs, "cpus", "c", 1, "number of vCPUs, 1 to 16")
	f.StringVarP(&ram, "ram", "m", "", "memory, as 512m or 2g (default 1g)")
	f.StringVarP(&disk, "disk", "d", "", "disk, as 10g (default 10g, or the image's own size if that is more)")
	f.StringVar(&in.Hostname, "hostname", "", "hostname in the guest (default NAME)")
	f.StringVar(&in.User, "user", "", "user who gets the key (default the image's own)")
	f.StringSliceVar(&in.Packages, "package", nil, "package to install at first boot; may be repeated")
	f.StringArrayVar(&in.RunCommands, "run", nil, "command to run at the end of the first boot; may be repeated")
	f.StringVar(&userData, "user-data", "", "file with a whole cloud-init user-data, given as it is")
	f.StringVar(&in.Address, "address", "", "address in the host's network (default any free one)")
	f.BoolVar(&in.Autostart, "autostart", false, "start it again when the host has restarted")
	f.BoolVar(&in.Stopped, "stopped", false, "make it and leave it stopped")
	f.BoolVar(&noWait, "no-wait", false, "return at once; skep status NAME tells the progress")
	_ = cmd.MarkFlagRequired("image") // the flags are defined above
	_ = cmd.MarkFlagFilename("user-data")
	_ = cmd.RegisterFlagCompletionFunc("image", a.imageNames)
	return cmd
}

func flagSize(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := skep.ParseSize(s)
	if err != nil {
		return 0, fmt.Errorf("--%s: %w", flag, err)
	}
	return n, nil
}

// follow shows the progress of a create until it is done.
func (a *app) follow(ctx context.Context, c *client.Client, m wire.Machine) (wire.Machine, error) {
	last := ""
	for {
		switch {
		case m.State == "failed":
			return m, fmt.Errorf("create %s: %s", m.Name, m.Progress.Error)
		case m.State != "creating" && m.Progress == nil:
			return m, nil
		}
		if m.Progress != nil && m.Progress.Text != last && !a.json {
			last = m.Progress.Text
			fmt.Fprintln(a.err, last)
		}
		select {
		case <-ctx.Done():
			return m, fmt.Errorf("create %s goes on without us: %w", m.Name, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
		next, err := c.Machine(ctx, m.Name)
		if err != nil {
			return m, err
		}
		m = next
	}
}

func (a *app) listCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List machines", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Machines(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tIMAGE\tCPUS\tRAM\tDISK\tADDRESS\tAGE")
			for _, m := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", m.Name, m.State, m.Image, m.CPUs,
					skep.FormatSize(m.Memory), skep.FormatSize(m.Disk), m.Address, age(m.Created))
			}
			return w.Flush()
		}),
	}
}

func age(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func (a *app) printMachine(m wire.Machine) error {
	if a.json {
		return a.printJSON(m)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	row := func(k, v string) {
		if v != "" {
			fmt.Fprintf(w, "%s\t%s\n", k, v)
		}
	}
	row("name", m.Name)
	row("state", m.State)
	row("reason", m.Reason)
	if m.Progress != nil {
		row("progress", m.Progress.Text)
	}
	row("image", m.Image)
	row("size", fmt.Sprintf("%d vCPU, %s memory, %s disk", m.CPUs, skep.FormatSize(m.Memory), skep.FormatSize(m.Disk)))
	row("address", m.Address)
	row("mac", m.MAC)
	row("login", m.User)
	row("created", m.Created.Local().Format(time.DateTime))
	if m.Started != nil {
		row("started", m.Started.Local().Format(time.DateTime))
	}
	row("id", m.ID)
	row("owner", m.Namespace)
	return w.Flush()
}

// oneMachine makes a command that does op on the machine named by its argument
// and shows the machine after it.
func (a *app) oneMachine(use, short string, op func(context.Context, *client.Client, string) (wire.Machine, error)) *cobra.Command {
	return &cobra.Command{
		Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: a.machineNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			m, err := op(ctx, c, args[0])
			if err != nil {
				return err
			}
			if use == "status" || a.json {
				return a.printMachine(m)
			}
			fmt.Fprintf(a.out, "%s is %s\n", m.Name, m.State)
			return nil
		}),
	}
}

func (a *app) statusCmd() *cobra.Command {
	return a.oneMachine("status", "Show one machine", func(ctx context.Context, c *client.Client, n string) (wire.Machine, error) { return c.Machine(ctx, n) })
}

func (a *app) startCmd() *cobra.Command {
	return a.oneMachine("start", "Start a machine", func(ctx context.Context, c *client.Client, n string) (wire.Machine, error) { return c.Start(ctx, n) })
}

func (a *app) resetCmd() *cobra.Command {
	return a.oneMachine("reset", "Reset a running machine in place, as by the reset button", func(ctx context.Context, c *client.Client, n string) (wire.Machine, error) {
		return c.Reset(ctx, n)
	})
}

func (a *app) pauseCmd() *cobra.Command {
	return a.oneMachine("pause", "Halt the vCPUs of a machine", func(ctx context.Context, c *client.Client, n string) (wire.Machine, error) { return c.Pause(ctx, n) })
}

func (a *app) resumeCmd() *cobra.Command {
	return a.oneMachine("resume", "Let a paused machine run on", func(ctx context.Context, c *client.Client, n string) (wire.Machine, error) {
		return c.Resume(ctx, n)
	})
}

func stopFlags(cmd *cobra.Command, opt *client.StopOptions) *cobra.Command {
	cmd.Flags().BoolVarP(&opt.Force, "force", "f", false, "at once, as by pulling the plug")
	cmd.Flags().DurationVar(&opt.Timeout, "timeout", 90*time.Second, "what the guest may take before it is ended by force")
	return cmd
}

func (a *app) stopCmd() *cobra.Command {
	var opt client.StopOptions
	return stopFlags(a.oneMachine("stop", "Press the power button and wait until the machine is off", func(ctx context.Context, c *client.Client, n string) (wire.Machine, error) {
		return c.Stop(ctx, n, opt)
	}), &opt)
}

func (a *app) rebootCmd() *cobra.Command {
	var opt client.StopOptions
	return stopFlags(a.oneMachine("reboot", "Stop a machine and start it again", func(ctx context.Context, c *client.Client, n string) (wire.Machine, error) {
		return c.Reboot(ctx, n, opt)
	}), &opt)
}

func (a *app) destroyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "destroy NAME...", Aliases: []string{"rm"}, Short: "Destroy machines and all that they have",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.machineNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			var errs []error
			for _, n := range args {
				if err := c.Destroy(ctx, n); err != nil {
					errs = append(errs, err)
				} else if !a.json {
					fmt.Fprintf(a.out, "%s is gone\n", n)
				}
			}
			return errors.Join(errs...)
		}),
	}
}

func (a *app) cloneCmd() *cobra.Command {
	var in wire.Clone
	cmd := &cobra.Command{
		Use: "clone NAME NEW", Short: "Make a new machine from the disk of another",
		Args: cobra.ExactArgs(2), ValidArgsFunction: a.machineNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			in.Name = args[1]
			m, err := c.Clone(ctx, args[0], in)
			if err != nil {
				return err
			}
			if m, err = a.follow(ctx, c, m); err != nil {
				return err
			}
			return a.printMachine(m)
		}),
	}
	cmd.Flags().StringVar(&in.Snapshot, "snapshot", "", "the snapshot to clone (default the disk as it is now)")
	cmd.Flags().StringVar(&in.Hostname, "hostname", "", "hostname in the guest (default NEW)")
	cmd.Flags().BoolVar(&in.Stopped, "stopped", false, "make it and leave it stopped")
	return cmd
}
