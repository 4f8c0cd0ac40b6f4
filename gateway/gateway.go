package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// Authenticator says who calls; *authn.Authenticator is one.
type Authenticator interface {
	// Authenticate checks a token for one of the audiences. Errors have kind
	// Unauthenticated or Unavailable, or are ctx's.
	Authenticate(ctx context.Context, token string, want authn.Audiences) (trust.Caller, error)
	// Current says whether a caller would still be authenticated.
	Current(c *trust.Caller) bool
	// Subscribe has f called after anything that may change Current's answer.
	Subscribe(f func()) (cancel func())
}

// Config is what a Gateway needs.
type Config struct {
	Store *store.Store
	Authn Authenticator
	Audit *audit.Log

	Base      string   // external base URL, "https://host:port"; audiences are made of it
	Locations []string // the regions it serves: audience <base>/gateways/<location>
	Replica   string   // this process' id, printable ASCII without "/"
	// LocalIssuers are the issuers of the managed identities of this
	// installation's own source resources: of these a source must still exist,
	// with the identity that the binding consented to.
	LocalIssuers []string
	// TrustedProxies may say in X-Forwarded-For where a request comes from; of
	// everybody else the TCP peer counts.
	TrustedProxies []netip.Prefix

	// Peers is how requests reach other replicas that hold a tunnel; nil hands
	// nothing over and takes nothing.
	Peers *Peers

	MaxPerCaller  int           // requests at once of one caller; 0 is 500
	MaxPerBinding int           // requests at once under one binding; 0 is 1000
	DrainTimeout  time.Duration // for what runs when Run's context ends; 0 is 30 s

	// WholeTargets writes commands of exec and queries of proxied requests to
	// the audit log instead of redacting them. Both often hold secrets.
	WholeTargets bool

	TunnelLimits tunnel.Limits
	Log          *slog.Logger          // nil discards
	Registerer   prometheus.Registerer // nil: no metrics
	Now          func() time.Time      // nil means time.Now
}

// The bounds of invariant I3 at a gateway.
const (
	staleAfter = 4 * time.Second        // refuse when the store was last heard longer ago
	sweepEvery = 250 * time.Millisecond // expired tokens and staleness end streams
	leaseTTL   = 6 * time.Second        // a replica that died is gone after this

	drainTunnels = 2 * time.Second // for tunnels to end after the last request
)

// Gateway is one replica.
type Gateway struct {
	config    Config
	audiences authn.Audiences // without the cluster's own
	now       func() time.Time
	log       *slog.Logger
	metrics   *metrics

	clientAddress func(*http.Request) netip.Addr

	table   *table
	flights *flights
	hub     *tunnel.Hub
	serving serving
	replica *replica
	peers   *peers

	draining atomic.Bool
	sweeps   chan struct{} // asks for a sweep now; capacity 1
}

// New makes a Gateway. Nothing is let through before Run has heard from the
// store.
func New(c Config) (*Gateway, error) {
	if c.Store == nil || c.Authn == nil || c.Audit == nil || c.Base == "" || c.Replica == "" {
		return nil, errors.New("gateway: store, authenticator, audit log, base URL and replica name are needed")
	}
	if strings.Contains(c.Replica, "/") {
		return nil, errors.New("gateway: a replica name cannot hold /")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.MaxPerCaller, 500)
	setDefault(&c.MaxPerBinding, 1000)
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = 30 * time.Second
	}
	c.Base = strings.TrimSuffix(c.Base, "/")
	g := &Gateway{config: c, now: c.Now, log: c.Log, sweeps: make(chan struct{}, 1)}
	for _, l := range c.Locations {
		g.audiences = append(g.audiences, c.Base+"/gateways/"+l)
	}
	g.clientAddress = ClientAddress(c.TrustedProxies)
	g.table = newTable(c.LocalIssuers)
	g.flights = newFlights(c.MaxPerCaller, c.MaxPerBinding)
	g.replica = newReplica(g)
	g.peers = newPeers(c.Peers, c.Replica, g.sweepSoon)
	g.hub = tunnel.NewHub(tunnel.Config{
		Log: c.Log, Registerer: c.Registerer, Replica: c.Replica, Limits: c.TunnelLimits,
		OnChange: g.replica.tunnelsChanged,
		OnEnded:  func(cluster, id string) { g.flights.agentEnded(trust.ClusterUID(cluster), id) },
	})
	g.metrics = newMetrics(c.Registerer, g)
	return g, nil
}

