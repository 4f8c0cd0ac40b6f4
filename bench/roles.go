package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/tunnel"
)

// ready is the line with which a process says that it serves.
type ready struct {
	Addr   string `json:"addr"`
	Tunnel string `json:"tunnel,omitempty"`
	PID    int    `json:"pid,omitempty"` // of what a keeper keeps
}

// untilOrphaned ends when the parent has closed the standard input, or ctx.
func untilOrphaned(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx
}

// serveTLS serves until ctx ends and says where.
func serveTLS(ctx context.Context, out io.Writer, p *pki, handler http.Handler, tunnelAddr string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler, TLSConfig: p.server(), ErrorLog: log.New(io.Discard, "", 0)}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := json.NewEncoder(out).Encode(ready{Addr: ln.Addr().String(), Tunnel: tunnelAddr}); err != nil {
		return err
	}
	_ = srv.ServeTLS(ln, "", "")
	return nil
}

// buffers are the 16 KiB copy buffers of both halves of the bare relay.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { b := make([]byte, 16<<10); return &b }}}
}

func (b *buffers) Get() []byte  { return *b.pool.Get().(*[]byte) }
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

// proxyTo is a ReverseProxy that changes nothing but the target.
func proxyTo(target *url.URL, via http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport:     via,
		BufferPool:    newBuffers(),
		FlushInterval: -1,
		ErrorLog:      log.New(os.Stderr, "relay: ", 0),
	}
}

// runGateway is the outer half of a relay. It forwards everything to the agent
// that has dialled it. With -package, package tunnel carries it; else what
// net/http has.
func runGateway(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("gateway", flag.ContinueOnError)
	dir := f.String("pki", "", "folder of the test's certificates")
	pkg := f.Bool("package", false, "use package tunnel")
	if err := f.Parse(args); err != nil {
		return err
	}
	p, err := loadPKI(*dir)
	if err != nil {
		return err
	}
	ctx = untilOrphaned(ctx)
	inner, err := tls.Listen("tcp", "127.0.0.1:0", p.tunnelServer())
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = inner.Close() })()
	target := &url.URL{Scheme: "http", Host: "tunnel"}
	var handler http.Handler
	if *pkg {
		hub := tunnel.NewHub(tunnel.Config{Replica: "bench"})
		go acceptEach(inner, func(conn net.Conn) { _ = hub.Serve(ctx, conn, "bench") })
		proxy := proxyTo(target, hub.Cluster("bench"))
		proxy.BufferPool = tunnel.BufferPool{}
		handler = handled(proxy)
	} else {
		via := &bareTunnel{}
		go acceptEach(inner, func(conn net.Conn) { via.add(ctx, conn) })
		handler = proxyTo(target, via)
	}
	return serveTLS(ctx, out, p, handler, inner.Addr().String())
}

// handled puts each request under a tunnel.Handle, as the product does.
func handled(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := tunnel.NewHandle(w, r)
		defer h.Done()
		next.ServeHTTP(w, r.WithContext(h.Context()))
	})
}

func acceptEach(ln net.Listener, use func(net.Conn)) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			if conn.(*tls.Conn).Handshake() == nil {
				use(conn)
			}
		}()
	}
}

// plain hides the TLS connection, whose ALPN net/http would look at.
type plain struct{ net.Conn }

// bareTunnel sends requests over the connections that agents dialled, in turn.
type bareTunnel struct {
	conns atomic.Pointer[[]*http.ClientConn]
	next  atomic.Uint64
	mu    sync.Mutex
}

func (b *bareTunnel) add(ctx context.Context, conn net.Conn) {
	t := &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return plain{conn}, nil },
		Protocols:          new(http.Protocols),
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{MaxReadFrameSize: 64 << 10, MaxReceiveBufferPerStream: 256 << 10},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	cc, err := t.NewClientConn(ctx, "http", "tunnel:0")
	if err != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	conns := []*http.ClientConn{cc}
	if old := b.conns.Load(); old != nil {
		conns = append(conns, *old...)
	}
	b.conns.Store(&conns)
}

// RoundTrip implements http.RoundTripper.
func (b *bareTunnel) RoundTrip(r *http.Request) (*http.Response, error) {
	conns := b.conns.Load()
	if conns == nil {
		return nil, fmt.Errorf("no agent has dialled")
	}
	return (*conns)[b.next.Add(1)%uint64(len(*conns))].RoundTrip(r)
}

// runAgent is the inner half of a relay.
func runAgent(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("agent", flag.ContinueOnError)
	dir := f.String("pki", "", "folder of the test's certificates")
	gateway := f.String("gateway", "", "host:port of the gateway's tunnel")
	server := f.String("server", "", "URL of the API server")
	ca := f.String("ca", "", "its CA")
	conns := f.Int("conns", 2, "connections to keep")
	pkg := f.Bool("package", false, "use package tunnel")
	if err := f.Parse(args); err != nil {
		return err
	}
	p, err := loadPKI(*dir)
	if err != nil {
		return err
	}
	target, err := url.Parse(*server)
	if err != nil {
		return err
	}
	roots, err := loadRoots(*ca)
	if err != nil {
		return err
	}
	ctx = untilOrphaned(ctx)
	up := &http.Transport{
		TLSClientConfig:    &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2:  true,
		DisableCompression: true,
	}
	proxy := proxyTo(target, up)
	var wg sync.WaitGroup
	for range *conns {
		conn, err := tls.Dial("tcp", *gateway, p.client())
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		wg.Go(func() {
			if *pkg {
				proxy.BufferPool = tunnel.BufferPool{}
				_ = tunnel.Serve(ctx, conn, handled(proxy), tunnel.ServeConfig{})
				return
			}
			serveBare(conn, proxy)
		})
	}
	// The gateway counts a connection a moment later; the load warms up.
	time.Sleep(200 * time.Millisecond)
	if err := json.NewEncoder(out).Encode(ready{}); err != nil {
		return err
	}
	wg.Wait()
	return nil
}

// serveBare serves HTTP/2 on one connection, with the windows that package
// tunnel has.
func serveBare(conn net.Conn, handler http.Handler) {
	ln := &once{conn: make(chan net.Conn, 1), closed: make(chan struct{}), addr: conn.LocalAddr()}
	ln.conn <- plain{conn}
	srv := &http.Server{
		Handler:   handler,
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          2000,
			MaxReadFrameSize:              16 << 10,
			MaxReceiveBufferPerConnection: 64 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
		},
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				_ = ln.Close()
			}
		},
	}
	srv.Protocols.SetUnencryptedHTTP2(true)
	_ = srv.Serve(ln)
}

// once is a listener with one connection.
type once struct {
	conn   chan net.Conn
	closed chan struct{}
	close  sync.Once
	addr   net.Addr
}

func (l *once) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *once) Close() error   { l.close.Do(func() { close(l.closed) }); return nil }
func (l *once) Addr() net.Addr { return l.addr }

// runKeep runs another program until its own standard input ends, so that what
// is measured ends with the run however that ends: keep LOG PROGRAM ARGS...
func runKeep(ctx context.Context, args []string, out io.Writer) error {
	if len(args) < 2 {
		return errors.New("keep: want LOG PROGRAM ARGS...")
	}
	log, err := os.Create(args[0])
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(untilOrphaned(ctx), args[1], args[2:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 3 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(ready{PID: cmd.Process.Pid}); err != nil {
		return err
	}
	_ = cmd.Wait() // how it was told to end
	return nil
}
