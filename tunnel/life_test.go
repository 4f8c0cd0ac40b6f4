package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// relay forwards TCP connections to a target until it is frozen; then both
// ends stay open and nothing moves, as with a lost network or a stopped
// process.
type relay struct {
	addr   string
	frozen chan struct{}
	freeze func()
}

func newRelay(t testing.TB, target string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: ln.Addr().String(), frozen: make(chan struct{})}
	r.freeze = sync.OnceFunc(func() { close(r.frozen) })
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	pump := func(dst, src net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			select {
			case <-r.frozen:
				return
			default:
			}
			if n > 0 {
				_, _ = dst.Write(buf[:n])
			}
			if err != nil {
				_ = dst.Close()
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", target)
			if err != nil {
				_ = a.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, a, b)
			mu.Unlock()
			wg.Go(func() { pump(a, b) })
			wg.Go(func() { pump(b, a) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

// dialVia serves handler on a connection through the relay.
func (r *relay) agent(t testing.TB, g *gateway, handler http.Handler, c ServeConfig) *agentConn {
	through := *g
	through.addr = r.addr
	return newAgent(t, &through, handler, c)
}

func waitFor[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("not in time: %s", what)
		panic("unreachable")
	}
}

// A revocation by the agent whose gateway has stopped: the connection is cut,
// so that nothing follows when the gateway goes on.
func TestEndOnFrozenTunnel(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	r := newRelay(t, g.addr)
	hs := newHandles()
	var sent atomic.Int64
	a := r.agent(t, g, hs.wrap(func(_ *Handle, w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 16<<10)
		for {
			n, err := w.Write(chunk)
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	}), ServeConfig{})
	var wg sync.WaitGroup
	const streams = 100 // their windows are more than the sockets' buffers hold
	for range streams {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
			resp, err := g.hub.RoundTrip(testCluster, req)
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	var h *Handle
	for range streams {
		h = waitFor(t, "request at the agent", hs.entered)
	}
	r.freeze()
	stillFor(200*time.Millisecond, sent.Load) // every buffer is full
	began := time.Now()
	h.End(errRevoked)
	if took := time.Since(began); took > endAtOnce {
		t.Errorf("End took %v", took)
	}
	waitFor(t, "end of the connection", a.ended)
	if took := time.Since(began); took > endSoon {
		t.Errorf("the connection lived on for %v", took)
	}
	g.hub.Cut(testCluster)
	wg.Wait()
}

// The same towards a caller whose HTTP/2 connection stands still as a whole.
func TestEndOnFrozenCaller(t *testing.T) {
	p := newPath(t)
	r := newRelay(t, p.addr)
	s := situation{request: "GET /chatty", read: true}
	c := s.call(t, r.addr, true)
	defer c.stop()
	front, agent := waitFor(t, "request", p.front.entered), waitFor(t, "request", p.agent.entered)
	_ = agent
	p.metered = waitFor(t, "connection", p.conns)
	waitFor(t, "answer", c.answered)
	r.freeze()
	stillFor(200*time.Millisecond, p.metered.total.Load)
	front.End(errRevoked)
	within(t, "the gateway's handler", p.front.left)
	within(t, "the agent's handler", p.agent.left)
}

func TestHalfOpen(t *testing.T) {
	limits := Limits{PingAfter: 100 * time.Millisecond, PingTimeout: 200 * time.Millisecond}
	g := newGateway(t, Config{Limits: limits}, nil)
	r := newRelay(t, g.addr)
	entered := make(chan struct{})
	a := r.agent(t, g, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		close(entered)
		<-req.Context().Done()
	}), ServeConfig{Limits: limits})
	lost := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		_, err := g.hub.RoundTrip(testCluster, req)
		lost <- err
	}()
	waitFor(t, "request", entered)
	began := time.Now()
	r.freeze()
	if err := waitFor(t, "the gateway notices", g.ended); err == nil {
		t.Error("the gateway calls it an agreed end")
	}
	waitFor(t, "the agent notices", a.ended)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("noticed after %v", took)
	}
	if a.err == nil || errors.Is(a.err, ErrDrained) {
		t.Errorf("the agent's reason: %v", a.err)
	}
	if err := waitFor(t, "the request ends", lost); !errors.Is(err, ErrLost) {
		t.Errorf("request: %v", err)
	}
	if g.hub.Live(testCluster) != 0 {
		t.Error("still live")
	}
}

