package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The whole path with the roles of the product: caller -> front (gateway) ->
// tunnel -> agent -> upstream, each request under a Handle in gateway and
// agent, ended in one of them while it is in one of the situations below.

var (
	errRevoked      = errors.New("revoked")
	errEndedByAgent = errors.New("ended by the agent")
)

// meter is a connection that remembers when it last wrote data. TLS alerts,
// resets, pings, window updates and an error status are no data: they fit into
// quietBytes.
type meter struct {
	net.Conn
	total atomic.Int64
	last  atomic.Int64 // Unix nanoseconds
}

const quietBytes = 500

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.Conn.Write(p)
	if n > quietBytes {
		m.total.Add(int64(n))
		m.last.Store(time.Now().UnixNano())
	}
	return n, err
}

func (m *meter) SetLinger(sec int) error { return m.Conn.(*net.TCPConn).SetLinger(sec) }

type meterListener struct {
	net.Listener
	conns chan *meter
}

func (l meterListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	m := &meter{Conn: c}
	l.conns <- m
	return m, nil
}

// handles keeps the requests of one side by name, and counts those that ended.
type handles struct {
	mu      sync.Mutex
	named   map[string]*Handle
	entered chan *Handle
	left    chan error // the cause of each
}

func newHandles() *handles {
	return &handles{named: map[string]*Handle{}, entered: make(chan *Handle, 100), left: make(chan error, 100)}
}

// end ends a request by its name.
func (hs *handles) end(_, name string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h := hs.named[name]; h != nil {
		h.End(errEndedByAgent)
	}
}

// wrap is what gateway and agent do around each request.
func (hs *handles) wrap(serve func(*Handle, http.ResponseWriter, *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := NewHandle(w, r)
		name := r.Header.Get("X-Name")
		if name == "" { // in front
			name = rand.Text()
			r.Header.Set("X-Name", name)
		}
		h.Name(name)
		hs.mu.Lock()
		hs.named[name] = h
		hs.mu.Unlock()
		hs.entered <- h
		defer func() {
			h.Done()
			hs.left <- context.Cause(h.Context())
		}()
		serve(h, w, r.WithContext(h.Context()))
	})
}

// path is the whole chain.
type path struct {
	front   *handles
	agent   *handles
	addr    string      // of the front
	conns   chan *meter // the front's connections
	tunnel  *meter      // the agent's side of the tunnel
	metered *meter      // the caller's connection, as the front sees it
}

func newPath(t testing.TB) *path {
	t.Helper()
	up := newUpstream(t)
	front := newHandles()
	g := newGateway(t, Config{OnEnded: front.end}, nil)
	p := &path{front: front, agent: newHandles(), conns: make(chan *meter, 10)}

	raw, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	p.tunnel = &meter{Conn: raw}
	conf := clientTLS()
	conf.NextProtos, conf.ServerName = []string{ALPN}, "localhost"
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		_ = Serve(ctx, tls.Client(p.tunnel, conf), p.agent.wrap(agentServe(up)), ServeConfig{Log: testLog(t)})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	eventually(t, "tunnel live", func() bool { return g.hub.Live(testCluster) == 1 })

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	server := &http.Server{Handler: p.front.wrap(frontServe(g.hub)), TLSConfig: serverTLS(), ConnContext: ConnContext}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(meterListener{ln, p.conns}, "", "") }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return p
}

// frontServe is the gateway's forwarding, without its decisions.
func frontServe(hub *Hub) func(*Handle, http.ResponseWriter, *http.Request) {
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.URL.Host = "tunnel" },
		Transport:     hub.Cluster(testCluster),
		FlushInterval: -1,
		BufferPool:    BufferPool{},
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	return func(h *Handle, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			proxy.ServeHTTP(w, r)
			return
		}
		resp, s, err := hub.OpenRaw(testCluster, r)
		if err != nil || s == nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		h.Add(s)
		conn, err := h.Hijack()
		if err != nil {
			return
		}
		if err := resp.Write(conn); err != nil {
			return
		}
		_, _, _ = Join(conn, s)
	}
}

// agentServe is the agent's forwarding, without its decisions.
func agentServe(up *url.URL) func(*Handle, http.ResponseWriter, *http.Request) {
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(up) },
		Transport:     transport,
		FlushInterval: -1,
		BufferPool:    BufferPool{},
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	return func(h *Handle, w http.ResponseWriter, r *http.Request) {
		if !h.IsUpgrade() {
			proxy.ServeHTTP(w, r)
			return
		}
		out := r.Clone(h.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = up.Scheme, up.Host, ""
		resp, err := transport.RoundTrip(out)
		if err != nil {
			return
		}
		conn, ok := resp.Body.(io.ReadWriteCloser)
		if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
			_ = resp.Body.Close()
			return
		}
		h.Add(conn)
		if s, err := h.Upgrade(resp.Header); err == nil {
			_, _, _ = Join(s, conn)
		}
	}
}

// newUpstream is the API server: each path one behaviour.
func newUpstream(t testing.TB) *url.URL {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	chatter := func(w io.Writer, flush func() error) {
		line := bytes.Repeat([]byte("x"), 1000)
		for {
			if _, err := w.Write(line); err != nil {
				return
			}
			if flush != nil && flush() != nil {
				return
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("/chatty", func(w http.ResponseWriter, _ *http.Request) {
		chatter(w, http.NewResponseController(w).Flush)
	})
	mux.HandleFunc("/silent", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/unanswered", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/deaf", func(w http.ResponseWriter, _ *http.Request) { <-ctx.Done() })
	mux.HandleFunc("/sink", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	mux.HandleFunc("/exec/", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
		switch r.URL.Path {
		case "/exec/chatty":
			chatter(conn, nil)
		case "/exec/deaf":
			<-ctx.Done()
		default:
			_, _ = io.Copy(io.Discard, rw)
		}
	})
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { cancel(); _ = srv.Close(); <-done })
	return &url.URL{Scheme: "http", Host: ln.Addr().String()}
}
