package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
)

// peering is this replica's side of handing requests over.
type peering struct {
	asked          *asked
	listener       net.Listener
	address        string
	server, client *tls.Config
}

// composePeers opens the peers' listener, whose address the others are told, if
// there is to be one.
func (s *server) composePeers(ctx context.Context, keys sharedKeys) (*peering, error) {
	if s.Peers.Listen == "" || !s.plays("gateway") {
		return nil, nil
	}
	roots, err := keys.roots(ctx, keyGatewaysCA)
	if err != nil {
		return nil, err
	}
	p := &peering{asked: newAsked(s, store.UsePeer), address: s.Peers.Address}
	p.server, p.client = pki.Peers(p.asked.keeper, roots)
	if p.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.Peers.Listen); err != nil {
		return nil, fmt.Errorf("peers.listen: %w", err)
	}
	if p.address == "" {
		if p.address, err = ownAddress(ctx, p.listener.Addr(), s.Store.Endpoints[0]); err != nil {
			return nil, errors.Join(err, p.listener.Close())
		}
	}
	return p, nil
}

// config is nil for nil, which hands nothing over.
func (p *peering) config() *gateway.Peers {
	if p == nil {
		return nil
	}
	return &gateway.Peers{Address: p.address, TLS: p.client, Replica: pki.ParseGateway}
}

// ownAddress is where others reach a listener: where it listens, or, if that is
// everywhere, the address that this machine has towards the store.
func ownAddress(ctx context.Context, listens net.Addr, endpoint string) (string, error) {
	host, port, err := net.SplitHostPort(listens.String())
	if err != nil {
		return "", fmt.Errorf("peers.listen: %w", err)
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
		return listens.String(), nil
	}
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("store.endpoints: %w", err)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(u.Hostname(), "9")) // nothing is sent
	if err != nil {
		return "", fmt.Errorf("find this machine's address: %w; set peers.address", err)
	}
	defer conn.Close()
	host, _, err = net.SplitHostPort(conn.LocalAddr().String())
	return net.JoinHostPort(host, port), err
}

// newPeerServer serves other gateways. They have authenticated and limited the
// callers, so bodies and answers take the time they take.
func newPeerServer(ctx context.Context, h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: connContext,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{MaxConcurrentStreams: 2000, MaxReceiveBufferPerStream: 256 << 10, MaxReceiveBufferPerConnection: 64 << 20},
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	return s
}
