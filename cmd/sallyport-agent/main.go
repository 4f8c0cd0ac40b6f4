// Command sallyport-agent is what runs in the cluster: as "proxy" it holds the
// tunnel and forwards requests with the binding's own identity; as "reconcile"
// it turns bindings into Kubernetes RBAC. They run as two Deployments with two
// identities, because one stolen token must not be both. As "probe" it is what the
// extension Sallyport.EnvironmentProbe runs.
//
// It owns the flags and the one place where the agents' rooms meet.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sallyport/sallyport/internal/agentflags"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

const usage = `usage: sallyport-agent proxy|reconcile --server URL --cluster UID --mandate-key FILE [flags]

proxy      holds the tunnel to the gateways and forwards what bindings allow
reconcile  turns bindings into Kubernetes RBAC, within what the owner accepted
probe      is no agent: looks at a list of names, and writes what it saw into a ConfigMap
version    prints the version

sallyport-agent proxy -h lists the flags.
`

// run is main without the process: exit code 0 after a clean stop, 1 for a
// failure, 2 for a wrong call.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	var serve func(context.Context, *config, io.Writer) error
	switch args[0] {
	case "proxy":
		serve = runProxy
	case "reconcile":
		serve = runReconcile
	case "probe":
		return runProbe(ctx, args[1:], stderr)
	case "probed":
		return probed()
	case "version":
		fmt.Fprintln(stderr, agentflags.Version())
		return 0
	default:
		fmt.Fprintf(stderr, "sallyport-agent: %q is none of proxy, reconcile and probe\n\n%s", args[0], usage)
		return 2
	}
	c, err := parseFlags(args[0], args[1:], stderr)
	if err != nil {
		return 2
	}
	if err := serve(ctx, c, stderr); err != nil && ctx.Err() == nil {
		fmt.Fprintf(stderr, "sallyport-agent %s: %v\n", args[0], err)
		return 1
	}
	return 0
}
