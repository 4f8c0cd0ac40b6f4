package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// ErrEnded is returned by a Handle that End or Done came before.
var ErrEnded = errors.New("request has ended")

// resetGrace is how long an HTTP/2 connection may take to send a reset. One
// that does not move by then is cut: the rest of a frame would follow as soon
// as its peer reads again.
const resetGrace = 500 * time.Millisecond

type netConnKey struct{}

// ConnContext goes into the http.Server of a gateway, so that a Handle can cut
// a caller's connection. Without it, net/http spends five seconds on the TLS
// goodbye to a caller that does not read.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, netConnKey{}, conn)
}

// longAgo as a deadline fails every read and write, blocked ones included.
var longAgo = time.Unix(1, 0)

// A Handle is one running request of an http.Handler, with everything it
// holds, that may be ended from outside at any moment. Both the gateway (for
// the caller's request) and the agent (for a request from the tunnel) make one
// per request:
//
//	h := tunnel.NewHandle(w, r)
//	defer h.Done()
//	proxy.ServeHTTP(w, r.WithContext(h.Context()))
//
// Cancelling a context is not enough, hence Handle: in Go's HTTP/2 a writer
// whose reader pauses, a request body that nothing arrives on and an upgraded
// connection stay blocked; and after Hijack net/http cancels the request's
// context as soon as the caller closes its sending direction.
type Handle struct {
	ctx    context.Context // of its own: cancelled by End, Done, or the caller's going away before a Hijack
	cancel context.CancelCauseFunc
	detach func() bool // stops following the request's context
	rc     *http.ResponseController
	caller *callerBody // nil without a body
	body   io.Closer
	raw    *rawRequest     // not nil for an upgrade that came through the tunnel
	under  net.Conn        // what carries the request, if ConnContext is in place
	shared bool            // by other requests: HTTP/2
	over   <-chan struct{} // the request's own context: closed when an HTTP/2 stream is reset
	name   string          // "": the gateway is told nothing

	mu      sync.Mutex // guards what follows, and orders End, Hijack, Upgrade and Done
	ended   bool
	done    bool
	conn    net.Conn // hijacked
	closers []io.Closer
	closing sync.WaitGroup
	cut     *time.Timer // resetGrace
}

// NewHandle takes charge of a request. It must be called in the handler, with
// its own w and r (or wrappers with Unwrap), and Done must be called before
// the handler returns. r.Body is replaced by one whose Close makes a blocked
// Read return, which net/http's HTTP/1 body does not.
func NewHandle(w http.ResponseWriter, r *http.Request) *Handle {
	growStack(0)
	h := &Handle{rc: http.NewResponseController(w), shared: r.ProtoMajor > 1, over: r.Context().Done()}
	h.under, _ = r.Context().Value(netConnKey{}).(net.Conn)
	if r.Body != nil && r.Body != http.NoBody {
		h.caller = &callerBody{ReadCloser: r.Body, rc: h.rc}
		r.Body, h.body = h.caller, h.caller
	}
	base := context.WithoutCancel(r.Context())
	if h.caller != nil {
		base = context.WithValue(base, callerKey{}, h.caller)
	}
	h.ctx, h.cancel = context.WithCancelCause(base)
	h.raw, _ = r.Context().Value(rawKey{}).(*rawRequest)
	if h.raw != nil {
		h.body = h.raw.body
	}
	h.detach = context.AfterFunc(r.Context(), func() { h.end(context.Cause(r.Context()), "") })
	return h
}

// Name gives a request that came through the tunnel the name by which its
// gateway knows it, at most 48 bytes of printable ASCII without spaces. When End
// is called here, the gateway is told (Config.OnEnded): of a request whose
// caller does not read it would notice the end only behind everything that was
// under way. It must be called in the handler, before anyone can call End.
func (h *Handle) Name(name string) {
	if isName(name) {
		h.name = name
	}
}

// growStack makes the calling goroutine's stack large enough for the whole way
// of a request. net/http begins each request on a new goroutine whose small
// stack grows by being copied, each time with every frame that it holds by
// then. Grown here it is copied once, early, with few of them.
//
//go:noinline
func growStack(i int) byte {
	var room [5 << 10]byte // more than any step below a handler needs, net/http's included
	return room[i&1]
}

// callerBody is the body of a caller's request. When the far side ends early,
// the transport closes it while a Read may wait for the caller; HTTP/1's Close
// would then wait with it, and so would everything up to the handler. Besides,
// httputil.ReverseProxy keeps that Close from it, so that RoundTrip finds it
// through the context.
type callerBody struct {
	io.ReadCloser
	rc *http.ResponseController

	mu      sync.Mutex // guards what follows
	reading int
	closed  bool
}

type callerKey struct{}

// Read implements io.Reader.
func (b *callerBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	}
	b.reading++
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.reading--
	b.mu.Unlock()
	return n, err
}

