package reconcile

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// Control is the control plane as this agent sees it.
type Control interface {
	// States calls take with every signed state that arrives, in order, and
	// reconnects by itself until ctx ends. take's error ends the connection it
	// came on.
	States(ctx context.Context, held func() mandate.Floor, take func(signed []byte) error) error
	// Ask sends a nonce and what is applied, and returns the signed answer.
	Ask(ctx context.Context, nonce string, applied mandate.Floor) ([]byte, error)
	// Report says what was found and done.
	Report(ctx context.Context, r mandate.Report) error
}

// Config is what a Reconciler needs; every field without a default must be set.
type Config struct {
	Cluster    trust.ClusterUID
	MandateKey ed25519.PublicKey
	Control    Control
	Kube       *rest.Config // its own API server, as the reconciler's ServiceAccount

	Recheck    time.Duration // how often all is looked at though nothing happened; default 5 min
	Retry      time.Duration // the first wait after a failure, doubling up to 30 s; default 1 s
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Reconciler runs the loop.
type Reconciler struct {
	c       Config
	log     *slog.Logger
	kube    *kube
	metrics *metrics

	look chan struct{} // something may have changed

	mu    sync.Mutex // guards what follows
	floor mandate.Floor
	state *mandate.State // nil until the first one has come

	fence fence // used by the loop alone
}

// New checks the configuration; it makes no call.
func New(c Config) (*Reconciler, error) {
	if len(c.MandateKey) != ed25519.PublicKeySize || c.Control == nil || c.Kube == nil || c.Cluster == "" {
		return nil, errors.New("cluster, mandate key, control and the API server's configuration are needed")
	}
	if c.Recheck <= 0 {
		c.Recheck = 5 * time.Minute
	}
	if c.Retry <= 0 {
		c.Retry = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	k, err := newKube(c.Kube)
	if err != nil {
		return nil, err
	}
	return &Reconciler{c: c, log: c.Log, kube: k, metrics: newMetrics(c.Registerer), look: make(chan struct{}, 1)}, nil
}

// Run reconciles until ctx ends; then it returns nil. It returns early, with
// kind Forbidden, if its identity holds a right that it does not need.
func (r *Reconciler) Run(ctx context.Context) error {
	if err := r.start(ctx); err != nil {
		return ended(ctx, err)
	}
	reports := newReporter(r.c.Control, r.log, r.c.Recheck, r.c.Retry)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.c.Control.States(ctx, r.held, r.take) })
	g.Go(func() error { return r.loop(ctx, reports) })
	g.Go(func() error { return reports.run(ctx) })
	g.Go(func() error { return reports.live(ctx, mandate.NoncePeriod) })
	g.Go(func() error { return r.watch(ctx) })
	return ended(ctx, g.Wait())
}

func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// start checks the agent's own rights and asks the control plane what is
// newest, so that a state from before this process's life cannot be applied.
// Both are tried again until they answer.
func (r *Reconciler) start(ctx context.Context) error {
	steps := []struct {
		what string
		do   func(context.Context) error
	}{
		{"checking own rights", r.kube.checkRights},
		{"asking the control plane what is newest", r.ask},
	}
	for _, s := range steps {
		wait := r.c.Retry
		for {
			err := s.do(ctx)
			if err == nil {
				break
			}
			if trust.KindOf(err) == trust.Forbidden || ctx.Err() != nil {
				return err
			}
			r.log.Warn("cannot start yet", "step", s.what, "error", err, "retry", wait)
			if err := sleep(ctx, wait); err != nil {
				return err
			}
			wait = min(2*wait, maxRetry)
		}
	}
	return nil
}

const maxRetry = 30 * time.Second

func (r *Reconciler) ask(ctx context.Context) error {
	nonce := mandate.NewNonce()
	signed, err := r.c.Control.Ask(ctx, nonce, mandate.Floor{})
	if err != nil {
		// Whatever the server says to this one, it may say otherwise later.
		return fmt.Errorf("ask for the newest revision: %s", err) //nolint:errorlint // without its kind, which would end the agent
	}
	a, err := mandate.OpenAnswer(r.c.MandateKey, r.c.Cluster, nonce, signed)
	if err != nil {
		return fmt.Errorf("ask for the newest revision: %s", err) //nolint:errorlint // as above
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.floor = a.Floor()
	return nil
}

// held is the newest state that is held; nothing older is taken.
func (r *Reconciler) held() mandate.Floor {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == nil {
		return mandate.Floor{} // so that the newest is sent
	}
	return r.state.Floor()
}

func (r *Reconciler) take(signed []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := mandate.Open(r.c.MandateKey, r.c.Cluster, r.floor, signed)
	if err != nil {
		r.log.Warn("state refused", "error", err)
		return err
	}
	r.floor, r.state = s.Floor(), &s
	r.poke()
	return nil
}

// poke makes the loop look soon. It never blocks: one look is enough for any
// number of changes before it.
func (r *Reconciler) poke() {
	select {
	case r.look <- struct{}{}:
	default:
	}
}

// settle is how long the loop waits for more changes before it looks: deleting
// ten objects is one round.
const settle = 20 * time.Millisecond

// loop runs rounds: after each change, each Recheck, and sooner after a
// failure.
func (r *Reconciler) loop(ctx context.Context, reports *reporter) error {
	retry := r.c.Retry
	for {
		wait := r.c.Recheck
		r.mu.Lock()
		state := r.state
		r.mu.Unlock()
		if state != nil {
			began := r.c.Now()
			report, ok := r.round(ctx, *state)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.metrics.round(r.c.Now().Sub(began), report)
			reports.put(report)
			if ok {
				retry = r.c.Retry
			} else {
				wait, retry = min(retry, wait), min(2*retry, maxRetry)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		case <-r.look:
			timer.Stop()
			if err := sleep(ctx, settle); err != nil {
				return err
			}
			select {
			case <-r.look:
			default:
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

type metrics struct {
	seconds  prometheus.Histogram
	problems prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sallyport_reconcile_seconds", Help: "Duration of one look at the cluster, with what it applied.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}),
		problems: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_reconcile_problems", Help: "Bindings that are not in force as asked."}),
	}
	if reg != nil {
		reg.MustRegister(m.seconds, m.problems)
	}
	return m
}

func (m *metrics) round(took time.Duration, report mandate.Report) {
	m.seconds.Observe(took.Seconds())
	n := 0
	for _, b := range report.Bindings {
		if !b.Applied {
			n++
		}
	}
	m.problems.Set(float64(n))
}
