package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/tunnel"
)

// crew runs parts of the server. The first one that fails ends all.
type crew struct {
	wg   sync.WaitGroup
	fail context.CancelCauseFunc
}

// start runs a part until ctx ends.
func (c *crew) start(ctx context.Context, name string, run func(context.Context) error) {
	c.wg.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			c.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

// errSignal is why a server stops that was asked to.
var errSignal = errors.New("asked to stop")

// run runs the parts until ctx ends or one fails. Then the gateway drains, the
// listeners close when they have answered, and only after that stops what could
// revoke or record.
func (s *server) run(parent context.Context) error {
	ctx, fail := context.WithCancelCause(parent)
	defer fail(nil)
	defer context.AfterFunc(parent, func() { fail(errSignal) })()
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	opened, shut := context.WithCancel(base)
	front, doors, work := &crew{fail: fail}, &crew{fail: fail}, &crew{fail: fail}

	work.start(base, "directory", s.directory.Run)
	work.start(base, "authenticator", s.authenticator.Run)
	work.start(base, "audit", s.records.Run)
	work.start(base, "store", s.watchStore)
	work.start(base, "presence", s.presence)
	if s.plays("authority") {
		work.start(base, "authority", s.authority.Run)
	}
	if s.plays("control") {
		work.start(base, "control", s.control.Run)
		work.start(base, "operations", s.operations.Run)
		work.start(base, "secrets", s.authority.KeepSecrets)
	}
	if s.ml != nil {
		work.start(base, "ml", s.ml.Run)
	}
	if s.plays("gateway") {
		front.start(ctx, "gateway", s.gateway.Run)
	}
	if s.asked != nil {
		work.start(base, "certificate", s.asked.run)
	}
	if s.peers != nil {
		work.start(base, "peers' certificate", s.peers.asked.run)
	}
	if err := s.open(ctx, opened, doors); err != nil {
		fail(err)
	}

	<-ctx.Done()
	why := context.Cause(ctx)
	s.log.Info("stopping", "reason", why)
	front.wg.Wait() // the gateway has drained
	shut()
	doors.wg.Wait() // who came last is answered
	stop()
	work.wg.Wait()
	if errors.Is(why, errSignal) || parent.Err() != nil {
		return nil
	}
	return why
}

// beforeCallers makes what the first caller needs.
func (s *server) beforeCallers(ctx context.Context) error {
	if s.plays("control") {
		if err := s.keepAdministrator(ctx); err != nil {
			return err
		}
	}
	if s.asked != nil {
		return s.asked.wait(ctx)
	}
	return nil
}

// open lets callers in. It takes the port first: one that is taken should be
// known before a first start has made anything.
func (s *server) open(ctx, opened context.Context, doors *crew) error {
	listener, err := listen(ctx, s.Config)
	if err != nil {
		return err
	}
	if err := s.beforeCallers(ctx); err != nil {
		return errors.Join(err, listener.Close())
	}
	if s.peers != nil {
		doors.start(opened, "peers", serving(newPeerServer(opened, s.gateway.PeerHandler(), s.log), tls.NewListener(s.peers.listener, s.peers.server)))
		s.log.InfoContext(ctx, "listening for peers", "address", s.peers.listener.Addr().String(), "reached at", s.peers.address)
	}
	routes := s.routes(opened)
	public := newServer(opened, routes, s.tunnels(opened), s.log)
	conf := pki.Server(s.certificate, []string{"h2", "http/1.1", tunnel.ALPN}, s.agentRoots, tunnel.ALPN)
	doors.start(opened, "listener", serving(public, tls.NewListener(listener, conf)))
	s.log.InfoContext(ctx, "listening", "url", s.ExternalURL, "address", listener.Addr().String(), "roles", s.Roles, "replica", s.replica)
	if err := s.serveStorage(ctx, opened, doors); err != nil {
		return err
	}
	s.checkStorage(ctx)
	if s.Metrics.Listen == "" {
		return nil
	}
	admin, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Metrics.Listen)
	if err != nil {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	doors.start(opened, "metrics", serving(&http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}, admin))
	return nil
}

// routes is the one port's table for the roles of this process. Agents' long
// answers end when the port closes.
func (s *server) routes(opened context.Context) *router {
	r := &router{ready: s.ready()}
	if s.plays("control") {
		r.control = endingWith(opened, agentsPath, s.control.Handler())
	}
	if s.plays("authority") {
		r.authority = s.authority.Handler()
	}
	if s.plays("gateway") {
		r.gateway = s.gateway.Handler()
	}
	return r
}

// ready is what must be true for this process to serve.
func (s *server) ready() ready {
	checks := ready{"directory": s.directory.Ready}
	if s.plays("authority") {
		checks["authority"] = s.authority.Ready
	}
	if s.plays("gateway") {
		checks["gateway"] = s.gateway.Ready
	}
	return checks
}

// watchStore ends the process when its store can never work again.
func (s *server) watchStore(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.store.Done():
		return s.store.Err()
	}
}