// Close implements io.Closer.
func (b *callerBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

// stop ends reading. Handle.Done calls it, because no deadline may be set
// once the handler has returned.
func (b *callerBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed && b.reading > 0 {
		_ = b.rc.SetReadDeadline(longAgo)
	}
	b.closed = true
}

// Context is cancelled when the request ends; context.Cause tells why. It
// carries the values of the request's context and outlives a Hijack.
func (h *Handle) Context() context.Context { return h.ctx }

// IsUpgrade reports whether the request came through OpenRaw, so that Upgrade
// may be called.
func (h *Handle) IsUpgrade() bool { return h.raw != nil }

// End ends the request now, whatever it waits for: the context is cancelled
// with cause, reads and writes towards the caller fail from here on, a
// hijacked connection is reset, both bodies and everything given to Add are
// closed. When End returns, no further byte is written to the caller; closing
// the rest goes on and Done waits for it. Only the first End counts; it may
// come from any goroutine, and does nothing after Done.
func (h *Handle) End(cause error) { h.end(cause, h.name) }

// end tells the gateway that the request of that name has ended; "": it knows,
// since it has ended the request itself.
func (h *Handle) end(cause error, name string) {
	if cause == nil {
		cause = context.Canceled
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.done {
		return
	}
	h.ended = true
	h.cancel(cause)
	if h.conn != nil {
		abortConn(h.conn)
	} else {
		h.stopTransfer()
	}
	// Closing may wait for a writer elsewhere (Go's HTTP/2 transport takes
	// the connection's write lock), so it never holds up the caller of End.
	for _, c := range append(h.closers, h.body) {
		h.closeLater(c, cause)
	}
	h.closers = nil
	if s, ok := h.ctx.Value(sessionKey{}).(*session); ok && name != "" {
		// It may wait for the connection. An error is that the connection has
		// ended, and the gateway's request with it.
		h.closing.Go(func() { _ = s.notify(noticeEnded + name) })
	}
}

// stopTransfer needs h.mu.
func (h *Handle) stopTransfer() {
	// Writes first: they are what must stop. A writer that has no deadlines (a
	// recorder in a test) has nothing that could block.
	_ = h.rc.SetWriteDeadline(longAgo)
	_ = h.rc.SetReadDeadline(longAgo)
	switch {
	case h.under == nil:
	case !h.shared:
		abortConn(h.under)
	default:
		h.cut = time.AfterFunc(resetGrace, func() {
			select {
			case <-h.over:
			default:
				abortConn(h.under)
			}
		})
	}
}

// closeLater needs h.mu.
func (h *Handle) closeLater(c io.Closer, cause error) {
	if c == nil {
		return
	}
	h.closing.Go(func() { closeOne(c, cause) })
}

// closeOne closes what Add took; with a cause nothing waits for a goodbye.
func closeOne(c io.Closer, cause error) {
	switch c := c.(type) {
	case *Stream:
		c.End(cause)
	case net.Conn:
		if cause != nil {
			abortConn(c)
		} else {
			_ = closeSoon(c)
		}
	default:
		_ = c.Close()
	}
}

// Add puts something under the handle, to be closed by End or Done: an
// upstream connection (End resets it), a *Stream. After End it is closed at
// once.
func (h *Handle) Add(c io.Closer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.done {
		h.closeLater(c, context.Cause(h.ctx))
		return
	}
	h.closers = append(h.closers, c)
}

// Done lets go of the request: the handler is about to return. It closes what
// Add took and a hijacked connection, and waits for what End started.
func (h *Handle) Done() {
	h.detach()
	h.mu.Lock()
	h.done = true
	if h.caller != nil {
		h.caller.stop()
	}
	var only io.Closer
	if !h.ended {
		if len(h.closers) == 1 && h.conn == nil {
			only = h.closers[0] // the answer of most requests: no need for a goroutine
		} else {
			for _, c := range h.closers {
				h.closeLater(c, nil)
			}
		}
		h.closers = nil
		if h.conn != nil {
			conn := h.conn
			h.closing.Go(func() { _ = closeSoon(conn) })
		}
	}
	h.mu.Unlock()
	if only != nil {
		closeOne(only, nil)
	}
	h.closing.Wait()
	if h.cut != nil {
		h.cut.Stop()
	}
	h.cancel(context.Canceled)
}

// Hijack takes the caller's connection over, as http.Hijacker; without
// deadlines, and under the handle: End resets it, Done closes it. The handle's
// context no longer follows the request's, which net/http cancels when the
// caller half-closes.
func (h *Handle) Hijack() (*Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.done {
		return nil, ErrEnded
	}
	conn, rw, err := h.rc.Hijack()
	if err != nil {
		return nil, fmt.Errorf("hijack: %w", err)
	}
	h.detach()
	h.conn = conn
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("hijack: clear deadlines: %w", err)
	}
	return &Conn{Conn: conn, buffered: rw.Reader}, nil
}

// Upgrade answers an upgrade that came through OpenRaw: header goes to the
// gateway as that of a 101 answer, then both directions are raw bytes. The
// Upgrade value comes from header, or is the requested one. The stream is
// under the handle.
func (h *Handle) Upgrade(header http.Header) (*Stream, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.done {
		return nil, ErrEnded
	}
	if h.raw == nil {
		return nil, errors.New("upgrade: the request is not one")
	}
	s, err := h.raw.accept(header)
	if err != nil {
		return nil, fmt.Errorf("upgrade: %w", err)
	}
	h.closers = append(h.closers, s)
	return s, nil
}

// Conn is a hijacked connection: reads begin with what net/http had read
// ahead.
type Conn struct {
	net.Conn
	buffered *bufio.Reader
}

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) {
	if c.buffered != nil {
		if n := c.buffered.Buffered(); n > 0 {
			return c.buffered.Read(p[:min(n, len(p))])
		}
		c.buffered = nil
	}
	return c.Conn.Read(p)
}

// Close says goodbye for a moment at most, to a peer that may not read.
func (c *Conn) Close() error { return closeSoon(c.Conn) }

// CloseWrite ends the sending direction and leaves the other one open.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(halfCloser); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
