package control

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/netenv/probe"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const agentsPrefix = "/agents/v1/"

// agent is one agent of one cluster, as its certificate says.
type agent struct {
	cluster   trust.ClusterUID
	name      string // "proxy" or "reconciler"
	clusterID string // the cluster's key in the store
	cert      *x509.Certificate
}

// agentRoute is one route of the agents' API.
type agentRoute struct {
	method, path string
	open         bool     // no certificate: the enrolment itself
	only         []string // the agents that it is for
	limit        int64
	handle       func(w http.ResponseWriter, r *http.Request, a *agent, body []byte) error
}

func (c *Control) agentRoutes() []agentRoute {
	return []agentRoute{
		{method: "POST", path: agentsPrefix + "enrol", open: true, limit: 64 << 10, handle: c.enrol},
		{method: "GET", path: agentsPrefix + "state", only: []string{proxy, reconciler}, handle: c.state},
		{method: "POST", path: agentsPrefix + "nonce", only: []string{proxy, reconciler, installer}, limit: 16 << 10, handle: c.nonce},
		{method: "POST", path: agentsPrefix + "report", only: []string{reconciler}, limit: mandate.MaxReport, handle: c.report},
		{method: "GET", path: agentsPrefix + "extensions", only: []string{installer}, handle: c.wanted},
		{method: "POST", path: agentsPrefix + "extensions/report", only: []string{installer}, limit: mandate.MaxExtensionReport, handle: c.installed},
		{method: "POST", path: agentsPrefix + "probe", only: []string{proxy}, limit: probe.MaxReport, handle: c.probe},
	}
}

// serveAgent tells which agent calls before anything else is looked at. rt is
// nil for a path without a route.
func (c *Control) serveAgent(w http.ResponseWriter, r *http.Request, rt *agentRoute) {
	ids := arm.NewRequestIDs(r.Header, newUID())
	ids.Write(w.Header(), c.Location, c.Now())
	err := func() error {
		var a *agent
		if rt == nil || !rt.open {
			var err error
			if a, err = c.identify(r); err != nil {
				return err
			}
		}
		if rt == nil {
			return noRoute(r)
		}
		if a != nil && !slices.Contains(rt.only, a.name) {
			return trust.Errorf(trust.Forbidden, "the %s agent has no business at %s", a.name, rt.path)
		}
		if r.Method != rt.method {
			w.Header().Set("Allow", rt.method)
			return arm.Errorf(trust.Unsupported, arm.MethodNotAllowed, "The agents' API takes %s on %s.", rt.method, rt.path)
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, rt.limit+1))
		if err != nil {
			return trust.Errorf(trust.Invalid, "the request could not be read").Because(err)
		}
		if int64(len(body)) > rt.limit {
			return trust.Errorf(trust.TooLarge, "the request is over the limit of %d bytes", rt.limit)
		}
		return rt.handle(w, r, a, body)
	}()
	if err == nil || errors.Is(err, errStreaming) {
		return
	}
	status, body := arm.Translate(err)
	if status == http.StatusInternalServerError {
		c.Log.ErrorContext(r.Context(), "agent request failed", "request", ids.Request, "path", r.URL.Path, "error", err)
	} else {
		c.Log.InfoContext(r.Context(), "agent refused", "request", ids.Request, "path", r.URL.Path, "status", status, "reason", body.Error.Message)
	}
	w.Header().Set("x-ms-error-code", body.Error.Code)
	writeJSON(w, status, body)
}

// errStreaming: the answer has begun, so its end is all that can tell.
var errStreaming = errors.New("state stream ended")

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", arm.ContentType)
	w.WriteHeader(status)
	// An error is the agent's hanging up.
	_ = json.NewEncoder(w).Encode(v)
}

// identify reads the agent's identity from its certificate, verified here
// against the agents' CA whatever the listener did, and demands that its
// cluster is registered and connected. An agent can ask only for its own
// cluster: nothing in a request names one.
func (c *Control) identify(r *http.Request) (*agent, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, trust.Errorf(trust.Unauthenticated, "the agents' API needs a certificate of an agent; enrol first")
	}
	cert := r.TLS.PeerCertificates[0]
	_, err := cert.Verify(x509.VerifyOptions{Roots: c.AgentCA.Pool(), CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return nil, trust.Errorf(trust.Forbidden, "the certificate is not one of an agent of this installation, or it has ended").Because(err)
	}
	uid, name, err := pki.ParseAgent(cert)
	if err != nil {
		return nil, trust.Errorf(trust.Forbidden, "the certificate names no agent").Because(err)
	}
	item, err := c.clusterByUID(r.Context(), trust.ClusterUID(uid))
	if err != nil {
		return nil, err
	}
	if err := connected(&item.Value); err != nil {
		return nil, err
	}
	return &agent{cluster: trust.ClusterUID(uid), name: name, clusterID: item.Value.Key(), cert: cert}, nil
}

// connected refuses the agents of a cluster that was disconnected. Those of one
// that is being deleted have yet to clean it.
func connected(r *store.Cluster) error {
	if r.Enrolment == nil && !r.Deleting {
		return trust.Errorf(trust.Forbidden, "cluster %s was disconnected", r.UID)
	}
	return nil
}

// clusterByUID finds a registration. One that is not there is of kind
// Forbidden: a uid is not to be probed.
func (c *Control) clusterByUID(ctx context.Context, uid trust.ClusterUID) (store.Item[store.Cluster], error) {
	var none store.Item[store.Cluster]
	unknown := trust.Errorf(trust.Forbidden, "no cluster is registered as %.64s", uid)
	if !arm.ValidGUID(string(uid)) {
		return none, unknown
	}
	m, err := store.Get[store.Mandate](ctx, c.Store, store.Mandate{Cluster: uid}.Key())
	if err != nil {
		return none, missing(err, unknown)
	}
	item, err := store.Get[store.Cluster](ctx, c.Store, store.ResourceKey(m.Value.ClusterID))
	if err == nil && item.Value.UID != uid {
		err = unknown
	}
	if err != nil {
		return none, missing(err, unknown)
	}
	return item, nil
}

// enrolRequest exchanges a cluster's token for a certificate.
type enrolRequest struct {
	Cluster trust.ClusterUID `json:"cluster"`
	Agent   string           `json:"agent"`
	Token   string           `json:"token"`
	CSR     string           `json:"csr"`
}
