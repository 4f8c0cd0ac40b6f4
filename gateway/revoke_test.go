package gateway

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// meter counts what a server writes on all its connections.
type meter struct {
	net.Listener
	written atomic.Int64
}

type metered struct {
	net.Conn
	m *meter
}

func (m *meter) Accept() (net.Conn, error) {
	c, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return metered{c, m}, nil
}

func (c metered) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.m.written.Add(int64(n))
	return n, err
}

// measured serves the gateway on a listener that counts.
func (w *world) measured() (string, *meter) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	m := &meter{Listener: ln}
	s := &http.Server{
		Handler: w.gw.Handler(), ConnContext: ConnContext, Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate(w.t)}}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ServeTLS(m, "", "") }()
	w.t.Cleanup(func() { _ = s.Close(); <-done })
	return "https://" + ln.Addr().String(), m
}

// streams is an agent with one handler for each way to run long.
type streams struct {
	began, ended atomic.Int64
	running      sync.Map // *tunnel.Handle → name
}

// endAll ends everything as an agent does whose state no longer allows it.
func (s *streams) endAll() {
	s.running.Range(func(h, _ any) bool {
		h.(*tunnel.Handle).End(errors.New("the agent's own reason"))
		return true
	})
}

func (s *streams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := tunnel.NewHandle(w, r)
	defer h.Done()
	h.Name(r.Header.Get("Sallyport-Request-Id"))
	s.running.Store(h, r.Header.Get("Sallyport-Request-Id"))
	defer s.running.Delete(h)
	defer s.ended.Add(1)
	chatter := []byte(strings.Repeat("x", 32<<10))
	if h.IsUpgrade() {
		st, err := h.Upgrade(http.Header{"Upgrade": {r.Header.Get("Upgrade")}})
		s.began.Add(1)
		if err != nil {
			return
		}
		if strings.Contains(r.URL.RawQuery, "chatty") {
			for err == nil {
				_, err = st.Write(chatter)
			}
			return
		}
		_, _ = io.Copy(io.Discard, st)
		return
	}
	if r.Method == http.MethodPost {
		s.began.Add(1)
		if strings.Contains(r.URL.RawQuery, "unread") {
			<-h.Context().Done()
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		return
	}
	rc := http.NewResponseController(w)
	w.WriteHeader(200)
	_ = rc.Flush()
	s.began.Add(1)
	for h.Context().Err() == nil {
		piece := chatter
		if strings.Contains(r.URL.RawQuery, "watch") {
			piece = []byte("{}\n")
			select {
			case <-time.After(5 * time.Millisecond):
			case <-h.Context().Done():
			}
		}
		if _, err := w.Write(piece); err != nil {
			return
		}
		if rc.Flush() != nil {
			return
		}
	}
}

// endless is a body that goes on until it is closed, saying something or not.
type endless struct {
	silent bool
	closed chan struct{}
	once   sync.Once
}

func newEndless(silent bool) *endless { return &endless{silent: silent, closed: make(chan struct{})} }

func (e *endless) Read(p []byte) (int, error) {
	if e.silent {
		<-e.closed
	}
	select {
	case <-e.closed:
		return 0, io.ErrClosedPipe
	default:
		return len(p), nil
	}
}

func (e *endless) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

// kind is one way to run long: it begins, and returns what waits for its end at
// the caller.
type kind struct {
	name  string
	begin func(w *world, url string) (wait func() error)
}

func kinds() []kind {
	get := func(protocol, path string, read bool) func(*world, string) func() error {
		return func(w *world, url string) func() error {
			req, _ := http.NewRequestWithContext(context.WithoutCancel(w.t.Context()), "GET", url+"/clusters/"+string(clusterA)+path, nil)
			req.Header.Set("Authorization", "Bearer "+w.token(nil))
			resp, err := client(protocol).Do(req)
			if err != nil {
				w.t.Fatal(err)
			}
			if !read {
				w.t.Cleanup(func() { _ = resp.Body.Close() })
				return nil
			}
			return func() error { defer resp.Body.Close(); _, err := io.Copy(io.Discard, resp.Body); return err }
		}
	}
	post := func(protocol, path string, silent bool) func(*world, string) func() error {
		return func(w *world, url string) func() error {
			req, _ := http.NewRequestWithContext(context.WithoutCancel(w.t.Context()), "POST", url+"/clusters/"+string(clusterA)+path, newEndless(silent))
			req.Header.Set("Authorization", "Bearer "+w.token(nil))
			got := make(chan error, 1)
			go func() {
				resp, err := client(protocol).Do(req)
				if err == nil {
					_ = resp.Body.Close()
				}
				got <- err
			}()
			return func() error { return <-got }
		}
	}
	byHand := func(path string, silent bool) func(*world, string) func() error {
		return func(w *world, url string) func() error {
			conn := w.dial(url)
			fmt.Fprintf(conn, "POST /clusters/%s%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\n", clusterA, path, w.token(nil))
			if !silent {
				go func() {
					for {
						if _, err := io.WriteString(conn, "400\r\n"+strings.Repeat("x", 1024)+"\r\n"); err != nil {
							return
						}
					}
				}()
			}
			return func() error { _, err := io.Copy(io.Discard, conn); return cmp.Or(err, io.EOF) }
		}
	}
	raw := func(query string, read bool) func(*world, string) func() error {
		return func(w *world, url string) func() error {
			_, br := w.upgrade(url, "/api/v1/namespaces/n/pods/p/exec?command=sh"+query, "SPDY/3.1")
			if !read {
				return nil
			}
			return func() error {
				_, err := io.Copy(io.Discard, br)
				return cmp.Or(err, io.EOF)
			}
		}
	}
	return []kind{
		{"watch h2", get("2", "/api/v1/namespaces/n/pods?watch=1", true)},
		{"watch h1", get("1", "/api/v1/namespaces/n/pods?watch=1", true)},
		{"stalled reader h2", get("2", "/api/v1/namespaces/n/pods/p/log?follow=1", false)},
		{"stalled reader h1", get("1", "/api/v1/namespaces/n/pods/p/log?follow=1", false)},
		{"stalled writer h2", post("2", "/api/v1/namespaces/n/configmaps?unread", false)},
		{"stalled writer h1", byHand("/api/v1/namespaces/n/configmaps?unread", false)},
		{"silent upload h2", post("2", "/api/v1/namespaces/n/configmaps", true)},
		{"silent upload h1", byHand("/api/v1/namespaces/n/configmaps", true)},
		{"endless upload h2", post("2", "/api/v1/namespaces/n/configmaps", false)},
		{"silent exec", raw("", true)},
		{"exec with a stalled reader", raw("&chatty", false)},
		{"exec with a reader", raw("&chatty", true)},
	}
}

// dial speaks HTTP/1.1 by hand.
func (w *world) dial(url string) *tls.Conn {
	w.t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) // the test's own server
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// upgrade dials the gateway and upgrades by hand.
func (w *world) upgrade(url, path, proto string) (*tls.Conn, *bufio.Reader) {
	w.t.Helper()
	conn := w.dial(url)
	fmt.Fprintf(conn, "POST /clusters/%s%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n",
		clusterA, path, w.token(nil), proto)
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != 101 {
		body, _ := io.ReadAll(resp.Body)
		w.t.Fatalf("%d %s", resp.StatusCode, body)
	}
	return conn, br
}

var errSlow = errors.New("nothing for 5 s")

// TestRevocation begins every kind of stream, takes the right away, and measures
// until the last byte.
func TestRevocation(t *testing.T) {
	narrowed := func(w *world) store.Op {
		b := w.binding()
		b.Grants = []trust.Grant{{Role: roleName, Rules: []trust.Rule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"nodes"}}}}}
		return store.Put(b)
	}
	stopped := func(w *world) store.Op { c := w.cluster(); c.Stopped = true; return store.Put(c) }
	for name, take := range map[string]func(w *world){
		"binding deleted":  func(w *world) { w.commit(store.Delete(w.binding().Key(), 0)) },
		"binding narrowed": func(w *world) { w.commit(narrowed(w)) },
		"cluster stopped":  func(w *world) { w.commit(stopped(w)) },
		"source deleted":   func(w *world) { w.commit(store.Delete(w.source().Key(), 0)) },
		"identity removed": func(w *world) { w.standing.Store(oid, false); w.changed() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			far := &streams{}
			w.agent.set(far.ServeHTTP)
			url, m := w.measured()
			var waits []func() error
			var names []string
			for i, k := range kinds() {
				if wait := k.begin(w, url); wait != nil {
					waits, names = append(waits, wait), append(names, k.name)
				}
				w.eventually(k.name+" runs", func() bool { return far.began.Load() == int64(i+1) && w.gw.Running() == i+1 })
			}
			var callers sync.WaitGroup
			start := time.Now()
			errs := make([]error, len(waits))
			took := make([]time.Duration, len(waits))
			for i, wait := range waits {
				callers.Go(func() {
					errs[i] = errSlow
					done := make(chan error, 1)
					go func() { done <- wait() }()
					select {
					case errs[i] = <-done:
					case <-time.After(5 * time.Second):
					}
					took[i] = time.Since(start)
				})
			}
			take(w)
			committed := time.Since(start)
			w.eventually("everything has ended", func() bool { return w.gw.Running() == 0 })
			ended := time.Since(start)
			quiet := m.written.Load()
			callers.Wait()
			for i := range errs {
				if errs[i] == nil || took[i] > time.Second {
					t.Errorf("%s: the caller saw %v after %v", names[i], errs[i], took[i])
				}
			}
			w.eventually("the far side has ended", func() bool { return far.ended.Load() == int64(len(kinds())) })
			if farEnded := time.Since(start); ended > time.Second || farEnded > time.Second {
				t.Errorf("ended after %v, at the agent after %v", ended, farEnded)
			}
			<-time.After(100 * time.Millisecond)
			// HTTP/2's own frames (resets, pings) are all that may follow.
			if more := m.written.Load() - quiet; more > 2000 {
				t.Errorf("%d more bytes were written after the end", more)
			}
			t.Logf("committed after %v, ended after %v", committed, ended)
		})
	}
}

