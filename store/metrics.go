package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the store's, all named sallyport_store_*.
type metrics struct {
	commit    prometheus.Histogram
	conflicts prometheus.Counter
	size      prometheus.Gauge
	quota     prometheus.Gauge
	alarm     prometheus.Gauge
	registry  prometheus.Registerer
}

func newMetrics() *metrics {
	return &metrics{
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sallyport_store_commit_seconds",
			Help:    "Time a transaction took, refused ones included.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 2, 14),
		}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_store_conflicts_total", Help: "Transactions refused because another change came first.",
		}),
		size: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_store_size_bytes", Help: "Size of etcd's database file.",
		}),
		quota: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_store_quota_bytes", Help: "Size at which etcd takes no more writes; 0 if unknown.",
		}),
		alarm: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_store_nearly_full", Help: "1 when the database has reached 80 % of its quota.",
		}),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.commit, m.conflicts, m.size, m.quota, m.alarm}
}

// register registers all or nothing.
func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for i, c := range m.all() {
		if err := r.Register(c); err != nil {
			for _, done := range m.all()[:i] {
				r.Unregister(done)
			}
			return fmt.Errorf("register store metrics: %w", err)
		}
	}
	m.registry = r
	return nil
}

func (m *metrics) unregister() {
	if m.registry == nil {
		return
	}
	for _, c := range m.all() {
		m.registry.Unregister(c)
	}
}

// sampling is how often the size is looked at.
const sampling = 15 * time.Second

// sample keeps the size metrics until ctx ends. An external etcd tells its size
// to root only; with less the metrics stay 0.
func (s *Store) sample(ctx context.Context) {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	var nearlyFull bool
	for {
		size, quota, err := s.size(ctx)
		switch {
		case errors.Is(err, ErrPermission):
			return
		case err == nil:
			full := s.metrics.sized(size, quota)
			if full && !nearlyFull {
				s.log.Warn("store is nearly full", "bytes", size, "quota", quota)
			}
			nearlyFull = full
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sized sets the size metrics and tells whether the store is nearly full.
func (m *metrics) sized(size, quota int64) bool {
	m.size.Set(float64(size))
	m.quota.Set(float64(quota))
	full := quota > 0 && size >= quota/10*8
	m.alarm.Set(0)
	if full {
		m.alarm.Set(1)
	}
	return full
}

// Usage is how full the store is. An external etcd tells it to root alone: with
// less the error is ErrPermission.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	size, quota, err := s.size(ctx)
	return Usage{Embedded: s.embedded != nil, Size: size, Quota: quota}, err
}

// size asks etcd for its database's size and quota, in bytes; quota 0 means
// unknown (etcd before 3.6).
func (s *Store) size(ctx context.Context) (size, quota int64, err error) {
	var endpoint string
	if eps := s.client.Endpoints(); len(eps) > 0 {
		endpoint = eps[0]
	}
	cctx, done := s.call(ctx)
	defer done()
	st, err := s.client.Status(cctx, endpoint)
	if err != nil {
		return 0, 0, s.failed(ctx, "read size", err)
	}
	return st.DbSize, st.DbSizeQuota, nil
}
