package proxy

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// Control is the control plane as this agent sees it.
type Control interface {
	// States calls take with every signed state that arrives, in order, and
	// reconnects by itself until ctx ends. take's error ends the connection it
	// came on: the state was not what it should be.
	States(ctx context.Context, held func() mandate.Floor, take func(signed []byte) error) error
	// Ask sends a nonce and what this agent has applied, and returns the
	// signed answer.
	Ask(ctx context.Context, nonce string, applied mandate.Floor) ([]byte, error)
}

// Config is what a Proxy needs; every field without a default must be set.
type Config struct {
	Cluster    trust.ClusterUID
	MandateKey ed25519.PublicKey // verifies what control says
	Control    Control

	// APIServer is the one target, "https://host:port" with an optional path.
	APIServer *url.URL
	// TLS verifies the API server. No client certificate: requests run with the
	// bindings' tokens and nothing else.
	TLS *tls.Config
	// Agent sends requests as this agent's own ServiceAccount; it is used for
	// TokenRequests and for nothing that a caller sent.
	Agent http.RoundTripper

	Now        func() time.Time // default time.Now; must carry a monotonic reading
	Log        *slog.Logger
	Registerer prometheus.Registerer
	// Recheck is how often the API server is asked whether what streams do is
	// still allowed there. Default 2 s.
	Recheck time.Duration
}

// Proxy answers the requests that come through the tunnel. Handler is its
// ServeHTTP; Run keeps its state.
type Proxy struct {
	c        Config
	log      *slog.Logger
	watchdog *mandate.Watchdog
	running  running
	tokens   *tokens
	upstream *upstream
	metrics  *metrics
	changed  chan struct{} // a state was applied: tell control
}

// New makes a Proxy that refuses everything until Run has a fresh state.
func New(c Config) (*Proxy, error) {
	if c.APIServer == nil || c.APIServer.Scheme != "https" || c.APIServer.Host == "" {
		return nil, fmt.Errorf("API server %q must be an https URL", c.APIServer)
	}
	if len(c.MandateKey) != ed25519.PublicKeySize || c.Control == nil || c.Agent == nil || c.TLS == nil {
		return nil, errors.New("mandate key, control, agent transport and TLS are needed")
	}
	if len(c.TLS.Certificates) > 0 || c.TLS.GetClientCertificate != nil {
		return nil, errors.New("the transport to the API server must have no client certificate: it would outrank the binding's token")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Recheck <= 0 {
		c.Recheck = 2 * time.Second
	}
	p := &Proxy{
		c:        c,
		log:      c.Log,
		watchdog: mandate.NewWatchdog(c.Cluster, c.MandateKey, c.Now),
		changed:  make(chan struct{}, 1),
		metrics:  newMetrics(c.Registerer),
	}
	p.running.live = map[*request]struct{}{}
	p.tokens = newTokens(c.Agent, c.APIServer, c.Now)
	p.upstream = newUpstream(c.APIServer, c.TLS)
	return p, nil
}

// Run follows the control plane until ctx ends, then ends every running request
// and returns.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.upstream.close()
	defer p.running.endAll(errStopping)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.c.Control.States(ctx, p.watchdog.Floor, p.take) })
	g.Go(func() error { return p.askNonces(ctx) })
	g.Go(func() error { return p.watchFreshness(ctx) })
	g.Go(func() error { return p.recheckStreams(ctx) })
	err := g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

var (
	errStopping = trust.Errorf(trust.Unavailable, "the agent is stopping")
	errStale    = trust.Errorf(trust.Unavailable, "the agent has not heard from its control plane for %s", mandate.FreshBound)
	errRevoked  = trust.Errorf(trust.Forbidden, "the binding was deleted or no longer allows this")
	errOwner    = trust.Errorf(trust.Forbidden, "the cluster itself no longer allows this to the binding's identity")
)

// take applies one signed state: first what it takes away is ended, then
// requests are decided by it.
func (p *Proxy) take(signed []byte) error {
	state, err := mandate.Open(p.c.MandateKey, p.c.Cluster, p.watchdog.Floor(), signed)
	if err != nil {
		p.log.Warn("state refused", "error", err)
		return err
	}
	ended := p.running.apply(newTable(state))
	p.tokens.keep(state.Bindings)
	p.watchdog.Hold(state.Floor())
	p.log.Info("state applied", "epoch", state.Epoch, "revision", state.Revision, "bindings", len(state.Bindings), "ended", ended)
	select {
	case p.changed <- struct{}{}:
	default:
	}
	return nil
}

// askNonces asks for freshness every period, and at once after a state was
// applied, so that the control plane learns of it.
func (p *Proxy) askNonces(ctx context.Context) error {
	tick := time.NewTicker(mandate.NoncePeriod)
	defer tick.Stop()
	for {
		if err := p.askNonce(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("control plane did not answer", "error", err, "fresh_for", p.watchdog.Left().String())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-p.changed:
		}
	}
}

func (p *Proxy) askNonce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mandate.NoncePeriod)
	defer cancel()
	data, err := p.c.Control.Ask(ctx, p.watchdog.Ask(), p.watchdog.Floor())
	if err != nil {
		return err
	}
	_, err = p.watchdog.Hear(data)
	return err
}

// watchFreshness ends everything when the state goes stale.
func (p *Proxy) watchFreshness(ctx context.Context) error {
	for {
		left := p.watchdog.Left()
		if left <= 0 {
			if n := p.running.endAll(errStale); n > 0 {
				p.log.Warn("state is stale, requests ended", "ended", n)
			}
			left = 250 * time.Millisecond // until it is fresh again nothing new is let in
		}
		timer := time.NewTimer(left)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// Ready says whether requests would be let through, or why not.
func (p *Proxy) Ready() error {
	if !p.watchdog.Fresh() {
		return errStale
	}
	return nil
}