// TestAgentEndsStreams: what the agent ends alone, since its state no longer
// allows it or the cluster's own RBAC does not, ends at the caller too, whether
// the caller reads or not.
func TestAgentEndsStreams(t *testing.T) {
	for name, which := range map[string]func(string) bool{
		"read": func(kind string) bool {
			return strings.Contains(kind, "watch") || strings.Contains(kind, "exec") && !strings.Contains(kind, "stalled")
		},
		"stalled": func(kind string) bool { return strings.Contains(kind, "stalled reader") },
	} {
		t.Run(name, func(t *testing.T) { testAgentEnds(t, which, name == "stalled") })
	}
}

func testAgentEnds(t *testing.T, which func(kind string) bool, stalled bool) {
	w := newWorld(t)
	far := &streams{}
	w.agent.set(far.ServeHTTP)
	url, m := w.measured()
	var waits []func() error
	n := 0
	for _, k := range kinds() {
		if !which(k.name) {
			continue
		}
		if wait := k.begin(w, url); wait != nil {
			waits = append(waits, wait)
		}
		n++
		w.eventually(k.name+" runs", func() bool { return far.began.Load() == int64(n) && w.gw.Running() == n })
	}
	if stalled { // until nothing moves: only the agent's word can be heard then
		last, since := int64(-1), time.Now()
		w.eventually("the callers' connections are full", func() bool {
			if now := m.written.Load(); now != last {
				last, since = now, time.Now()
			}
			return time.Since(since) > 500*time.Millisecond
		})
	}
	far.running.Range(func(_, id any) bool { // none of these is another cluster's to end
		w.gw.flights.agentEnded(clusterB, id.(string))
		return true
	})
	if left := w.gw.Running(); left != n {
		t.Fatalf("%d of %d run after another cluster's agent ended them", left, n)
	}
	start := time.Now()
	far.endAll()
	w.eventually("everything has ended", func() bool { return w.gw.Running() == 0 })
	if took := time.Since(start); took > time.Second {
		t.Errorf("ended after %v", took)
	}
	quiet := m.written.Load()
	for _, wait := range waits {
		done := make(chan error, 1)
		go func() { done <- wait() }()
		select {
		case err := <-done:
			if err == nil {
				t.Error("a stream ended well")
			}
		case <-time.After(5 * time.Second):
			t.Error("a caller waits on")
		}
	}
	if more := m.written.Load() - quiet; more > 2000 {
		t.Errorf("%d more bytes were written after the end", more)
	}
	if !stalled {
		return
	}
	w.eventually("records say who ended them", func() bool {
		said := 0
		for _, e := range w.sink.events(t) {
			if e.Annotations["sallyport.dev/ended"] == errAgent.Message {
				said++
			}
		}
		return said == n
	})
}

