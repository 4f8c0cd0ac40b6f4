package router

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of a router. The labels are names: keys are in none.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	queued   *prometheus.HistogramVec
	retried  prometheus.Counter
	refused  prometheus.Counter
}

// deploymentMetrics are those of one deployment, looked up once.
type deploymentMetrics struct {
	requests *prometheus.CounterVec
	seconds  prometheus.Observer
	queued   prometheus.Observer
	ok       prometheus.Counter

	mu     sync.Mutex // guards others
	others map[int]prometheus.Counter
}

var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

func newMetrics(r prometheus.Registerer, current func() *table) *metrics {
	labels := []string{"endpoint", "deployment", "uid"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sallyport_router_requests_total", Help: "Requests that a deployment was chosen for, by status of the answer."}, append(labels, "code")),
		seconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sallyport_router_request_seconds", Help: "Time of a request, from its head to the end of the answer.", Buckets: buckets}, labels),
		queued:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sallyport_router_queue_seconds", Help: "Time that a request waited for a replica with room.", Buckets: buckets}, labels),
		retried:  prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_router_retries_total", Help: "Requests sent to another replica since the first took no connection."}),
		refused:  prometheus.NewCounter(prometheus.CounterOpts{Name: "sallyport_router_refused_total", Help: "Requests that no deployment was chosen for: without a good key or token, or to nothing that there is."}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.queued, m.retried, m.refused, &poolCollector{current})
	}
	return m
}

func (m *metrics) of(e, d *wireNames) *deploymentMetrics {
	by := prometheus.Labels{"endpoint": e.name, "deployment": d.name, "uid": d.uid}
	requests := m.requests.MustCurryWith(by)
	return &deploymentMetrics{requests: requests, seconds: m.seconds.With(by), queued: m.queued.With(by), ok: requests.WithLabelValues("200"), others: map[int]prometheus.Counter{}}
}

// forget drops the series of a deployment that is gone.
func (m *metrics) forget(uid string) {
	by := prometheus.Labels{"uid": uid}
	m.requests.DeletePartialMatch(by)
	m.seconds.DeletePartialMatch(by)
	m.queued.DeletePartialMatch(by)
}

func (m *deploymentMetrics) observe(e *entry) {
	m.seconds.Observe(e.took.Seconds())
	if e.waited > 50*time.Microsecond { // it had to wait: the others are the difference of the counts
		m.queued.Observe(e.waited.Seconds())
	}
	if e.status == 200 {
		m.ok.Inc()
		return
	}
	m.mu.Lock()
	c := m.others[e.status]
	if c == nil {
		c = m.requests.WithLabelValues(strconv.Itoa(e.status))
		m.others[e.status] = c
	}
	m.mu.Unlock()
	c.Inc()
}

// poolCollector reads pools when it is asked.
type poolCollector struct{ current func() *table }

var poolLabels = []string{"deployment", "uid"}

var (
	descReady   = prometheus.NewDesc("sallyport_router_replicas", "Replicas that take requests.", poolLabels, nil)
	descHeld    = prometheus.NewDesc("sallyport_router_slots", "Slots of replicas that this router holds.", poolLabels, nil)
	descBusy    = prometheus.NewDesc("sallyport_router_busy", "Requests at replicas, from this router.", poolLabels, nil)
	descWaiting = prometheus.NewDesc("sallyport_router_queued", "Requests that wait for a replica with room.", poolLabels, nil)
)

// Describe lists the gauges.
func (c *poolCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReady, descHeld, descBusy, descWaiting} {
		out <- d
	}
}

// Collect reads the gauges of every deployment.
func (c *poolCollector) Collect(out chan<- prometheus.Metric) {
	for uid, d := range c.current().deployments {
		ready, held, busy, waiting := d.pool.current()
		for desc, v := range map[*prometheus.Desc]int{descReady: ready, descHeld: held, descBusy: busy, descWaiting: waiting} {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(v), d.name, uid)
		}
	}
}
