package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// Cluster returns the way into one cluster as an http.RoundTripper; see
// RoundTrip.
func (h *Hub) Cluster(name string) http.RoundTripper { return clusterTripper{h, name} }

type clusterTripper struct {
	hub     *Hub
	cluster string
}

// RoundTrip implements http.RoundTripper.
func (t clusterTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.hub.RoundTrip(t.cluster, req)
}

// RoundTrip sends a request to the agent of a cluster, on the connection with
// fewest requests in flight. Scheme and host of req.URL do not matter;
// req.Host is passed on. Headers pass as they are: hop-by-hop ones are the
// caller's to remove.
//
// When the connection is lost before the answer, a GET or HEAD without a body
// is sent again on another connection, as long as there is one that it has not
// been lost on: an agent's connections all die with it. Nothing else is sent
// twice. Errors wrap
// ErrNoTunnel, ErrBusy, ErrLost, ErrReservedHeader or the cause of the
// request's context.
//
// A request whose context ends, or whose connection does, ends: a body that is
// blocked on either side does not hold it, if the context is a Handle's or
// Close of req.Body makes a blocked Read return.
func (h *Hub) RoundTrip(cluster string, req *http.Request) (*http.Response, error) {
	if hasReserved(req.Header) {
		h.metrics.failed.Inc()
		closeBody(req)
		return nil, fmt.Errorf("tunnel to %s: %w", cluster, ErrReservedHeader)
	}
	body := req.Body != nil && req.Body != http.NoBody
	repeat := !body && (req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == "")
	var before []*link // that it was lost on
	for {
		l, err := h.reserve(cluster, body, before)
		if err != nil {
			if len(before) > 0 {
				err = ErrLost
			}
			h.metrics.count(err)
			closeBody(req)
			return nil, fmt.Errorf("tunnel to %s: %w", cluster, err)
		}
		resp, err := l.roundTrip(req, body)
		if err == nil {
			h.metrics.answered.Inc()
			dropReserved(resp.Header)
			return resp, nil
		}
		if repeat && errors.Is(err, ErrLost) && req.Context().Err() == nil {
			h.metrics.repeated.Inc()
			before = append(before, l)
			continue
		}
		h.metrics.count(err)
		return nil, fmt.Errorf("tunnel to %s: %w", cluster, err)
	}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// roundTrip uses the place that reserve took.
func (l *link) roundTrip(req *http.Request, body bool) (*http.Response, error) {
	out := outgoing(req)
	if caller, ok := req.Context().Value(callerKey{}).(*callerBody); ok && body {
		out.Body = stoppable{req.Body, caller}
	}
	resp, err := l.cc.RoundTrip(out)
	if err != nil {
		if body {
			l.releaseBody()
		}
		return nil, l.explain(req.Context(), err)
	}
	resp.Request = req
	if body {
		resp.Body = l.guard(req.Context(), resp.Body)
	}
	return resp, nil
}

// stoppable is a request body that comes from a caller.
type stoppable struct {
	io.ReadCloser
	caller *callerBody
}

// Close implements io.Closer. The transport calls it when it needs no more.
func (s stoppable) Close() error {
	s.caller.stop()
	return s.ReadCloser.Close()
}

// explain gives an error of the connection its meaning.
func (l *link) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case l.lost():
		return fmt.Errorf("%w: %w", ErrLost, err)
	default:
		return err
	}
}

// outgoing is req with the address that Go's HTTP/2 wants and nothing added
// to its headers.
func outgoing(req *http.Request) *http.Request {
	out := new(http.Request)
	*out = *req
	out.URL = new(url.URL)
	*out.URL = *req.URL
	out.URL.Scheme = "http"
	out.URL.Host = "tunnel"
	if out.Header == nil {
		out.Header = http.Header{}
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header = out.Header.Clone()
		out.Header["User-Agent"] = nil // or net/http adds its own
	}
	return out
}

// guard wraps the answer to a request with a body: it holds the body's place
// until the answer ends, and ends both when ctx does, because Go's transport
// does not look at the context while it waits for the body or for window.
func (l *link) guard(ctx context.Context, answer io.ReadCloser) io.ReadCloser {
	g := &guarded{ReadCloser: answer}
	g.release = sync.OnceFunc(l.releaseBody)
	g.unfollow = context.AfterFunc(ctx, func() {
		g.release()
		_ = answer.Close()
	})
	return g
}

type guarded struct {
	io.ReadCloser
	release  func()
	unfollow func() bool
}

// Read implements io.Reader.
func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if err != nil {
		g.end()
	}
	return n, err
}

// Close implements io.Closer.
func (g *guarded) Close() error {
	g.end()
	return g.ReadCloser.Close()
}

func (g *guarded) end() {
	g.unfollow()
	g.release()
}

// OpenRaw sends an upgrade request, with its original method and an Upgrade
// header, to the agent of a cluster. When the agent has upgraded, the answer
// has status 101, its headers, no body, and the Stream carries what follows;
// the caller ends the Stream. Any other answer comes with a body to be closed
// and no Stream. req.Body is not sent. The Stream ends with the request's
// context. Errors are those of RoundTrip; nothing is sent twice.
func (h *Hub) OpenRaw(cluster string, req *http.Request) (*http.Response, *Stream, error) {
	resp, s, err := h.openRaw(cluster, req)
	if err != nil {
		h.metrics.count(err)
		return nil, nil, fmt.Errorf("tunnel to %s: %w", cluster, err)
	}
	h.metrics.answered.Inc()
	return resp, s, nil
}

func (h *Hub) openRaw(cluster string, req *http.Request) (*http.Response, *Stream, error) {
	closeBody(req)
	if hasReserved(req.Header) {
		return nil, nil, ErrReservedHeader
	}
	method, proto := req.Method, req.Header.Get("Upgrade")
	if method == "" {
		method = http.MethodGet
	}
	if err := checkUpgrade(method, proto); err != nil {
		return nil, nil, fmt.Errorf("upgrade: %w", err)
	}
	l, err := h.reserve(cluster, true, nil)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	body, pipe := io.Pipe()
	out := outgoing(req.WithContext(ctx))
	out.Method = http.MethodPost
	out.Header = out.Header.Clone()
	out.Header.Del("Upgrade")
	out.Header.Del("Connection")
	out.Header[headerMethod] = []string{method}
	out.Header[headerUpgrade] = []string{proto}
	out.Body, out.ContentLength, out.TransferEncoding = body, -1, nil
	resp, err := l.cc.RoundTrip(out)
	if err != nil {
		err = l.explain(ctx, err)
		_ = pipe.CloseWithError(err)
		l.releaseBody()
		cancel(err)
		return nil, nil, err
	}
	resp.Request = req
	up, ok := upgraded(resp)
	if !ok {
		_ = pipe.Close()
		dropReserved(resp.Header)
		// The context lives as long as the answer's body.
		resp.Body = &cancelOnClose{l.guard(ctx, resp.Body), cancel}
		return resp, nil, nil
	}
	h.metrics.raw.Inc()
	answer := resp.Body
	s := &Stream{
		r:          &chunkReader{r: answer},
		w:          pipe,
		closeWrite: pipe.Close,
		ended:      make(chan struct{}),
	}
	s.abort = func(cause error) {
		cancel(cause) // first: closing the answer waits for it
		_ = pipe.CloseWithError(cause)
		_ = answer.Close()
		l.releaseBody()
		h.metrics.raw.Dec()
	}
	context.AfterFunc(ctx, func() { s.End(context.Cause(ctx)) }) // ends with the stream: abort cancels ctx
	return up, s, nil
}

// upgraded turns the agent's 200 that carries an upgrade back into a 101.
func upgraded(resp *http.Response) (*http.Response, bool) {
	if resp.StatusCode != http.StatusOK {
		return nil, false
	}
	status, err := single(resp.Header, headerStatus)
	if err != nil || status != "101" {
		return nil, false
	}
	proto, err := single(resp.Header, headerUpgrade)
	if err != nil || checkUpgrade(http.MethodGet, proto) != nil {
		return nil, false
	}
	up := new(http.Response)
	*up = *resp
	up.StatusCode = http.StatusSwitchingProtocols
	up.Status = "101 Switching Protocols"
	up.Proto, up.ProtoMajor, up.ProtoMinor = "HTTP/1.1", 1, 1
	up.Header = resp.Header.Clone()
	dropReserved(up.Header)
	up.Header.Set("Connection", "Upgrade")
	up.Header.Set("Upgrade", proto)
	up.Body = http.NoBody
	up.ContentLength = 0
	return up, true
}

type cancelOnClose struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

// Close implements io.Closer.
func (c *cancelOnClose) Close() error {
	err := c.ReadCloser.Close()
	c.cancel(context.Canceled)
	return err
}