func TestTokenExpiryEndsStreams(t *testing.T) {
	w := newWorld(t)
	far := &streams{}
	w.agent.set(far.ServeHTTP)
	resp := w.open(shared, "GET", "/api/v1/namespaces/n/pods?watch=1", nil, func(r *http.Request) {
		r.Header.Set("Authorization", "Bearer "+w.token(map[string]any{"exp": time.Now().Add(1500 * time.Millisecond).Unix()}))
	})
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the watch ended well")
	}
	w.eventually("a record says why", func() bool {
		e := w.sink.events(t)
		return len(e) == 2 && strings.Contains(e[1].Annotations["sallyport.dev/ended"], "expired")
	})
}

// TestSilentStore: a gateway that does not hear from the store refuses and ends
// everything, within I3's 10 s.
func TestSilentStore(t *testing.T) {
	var skew atomic.Int64
	w := newWorld(t, func(c *Config) { c.Now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) } })
	far := &streams{}
	w.agent.set(far.ServeHTTP)
	resp := w.open(shared, "GET", "/api/v1/namespaces/n/pods?watch=1", nil, nil)
	skew.Store(int64(5100 * time.Millisecond)) // the store's own clock stands behind by as much
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the watch ended well")
	}
	r, body := w.do("GET", "/api/v1/namespaces/n/pods", nil)
	if r.StatusCode != 503 || !strings.Contains(body, "lost touch") || w.gw.Ready() == nil {
		t.Errorf("%d %s", r.StatusCode, body)
	}
	skew.Store(0)
	w.agent.set(nil)
	w.eventually("in touch again", func() bool { r, _ := w.do("GET", "/version", nil); return r.StatusCode == 200 })
}

