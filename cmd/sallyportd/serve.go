package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/authority"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// ready collects what must be true for requests to be served.
type ready map[string]func() error

func (r ready) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var wrong []string
	for name, check := range r {
		if err := check(); err != nil {
			wrong = append(wrong, name+": "+err.Error())
		}
	}
	if len(wrong) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(wrong, "\n"))
		return
	}
	fmt.Fprintln(w, "ok")
}

// router is the one port's table: who serves which path. A part that this
// process does not play is nil and answers 404.
type router struct {
	control, authority, gateway http.Handler
	ready                       http.Handler
}

func (r *router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	// Azure clients given an authority with a slash at its end ask for //tenant.
	first, _, _ := strings.Cut(strings.TrimLeft(req.URL.Path, "/"), "/")
	switch {
	case req.URL.Path == "/healthz":
		fmt.Fprintln(w, "ok")
	case req.URL.Path == "/readyz":
		r.ready.ServeHTTP(w, req)
	case first == "clusters":
		serveOr404(r.gateway, w, req)
	case arm.ValidGUID(trust.Fold(first)), authority.NamesTenant(first):
		serveOr404(r.authority, w, req)
	default:
		serveOr404(r.control, w, req)
	}
}

func serveOr404(h http.Handler, w http.ResponseWriter, req *http.Request) {
	if h == nil {
		http.NotFound(w, req)
		return
	}
	h.ServeHTTP(w, req)
}

// The public listener's limits. Answers have none, and neither have the bodies
// of whom the gateway lets through: watches and copies last as long as they
// last.
const (
	headerTimeout = 20 * time.Second
	bodyTimeout   = time.Minute
	idleTimeout   = 3 * time.Minute
	maxHeader     = 64 << 10
)

// inTime gives the body of each request a time to arrive in. A handler that
// knows who calls may give more (the gateway does); without it anybody could
// hold a connection and a goroutine for ever.
func inTime(h http.Handler, within time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(within))
		}
		h.ServeHTTP(w, r)
	})
}

// agentsPath is what agents ask control, by answers that last.
const agentsPath = "/agents/"

// endingWith ends the requests below a path with ctx: a listener that waits for
// its answers would wait for them in vain.
func endingWith(ctx context.Context, path string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, path) {
			h.ServeHTTP(w, r)
			return
		}
		of, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		h.ServeHTTP(w, r.WithContext(of))
	})
}

// newServer is the public listener's server: HTTP/1.1 and HTTP/2 for the
// handler, and the tunnel's own protocol for agents.
func newServer(ctx context.Context, h http.Handler, tunnels func(*tls.Conn), log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler: inTime(h, bodyTimeout), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: connContext,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 1000, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 64 << 20},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){
		tunnel.ALPN: func(_ *http.Server, conn *tls.Conn, _ http.Handler) { tunnels(conn) },
	}
	return s
}

// tunnels gives agents' connections to the gateway, if the certificate that the
// handshake verified is that of a cluster's proxy agent. Without a gateway in
// this process they are closed.
func (s *server) tunnels(ctx context.Context) func(*tls.Conn) {
	return func(conn *tls.Conn) {
		defer conn.Close()
		chains := conn.ConnectionState().VerifiedChains
		if len(chains) == 0 || !s.plays("gateway") {
			return
		}
		cluster, agent, err := pki.ParseAgent(chains[0][0])
		if err != nil || agent != pki.ProxyAgent {
			s.log.WarnContext(ctx, "tunnel refused", "remote", conn.RemoteAddr().String(), "agent", agent, "error", err)
			return
		}
		if err := s.gateway.ServeTunnel(ctx, conn, trust.ClusterUID(cluster), term(conn, chains[0][0], s.agentRoots, time.Now)); err != nil {
			level := slog.LevelInfo
			if errors.Is(err, tunnel.ErrRefused) { // it looks for another replica, and there is none
				level = slog.LevelDebug
			}
			s.log.Log(ctx, level, "tunnel ended", "cluster", cluster, "reason", err)
		}
	}
}

// term is how long a tunnel may carry requests: as long as the certificate that
// opened it, or a newer one of the same agent that was proved on it since.
func term(conn *tls.Conn, opened *x509.Certificate, agents *x509.CertPool, now func() time.Time) tunnel.Term {
	cluster, agent, _ := pki.ParseAgent(opened)
	return tunnel.Term{Until: opened.NotAfter, Renew: func(proof string) (time.Time, error) {
		state := conn.ConnectionState()
		cert, err := pki.CheckRenewal(&state, proof, agents, now())
		if err != nil {
			return time.Time{}, err
		}
		if c, a, err := pki.ParseAgent(cert); err != nil || c != cluster || a != agent {
			return time.Time{}, fmt.Errorf("the new certificate is that of %s of %s, not of %s of %s", a, c, agent, cluster)
		}
		return cert.NotAfter, nil
	}}
}

// listen opens the public port and says where, for whoever asked for port 0.
func listen(ctx context.Context, c *Config) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another program listens on %s: stop it, or give another address as 'listen'", c.Listen)
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if c.ListenFile != "" {
		if err := os.WriteFile(c.ListenFile, []byte(l.Addr().String()+"\n"), 0o644); err != nil {
			return nil, errors.Join(fmt.Errorf("listenFile: %w", err), l.Close())
		}
	}
	return l, nil
}

// connContext gives the gateway its hold on a caller's connection.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	return gateway.ConnContext(tunnel.ConnContext(ctx, conn), conn)
}