func TestNoTunnel(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	g := newGateway(t, Config{Registerer: reg}, nil)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/", strings.NewReader("body"))
	if _, err := g.hub.RoundTrip("c2", req); !errors.Is(err, ErrNoTunnel) {
		t.Errorf("RoundTrip: %v", err)
	}
	if _, _, err := g.hub.OpenRaw("c2", upgradeRequest(t)); !errors.Is(err, ErrNoTunnel) {
		t.Errorf("OpenRaw: %v", err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"sallyport_tunnel_connections":              0,
		"sallyport_tunnel_clusters":                 0,
		"sallyport_tunnel_requests_in_flight":       0,
		"sallyport_tunnel_raw_streams":              0,
		"sallyport_tunnel_requests_total answered":  0,
		"sallyport_tunnel_requests_total repeated":  0,
		"sallyport_tunnel_requests_total no_tunnel": 2,
		"sallyport_tunnel_requests_total busy":      0,
		"sallyport_tunnel_requests_total lost":      0,
		"sallyport_tunnel_requests_total cancelled": 0,
		"sallyport_tunnel_requests_total failed":    0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// The agent's process dies in the middle of requests: a GET without an answer
// is repeated on the other connection, a POST is not, an answer that has begun
// ends with an error.
func TestAgentKilled(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	var served atomic.Int32
	entered := make(chan string, 10)
	dying := newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- r.URL.Path
		if r.URL.Path == "/begun" {
			_, _ = io.WriteString(w, "beg")
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	}), ServeConfig{})
	type result struct {
		path, body string
		err        error
	}
	results := make(chan result, 3)
	for path, method := range map[string]string{"/get": "GET", "/post": "POST", "/begun": "GET"} {
		go func() {
			req, _ := http.NewRequestWithContext(t.Context(), method, "http://x"+path, nil)
			if method == "POST" {
				req.Body = io.NopCloser(strings.NewReader("x"))
			}
			resp, err := g.hub.RoundTrip(testCluster, req)
			if err != nil {
				results <- result{path: path, err: err}
				return
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			results <- result{path, string(b), err}
		}()
	}
	for range 3 {
		waitFor(t, "request", entered)
	}
	newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		_, _ = io.WriteString(w, "from the other one")
	}), ServeConfig{})
	abortConn(dying.conn)
	for range 3 {
		switch r := waitFor(t, "result", results); r.path {
		case "/get":
			if r.err != nil || r.body != "from the other one" {
				t.Errorf("GET: %+v", r)
			}
		case "/post":
			if !errors.Is(r.err, ErrLost) {
				t.Errorf("POST: %+v", r)
			}
		case "/begun":
			if r.err == nil || r.body != "beg" {
				t.Errorf("begun answer: %+v", r)
			}
		}
	}
	if n := served.Load(); n != 1 {
		t.Errorf("the other connection served %d requests", n)
	}
	eventually(t, "one left", func() bool { return g.hub.Live(testCluster) == 1 })
}

// An agent dies with both its connections while another lives: a GET that was lost
// on the one is not lost on the other.
func TestAgentKilledWithTwoConnections(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	entered := make(chan int, 2)
	dying := map[int]*agentConn{}
	for n := range 2 {
		dying[n] = newAgent(t, g, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			entered <- n
			<-r.Context().Done()
		}), ServeConfig{})
	}
	newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "alive") }), ServeConfig{}) // of three that are idle, the last is taken last
	result := make(chan string, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/get", nil)
		resp, err := g.hub.RoundTrip(testCluster, req)
		if err != nil {
			result <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		result <- fmt.Sprint(string(b), err)
	}()
	for range 2 {
		abortConn(dying[waitFor(t, "request", entered)].conn)
	}
	if got := waitFor(t, "result", result); got != "alive<nil>" {
		t.Errorf("GET: %s", got)
	}
}

