package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ServeConfig is what the agent's side of one connection needs. The zero
// value works.
type ServeConfig struct {
	Log    *slog.Logger
	Limits Limits
	// Welcome decides on the gateway's hello: an error refuses the
	// connection. replica is "" when the gateway names none.
	Welcome func(replica string) error
	// OnDrain is called when the gateway asked to go elsewhere; what runs
	// may end, and the gateway closes the connection afterwards.
	OnDrain func()
	// Drain, when it is closed, ends the connection gracefully: the gateway
	// sends nothing new, what runs has DrainTimeout (30 s) to end.
	Drain        <-chan struct{}
	DrainTimeout time.Duration
	// Proofs, if not nil, are said to the gateway, each as it comes; see Term.
	Proofs <-chan string
}

// ErrDrained is returned by Serve when the connection ended because either
// side drained it.
var ErrDrained = errors.New("tunnel drained")

// Serve answers the requests that come through a connection to a gateway (a
// *tls.Conn from Dial) with handler, and returns after the connection has
// ended and every handler has returned. The error says why it ended and is
// never nil. Cancelling ctx closes the connection at once.
//
// A request that was sent with OpenRaw arrives with its original method, its
// Upgrade header and no body; Handle.Upgrade answers it. Handlers must return
// when their Handle has ended.
func Serve(ctx context.Context, conn net.Conn, handler http.Handler, c ServeConfig) error {
	s := newSession(conn, handler, c)
	defer func() { <-s.conn.idle }()
	if err := conn.SetDeadline(time.Time{}); err != nil {
		_ = s.conn.Close()
		return fmt.Errorf("serve tunnel: %w", err)
	}
	defer context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })()
	timer := time.AfterFunc(s.limits.Hello, func() {
		if s.state.Load() != stateOpen {
			s.fail(errNoHello)
		}
	})
	defer timer.Stop()

	served := make(chan struct{})
	listener := listenOne(s.conn)
	server := s.server(listener)
	go func() {
		defer close(served)
		_ = server.Serve(listener) // always net.ErrClosed: the listener has one connection
	}()
	var own sync.WaitGroup
	own.Go(func() { s.drainWhenAsked(server) })
	own.Go(s.proveWhenAsked)

	<-s.ended
	<-served
	own.Wait()
	s.handlers.closeAndWait()
	if !s.state.CompareAndSwap(stateNew, stateOver) {
		<-s.bye
	}
	return s.reason()
}

type sessionKey struct{}

// session is one connection as the agent sees it.
type session struct {
	log     *slog.Logger
	limits  Limits
	config  ServeConfig
	handler http.Handler
	conn    *watchedConn
	ended   chan struct{} // closed when net/http is done with the connection

	state    atomic.Int32
	handlers gate // the caller's handlers, not the hello

	drained  chan struct{} // closed when the gateway has confirmed a drain
	goodbye  chan struct{} // closed to end the hello
	bye      chan struct{} // closed when the hello's handler returns
	noticeMu sync.Mutex    // guards notices, and keeps the hello's handler while one is written
	notices  io.Writer     // the hello's answer while its handler runs, else nil

	mu    sync.Mutex
	cause error // why this side ended the connection, if it did
}

func newSession(conn net.Conn, handler http.Handler, c ServeConfig) *session {
	limits := c.Limits.withDefaults()
	s := &session{
		log:     c.Log,
		limits:  limits,
		config:  c,
		handler: handler,
		conn:    watch(conn, limits.WriteTimeout),
		ended:   make(chan struct{}),
		drained: make(chan struct{}),
		goodbye: make(chan struct{}),
		bye:     make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.config.Welcome == nil {
		s.config.Welcome = func(string) error { return nil }
	}
	if s.config.OnDrain == nil {
		s.config.OnDrain = func() {}
	}
	if s.config.DrainTimeout <= 0 {
		s.config.DrainTimeout = 30 * time.Second
	}
	return s
}

// server makes the HTTP/2 server of the one connection.
func (s *session) server(l *oneConn) *http.Server {
	srv := &http.Server{
		Handler:        http.HandlerFunc(s.serve),
		MaxHeaderBytes: maxHeaderBytes,
		HTTP2:          s.limits.agentHTTP2(),
		Protocols:      new(http.Protocols),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ConnContext(ctx, conn), sessionKey{}, s)
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				_ = s.conn.Close()
				_ = l.Close()
				close(s.ended)
			}
		},
	}
	srv.Protocols.SetUnencryptedHTTP2(true) // TLS is done: the connection comes with it
	return srv
}

