package control

import "github.com/prometheus/client_golang/prometheus"

// metrics of the control plane.
type metrics struct {
	requests *prometheus.HistogramVec
	streams  prometheus.Gauge
	reports  prometheus.Counter
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_control_request_seconds", Help: "Requests of the control API by route and status.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10},
		}, []string{"route", "status"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sallyport_control_state_streams", Help: "Agents that are listening for their state.",
		}),
		reports: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_control_reports_total", Help: "Reports of reconciler agents taken.",
		}),
	}
}

func (m *metrics) register(to prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.requests, m.streams, m.reports} {
		if err := to.Register(c); err != nil {
			return err
		}
	}
	return nil
}
