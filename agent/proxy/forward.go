package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	wire "github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// upstream is the way to the API server: HTTP/2 for requests, shared by all of
// them, and HTTP/1.1 connections of their own for upgrades. Neither follows
// redirects, honours a proxy or adds credentials.
type upstream struct {
	base *url.URL
	tls  *tls.Config
	h2   *http.Transport
}

func newUpstream(base *url.URL, conf *tls.Config) *upstream {
	t := &http.Transport{
		TLSClientConfig:       conf.Clone(),
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   64,
		DisableCompression:    true, // bytes pass as they are
		WriteBufferSize:       16 << 10,
		ReadBufferSize:        16 << 10,
		ExpectContinueTimeout: time.Second,
		Protocols:             new(http.Protocols),
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetHTTP1(true)
	return &upstream{base: base, tls: conf, h2: t}
}

func (u *upstream) close() { u.h2.CloseIdleConnections() }

// target is the URL of a request target at the API server.
func (u *upstream) target(t wire.Target) *url.URL {
	out := *u.base
	out.Path = joinBase(u.base.Path, t.Path)
	out.RawPath = joinBase(u.base.EscapedPath(), t.Raw)
	out.RawQuery = t.Query
	return &out
}

func joinBase(base, path string) string {
	for base != "" && base[len(base)-1] == '/' {
		base = base[:len(base)-1]
	}
	return base + path
}

// inFlight is a request that was let in, with what forwarding it needs.
type inFlight struct {
	request
	parsed    *wire.Request // nil when it could not be read
	requestID string
	token     string
}

// ServeHTTP decides again and forwards. It is the handler of the tunnel.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handle := tunnel.NewHandle(w, r)
	defer handle.Done()
	q, err := p.admit(handle, r)
	if err != nil {
		p.refuse(w, r, err, q)
		return
	}
	defer p.running.leave(&q.request)
	if q.token, err = p.tokens.get(handle.Context(), q.binding); err != nil {
		p.refuse(w, r, err, q)
		return
	}
	if q.stream {
		as := identityOf(q.token)
		q.as.Store(&as)
	}
	p.metrics.allowed.Inc()
	if q.parsed.Upgrade != "" {
		p.upgrade(w, r, q)
		return
	}
	p.forward(w, r, q)
}

// admit reads the request and decides. Without an error what it returns is
// running, and leave must follow; with one it is what could be read, or nil.
func (p *Proxy) admit(handle *tunnel.Handle, r *http.Request) (*inFlight, error) {
	if !p.watchdog.Fresh() {
		return nil, errStale
	}
	envelope, err := wire.ReadEnvelope(r.Header)
	if err != nil {
		return nil, err
	}
	handle.Name(envelope.RequestID)
	q := &inFlight{request: request{handle: handle, binding: envelope.Binding}, requestID: envelope.RequestID}
	if err := wire.CheckRequestHeaders(r.Header, r.Trailer); err != nil {
		return q, err
	}
	protocol := ""
	if handle.IsUpgrade() {
		if protocol, err = wire.Protocol(r.Header.Get("Upgrade")); err != nil {
			return q, err
		}
	}
	if q.parsed, err = wire.Parse(r.Method, r.RequestURI, protocol); err != nil {
		return q, err
	}
	q.attributes, q.stream = &q.parsed.Attributes, q.parsed.Stream
	return q, p.running.enter(&q.request)
}

// refuse answers with a Status. q is nil for a request that could not be read.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error, q *inFlight) {
	var id string
	var a *trust.Attributes
	if q != nil {
		id, a = q.requestID, q.attributes
	}
	retry := 0
	if trust.KindOf(err) == trust.Unavailable {
		retry = 1
	}
	p.metrics.refused.Inc()
	p.log.InfoContext(r.Context(), "request refused", "request_id", id, "kind", trust.KindOf(err).String(), "error", err)
	w.Header()[wire.RefusedBy] = []string{trust.KindOf(err).String()}
	wire.Refuse(w, r, err, a, retry)
}

// forward carries a request that is no upgrade, and its answer. It does what
// httputil.ReverseProxy would do, less what nothing here needs: copies of
// request and headers, 1xx answers, trailers (the gateway passes neither on).
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, q *inFlight) {
	resp, err := p.upstream.h2.RoundTrip(p.outgoing(r, q))
	if err == nil {
		q.handle.Add(resp.Body) // cancelling alone does not end an answer that nobody reads
		defer resp.Body.Close()
		if err = p.checkAnswer(resp, q); err == nil && resp.StatusCode == http.StatusSwitchingProtocols {
			err = trust.Errorf(trust.Unavailable, "the API server switched protocols without being asked to")
		}
	}
	if err != nil {
		if cause := context.Cause(q.handle.Context()); cause != nil {
			err = cause
		}
		p.refuse(w, r, upstreamError(err), q)
		return
	}
	h := w.Header()
	for name, values := range resp.Header {
		h[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	// An answer without a length may be a stream: each piece goes on at once.
	flowing := resp.ContentLength < 0 && q.parsed.Method != http.MethodHead
	if _, err := tunnel.CopyAnswer(w, resp.Body, flowing); err != nil {
		panic(http.ErrAbortHandler) // the gateway must see that something is missing
	}
}

// outgoing is the request as the API server gets it. The header is edited in
// place: nothing else reads it but who refuses, whose answer it does not change.
func (p *Proxy) outgoing(r *http.Request, q *inFlight) *http.Request {
	dress(r.Header, q)
	out := &http.Request{
		Method: q.parsed.Method, URL: p.upstream.target(q.parsed.Target), Host: p.upstream.base.Host,
		Header: r.Header, Body: r.Body, ContentLength: r.ContentLength,
	}
	if r.ContentLength == 0 {
		out.Body = nil // known to be empty, so that it may be sent again on another connection
	}
	return out.WithContext(q.handle.Context())
}

// dress turns the headers that came through the tunnel into those that the API
// server sees: no identity but the binding's, and the request's id. It is the
// last step, so that nothing can undo it.
func dress(h http.Header, q *inFlight) {
	wire.FilterRequest(h)
	h["Authorization"] = []string{"Bearer " + q.token}
	h[wire.AuditID] = []string{q.requestID}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = []string{""} // none, rather than Go's
	}
}

// checkAnswer turns answers that must not pass into errors.
func (p *Proxy) checkAnswer(resp *http.Response, q *inFlight) error {
	if err := wire.CheckResponse(resp.StatusCode, resp.Header); err != nil {
		return err
	}
	// To the caller a 401 would say that its own token is wrong.
	if resp.StatusCode == http.StatusUnauthorized && !q.parsed.Target.Loose {
		p.tokens.drop(q.binding, q.token)
		return trust.Errorf(trust.Unavailable, "the cluster no longer takes the token of the binding's identity")
	}
	wire.FilterResponse(resp.Header)
	return nil
}

// upstreamError gives an error of the transport a kind; its text stays here.
func upstreamError(err error) error {
	var te *trust.Error
	switch {
	case errors.As(err, &te):
		return err
	case errors.Is(err, context.Canceled):
		return trust.Errorf(trust.Unavailable, "the request was ended").Because(err)
	case errors.Is(err, context.DeadlineExceeded):
		return trust.Errorf(trust.Timeout, "the API server did not answer in time").Because(err)
	}
	return trust.Errorf(trust.Unavailable, "the agent cannot reach the API server").Because(err)
}
