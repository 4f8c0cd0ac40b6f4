package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
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
}

// peers knows which other replica holds which cluster's tunnel.
type peers struct {
	self   string
	addr   string
	on     bool
	log    *slog.Logger
	plain  *http.Transport // HTTP/2: ordinary requests
	raw    *http.Transport // HTTP/1.1: upgrades
	mu     sync.RWMutex    // guards what follows
	places map[string]store.Tunnel
}

func newPeers(c *Peers, self string, log *slog.Logger) *peers {
	p := &peers{self: self, log: log, places: map[string]store.Tunnel{}}
	if c == nil {
		return p
	}
	p.on, p.addr = true, c.Address
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
func (p *peers) address() string { return p.addr }

// follow keeps the places true to the store.
func (p *peers) follow(s *store.Store) func(context.Context) error {
	if !p.on {
		return func(ctx context.Context) error { <-ctx.Done(); return nil }
	}
	take := func(key string, value []byte) {
		t, err := store.Decode[store.Tunnel](value)
		if err != nil || t.Replica == p.self || t.Address == "" {
			delete(p.places, key)
			return
		}
		p.places[key] = t
	}
	return func(ctx context.Context) error {
		defer p.plain.CloseIdleConnections()
		defer p.raw.CloseIdleConnections()
		return store.Follow(ctx, s, store.TunnelPrefix,
			func(all []store.KV, _ int64) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				clear(p.places)
				for _, kv := range all {
					take(kv.Key, kv.Value)
				}
				return nil
			},
			func(b store.Batch) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				for _, e := range b.Events {
					if e.Type == store.EventDelete {
						delete(p.places, e.Key)
						continue
					}
					take(e.Key, e.Value)
				}
				return nil
			})
	}
}

// holder is the address of a replica that holds a tunnel of the cluster.
func (p *peers) holder(cluster trust.ClusterUID) (string, bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, t := range p.places {
		if t.Cluster == cluster {
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
// Its server must require a gateway's client certificate.
func (g *Gateway) PeerHandler() http.Handler { return http.HandlerFunc(g.servePeer) }

func (g *Gateway) servePeer(w http.ResponseWriter, r *http.Request) {
	cluster, target, ok := request.SplitCluster(r.RequestURI)
	if !ok || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		http.Error(w, "not a gateway's request", http.StatusForbidden)
		return
	}
	if _, err := request.ReadEnvelope(r.Header); err != nil {
		request.WriteStatus(w, err, nil, 0)
		return
	}
	upgrade, err := request.Upgrade(r.Header, r.ProtoMajor, r.ContentLength)
	if err != nil {
		request.WriteStatus(w, err, nil, 0)
		return
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		request.WriteStatus(w, trust.Errorf(trust.Invalid, "the target cannot be parsed"), nil, 0)
		return
	}
	h := tunnel.NewHandle(w, r)
	defer h.Done()
	out := r.WithContext(h.Context())
	out.URL, out.RequestURI = u, ""
	if err := g.relay(h, w, out, cluster, upgrade); err != nil {
		request.WriteStatus(w, unreachable(err), nil, 1)
	}
}

// relay sends a peer's request through the tunnel. An error means that nothing
// was answered.
func (g *Gateway) relay(h *tunnel.Handle, w http.ResponseWriter, out *http.Request, cluster trust.ClusterUID, upgrade string) error {
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
		copyAnswer(w, resp)
		return nil
	}
	resp, far, err := g.hub.OpenRaw(string(cluster), out)
	if err != nil {
		return err
	}
	if far == nil {
		defer resp.Body.Close()
		copyAnswer(w, resp)
		return nil
	}
	h.Add(far)
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
