package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/cmd/sallyport/up"
)

// installation are the commands that run a whole Sallyport on this machine.
func installation(a *app) []*cobra.Command {
	command := func(use, short, long string, run func(context.Context, up.Options) error) *cobra.Command {
		var o up.Options
		return a.command(spec{
			use: use, short: short, long: long,
			flags: func(f *flags) {
				f.text(&o.Dir, "dir", "", "Folder for everything. Default: .sallyport in the working directory.")
				if use == "down" {
					return
				}
				f.text(&o.Source, "source", "", "A checkout of Sallyport to build from. Default: the working directory.")
				f.text(&o.Devcluster, "devcluster", "", "A Kubernetes binary that was built before, instead of building one.")
				if use == "up" {
					f.text(&o.Kubeconfig, "kubeconfig", "", "A kubeconfig of a cluster of yours, to use instead of making one, with its --context. Every object is shown first, and the context's name must be typed.")
				}
				f.IntVar(&o.Nodes, "nodes", -1, "Real nodes to run, 0 to 3. Default: 1 where nodes can run.")
			},
			run: func(ctx context.Context, _ []string) (any, error) {
				a.busy.stop()
				if use == "up" {
					o.Context = a.contextName
				}
				o.Out, o.In, o.Live = a.out, a.in, a.outTerminal
				o.Color = a.outTerminal && a.color("x", "") != ""
				return nil, run(ctx, o)
			},
		})
	}
	return []*cobra.Command{
		command("up", "Start everything on this machine and tell the story of one binding.",
			`Start everything on this machine: a real API server, the server, both agents; then
tell the story of one binding with real commands: refused, allowed, revoked. It is
left running. Nothing of yours is touched: KUBECONFIG is ignored.`, up.Up),
		command("down", "Stop what 'up' started and remove its folder.", "", up.Down),
		command("demo", "Tell the story of 'up', check every step, and tear everything down.", "", up.Demo),
	}
}
