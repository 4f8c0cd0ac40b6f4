package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/netenv"
)

func (a *app) envFix() *cobra.Command {
	var o envOptions
	cmd := &cobra.Command{
		Use: "fix PATH...", Short: "Write Terraform that creates what is missing. It runs nothing.",
		Example: "  sallyport env fix ./facts > missing.tf",
		Args:    o.needPaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.check(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			_, err = io.WriteString(a.out, r.FixTerraform())
			return err
		},
	}
	o.flags(cmd)
	return cmd
}

func (a *app) envPlan() *cobra.Command {
	return &cobra.Command{
		Use: "plan INTENT.yaml", Short: "Write a whole environment as Terraform from a few lines of intent.",
		Long: `Write a whole environment as Terraform. The intent holds:
  name: fraud            # 3 to 12 letters and digits
  region: westeurope
  nodes: 12              # at most
  podsPerNode: 40
  profile: private       # or public-workspace, public
and, when wanted, network, flatPods, highBusinessImpact, routerName.`,
		Example: "  sallyport env plan intent.yaml > main.tf",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("give one file of intent; see 'sallyport env plan --help'")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read intent: %w", err)
			}
			in, err := netenv.ParseIntent(data)
			if err != nil {
				return usageError{err}
			}
			_, err = io.WriteString(a.out, in.Terraform())
			return err
		},
	}
}

func (a *app) envSize() *cobra.Command {
	pool := netenv.PoolSize{Name: "pool", Nodes: 3, MaxPods: 30, Flat: true}
	var podSubnet, overlay bool
	var endpoints int
	cmd := &cobra.Command{
		Use: "size", Short: "Say how large the cluster's subnets must be.",
		Example: "  sallyport env size --nodes 50 --max-pods 30",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			pool.Flat = !overlay && !podSubnet
			s, err := netenv.Size(pool, podSubnet, endpoints)
			if err != nil {
				return usageError{err}
			}
			_, err = io.WriteString(a.out, s)
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&pool.Nodes, "nodes", 3, "Nodes at most.")
	f.IntVar(&pool.MaxPods, "max-pods", 30, "Pods on each node.")
	f.StringVar(&pool.Surge, "max-surge", "10%", "Nodes added during upgrades: a number or a percentage.")
	f.BoolVar(&overlay, "overlay", false, "Azure CNI Overlay: pods take no addresses of the network.")
	f.BoolVar(&podSubnet, "pod-subnet", false, "Pods have a subnet of their own.")
	f.IntVar(&endpoints, "private-endpoints", 0, "Private endpoints in the same subnet.")
	return cmd
}

func (a *app) envCollect() *cobra.Command {
	var folder string
	var run bool
	var server serverScope
	cmd := &cobra.Command{
		Use: "collect", Short: "Print, or with --run execute, the read-only az commands that fill a folder with facts.",
		Long: `Print, or with --run execute, the read-only az commands that fill a folder with
facts, and a manifest that says what they prove. With --from-server the context's
server is read instead: its clusters, bindings, workspaces, and what the agents of
clusters saw whose owners allow probes.`,
		Example: "  sallyport env collect --subscription SUB\n  sallyport env collect --subscription SUB --run --folder facts\n  sallyport env collect --from-server --folder facts",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if server.on {
				list, err := a.serverFacts(cmd.Context(), server.groups)
				if err != nil {
					return err
				}
				if err := writeFacts(folder, list); err != nil {
					return err
				}
				fmt.Fprintf(a.err, "%d lists of %s are in %s. Next: sallyport env check %s\n", len(list), a.context.Server, folder, folder)
				return nil
			}
			if a.sub == "" {
				return usagef("the following arguments are required: --subscription")
			}
			if !run {
				return a.printListings(folder)
			}
			return a.collect(cmd.Context(), folder)
		},
	}
	cmd.Flags().StringVar(&folder, "folder", "facts", "Folder for the answers and their manifest.")
	server.flags(cmd.Flags(), "Read the context's server instead of Azure.")
	cmd.Flags().BoolVar(&run, "run", false, "Execute the commands; az must be signed in.")
	return cmd
}