func TestDrain(t *testing.T) {
	w := newWorld(t)
	far := &streams{}
	w.agent.set(far.ServeHTTP)
	resp := w.open(shared, "GET", "/api/v1/namespaces/n/pods?watch=1", nil, nil)
	other := w.open(client("1"), "GET", "/api/v1/namespaces/n/pods/p/log?follow=1", nil, nil)
	defer other.Body.Close()
	w.stop()
	w.eventually("not ready", func() bool { return w.gw.Ready() != nil })
	r, body := w.do("GET", "/api/v1/namespaces/n/pods", nil)
	if r.StatusCode != 503 || !strings.Contains(body, "shutting down") {
		t.Errorf("%d %s", r.StatusCode, body)
	}
	if w.gw.Running() != 2 {
		t.Fatalf("%d run: draining ended them", w.gw.Running())
	}
	// A DELETE during the drain still ends what it covers.
	start := time.Now()
	rev := w.commit(store.Delete(w.binding().Key(), 0))
	w.eventually("it is applied, or the replica is gone", func() bool {
		r, err := store.Get[store.Gateway](t.Context(), w.store, store.Gateway{Replica: "r1"}.Key())
		return trust.KindOf(err) == trust.NotFound || err == nil && r.Value.Applied >= rev
	})
	if _, err := io.Copy(io.Discard, resp.Body); err == nil || time.Since(start) > time.Second {
		t.Errorf("the watch ended with %v after %v", err, time.Since(start))
	}
	<-w.ran
	if _, err := store.Get[store.Gateway](t.Context(), w.store, store.Gateway{Replica: "r1"}.Key()); trust.KindOf(err) != trust.NotFound {
		t.Errorf("the replica's record is left: %v", err)
	}
}

func TestDrainEndsWhatTakesTooLong(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.DrainTimeout = 100 * time.Millisecond })
	far := &streams{}
	w.agent.set(far.ServeHTTP)
	resp := w.open(shared, "GET", "/api/v1/namespaces/n/pods?watch=1", nil, nil)
	defer resp.Body.Close()
	w.stop()
	select {
	case <-w.ran:
	case <-time.After(5 * time.Second):
		t.Fatal("Run does not return")
	}
}
