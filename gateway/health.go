package gateway

import (
	"net/http"

	"github.com/sallyport/sallyport/trust"
)

// Ready is nil while requests are let through: the store was heard lately, the
// lease is held, the audit log takes records, and nothing drains.
func (g *Gateway) Ready() error {
	if g.draining.Load() {
		return errShutdown
	}
	if err := g.table.ready(g.now()); err != nil {
		return err
	}
	if err := g.replica.ready(); err != nil {
		return err
	}
	return g.config.Audit.Ready()
}

// Running is the number of requests and streams that run now.
func (g *Gateway) Running() int { return g.flights.count() }

// code is a metric label.
func code(status int) string {
	switch {
	case status == 0:
		return "none"
	case status < 200:
		return "1xx"
	case status < 300:
		return "2xx"
	case status < 400:
		return "3xx"
	case status < 500:
		return "4xx"
	}
	return "5xx"
}

// decisionOf is a metric label.
func decisionOf(x *exchange) string {
	switch {
	case x.event.Allowed:
		return "allowed"
	case x.event.Caller == nil && x.event.Code == http.StatusUnauthorized:
		return trust.Unauthenticated.String()
	case x.event.Code == http.StatusServiceUnavailable:
		return trust.Unavailable.String()
	}
	return "refused"
}