// envNames lists what a probe from inside the cluster should look at.
func (a *app) envNames() *cobra.Command {
	return &cobra.Command{
		Use: "names PATH...", Short: "List the names that must resolve privately inside the cluster, for --allow-probes.",
		Example: "  sallyport cluster connect -g G -n C --kube-context CONTEXT --allow-probes $(sallyport env names facts) --apply",
		Args:    (&envOptions{}).needPaths,
		RunE: func(cmd *cobra.Command, args []string) error {
			g, err := a.facts(cmd.Context(), args, serverScope{})
			if err != nil {
				return err
			}
			names := g.Names()
			for _, n := range names {
				fmt.Fprintln(a.out, n)
			}
			if len(names) == 0 {
				fmt.Fprintln(a.err, "No private endpoint of the input has names. See how to get them: sallyport env collect --help")
			}
			return nil
		},
	}
}

// printListings prints the commands. Those of children follow from the answers:
// they are printed when the folder holds them.
func (a *app) printListings(folder string) error {
	list := netenv.FirstListings(a.sub)
	if g, err := netenv.Read(folder); err == nil {
		list = append(list, netenv.NextListings(g)...)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, l := range list {
		fmt.Fprintf(a.out, "%s > %s\n", l.Line, filepath.Join(folder, l.File))
	}
	fmt.Fprintln(a.err, "Run these, then this command again: it goes on with bindings, computes, zone groups, links and records. --run does both and writes the manifest that proves completeness.")
	return nil
}

// collect runs the commands and writes the manifest, also of what failed.
func (a *app) collect(ctx context.Context, folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("collect: %w", err)
	}
	m := netenv.Manifest{Kind: netenv.ManifestKind, Scope: "/subscriptions/" + a.sub, Time: time.Now().UTC().Truncate(time.Second)}
	failed := a.runListings(ctx, folder, netenv.FirstListings(a.sub), &m)
	g, err := netenv.Read(folder)
	if err != nil {
		return err
	}
	failed += a.runListings(ctx, folder, netenv.NextListings(g), &m)
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, netenv.ManifestFile), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	fmt.Fprintf(a.err, "%d commands, %d failed. Next: sallyport env check %s\n", len(m.Files), failed, folder)
	if failed > 0 {
		return quietError{exitError}
	}
	return nil
}

func (a *app) runListings(ctx context.Context, folder string, list []netenv.Listing, m *netenv.Manifest) (failed int) {
	for _, l := range list {
		e := l.Export
		e.Time = time.Now().UTC().Truncate(time.Second)
		fmt.Fprintln(a.err, l.Line)
		rows, err := runListing(ctx, l, filepath.Join(folder, l.File))
		if err != nil {
			failed++
			e.Error = err.Error()
			fmt.Fprintln(a.err, "  "+e.Error)
		} else {
			e.Rows = &rows
		}
		m.Files = append(m.Files, e)
	}
	return failed
}

func runListing(ctx context.Context, l netenv.Listing, path string) (rows int, err error) {
	args := l.Args()
	var out, problem bytes.Buffer
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Stdout, c.Stderr = &out, &problem
	if err := c.Run(); err != nil {
		if line, _, _ := strings.Cut(strings.TrimSpace(problem.String()), "\n"); line != "" {
			return 0, fmt.Errorf("%w: %s", err, line)
		}
		return 0, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		var envelope struct {
			Value []json.RawMessage `json:"value"`
		}
		if json.Unmarshal(out.Bytes(), &envelope) != nil {
			return 0, fmt.Errorf("answered no list: %w", err)
		}
		list = envelope.Value
	}
	return len(list), os.WriteFile(path, out.Bytes(), 0o600)
}