func setDefault(n *int, v int) {
	if *n <= 0 {
		*n = v
	}
}

// Handler serves /clusters/{uid}/…. Its server needs ConnContext, must not limit
// the time of writing an answer, and should limit that of headers and, with a
// read deadline that is lifted here for whom a binding names, of bodies.
func (g *Gateway) Handler() http.Handler { return http.HandlerFunc(g.serve) }

// Run follows the store and keeps this replica's records until ctx ends. Then
// it drains: new requests are refused, what runs has DrainTimeout to end while
// everything that can revoke it stays at work, the rest is ended, and the
// tunnels are told to go elsewhere. It returns ctx's error, or why it could not
// go on; all its goroutines have ended then.
func (g *Gateway) Run(ctx context.Context) error {
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	var running sync.WaitGroup
	start := func(f func(context.Context) error) {
		running.Go(func() {
			if err := f(life); err != nil && life.Err() == nil {
				end(err)
			}
		})
	}
	unsubscribe := g.config.Authn.Subscribe(g.sweepSoon)
	defer unsubscribe()
	start(g.followBindings)
	start(g.followRoles)
	start(g.peers.follow(g.config.Store))
	start(g.peers.followReplicas(g.config.Store))
	start(g.replica.run)
	start(g.sweepRegularly)

	select {
	case <-ctx.Done():
		g.drain(life)
	case <-life.Done():
	}
	why := context.Cause(life)
	g.draining.Store(true)
	g.table.forget() // whatever comes now is refused
	g.flights.endAll(errShutdown)
	end(ctx.Err())
	running.Wait()
	g.peers.close()
	g.hub.Close()
	g.replica.close()
	if why == nil {
		why = ctx.Err()
	}
	return why
}

// drain sends agents elsewhere at once and waits for what runs. The watch and
// everything else stays at work.
func (g *Gateway) drain(life context.Context) {
	g.draining.Store(true)
	g.log.InfoContext(life, "gateway drains", "running", g.flights.count())
	tunnels, cut := context.WithCancel(life)
	defer cut()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_ = g.hub.Drain(tunnels) // its error is that it was cut, which the next lines decide
	}()
	bound, cancel := context.WithTimeout(life, g.config.DrainTimeout)
	defer cancel()
	g.flights.waitIdle(bound)
	if n := g.flights.endAll(errShutdown); n > 0 {
		g.log.InfoContext(life, "requests ended, the drain's time is over", "requests", n)
	}
	select {
	case <-drained:
	case <-time.After(drainTunnels):
		g.log.WarnContext(life, "tunnels did not drain in time")
		cut()
		<-drained
	}
}

// sweepSoon asks for a look at everything that runs. It does not block.
func (g *Gateway) sweepSoon() {
	select {
	case g.sweeps <- struct{}{}:
	default:
	}
}

// sweepRegularly ends what time, the authenticator or silence of the store has
// taken the right from.
func (g *Gateway) sweepRegularly(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			g.sweep(false)
			g.hub.Sweep(g.now())
		case <-g.sweeps:
			g.sweep(true)
		}
	}
}

// sweep ends what may run no longer; all asks the authenticator too.
func (g *Gateway) sweep(all bool) {
	if err := g.table.ready(g.now()); err != nil {
		g.flights.endAll(errStale)
		return
	}
	if err := g.replica.ready(); err != nil {
		g.flights.endAll(errLease)
		return
	}
	now := g.now()
	g.flights.endWhere("", func(f *flight) error {
		if f.caller == nil { // handed over: of the caller its replica knows
			if g.peers.lives(f.peer) {
				return nil
			}
			return errPeer
		}
		switch {
		case !now.Before(f.caller.Expires):
			return errExpired
		case all && !g.config.Authn.Current(f.caller):
			return errIdentity
		}
		return nil
	})
}
