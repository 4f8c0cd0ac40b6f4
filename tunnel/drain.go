package tunnel

import (
	"context"
	"net/http"
	"time"
)

const (
	confirmTimeout = 2 * time.Second        // how long a gateway may take to confirm a drain
	goawayGrace    = 100 * time.Millisecond // for requests that were on their way when it did
	closeTimeout   = 3 * time.Second        // net/http closes one second after GOAWAY
)

// drainWhenAsked waits for the owner's Drain and ends the connection: notice,
// confirmation, GOAWAY, handlers, close. Each step is bounded. A GOAWAY alone
// would race with requests that are under way, which the gateway may not
// repeat.
func (s *session) drainWhenAsked(server *http.Server) {
	if s.config.Drain == nil {
		return
	}
	select {
	case <-s.config.Drain:
	case <-s.ended:
		return
	}
	if s.state.Load() != stateOpen {
		s.fail(ErrDrained)
		return
	}
	s.note(ErrDrained)
	deadline := time.NewTimer(s.config.DrainTimeout)
	defer deadline.Stop()

	// A notice may block on a connection that does not move.
	stuck := time.AfterFunc(confirmTimeout, func() { _ = s.conn.Close() })
	err := s.notify(noticeDrain)
	stuck.Stop()
	if err != nil || !s.wait(s.drained, confirmTimeout) {
		_ = s.conn.Close()
		return
	}
	s.wait(nil, goawayGrace)
	goaway, cancel := context.WithCancel(context.Background()) //nolint:forbidigo // it ends before it is used
	cancel()                                                   // only the GOAWAY: net/http would wait for the hello too
	_ = server.Shutdown(goaway)

	select {
	case <-s.handlers.whenIdle():
		close(s.goodbye)
		s.wait(nil, closeTimeout)
	case <-deadline.C:
	case <-s.ended:
	}
	_ = s.conn.Close()
}

// wait returns true when c is closed (nil: never) within d, false at once
// when the connection ends.
func (s *session) wait(c <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-c:
		return true
	case <-t.C:
	case <-s.ended:
	}
	return false
}
