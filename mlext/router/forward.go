package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/trust"
)

const (
	buffered    = 64 << 10 // of a body, read before a slot is taken
	bodyTimeout = 30 * time.Second
	// lingering is how long the server may go on reading the body of a request that
	// is answered already, before it answers and lets the connection go.
	lingering = time.Second
	// idle connections are closed sooner than model servers close theirs (gunicorn
	// after 2 s): a request that meets a closing connection may or may not have been
	// taken, so it cannot be sent again.
	idleTimeout = time.Second
	dialTimeout = 2 * time.Second
)

// newTransport carries requests to model servers. It neither follows redirects
// nor honours a proxy.
func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, &notConnected{err}
			}
			return c, nil
		},
		MaxIdleConnsPerHost: 1024, IdleConnTimeout: idleTimeout, DisableCompression: true,
		WriteBufferSize: 8 << 10, ReadBufferSize: 8 << 10, MaxResponseHeaderBytes: 256 << 10,
	}
}

// notConnected says that no byte of a request was sent: another replica may have
// it.
type notConnected struct{ err error }

func (e *notConnected) Error() string { return "no connection: " + e.err.Error() }
func (e *notConnected) Unwrap() error { return e.err }

// The ends of a request that are no answer of a model server.
var (
	errTimedOut = trust.Errorf(trust.Timeout, "the model server did not answer within the deployment's request_timeout_ms")
	errSlowBody = errors.New("the request's body did not come in time")
	errLeft     = errors.New("the caller left")
)

// bodies are buffers. Bodies up to small, which most are, have memory of their own:
// they may wait in great number.
var bodies = sync.Pool{New: func() any { b := make([]byte, buffered); return &b }}

const small = 4 << 10

// payload is a request's body: its beginning in memory, the rest with the
// caller.
type payload struct {
	head   []byte
	rest   io.Reader // nil: head is all
	length int64     // -1: unknown
	ended  atomic.Bool
	failed atomic.Pointer[error] // of reading rest
	whole  *[]byte               // of bodies; nil: head is its own
	open   atomic.Int32          // readers that the transport has not closed
}

// complete tells whether nothing is left with the caller.
func (p *payload) complete() bool { return p != nil && (p.rest == nil || p.ended.Load()) }

// receive reads the beginning of a body, so that a slow caller holds no slot
// while it sends a small one.
func receive(w http.ResponseWriter, r *http.Request, limit int64, within time.Duration) (*payload, error) {
	p := &payload{length: r.ContentLength}
	if p.length == 0 {
		return p, nil
	}
	if p.length > limit {
		return nil, trust.Errorf(trust.TooLarge, "the body has %d bytes, the limit is %d", p.length, limit)
	}
	body := r.Body
	if p.length < 0 {
		body = http.MaxBytesReader(w, body, limit)
	}
	var buf []byte
	if p.length > 0 && p.length <= small {
		buf = make([]byte, p.length)
	} else {
		p.whole = bodies.Get().(*[]byte)
		if buf = *p.whole; p.length > 0 && p.length < buffered {
			buf = buf[:p.length]
		}
	}
	control := http.NewResponseController(w)
	deadline(control.SetReadDeadline, time.Now().Add(within))
	n, err := io.ReadFull(body, buf)
	switch p.head = buf[:n]; {
	case p.length < 0 && (err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF)):
		p.length = int64(n) // that was all
	case err != nil:
		p.release()
		return nil, bodyError(err)
	case p.length < 0 || int64(n) < p.length:
		p.rest = body // what the buffer did not hold
		return p, nil // an attempt sets its own deadline
	}
	// From here on the server watches for a caller that leaves: no deadline may end
	// that.
	deadline(control.SetReadDeadline, time.Time{})
	return p, nil
}

// deadline sets one where there is one to set: a test's recorder has none.
func deadline(set func(time.Time) error, t time.Time) { _ = set(t) }

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return trust.Errorf(trust.TooLarge, "the body is larger than %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errSlowBody
	}
	return errLeft
}

// release gives the buffer back, unless the transport may still read it: it may
// until it closes the body, also after it answered (http.RoundTripper).
func (p *payload) release() {
	if p.whole != nil && p.open.Load() == 0 {
		bodies.Put(p.whole)
	}
	p.whole = nil
}

// reader is the body for one attempt.
func (p *payload) reader() io.ReadCloser {
	switch {
	case p.length == 0:
		return nil
	case p.whole == nil:
		return io.NopCloser(bytes.NewReader(p.head)) // which the transport sends together with the header
	}
	p.open.Add(1)
	return &remaining{p: p, head: p.head}
}

