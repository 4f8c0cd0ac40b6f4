package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// lastAnswers is how long a listener may take, when it closes, to answer whom it
// let in before; what lasts was ended by the gateway.
const lastAnswers = 5 * time.Second

// serving runs an HTTP server on a listener until ctx ends, and waits for its
// handlers.
func serving(srv *http.Server, l net.Listener) func(context.Context) error {
	callers := &callers{conns: map[net.Conn]struct{}{}}
	srv.ConnState = callers.note
	return func(ctx context.Context) error {
		done := make(chan error, 1)
		go func() { done <- srv.Serve(l) }()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastAnswers)
		defer cancel()
		// Nobody new; whoever is here is answered, and told to go. Shutdown comes
		// after: it drops without an answer what it reads from then on.
		srv.SetKeepAlivesEnabled(false)
		_ = l.Close()
		<-done
		callers.wait(last)
		if err := srv.Shutdown(last); err != nil {
			_ = srv.Close()
		}
		return nil
	}
}

// callers are the connections on which a request is, or may be on its way: those
// that have said nothing yet, and those that wait for an answer.
type callers struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// note is for http.Server.ConnState.
func (c *callers) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive:
		c.conns[conn] = struct{}{}
	default:
		delete(c.conns, conn)
	}
}

func (c *callers) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.conns)
}

// wait returns when there are none, or ctx has ended.
func (c *callers) wait(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for c.count() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