func TestOnChange(t *testing.T) {
	changes := make(chan int, 10)
	g := newGateway(t, Config{OnChange: func(cluster string, live int) {
		if cluster != testCluster {
			t.Errorf("cluster %q", cluster)
		}
		changes <- live
	}}, nil)
	a := newAgent(t, g, echoRaw, ServeConfig{})
	b := newAgent(t, g, echoRaw, ServeConfig{})
	a.stop()
	<-a.ended
	b.stop()
	<-b.ended
	for i, want := range []int{1, 2, 1, 0} {
		if got := waitFor(t, "change", changes); got != want {
			t.Errorf("change %d: %d live, want %d", i, got, want)
		}
	}
	if names := g.hub.Clusters(); len(names) != 0 {
		t.Errorf("clusters: %v", names)
	}
}

// First requests that are no hello, and requests before it was answered.
func TestHelloFirst(t *testing.T) {
	for name, request := range map[string]func(*http.Request){
		"another path":    func(r *http.Request) { r.URL.Path = "/api" },
		"another method":  func(r *http.Request) { r.Method = http.MethodGet },
		"another version": func(r *http.Request) { r.Header.Set(headerVersion, "2") },
		"no version":      func(r *http.Request) { r.Header.Del(headerVersion) },
		"two replicas":    func(r *http.Request) { r.Header.Add(headerReplica, "b") },
		"bad replica":     func(r *http.Request) { r.Header.Set(headerReplica, "a b") },
	} {
		near, far := tcpPair(t)
		ended := make(chan error, 1)
		go func() {
			ended <- Serve(t.Context(), far, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				t.Errorf("%s: served", name)
			}), ServeConfig{})
		}()
		transport := newTransport(Limits{}.withDefaults())
		watched := watch(near, time.Minute)
		cc, err := transport.NewClientConn(context.WithValue(t.Context(), connKey{}, net.Conn(watched)), "http", "tunnel:0")
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://tunnel"+helloPath, nil)
		req.Header.Set(headerVersion, helloVersion)
		req.Header.Set(headerReplica, "a")
		request(req)
		if resp, err := cc.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode < 400 {
				t.Errorf("%s: %s", name, resp.Status)
			}
		}
		if err := waitFor(t, name, ended); err == nil {
			t.Errorf("%s: no reason", name)
		}
		_ = cc.Close()
		_ = watched.Close()
		<-watched.idle
	}
}

func TestHelloTimeout(t *testing.T) {
	limits := Limits{Hello: 100 * time.Millisecond}
	near, far := tcpPair(t)
	if err := Serve(t.Context(), far, echoRaw, ServeConfig{Limits: limits}); !errors.Is(err, errNoHello) {
		t.Errorf("agent without a gateway: %v", err)
	}
	_ = near.Close()
	near, far = tcpPair(t)
	go func() { _, _ = io.Copy(io.Discard, near) }()
	hub := NewHub(Config{Limits: limits})
	if err := hub.Serve(t.Context(), far, "c"); !errors.Is(err, errNoHello) {
		t.Errorf("gateway without an agent: %v", err)
	}
	hub.Close()
	_ = near.Close()
}

// The tunnel shares its port with an API over HTTP/1.1 and HTTP/2.
func TestSharedPort(t *testing.T) {
	g := newGateway(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
	}))
	newAgent(t, g, echoRaw, ServeConfig{})
	for proto, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		conf := clientTLS()
		tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: h2}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+g.addr, nil)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(b) != proto {
			t.Errorf("%s: %s", proto, b)
		}
		tr.CloseIdleConnections()
	}
	conf := clientTLS()
	conf.NextProtos = []string{"h2"}
	if conn, err := tls.Dial("tcp", g.addr, conf); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
	if code, _ := get(t, g.hub, "/"); code != 200 {
		t.Errorf("tunnel: %d", code)
	}
}
