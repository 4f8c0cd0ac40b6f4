package gateway

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// pair is two replicas on one store: r1 holds the tunnel, callers come to r2.
type pair struct {
	*world        // r1
	second *world // r2
	ca     *pki.CA
	addr   string // of r1's peers' listener
	stop2  func() // r2 gives its lease back
}

func newPair(t *testing.T) *pair {
	t.Helper()
	ca, err := pki.NewCA(pki.Gateways, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{ca: ca}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	server, client := p.tls(t, "r1")
	p.world = newWorld(t, func(c *Config) {
		c.Replica, c.Peers = "r1", &Peers{Address: p.addr, TLS: client, Replica: pki.ParseGateway}
	})
	srv := &http.Server{Handler: p.gw.PeerHandler(), ReadHeaderTimeout: time.Second, ConnContext: ConnContext, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(tls.NewListener(ln, server)) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })

	c := p.gw.config
	_, client = p.tls(t, "r2")
	c.Replica, c.Peers = "r2", &Peers{Address: "127.0.0.1:1", TLS: client, Replica: pki.ParseGateway}
	gw2, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan struct{})
	go func() { defer close(ran); _ = gw2.Run(ctx) }()
	p.stop2 = func() { cancel(); <-ran }
	t.Cleanup(p.stop2)
	p.second = &world{t: t, key: p.key, gw: gw2, url: p.listen(gw2.Handler())}
	p.eventually("both replicas know each other", func() bool {
		_, ok := gw2.peers.holder(clusterA)
		return ok && gw2.Ready() == nil && p.gw.peers.lives("r2")
	})
	return p
}

// tls is what a replica of that name serves and dials with.
func (p *pair) tls(t *testing.T, name string) (server, client *tls.Config) {
	t.Helper()
	leaf, err := pki.GatewayLeaf(name)
	if err != nil {
		t.Fatal(err)
	}
	k, err := pki.FromCA(p.ca, leaf, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return pki.Peers(k, p.ca.Pool())
}

// hand sends a request to r1's peers' listener, as a replica would.
func (p *pair) hand(client *tls.Config, target string, e request.Envelope) (int, string, error) {
	p.t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	tr := &http.Transport{TLSClientConfig: client, Protocols: protocols}
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(p.t.Context(), "GET", "https://"+p.addr+"/clusters/"+string(clusterA)+target, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	e.Write(r.Header)
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), nil
}

// TestHandOver: a gateway without the tunnel sends through a peer that has it.
func TestHandOver(t *testing.T) {
	p := newPair(t)
	p.agent.set(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") != "":
			echo(rw, r)
		case strings.Contains(r.URL.RawQuery, "watch"):
			_, _ = io.WriteString(rw, "first\n")
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
		default:
			p.agent.note(r, "")
			_, _ = io.WriteString(rw, "from the other side")
		}
	})
	resp, body := p.second.do("GET", "/api/v1/namespaces/n/services/s/proxy/a//b%2Fc?x=1", nil)
	if resp.StatusCode != 200 || body != "from the other side" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if s := p.agent.take(); len(s) != 1 || s[0].uri != "/api/v1/namespaces/n/services/s/proxy/a//b%2Fc?x=1" {
		t.Errorf("%+v", s)
	}
	conn, br := p.second.upgrade(p.second.url, "/api/v1/namespaces/n/pods/p/exec", "SPDY/3.1")
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello")
	hello := make([]byte, 5)
	if _, err := io.ReadFull(br, hello); err != nil || string(hello) != "hello" {
		t.Fatalf("%q %v", hello, err)
	}
	if n := p.gw.Running(); n != 1 {
		t.Errorf("%d requests run at the replica that holds the tunnel", n)
	}
	start := time.Now()
	p.commit(store.Delete(p.binding().Key(), 0))
	if _, err := io.ReadAll(br); time.Since(start) > time.Second {
		t.Errorf("ended with %v after %v", err, time.Since(start))
	}
	p.eventually("nothing runs at the tunnel's replica", func() bool { return p.gw.Running() == 0 })
}

