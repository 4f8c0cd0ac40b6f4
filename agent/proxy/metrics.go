package proxy

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	allowed, refused prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_agent_requests_total", Help: "Requests from gateways, by decision.",
	}, []string{"decision"})
	if r != nil {
		r.MustRegister(requests)
	}
	return &metrics{allowed: requests.WithLabelValues("allowed"), refused: requests.WithLabelValues("refused")}
}
