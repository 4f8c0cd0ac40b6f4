package audit

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	lost     prometheus.Counter
	failures prometheus.Counter
}

func newMetrics(r prometheus.Registerer, l *Log) *metrics {
	m := &metrics{
		lost:     prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_audit_lost_total", Help: "Audit records that were not written."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_audit_write_failures_total", Help: "Writes that the audit sink did not take."}),
	}
	if r != nil {
		r.MustRegister(m.lost, m.failures, prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Name: "sallyport_audit_queued", Help: "Audit records that wait to be written."},
			func() float64 { return float64(l.unwritten.Load()) }))
	}
	return m
}
