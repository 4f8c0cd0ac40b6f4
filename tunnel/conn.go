package tunnel

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// closeGrace is how long a TLS close may try to say goodbye.
const closeGrace = 250 * time.Millisecond

// watchedConn is what both HTTP/2 implementations get instead of the
// connection itself: it hides *tls.Conn (net/http serves a TLS connection
// with an ALPN name of its own as HTTP/1), gathers what is written, tells when
// it was closed, keeps the reason, and closes in bounded time.
type watchedConn struct {
	net.Conn
	w      *writer
	client atomic.Pointer[http.ClientConn] // at a gateway: what writes
	once   sync.Once
	closed chan struct{} // closed when the connection is closed
	idle   chan struct{} // closed when the writer has ended

	mu    sync.Mutex
	cause error // the first error of a read or write
}

// watch takes charge of conn. The caller must Close what it returns and wait
// until it is idle.
func watch(conn net.Conn, writeTimeout time.Duration) *watchedConn {
	c := &watchedConn{Conn: conn, w: newWriter(conn, writeTimeout), closed: make(chan struct{}), idle: make(chan struct{})}
	go func() {
		defer close(c.idle)
		if err := c.w.run(); !errors.Is(err, net.ErrClosed) {
			c.note(err)
			_ = c.Close()
		}
	}()
	return c
}

// Read implements io.Reader.
func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.note(err)
	}
	return n, err
}

// fewRequests are so few that gathering them would only wake a goroutine more.
// The hello is one of them.
const fewRequests = 4

// Write implements io.Writer; see writer.
func (c *watchedConn) Write(p []byte) (int, error) {
	if refreshesConnection(p) {
		return c.w.hold(p)
	}
	cc := c.client.Load()
	return c.w.write(p, cc != nil && cc.InFlight() <= fewRequests)
}

// SetWriteDeadline does nothing: the writer has its own bound.
func (c *watchedConn) SetWriteDeadline(time.Time) error { return nil }

// refreshesConnection says whether net/http writes no more than a WINDOW_UPDATE
// of the whole connection (RFC 9113, 6.9). It does so for every few KiB that were
// read, of a window of many MiB.
func refreshesConnection(p []byte) bool {
	const header, typeWindowUpdate = 9, 8
	return len(p) == header+4 && p[3] == typeWindowUpdate && p[5]|p[6]|p[7]|p[8] == 0
}

func (c *watchedConn) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = err
	}
}

// reason is the first error that this connection met, nil when it was closed
// from this side first.
func (c *watchedConn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.cause, net.ErrClosed) {
		return nil
	}
	return c.cause
}

// Close may be called by anyone, any number of times.
func (c *watchedConn) Close() error {
	var err error
	c.once.Do(func() {
		c.w.stop(net.ErrClosed)
		err = closeSoon(c.Conn)
		close(c.closed)
	})
	return err
}

// closeSoon closes a connection that may be TLS: crypto/tls spends up to five
// seconds on its goodbye to a peer that does not read.
func closeSoon(conn net.Conn) error {
	if under, ok := conn.(interface{ NetConn() net.Conn }); ok {
		t := time.AfterFunc(closeGrace, func() { _ = under.NetConn().Close() })
		defer t.Stop()
	}
	return conn.Close()
}

// abortConn closes a connection at once: what the kernel has not sent yet is
// dropped, the peer sees a reset.
func abortConn(conn net.Conn) {
	for {
		if w, ok := conn.(*watchedConn); ok { // whose HTTP/2 notices and closes it
			conn = w.Conn
			continue
		}
		under, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = under.NetConn()
	}
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// oneConn is a listener that yields one connection and then blocks until
// closed.
type oneConn struct {
	conn  chan net.Conn
	done  chan struct{}
	close func()
	addr  net.Addr
}

func listenOne(conn net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{}), addr: conn.LocalAddr()}
	l.close = sync.OnceFunc(func() { close(l.done) })
	l.conn <- conn
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error   { l.close(); return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }
