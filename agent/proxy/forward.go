package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
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

type requestKey struct{}

// inFlight is a request that was let in, with what forwarding it needs.
type inFlight struct {
	*request
	parsed    *wire.Request
	requestID string
	token     string
}

// ServeHTTP decides again and forwards. It is the handler of the tunnel.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handle := tunnel.NewHandle(w, r)
	defer handle.Done()
	q, err := p.admit(handle, r)
	if err != nil {
		var a *trust.Attributes
		if q != nil {
			a = &q.attributes
		}
		p.refuse(w, r, err, a)
		return
	}
	defer p.running.leave(q.request)
	if q.token, err = p.tokens.get(handle.Context(), q.binding); err != nil {
		p.refuse(w, r, err, &q.attributes)
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
	p.forward.ServeHTTP(w, r.WithContext(context.WithValue(handle.Context(), requestKey{}, q)))
}

// admit reads the request and decides. What it returns is running: leave must
// follow.
func (p *Proxy) admit(handle *tunnel.Handle, r *http.Request) (*inFlight, error) {
	if !p.watchdog.Fresh() {
		return nil, errStale
	}
	envelope, err := wire.ReadEnvelope(r.Header)
	if err != nil {
		return nil, err
	}
	if err := wire.CheckRequestHeaders(r.Header, r.Trailer); err != nil {
		return nil, err
	}
	protocol := ""
	if handle.IsUpgrade() {
		if protocol, err = wire.Protocol(r.Header.Get("Upgrade")); err != nil {
			return nil, err
		}
	}
	parsed, err := wire.Parse(r.Method, r.RequestURI, protocol)
	if err != nil {
		return nil, err
	}
	q := &inFlight{
		request:   &request{handle: handle, binding: envelope.Binding, attributes: parsed.Attributes, stream: parsed.Stream},
		parsed:    parsed,
		requestID: envelope.RequestID,
	}
	if err := p.running.enter(q.request); err != nil {
		return q, err
	}
	return q, nil
}

func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error, a *trust.Attributes) {
	retry := 0
	if trust.KindOf(err) == trust.Unavailable {
		retry = 1
	}
	p.metrics.refused.Inc()
	p.log.InfoContext(r.Context(), "request refused", "request_id", r.Header.Get("Sallyport-Request-Id"), "kind", trust.KindOf(err).String(), "error", err)
	w.Header()[wire.RefusedBy] = []string{trust.KindOf(err).String()}
	wire.Refuse(w, r, err, a, retry)
}

// newForward is the part for requests that are no upgrades.
func (p *Proxy) newForward() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			q := pr.In.Context().Value(requestKey{}).(*inFlight)
			pr.Out.URL = p.upstream.target(q.parsed.Target)
			pr.Out.Host = pr.Out.URL.Host
			dress(pr.Out.Header, q)
		},
		Transport:  p.upstream.h2,
		BufferPool: tunnel.BufferPool{},
		ModifyResponse: func(resp *http.Response) error {
			q := resp.Request.Context().Value(requestKey{}).(*inFlight)
			return p.checkAnswer(resp, q)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			q := r.Context().Value(requestKey{}).(*inFlight)
			if cause := context.Cause(r.Context()); cause != nil {
				err = cause
			}
			p.refuse(w, r, upstreamError(err), &q.attributes)
		},
		// What ReverseProxy logs is the end of streams, already told otherwise.
		ErrorLog: log.New(discard{}, "", 0),
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

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
