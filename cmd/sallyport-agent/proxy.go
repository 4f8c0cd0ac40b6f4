package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/agent/proxy"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/tunnel"
)

// runProxy is where the proxy agent's rooms meet.
func runProxy(ctx context.Context, c *config, stderr io.Writer) error {
	// Little lives here and every request leaves garbage, so the collector would
	// run all the time. This is never touched, so it costs no memory, and it
	// sets the pace: a collection per 32 MiB of garbage at least.
	defer runtime.KeepAlive(make([]byte, 32<<20))
	log, err := c.Logger(stderr)
	if err != nil {
		return err
	}
	kube, err := c.Kubernetes()
	if err != nil {
		return err
	}
	api, err := url.Parse(kube.Host)
	if err != nil {
		return fmt.Errorf("API server %q: %w", kube.Host, err)
	}
	agentTransport, err := rest.TransportFor(kube)
	if err != nil {
		return fmt.Errorf("transport of the agent's own identity: %w", err)
	}
	upstreamTLS, err := rest.TLSConfigFor(rest.AnonymousClientConfig(kube))
	if err != nil {
		return fmt.Errorf("TLS to the API server: %w", err)
	}
	control, err := c.Control("proxy", log)
	if err != nil {
		return err
	}
	p, err := proxy.New(proxy.Config{
		Cluster: c.Cluster, MandateKey: c.MandateKey, Control: control,
		APIServer: api, TLS: upstreamTLS, Agent: agentTransport, Log: log,
	})
	if err != nil {
		return err
	}
	if err := p.CheckRights(ctx); err != nil {
		return err
	}
	keeper := tunnel.NewKeeper(tunnel.KeeperConfig{
		Log: log, Handler: p, Connections: c.tunnels,
		Gateways: func() []string { return c.gateways },
		Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			conf, _, err := control.TLS(ctx)
			if err != nil {
				return nil, err
			}
			conf.ServerName = "" // the gateway's own name, not the control plane's
			return tunnel.Dial(ctx, tunnel.DialConfig{Addr: addr, TLS: conf})
		},
	})
	defer control.Leave(ctx) // nothing runs any more
	parts := []func(context.Context) error{control.Run, p.Run, keeper.Run,
		func(ctx context.Context) error { return renewals(ctx, control, keeper) }}
	if len(c.probes) > 0 {
		parts = append(parts, c.repeater(control.Probe, log).Run)
	}
	return together(ctx, parts...)
}

// probeEvery is how often an agent looks at what its owner allows.
const probeEvery = 10 * time.Minute

// repeater looks at the owner's list and at nothing else: what control answers
// to a report is not read.
func (c *config) repeater(send func(context.Context, any) error, log *slog.Logger) probe.Repeater {
	return probe.Repeater{Cluster: string(c.Cluster), Targets: c.probes, Every: probeEvery, Log: log,
		ResolvConf: func() (io.ReadCloser, error) { return os.Open("/etc/resolv.conf") },
		Send:       func(ctx context.Context, r probe.Report) error { return send(ctx, r) }}
}

// proveEvery is how often the tunnels are told again of the certificate in use: a
// connection that was being made when it was renewed has not heard.
const proveEvery = 5 * time.Minute

// renewals proves each new certificate on the tunnels that are open, so that what
// runs through them goes on when the one that opened them ends.
func renewals(ctx context.Context, control *client.Agent, keeper *tunnel.Keeper) error {
	for {
		conf, renewed, err := control.TLS(ctx)
		if err != nil {
			return err
		}
		keeper.Prove(func(conn net.Conn) (string, error) {
			c, ok := conn.(*tls.Conn)
			if !ok {
				return "", fmt.Errorf("the tunnel is a %T, not TLS", conn)
			}
			cert, err := conf.GetClientCertificate(nil)
			if err != nil {
				return "", err
			}
			state := c.ConnectionState()
			return pki.ProveRenewal(&state, cert)
		})
		timer := time.NewTimer(proveEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-renewed:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// together runs parts until one fails or ctx ends, and waits for all of them.
func together(ctx context.Context, parts ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range parts {
		g.Go(func() error { return run(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