// remaining reads the head and then the rest. Closing it leaves the caller's body
// open: the transport closes what it could not send.
type remaining struct {
	p      *payload
	mu     sync.Mutex // whoever closes waits until head is not being read
	head   []byte
	closed bool
}

// ofHead reads from the head; ok is false when it is read.
func (b *remaining) ofHead(buf []byte) (n int, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, true, http.ErrBodyReadAfterClose
	}
	n = copy(buf, b.head)
	b.head = b.head[n:]
	return n, n > 0 || len(buf) == 0, nil
}

func (b *remaining) Read(buf []byte) (int, error) {
	if n, ok, err := b.ofHead(buf); ok {
		return n, err
	}
	if b.p.rest == nil {
		return 0, io.EOF
	}
	n, err := b.p.rest.Read(buf)
	switch {
	case err == io.EOF:
		b.p.ended.Store(true)
	case err != nil:
		b.p.failed.Store(&err)
	}
	return n, err
}

func (b *remaining) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed, b.head = true, nil
		b.p.open.Add(-1)
	}
	return nil
}

// attempt is one try at one replica. again says that it took no connection, so
// that the request was surely not begun.
func (x *exchange) attempt(at *replica) (again bool, err error) {
	d := x.deployment
	ctx, cancel := context.WithTimeoutCause(x.r.Context(), d.timeout, errTimedOut)
	defer cancel()
	if x.body.rest != nil {
		control := http.NewResponseController(x.w)
		deadline(control.SetReadDeadline, time.Now().Add(d.timeout))
		defer func() {
			left := time.Time{}
			if !x.body.complete() {
				left = time.Now().Add(lingering)
			}
			deadline(control.SetReadDeadline, left)
		}()
	}
	out := (&http.Request{
		Method: http.MethodPost, URL: &url.URL{Scheme: "http", Host: at.address, Path: d.path, RawQuery: x.r.URL.RawQuery}, Host: x.r.Host,
		Header: x.r.Header, Body: x.body.reader(), ContentLength: x.body.length,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	res, err := x.carrier.RoundTrip(out)
	if err != nil {
		var never *notConnected
		if errors.As(err, &never) && context.Cause(ctx) == nil {
			return true, err
		}
		return false, x.ended(ctx, err)
	}
	defer res.Body.Close()
	return false, x.answer(ctx, res)
}

// ended says why an attempt came to nothing.
func (x *exchange) ended(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case x.body.failed.Load() != nil:
		return bodyError(*x.body.failed.Load())
	case errors.Is(cause, errTimedOut):
		return errTimedOut
	case cause != nil:
		return errLeft
	}
	return &modelError{message: "the model server's connection broke before it answered", cause: err}
}

// modelError is a fault of the model server: 502.
type modelError struct {
	message string
	cause   error
}

func (e *modelError) Error() string { return e.message + ": " + e.cause.Error() }
func (e *modelError) Unwrap() error { return e.cause }

var chunks = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// answer passes the model server's answer on. A fault of the model (5xx) is 502,
// as Azure's routers have it, with what it was in two headers.
func (x *exchange) answer(ctx context.Context, res *http.Response) error {
	if res.StatusCode < 200 {
		return &modelError{message: "the model server switched protocols without being asked to", cause: errors.New(res.Status)}
	}
	h := x.w.Header()
	incoming(h, res.Header)
	x.entry.status, x.entry.model = res.StatusCode, res.StatusCode
	if res.StatusCode >= 500 {
		h[modelStatusHeader], h[modelReasonHeader] = []string{strconv.Itoa(res.StatusCode)}, []string{"model_error"}
		x.entry.status = http.StatusBadGateway
	}
	// An answer without a length may be a stream: each piece goes on at once.
	flowing := res.ContentLength < 0
	control := http.NewResponseController(x.w)
	if flowing || res.ContentLength > 32<<10 {
		// A caller that does not read must not keep the slot.
		end, _ := ctx.Deadline()
		deadline(control.SetWriteDeadline, end)
		defer func() { deadline(control.SetWriteDeadline, time.Now().Add(WriteTimeout)) }()
	}
	x.begun = true
	x.w.WriteHeader(x.entry.status)
	chunk := chunks.Get().(*[]byte)
	defer chunks.Put(chunk)
	for {
		n, err := res.Body.Read(*chunk)
		if n > 0 {
			x.entry.written += int64(n)
			if _, failed := x.w.Write((*chunk)[:n]); failed != nil {
				return errLeft
			}
			if flowing {
				if control.Flush() != nil {
					return errLeft
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return x.ended(ctx, err)
		}
	}
}
