package router

import (
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// Config is what New needs. All fields without "default" are required.
type Config struct {
	Audience   string           // of this cluster's extension, see wire.Audience
	Issuer     string           // of scoring tokens, see wire.Issuer
	Key        crypto.PublicKey // the ML service's: signs scoring tokens
	Namespaces []string         // that may be attached: nothing is scored elsewhere
	MaxBody    int64            // bytes of a request; default: 100 MiB

	Name   string    // of this process among routers: its pod's
	Peers  string    // host:port where the other routers reach it; default: it is the only one
	Access io.Writer // one line of JSON per request; default: none

	Kube       kubernetes.Interface
	Dynamic    dynamic.Interface
	Registerer prometheus.Registerer // default: no metrics
	Now        func() time.Time
	Log        *slog.Logger
}

// Router is an http.Handler for scoring. Run must be running.
type Router struct {
	Config
	bodyTimeout time.Duration
	tokens      *tokens
	table       atomic.Pointer[table]
	tables      sync.Mutex // held while the next one is made, and while what it lacks is forgotten
	seat        seat
	carrier     http.RoundTripper // to model servers
	transport   *http.Transport   // the same, to be closed
	metrics     *metrics
	access      access
	roster      *roster
	leads       atomic.Bool // holds the Lease
	synced      atomic.Bool // a table was made of all that there is
	reached     atomic.Bool // a coordinator was there once
	draining    atomic.Bool
	changed     chan struct{} // has one when the table is to be made anew
	drained     chan struct{} // closed by Drain

	mu          sync.Mutex   // guards coordinator
	coordinator *coordinator // this process's; nil: it is none
}

// New checks the configuration.
func New(c Config) (*Router, error) {
	if c.Audience == "" || c.Issuer == "" || c.Key == nil || len(c.Namespaces) == 0 || c.Name == "" {
		return nil, errors.New("the router needs a name, audience, issuer, the ML service's key and namespaces")
	}
	if c.MaxBody == 0 {
		c.MaxBody = 100 << 20
	}
	r := &Router{Config: c, bodyTimeout: bodyTimeout, transport: newTransport(), access: access{out: c.Access, now: c.Now},
		changed: make(chan struct{}, 1), drained: make(chan struct{})}
	r.carrier = r.transport
	r.table.Store(&table{})
	r.roster = alone(c.Name, c.Log)
	r.metrics = newMetrics(c.Registerer, r.table.Load)
	var err error
	r.tokens, err = newTokens(c.Issuer, c.Key, c.Now, c.Log)
	return r, err
}

// Ready tells whether requests may come.
func (r *Router) Ready() bool { return r.synced.Load() && r.reached.Load() && !r.draining.Load() }

// Drain says that this process ends soon: it is not ready any more and gives the
// Lease away. What was begun goes on.
func (r *Router) Drain() {
	if r.draining.CompareAndSwap(false, true) {
		close(r.drained)
	}
}

// Run follows the cluster and takes part in what routers do together, until ctx
// ends. Peers of other routers are taken on listener, nil if there are none.
func (r *Router) Run(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	r.run(ctx, &wg)
	if listener != nil {
		if err := r.join(ctx, &wg, listener); err != nil {
			return err
		}
	}
	wg.Go(func() { r.campaign(ctx, &wg) })
	return r.watch(ctx, &wg)
}

// run starts what a router does on its own.
func (r *Router) run(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() { r.access.run(ctx) })
	wg.Go(func() { r.report(ctx) })
}

// apply makes a new table the one that counts.
func (r *Router) apply(s *sources) {
	r.tables.Lock()
	defer r.tables.Unlock()
	last := r.table.Load()
	t := s.build(last, func(uid string) *pool { return r.seat.pool(uid, r.Now) }, func(e, d *wireNames) *deploymentMetrics {
		if old := last.deployments[d.uid]; old != nil {
			return old.metrics
		}
		return r.metrics.of(e, d)
	}, r.Log)
	r.table.Store(t)
	for _, d := range t.deployments {
		d.pool.set(d.ready)
	}
	r.drop(t)
	if c := r.coordinating(); c != nil {
		c.update(t)
	}
}

// forget lets go of deployments that are gone, once nothing of them runs.
func (r *Router) forget() {
	r.tables.Lock()
	defer r.tables.Unlock()
	r.drop(r.table.Load())
}

// drop is forget for callers that hold tables.
func (r *Router) drop(t *table) {
	for _, uid := range r.seat.keep(func(uid string) bool { return t.deployments[uid] != nil }) {
		r.metrics.forget(uid)
	}
}

func (r *Router) coordinating() *coordinator {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.coordinator
}
