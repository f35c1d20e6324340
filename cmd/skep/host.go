// SPDX-License-Identifier: BSD-2-Clause

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/skepvm/skep"
	"github.com/skepvm/skep/api/client"
)

func (a *app) imageCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "List, fetch and drop images"}
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the images that machines can be made from", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Images(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSYSTEM\tMIN DISK\tLOGIN\tREADY\tDESCRIPTION")
			for _, i := range list {
				ready := "no"
				if i.Warm {
					ready = "yes"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", i.Name, i.OS, skep.FormatSize(i.MinDisk), i.User, ready, i.Description)
			}
			return w.Flush()
		}),
	}
	warm := &cobra.Command{
		Use: "warm NAME...", Aliases: []string{"fetch"}, Short: "Fetch images, check them and make them ready to be cloned",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.imageNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			for _, n := range args {
				last := time.Time{}
				err := c.WarmImage(ctx, n, func(done, total int64) {
					if a.json || time.Since(last) < time.Second {
						return
					}
					last = time.Now()
					fmt.Fprintf(a.err, "%s: %s\n", n, amount(done, total))
				})
				if err != nil {
					return err
				}
				if !a.json {
					fmt.Fprintf(a.out, "%s is ready\n", n)
				}
			}
			return nil
		}),
	}
	remove := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Drop the copy of an image that is on the host (operator)",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.imageNames,
		RunE: a.run(func(ctx context.Context, c *client.Client, args []string) error {
			return c.RemoveImage(ctx, args[0])
		}),
	}
	cmd.AddCommand(list, warm, remove)
	return cmd
}

func amount(done, total int64) string {
	if total <= 0 {
		return fmt.Sprintf("%d MiB", done/skep.MiB)
	}
	return fmt.Sprintf("%d of %d MiB (%d%%)", done/skep.MiB, total/skep.MiB, done*100/total)
}

func (a *app) hostCmd() *cobra.Command {
	return &cobra.Command{
		Use: "host", Short: "Show what the host has and what is left of it", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			h, err := c.Host(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(h)
			}
			whole := func(n int64) string { return skep.FormatSize(n / skep.MiB * skep.MiB) }
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "host\t%s (%s on %s, skep %s)\n", h.Hostname, h.Emulator, h.OS, h.Version)
			fmt.Fprintf(w, "machines\t%d, %d of them running\n", h.Machines, h.Running)
			fmt.Fprintf(w, "processors\t%d\n", h.CPUs)
			fmt.Fprintf(w, "memory\t%s in use of %s for machines, %s in all\n", whole(h.MemoryCommitted), whole(h.MemoryLimit), whole(h.Memory))
			fmt.Fprintf(w, "disk\t%s free, %s of it promised\n", whole(h.DiskFree), whole(h.DiskPromised))
			fmt.Fprintf(w, "addresses\t%d free\n", h.AddressesFree)
			fmt.Fprintf(w, "store\t%s\n", h.Store)
			return w.Flush()
		}),
	}
}

func (a *app) eventsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "events", Short: "Show what happens to the machines, until interrupted", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, c *client.Client, _ []string) error {
			for e, err := range c.Events(ctx, nil) {
				switch {
				case ctx.Err() != nil:
					return nil
				case err != nil:
					return err
				case a.json:
					if err := a.printJSON(e); err != nil {
						return err
					}
					continue
				}
				what := e.State + " " + e.Reason
				if e.Progress != nil {
					what = e.Progress.Text
				}
				fmt.Fprintf(a.out, "%s %-8s %s %s\n", e.Time.Local().Format(time.TimeOnly), e.Kind, e.Name, what)
			}
			return nil
		}),
	}
}

func (a *app) snapshotCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Take, list, drop and return to snapshots of a machine's disk"}
	sub := func(use, short string, args int, run func(context.Context, *client.Client, []string) error) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(args), ValidArgsFunction: a.machineNames, RunE: a.run(run)})
	}
	sub("take NAME SNAPSHOT", "Take a snapshot; a running machine's is what a power cut would have left", 2, func(ctx context.Context, c *client.Client, args []string) error {
		return c.Snapshot(ctx, args[0], args[1])
	})
	sub("remove NAME SNAPSHOT", "Drop a snapshot", 2, func(ctx context.Context, c *client.Client, args []string) error {
		return c.RemoveSnapshot(ctx, args[0], args[1])
	})
	sub("rollback NAME SNAPSHOT", "Put the disk of a stopped machine back", 2, func(ctx context.Context, c *client.Client, args []string) error {
		return c.Rollback(ctx, args[0], args[1])
	})
	sub("list NAME", "List the snapshots of a machine", 1, func(ctx context.Context, c *client.Client, args []string) error {
		list, err := c.Snapshots(ctx, args[0])
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(list)
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "SNAPSHOT\tUSED\tAGE")
		for _, s := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, skep.FormatSize(s.Used), age(s.Created))
		}
		return w.Flush()
	})
	return cmd
}

// manCmd writes the manual pages from the commands themselves.
func manCmd(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIRECTORY", Short: "Write the manual pages into a directory", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			header := &doc.GenManHeader{Title: "SKEP", Section: "1", Source: "skep", Manual: "skep manual", Date: &time.Time{}}
			if err := doc.GenManTree(root, header, filepath.Clean(args[0])); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return nil
		},
	}
}
