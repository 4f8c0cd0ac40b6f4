package gateway

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// outgoing is the request as the agent gets it: the cleaned target, the headers
// that may pass, the envelope. The caller's header is edited in place; nothing
// else reads it.
func (x *exchange) outgoing(b *bound) (*http.Request, error) {
	h := x.r.Header
	request.FilterRequest(h)
	request.Envelope{Binding: b.UID, Revision: b.revision, RequestID: x.event.ID}.Write(h)
	t := x.request.Target
	out := &http.Request{
		Method: x.request.Method,
		URL:    &url.URL{Path: t.Path, RawPath: t.Raw, RawQuery: t.Query},
		Header: h, Host: "kubernetes",
		Body: x.r.Body, ContentLength: x.r.ContentLength,
	}
	if x.r.ContentLength == 0 {
		out.Body = nil
	}
	if out.URL.RequestURI() != t.URI() {
		return nil, trust.Errorf(trust.Invalid, "the request target has two spellings")
	}
	return out.WithContext(x.handle.Context()), nil
}

// proxy sends an ordinary request and copies the answer.
func (x *exchange) proxy(cluster trust.ClusterUID, out *http.Request) error {
	resp, err := x.g.roundTrip(cluster, out)
	if err != nil {
		return unreachable(err)
	}
	defer resp.Body.Close()
	x.handle.Add(resp.Body) // cancelling alone does not end an answer that nobody reads
	return x.answer(resp)
}

// answer copies an answer to the caller.
func (x *exchange) answer(resp *http.Response) error {
	if err := request.CheckResponse(resp.StatusCode, resp.Header); err != nil {
		return err
	}
	// An answer without a length may be a stream: each piece goes on at once.
	flowing := resp.ContentLength < 0 && x.request.Method != http.MethodHead
	x.event.Code = resp.StatusCode
	if x.request.Stream && resp.StatusCode < 300 || flowing && x.request.Target.Loose {
		x.recordStart(resp.StatusCode)
		x.g.metrics.streams.Inc()
		defer x.g.metrics.streams.Dec()
	}
	if kind := resp.Header.Get(request.RefusedBy); kind != "" {
		x.event.Message = "refused by the cluster's agent (" + kind + ")"
	}
	request.FilterResponse(resp.Header)
	h := x.w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	x.begin()
	x.w.WriteHeader(resp.StatusCode)
	n, err := tunnel.CopyAnswer(x.w, resp.Body, flowing)
	x.event.Out = n
	if err == nil {
		err = x.handle.Context().Err() // ended between two pieces is not complete
	}
	if err != nil {
		if x.event.Ended == "" && x.handle.Context().Err() == nil {
			x.event.Ended = "the answer broke off"
		}
		// The caller must see that something is missing.
		panic(http.ErrAbortHandler)
	}
	if x.event.Ended == "" && x.request.Stream {
		x.event.Ended = "complete"
	}
	return nil
}

// roundTrip takes this replica's own tunnel, or a peer's.
func (g *Gateway) roundTrip(cluster trust.ClusterUID, out *http.Request) (*http.Response, error) {
	if g.peers.enabled() && g.hub.Live(string(cluster)) == 0 {
		if resp, err := g.peers.roundTrip(cluster, out); !errors.Is(err, tunnel.ErrNoTunnel) {
			return resp, err
		}
	}
	return g.hub.RoundTrip(string(cluster), out)
}

// unreachable says what a caller may know of a failed round trip.
func unreachable(err error) error {
	var te *trust.Error
	switch {
	case errors.As(err, &te):
		return te
	case errors.Is(err, tunnel.ErrNoTunnel):
		return trust.Errorf(trust.Unavailable, "the cluster's agent is not connected").Because(err)
	case errors.Is(err, tunnel.ErrBusy):
		return trust.Errorf(trust.Unavailable, "every tunnel to the cluster is at its limit").Because(err)
	case errors.Is(err, tunnel.ErrLost):
		return trust.Errorf(trust.Unavailable, "the tunnel to the cluster was lost before the answer; the request may have been carried out").Because(err)
	}
	return trust.Errorf(trust.Unavailable, "the cluster's agent could not be reached").Because(err)
}
