package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// Peers is how replicas hand requests to each other.
type Peers struct {
	// Address is where the others reach this replica's PeerHandler, host:port.
	Address string
	// TLS dials the others: it presents a gateway's certificate and believes
	// only the gateways' CA.
	TLS *tls.Config
	// Replica reads which replica a verified certificate is of.
	Replica func(*x509.Certificate) (string, error)
}

// peers knows which other replicas live, and which holds which cluster's tunnel.
type peers struct {
	self   string
	config Peers
	on     bool
	gone   func()                  // a replica that lived is gone
	plain  *http.Transport         // HTTP/2: ordinary requests
	raw    *http.Transport         // HTTP/1.1: upgrades
	mu     sync.RWMutex            // guards what follows
	places map[string]store.Tunnel // by key
	live   map[string]bool         // replicas
}

func newPeers(c *Peers, self string, gone func()) *peers {
	p := &peers{self: self, gone: gone, places: map[string]store.Tunnel{}, live: map[string]bool{}}
	if c == nil {
		return p
	}
	p.on, p.config = true, *c
	h2, h1 := new(http.Protocols), new(http.Protocols)
	h2.SetHTTP2(true)
	h1.SetHTTP1(true)
	p.plain = peerTransport(c.TLS, h2)
	p.raw = peerTransport(c.TLS, h1)
	return p
}

func peerTransport(c *tls.Config, protocols *http.Protocols) *http.Transport {
	return &http.Transport{
		TLSClientConfig: c.Clone(), Protocols: protocols, DisableCompression: true,
		TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 256 << 10, SendPingTimeout: 10 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: 15 * time.Second},
	}
}

func (p *peers) enabled() bool   { return p.on }
func (p *peers) address() string { return p.config.Address }

// follow keeps the places true to the store.
func (p *peers) follow(s *store.Store) func(context.Context) error {
	return p.keep(s, store.TunnelPrefix, func() { clear(p.places) }, func(key string, value []byte) {
		delete(p.places, key)
		t, err := store.Decode[store.Tunnel](value)
		if value == nil || err != nil || t.Replica == p.self || t.Address == "" {
			return
		}
		p.places[key] = t
	})
}

// followReplicas keeps true which replicas live: a certificate counts only while
// its replica has its lease.
func (p *peers) followReplicas(s *store.Store) func(context.Context) error {
	return p.keep(s, store.GatewayPrefix, func() { clear(p.live); p.gone() }, func(key string, value []byte) {
		name := strings.TrimPrefix(key, store.GatewayPrefix)
		if p.live[name] = value != nil; value == nil {
			delete(p.live, name)
			p.gone()
		}
	})
}

// keep follows a prefix; take gets nil for what was deleted, and is called with
// mu held.
func (p *peers) keep(s *store.Store, prefix string, reset func(), take func(key string, value []byte)) func(context.Context) error {
	if !p.on {
		return func(ctx context.Context) error { <-ctx.Done(); return nil }
	}
	return func(ctx context.Context) error {
		return store.Follow(ctx, s, prefix,
			func(all []store.KV, _ int64) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				reset()
				for _, kv := range all {
					take(kv.Key, kv.Value)
				}
				return nil
			},
			func(b store.Batch) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				for _, e := range b.Events {
					value := e.Value
					if e.Type == store.EventDelete {
						value = nil
					}
					take(e.Key, value)
				}
				return nil
			})
	}
}

// close lets go of the connections to others.
func (p *peers) close() {
	if p.on {
		p.plain.CloseIdleConnections()
		p.raw.CloseIdleConnections()
	}
}

// lives says whether a replica has its lease.
func (p *peers) lives(replica string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.live[replica]
}

// holder is the address of a live replica that holds a tunnel of the cluster.
func (p *peers) holder(cluster trust.ClusterUID) (string, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, t := range p.places {
		if t.Cluster == cluster && p.live[t.Replica] {
			return t.Address, true
		}
	}
	return "", false
}

// handOver addresses a request to the peer.
func (p *peers) handOver(cluster trust.ClusterUID, out *http.Request) (*http.Request, error) {
	addr, ok := p.holder(cluster)
	if !ok {
		return nil, tunnel.ErrNoTunnel
	}
	to := out.WithContext(out.Context())
	to.URL = &url.URL{Scheme: "https", Host: addr, Opaque: "/clusters/" + string(cluster) + out.URL.EscapedPath(), RawQuery: out.URL.RawQuery}
	to.Host = addr
	return to, nil
}

func (p *peers) roundTrip(cluster trust.ClusterUID, out *http.Request) (*http.Response, error) {
	to, err := p.handOver(cluster, out)
	if err != nil {
		return nil, err
	}
	resp, err := p.plain.RoundTrip(to)
	if err != nil {
		return nil, lost(out.Context(), err)
	}
	return resp, nil
}

func (p *peers) openRaw(cluster trust.ClusterUID, out *http.Request) (*http.Response, io.ReadWriteCloser, error) {
	to, err := p.handOver(cluster, out)
	if err != nil {
		return nil, nil, err
	}
	resp, err := p.raw.RoundTrip(to)
	if err != nil {
		return nil, nil, lost(out.Context(), err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, nil, nil
	}
	far, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		_ = resp.Body.Close()
		return nil, nil, fmt.Errorf("%w: the peer's upgrade is not writable", tunnel.ErrLost)
	}
	return resp, far, nil
}

