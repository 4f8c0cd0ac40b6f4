package gateway

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.CounterVec // by decision and class of status
	seconds  prometheus.Histogram   // of requests that do not run long
	revoked  prometheus.Histogram
	streams  prometheus.Gauge
	counters map[[2]string]prometheus.Counter
}

var (
	decisions = []string{"allowed", "refused", "unauthenticated", "unavailable"}
	codes     = []string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}
)

func newMetrics(r prometheus.Registerer, g *Gateway) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_gateway_requests_total", Help: "Requests, by decision and class of the answer's status."}, []string{"decision", "code"}),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sallyport_gateway_request_seconds", Help: "Time of requests that do not run long, from the first byte to the last.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60}}),
		revoked:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sallyport_gateway_revocation_seconds", Help: "Time from the word of the store that a right is gone to the end of all that used it.", Buckets: []float64{.0001, .001, .005, .01, .05, .1, .5, 1, 5}}),
		streams:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "sallyport_gateway_streams", Help: "Requests that run long, now: watches, followed logs, shells, forwarded ports, streams of services."}),
		counters: map[[2]string]prometheus.Counter{},
	}
	for _, d := range decisions {
		for _, c := range codes {
			m.counters[[2]string{d, c}] = m.requests.WithLabelValues(d, c)
		}
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.revoked, m.streams,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sallyport_gateway_running", Help: "Requests and streams that run now."},
				func() float64 { return float64(g.flights.count()) }))
	}
	return m
}

func (m *metrics) count(x *exchange) {
	m.counters[[2]string{decisionOf(x), code(x.event.Code)}].Inc()
	if x.event.Allowed && x.event.Upgrade == "" && (x.request == nil || !x.request.Stream) {
		m.seconds.Observe(x.event.At.Sub(x.event.Received).Seconds())
	}
}
