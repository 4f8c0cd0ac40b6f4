package router

import (
	"crypto"
	"errors"
	"io"
	"log/slog"
	"net/http"
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
	tokens    *tokens
	table     atomic.Pointer[table]
	seat      seat
	transport *http.Transport
	metrics   *metrics
	access    access
}

// New checks the configuration.
func New(c Config) (*Router, error) {
	if c.Audience == "" || c.Issuer == "" || c.Key == nil || len(c.Namespaces) == 0 || c.Name == "" {
		return nil, errors.New("the router needs a name, audience, issuer, the ML service's key and namespaces")
	}
	if c.MaxBody == 0 {
		c.MaxBody = 100 << 20
	}
	r := &Router{Config: c, transport: newTransport(), access: access{out: c.Access, now: c.Now}}
	r.table.Store(&table{})
	r.metrics = newMetrics(c.Registerer, r.table.Load)
	var err error
	r.tokens, err = newTokens(c.Issuer, c.Key, c.Now, c.Log)
	return r, err
}
