// Command sallyport-installer is a cluster's third agent: it installs, updates and
// removes the extensions that the cluster's owner has accepted, with Helm's library.
//
// It owns what happens in the cluster between what control wants, signed, and what
// is there: consent, the chart, the release, and what is said of it. What a type's
// settings are is package extension's, what its chart holds package deploy's. It is
// a module of its own because nothing else may link Helm.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "golang.org/x/crypto/x509roots/fallback" // where the system has no roots, as in the image
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/internal/agentflags"
	"github.com/sallyport/sallyport/mandate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

const usage = `usage: sallyport-installer install --server URL --cluster UID --mandate-key FILE [flags]

install  installs, updates and removes what control wants and the cluster's owner accepted
version  prints the version

sallyport-installer install -h lists the flags.
`

// run is main without the process: exit code 0 after a clean stop, 1 for a
// failure, 2 for a wrong call.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	switch {
	case len(args) == 1 && args[0] == "version":
		fmt.Fprintln(stderr, agentflags.Version())
		return 0
	case len(args) == 0 || args[0] != "install":
		fmt.Fprint(stderr, usage)
		return 2
	}
	var c agentflags.Common
	f := flag.NewFlagSet("sallyport-installer install", flag.ContinueOnError)
	f.SetOutput(stderr)
	c.Register(f)
	timeout := f.Duration("timeout", 5*time.Minute, "how long what was installed may take until it runs; then it is rolled back")
	if err := f.Parse(args[1:]); err != nil {
		return 2
	}
	err := c.Complete(f.Args())
	if err == nil && *timeout <= 0 {
		err = fmt.Errorf("--timeout %s must be positive", *timeout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-installer: %v\n", err)
		return 2
	}
	if err := install(ctx, &c, *timeout, stderr); err != nil && ctx.Err() == nil {
		fmt.Fprintf(stderr, "sallyport-installer: %v\n", err)
		return 1
	}
	return 0
}

// install is where the parts meet.
func install(ctx context.Context, c *agentflags.Common, timeout time.Duration, stderr io.Writer) error {
	log, err := c.Logger(stderr)
	if err != nil {
		return err
	}
	config, err := c.Kubernetes()
	if err != nil {
		return err
	}
	control, err := c.Control("installer", log)
	if err != nil {
		return err
	}
	k, err := newKube(config, log)
	if err != nil {
		return err
	}
	begin := func(ctx context.Context, uid string) error {
		return control.Installed(ctx, mandate.ExtensionReport{Begun: []string{uid}})
	}
	in := newInstaller(c.Cluster, c.MandateKey, control, &releases{kube: k, begin: begin, timeout: timeout, grace: 30 * time.Second, log: log}, 2*timeout+drainBound+time.Minute, log)
	defer control.Leave(ctx) // nothing is installed any more
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return control.Run(ctx) })
	g.Go(func() error { return in.run(ctx) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
