package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/mlext/router"
	"github.com/sallyport/sallyport/mlext/wire"
)

// routerConfig is what the command line says to a router alone.
type routerConfig struct {
	name, probes        string
	peersListen, peers  string
	certFile, certKey   string
	insecure, accessLog bool
	maxBody             int64
	leaving             time.Duration
}

func (c *routerConfig) flags(f *flag.FlagSet) {
	f.StringVar(&c.name, "name", "", "`name` of this router among routers: its pod's; default: the host's name")
	f.StringVar(&c.probes, "probe-listen", ":8081", "`address` for /healthz, /readyz and /metrics, without TLS")
	f.StringVar(&c.peersListen, "peers-listen", ":8444", "`address` for other routers")
	f.StringVar(&c.peers, "peers", "", "host:port at which other routers reach this one; default: it is the only one")
	f.StringVar(&c.certFile, "tls-cert", "", "PEM `file` of the certificate with its chain; looked at again every 10 s")
	f.StringVar(&c.certKey, "tls-key", "", "PEM `file` of its key")
	f.BoolVar(&c.insecure, "allow-insecure-connections", false, "serve without TLS: keys of endpoints are then read by whoever is on the way")
	f.BoolVar(&c.accessLog, "access-log", true, "a line of JSON on standard output for each request")
	f.Int64Var(&c.maxBody, "max-body", 100<<20, "`bytes` of a request's body")
	f.DurationVar(&c.leaving, "leave-within", 5*time.Second, "how long a router that was told to end takes new requests, so that nobody sends more")
}

func (c *routerConfig) complete() error {
	switch given := c.certFile != ""; {
	case given != (c.certKey != ""):
		return errors.New("--tls-cert and --tls-key go together")
	case given == c.insecure:
		return errors.New("say either --tls-cert and --tls-key, or --allow-insecure-connections")
	}
	if c.name != "" {
		return nil
	}
	var err error
	c.name, err = os.Hostname()
	return err
}

// lastRequests have this long when a router ends: the longest timeout there is.
const lastRequests = 305 * time.Second

// runRouter is where the router's rooms meet.
func runRouter(ctx context.Context, c *config, kube *clients, stderr io.Writer) error {
	log, err := c.logger(stderr)
	if err != nil {
		return err
	}
	key, err := readKey(c.keyFile)
	if err != nil {
		return fmt.Errorf("--ml-key: %w", err)
	}
	base, _, found := strings.Cut(c.audience, "/extensions/")
	if !found {
		return fmt.Errorf("--audience: %q is no extension's", c.audience)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	conf := router.Config{
		Audience: c.audience, Issuer: wire.Issuer(base), Key: key, Namespaces: c.namespaces, MaxBody: c.router.maxBody, Name: c.router.name, Peers: c.router.peers,
		Kube: kube.kube, Dynamic: kube.dynamic, Registerer: registry, Now: time.Now, Log: log,
	}
	if c.router.accessLog {
		conf.Access = os.Stdout
	}
	r, err := router.New(conf)
	if err != nil {
		return err
	}
	score, err := c.router.listener(ctx, c.listen, log)
	if err != nil {
		return err
	}
	listening := &net.ListenConfig{}
	probes, err := listening.Listen(ctx, "tcp", c.router.probes)
	if err != nil {
		return fmt.Errorf("listen for probes: %w", err)
	}
	var peers net.Listener
	if c.router.peers != "" {
		if peers, err = listening.Listen(ctx, "tcp", c.router.peersListen); err != nil {
			return fmt.Errorf("listen for routers: %w", err)
		}
	}
	quiet := slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	servers := []*http.Server{
		{Handler: r, ReadHeaderTimeout: 20 * time.Second, WriteTimeout: router.WriteTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: quiet},
		{Handler: probesOf(r, registry), ReadTimeout: 20 * time.Second, WriteTimeout: time.Minute, ErrorLog: quiet},
	}
	log.InfoContext(ctx, "listening", "address", score.Addr().String(), "tls", !c.router.insecure, "namespaces", c.namespaces, "peers", c.router.peers)
	return serveRouter(ctx, r, servers, []net.Listener{score, probes}, peers, c.router.leaving)
}

// serveRouter serves until ctx ends, then lets others know, finishes what was
// begun, and stops.
func serveRouter(ctx context.Context, r *router.Router, servers []*http.Server, listeners []net.Listener, peers net.Listener, leaving time.Duration) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	failed, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, s := range servers {
		wg.Go(func() {
			if err := s.Serve(listeners[i]); !errors.Is(err, http.ErrServerClosed) {
				cancel(err)
			}
		})
	}
	wg.Go(func() {
		if err := r.Run(life, peers); err != nil {
			cancel(err)
		}
	})
	<-failed.Done()
	r.Drain()
	if ctx.Err() != nil {
		timer := time.NewTimer(leaving)
		defer timer.Stop()
		<-timer.C
	}
	last, done := context.WithTimeout(life, lastRequests)
	defer done()
	err := servers[0].Shutdown(last)
	if err != nil {
		_ = servers[0].Close() // those that are left had more than the longest timeout
	}
	end()
	_ = servers[1].Close() // probes: nobody asks any more
	if cause := context.Cause(failed); ctx.Err() == nil && cause != nil {
		return cause
	}
	return err
}

// listener opens the port for callers.
func (c *routerConfig) listener(ctx context.Context, address string, log *slog.Logger) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if c.insecure {
		return l, nil
	}
	keeper, err := pki.FromFiles(c.certFile, c.certKey, time.Now, log)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{GetCertificate: keeper.GetCertificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}), nil
}

// probesOf answers the kubelet and Prometheus.
func probesOf(r *router.Router, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !r.Ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}