// The states of a session.
const (
	stateNew   = iota // no request yet
	stateHello        // the hello is being answered
	stateOpen         // requests are served
	stateOver         // ended before a hello came
)

// serve is the handler of every request. Only the first one can be a hello,
// and nothing is served before it was accepted.
func (s *session) serve(w http.ResponseWriter, r *http.Request) {
	if s.state.Load() != stateOpen {
		if !s.state.CompareAndSwap(stateNew, stateHello) {
			s.fail(errors.New("gateway sent a request before its hello was answered"))
			panic(http.ErrAbortHandler)
		}
		defer close(s.bye)
		s.hello(w, r)
		return
	}
	if !s.handlers.enter() {
		panic(http.ErrAbortHandler)
	}
	defer s.handlers.leave()
	method, proto, upgrade, err := parseUpgrade(r)
	if err != nil {
		http.Error(w, "tunnel: "+err.Error(), http.StatusBadRequest)
		return
	}
	if upgrade {
		w, r = newRaw(w, r, method, proto)
	}
	s.handler.ServeHTTP(w, r)
}

// hello answers the gateway's hello and stays as long as the connection.
func (s *session) hello(w http.ResponseWriter, r *http.Request) {
	replica, err := parseHello(r)
	if err != nil {
		s.fail(fmt.Errorf("hello: %w", err))
		http.Error(w, "tunnel: "+err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set(headerVersion, helloVersion)
	if err := s.config.Welcome(replica); err != nil {
		s.note(err)
		w.WriteHeader(http.StatusConflict)
		return // the gateway closes
	}
	out := flushWriter{w, http.NewResponseController(w).Flush}
	s.state.Store(stateOpen)
	w.WriteHeader(http.StatusOK)
	if err := out.flush(); err != nil {
		return
	}
	s.setNotices(out)
	defer s.setNotices(nil)
	s.log.InfoContext(r.Context(), "tunnel live", "replica", replica, "gateway", s.conn.RemoteAddr().String())
	var reading sync.WaitGroup
	reading.Go(func() {
		confirmed := sync.OnceFunc(func() { close(s.drained) })
		err := readNotices(r.Body, func(word string) {
			switch word {
			case noticeDrain:
				s.note(ErrDrained)
				s.config.OnDrain()
			case noticeDrained:
				confirmed()
			}
		})
		select {
		case <-s.goodbye: // which closes the body under the reader
		case <-r.Context().Done():
		default:
			if err != nil {
				s.fail(err)
			}
		}
	})
	select {
	case <-s.goodbye:
		_ = r.Body.Close()
	case <-r.Context().Done():
	}
	reading.Wait()
}

func (s *session) setNotices(w io.Writer) {
	s.noticeMu.Lock()
	defer s.noticeMu.Unlock()
	s.notices = w
}

// notify sends one word to the gateway; it blocks while the connection does.
func (s *session) notify(word string) error {
	s.noticeMu.Lock()
	defer s.noticeMu.Unlock()
	if s.notices == nil {
		return net.ErrClosed
	}
	_, err := io.WriteString(s.notices, word+"\n")
	return err
}

type flushWriter struct {
	w     io.Writer
	flush func() error
}

func (f flushWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.flush()
	}
	return n, err
}

// note keeps the first reason for the end of the connection.
func (s *session) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = err
	}
}

// fail closes the connection.
func (s *session) fail(err error) {
	s.note(err)
	_ = s.conn.Close()
}

func (s *session) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	if broken := s.conn.reason(); broken != nil {
		return fmt.Errorf("connection lost: %w", broken)
	}
	return errors.New("connection lost: the gateway does not answer pings or broke the protocol")
}

// gate counts running handlers and lets none in once it is closed.
type gate struct {
	mu      sync.Mutex
	running int
	closed  bool
	idle    []chan struct{} // closed at the next moment that none runs
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.running++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.running == 0 {
		for _, c := range g.idle {
			close(c)
		}
		g.idle = nil
	}
}

// whenIdle is closed as soon as no handler runs.
func (g *gate) whenIdle() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := make(chan struct{})
	if g.running == 0 {
		close(c)
	} else {
		g.idle = append(g.idle, c)
	}
	return c
}

func (g *gate) closeAndWait() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	<-g.whenIdle()
}