func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: peer: %w", tunnel.ErrLost, err)
}

// PeerHandler takes requests that other replicas have authenticated and decided
// on, and sends them through this replica's own tunnels, never on to a third.
// Who calls the other replica knows alone; everything else is decided here
// again, and ends here by itself when it is taken away. Its server must require
// a gateway's client certificate and needs ConnContext.
func (g *Gateway) PeerHandler() http.Handler { return http.HandlerFunc(g.servePeer) }

func (g *Gateway) servePeer(w http.ResponseWriter, r *http.Request) {
	h := tunnel.NewHandle(w, r)
	defer h.Done()
	defer resetWithEnd(h, r)()
	err := g.takeOver(h, w, r)
	switch {
	case err == nil:
	case h.Context().Err() != nil:
		panic(http.ErrAbortHandler) // nothing must look like an answer
	default:
		retry := 0
		if trust.KindOf(err) == trust.Unavailable {
			retry = 1
		}
		request.WriteStatus(w, err, nil, retry)
	}
}

// takeOver decides on a peer's request and relays it. An error means that
// nothing was answered.
func (g *Gateway) takeOver(h *tunnel.Handle, w http.ResponseWriter, r *http.Request) error {
	peer, err := g.peer(r)
	if err != nil {
		return err
	}
	cluster, target, ok := request.SplitCluster(r.RequestURI)
	if !ok {
		return trust.Errorf(trust.Forbidden, "not a gateway's request")
	}
	envelope, err := request.ReadEnvelope(r.Header)
	if err != nil {
		return err
	}
	upgrade, err := request.Upgrade(r.Header, r.ProtoMajor, r.ContentLength)
	if err != nil {
		return err
	}
	read, err := request.Parse(r.Method, target, upgrade)
	if err != nil {
		return err
	}
	if read.Target.URI() != target {
		return trust.Errorf(trust.Invalid, "the request target was not cleaned")
	}
	// Registered first, decided second, as in exchange.steps.
	f := &flight{id: envelope.RequestID, handle: h, peer: peer, cluster: cluster, attributes: &read.Attributes}
	if err := g.flights.add(f); err != nil {
		return err
	}
	defer g.flights.remove(f)
	if err := g.table.decidePeer(f, envelope.Binding); err != nil {
		return err
	}
	if !g.peers.lives(peer) { // again: it may have gone before the flight could be found
		return errPeer
	}
	out := &http.Request{
		Method: read.Method, Header: r.Header, Host: "kubernetes", Body: r.Body, ContentLength: r.ContentLength,
		URL: &url.URL{Path: read.Target.Path, RawPath: read.Target.Raw, RawQuery: read.Target.Query},
	}
	err = g.relay(f, w, out.WithContext(h.Context()), upgrade)
	if err != nil {
		return unreachable(err)
	}
	return nil
}

// errPeer: the replica that sent a request has lost its lease, so what it
// decided does not count.
var errPeer = trust.Errorf(trust.Unavailable, "the gateway that handed the request over is not known to live")

// peer is who hands over, if anything may be handed over now.
func (g *Gateway) peer(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || !g.peers.enabled() {
		return "", trust.Errorf(trust.Forbidden, "not a gateway's request")
	}
	name, err := g.peers.config.Replica(r.TLS.VerifiedChains[0][0])
	if err != nil {
		return "", trust.Errorf(trust.Forbidden, "not a gateway's request").Because(err)
	}
	if g.draining.Load() {
		return "", errShutdown
	}
	if err := g.replica.ready(); err != nil {
		return "", err
	}
	if err := g.table.ready(g.now()); err != nil {
		return "", err
	}
	if !g.peers.lives(name) {
		return "", errPeer
	}
	return name, nil
}

// relay sends a peer's request through the tunnel. An error means that nothing
// was answered.
func (g *Gateway) relay(f *flight, w http.ResponseWriter, out *http.Request, upgrade string) error {
	h, cluster := f.handle, f.cluster
	if upgrade == "" {
		out.Header.Del("Connection")
		if out.ContentLength == 0 {
			out.Body = nil
		}
		resp, err := g.hub.RoundTrip(string(cluster), out)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		h.Add(resp.Body)
		f.begin()
		copyAnswer(w, resp)
		return nil
	}
	resp, far, err := g.hub.OpenRaw(string(cluster), out)
	if err != nil {
		return err
	}
	if far == nil {
		defer resp.Body.Close()
		h.Add(resp.Body)
		f.begin()
		copyAnswer(w, resp)
		return nil
	}
	h.Add(far)
	f.begin()
	conn, err := h.Hijack()
	if err != nil {
		return errors.Join(err, far.Close())
	}
	proto := resp.Header.Get("Upgrade")
	if err := writeSwitch(conn, resp.Header, proto, resp.Header.Get(request.AuditID)); err != nil {
		return nil // the connection is broken: nothing can be answered
	}
	_, _, _ = tunnel.Join(conn, far)
	return nil
}

// copyAnswer copies an answer between replicas, each piece at once.
func copyAnswer(w http.ResponseWriter, resp *http.Response) {
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := tunnel.CopyAnswer(w, resp.Body, resp.ContentLength < 0); err != nil {
		panic(http.ErrAbortHandler)
	}
}
