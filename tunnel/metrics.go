package tunnel

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// hubMetrics are the gateway's numbers. No label names a cluster: there may
// be thousands.
type hubMetrics struct {
	answered, repeated, none, busy, lost, cancelled, failed prometheus.Counter

	raw prometheus.Gauge
}

func newHubMetrics(reg prometheus.Registerer, h *Hub) *hubMetrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_tunnel_requests_total",
		Help: "Requests sent through tunnels, by result.",
	}, []string{"result"})
	m := &hubMetrics{
		answered:  requests.WithLabelValues("answered"),
		repeated:  requests.WithLabelValues("repeated"),
		none:      requests.WithLabelValues("no_tunnel"),
		busy:      requests.WithLabelValues("busy"),
		lost:      requests.WithLabelValues("lost"),
		cancelled: requests.WithLabelValues("cancelled"),
		failed:    requests.WithLabelValues("failed"),
		raw: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_tunnel_raw_streams",
			Help: "Upgraded streams open.",
		}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(requests, m.raw,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_tunnel_connections",
			Help: "Tunnel connections that take requests.",
		}, func() float64 { live, _, _ := h.totals(); return float64(live) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_tunnel_clusters",
			Help: "Clusters with a tunnel connection.",
		}, func() float64 { _, clusters, _ := h.totals(); return float64(clusters) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sallyport_tunnel_requests_in_flight",
			Help: "Requests running through tunnels.",
		}, func() float64 { _, _, running := h.totals(); return float64(running) }),
	)
	return m
}

func (m *hubMetrics) count(err error) {
	switch {
	case errors.Is(err, ErrNoTunnel):
		m.none.Inc()
	case errors.Is(err, ErrBusy):
		m.busy.Inc()
	case errors.Is(err, ErrLost):
		m.lost.Inc()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		m.cancelled.Inc()
	default:
		m.failed.Inc()
	}
}

// totals counts connections that take requests, clusters that have one, and
// requests in flight without the hellos.
func (h *Hub) totals() (live, clusters, running int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for name, links := range h.links {
		if n := h.liveLocked(name); n > 0 {
			live += n
			clusters++
		}
		for _, l := range links {
			running += max(0, l.cc.InFlight()-1)
		}
	}
	return live, clusters, running
}