// The replica that holds the tunnel ends what was handed over by itself: when
// the right is taken away, and when the replica that took the request in is
// gone. The other one cannot hold it back.
func TestWhatWasHandedOverEndsByItself(t *testing.T) {
	for name, take := range map[string]func(*pair){
		"binding deleted":  func(p *pair) { p.commit(store.Delete(p.binding().Key(), 0)) },
		"role narrowed":    func(p *pair) { b := p.binding(); b.Grants = b.Grants[:0]; p.commit(store.Put(b)) },
		"replica is gone":  func(p *pair) { p.commit(store.Delete(store.Gateway{Replica: "r9"}.Key(), 0)) },
		"cluster stopped":  func(p *pair) { p.change(func(c *store.Cluster) { c.Stopped = true }) },
		"cluster deleting": func(p *pair) { p.change(func(c *store.Cluster) { c.Deleting = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			began := make(chan struct{}, 1)
			p.agent.set(func(rw http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(rw, "first\n")
				_ = http.NewResponseController(rw).Flush()
				began <- struct{}{}
				<-r.Context().Done()
			})
			// r9 is a replica that says nothing any more: only its record lives.
			p.commit(store.Put(store.Gateway{Replica: "r9"}))
			p.eventually("r9 is known", func() bool { return p.gw.peers.lives("r9") })
			_, client := p.tls(t, "r9")
			ended := make(chan time.Time, 1)
			go func() {
				_, _, _ = p.hand(client, "/api/v1/namespaces/n/pods?watch=1", p.envelope())
				ended <- time.Now()
			}()
			<-began
			start := time.Now()
			take(p)
			select {
			case at := <-ended:
				if took := at.Sub(start); took > time.Second {
					t.Errorf("ended after %v", took)
				}
			case <-time.After(10 * time.Second):
				t.Error("goes on")
			}
		})
	}
}

func (p *pair) envelope() request.Envelope {
	return request.Envelope{Binding: bindingA, Revision: 1, RequestID: newID()}
}

func (p *pair) change(f func(*store.Cluster)) {
	p.t.Helper()
	c, err := store.Get[store.Cluster](p.t.Context(), p.store, store.ResourceKey(clusterID))
	if err != nil {
		p.t.Fatal(err)
	}
	f(&c.Value)
	p.commit(store.Put(c.Value))
}

// Who may hand over, and what.
func TestThePeersListenerLetsInGatewaysAlone(t *testing.T) {
	p := newPair(t)
	target := "/api/v1/namespaces/n/pods"
	foreign := func(purpose pki.Purpose) *tls.Config {
		ca, err := pki.NewCA(purpose, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := pki.GatewayLeaf("r2")
		if err != nil {
			t.Fatal(err)
		}
		k, err := pki.FromCA(ca, leaf, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		_, conf := pki.Peers(k, p.ca.Pool())
		return conf
	}
	_, good := p.tls(t, "r2")
	_, dead := p.tls(t, "r7")
	none := good.Clone()
	none.GetClientCertificate = nil
	k, err := pki.FromCA(p.ca, pki.Leaf{CommonName: "r2", DNS: []string{pki.GatewayName}, Life: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, unnamed := pki.Peers(k, p.ca.Pool())
	with := func(f func(*request.Envelope)) request.Envelope { e := p.envelope(); f(&e); return e }
	for _, c := range []struct {
		name     string
		conf     *tls.Config
		target   string
		envelope request.Envelope
		code     int // 0: no handshake
	}{
		{"a gateway", good, target, p.envelope(), 200},
		{"no certificate", none, target, p.envelope(), 0},
		{"another CA of gateways", foreign(pki.Gateways), target, p.envelope(), 0},
		{"a CA of agents", foreign(pki.Agents), target, p.envelope(), 0},
		{"a certificate that names no replica", unnamed, target, p.envelope(), 403},
		{"a replica that has no lease", dead, target, p.envelope(), 503},
		{"no envelope", good, target, request.Envelope{}, 400},
		{"an unknown binding", good, target, with(func(e *request.Envelope) { e.Binding = "dddddddd-dddd-4ddd-8ddd-dddddddddddd" }), 503},
		{"more than the binding's roles", good, "/api/v1/namespaces/n/secrets", p.envelope(), 403},
		{"two spellings", good, "/api/v1//namespaces/n/pods", p.envelope(), 400},
	} {
		code, body, err := p.hand(c.conf, c.target, c.envelope)
		if code != c.code || (err == nil) != (c.code != 0) {
			t.Errorf("%s: %d %.200s %v, want %d", c.name, code, body, err, c.code)
		}
	}
	if s := p.agent.take(); len(s) != 1 {
		t.Errorf("%d requests reached the agent", len(s))
	}

	// Nor what this replica has not read the bindings for, or while it drains.
	p.gw.draining.Store(true)
	if code, _, err := p.hand(good, target, p.envelope()); code != 503 {
		t.Errorf("draining: %d %v", code, err)
	}
	p.gw.draining.Store(false)
	p.gw.table.forget()
	if code, _, err := p.hand(good, target, p.envelope()); code != 503 {
		t.Errorf("without the bindings: %d %v", code, err)
	}
}

// Without a live holder there is nobody to hand over to.
func TestNobodyToHandOverTo(t *testing.T) {
	p := newPair(t)
	if _, ok := p.second.gw.peers.holder(trust.ClusterUID("dddddddd-dddd-4ddd-8ddd-dddddddddddd")); ok {
		t.Error("somebody holds the tunnel of an unknown cluster")
	}
	p.second.gw.peers.mu.Lock()
	delete(p.second.gw.peers.live, "r1")
	p.second.gw.peers.mu.Unlock()
	if resp, body := p.second.do("GET", "/api/v1/namespaces/n/pods", nil); resp.StatusCode != 503 || !strings.Contains(body, "not connected") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
