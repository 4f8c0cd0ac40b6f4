package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection as the gateway sees it.
type link struct {
	hub      *Hub
	cluster  string
	cc       *http.ClientConn
	conn     *watchedConn
	draining atomic.Bool  // the agent asked for nothing new
	bodies   atomic.Int32 // places taken by requests with a body

	term   Term
	until  atomic.Int64 // of the term, Unix nanoseconds; 0: no end
	lapsed atomic.Bool  // the term is over

	notices *io.PipeWriter // the body of the hello
	answer  io.Closer      // of the hello
	cancel  context.CancelFunc
	reading sync.WaitGroup // the goroutine that reads the agent's notices

	mu  sync.Mutex
	bad error // why this side closed the connection, if it did
}

var errNoHello = errors.New("no answer in time")

// hello opens the first stream and waits for the agent's answer to it. After
// an error nothing is left running.
func (l *link) hello(ctx context.Context) error {
	// The stream lives as long as the connection, which ends with ctx.
	ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	body, notices := io.Pipe()
	l.notices = notices
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tunnel"+helloPath, body)
	if err != nil {
		return err
	}
	req.Header[headerVersion] = []string{helloVersion}
	req.Header[headerReplica] = []string{l.hub.replica}
	req.Header["User-Agent"] = nil
	timer := time.AfterFunc(l.hub.limits.Hello, func() { l.fail(errNoHello) })
	defer timer.Stop()
	resp, err := l.cc.RoundTrip(req)
	if err != nil {
		l.cancel()
		if cause := l.failure(); cause != nil {
			return cause
		}
		return err
	}
	l.answer = resp.Body
	if err := checkHelloAnswer(resp); err != nil {
		l.bye()
		return err
	}
	l.reading.Go(func() {
		err := readNotices(resp.Body, l.notice)
		if err != nil && ctx.Err() == nil {
			l.fail(err)
		}
	})
	return nil
}

func checkHelloAnswer(resp *http.Response) error {
	if resp.StatusCode == http.StatusConflict {
		return ErrRefused
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("agent answered %s", resp.Status)
	}
	version, err := single(resp.Header, headerVersion)
	if err != nil {
		return err
	}
	if version != helloVersion {
		return fmt.Errorf("agent speaks tunnel version %q, this side %q", version, helloVersion)
	}
	return nil
}

// notice handles one word of the agent.
func (l *link) notice(word string) {
	if name, ok := parseEnded(word); ok {
		l.hub.onEnded(l.cluster, name)
		return
	}
	if proof, ok := strings.CutPrefix(word, noticeRenew); ok {
		l.renew(proof)
		return
	}
	if word != noticeDrain {
		return
	}
	l.hub.change(l.cluster, func() { l.draining.Store(true) })
	l.hub.log.Info("agent drains a tunnel", "cluster", l.cluster)
	l.notify(noticeDrained)
}

// notify sends one word to the agent; it blocks while the connection does.
// A connection that has ended needs no words, so there is no error.
func (l *link) notify(word string) { _, _ = io.WriteString(l.notices, word+"\n") }

// bye ends the hello and waits for its reader.
func (l *link) bye() {
	l.cancel()
	_ = l.notices.CloseWithError(io.ErrClosedPipe)
	_ = l.answer.Close()
	l.reading.Wait()
}

// fail closes the connection for a reason of this side's.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.bad == nil {
		l.bad = err
	}
	l.mu.Unlock()
	_ = l.conn.Close()
}

func (l *link) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bad
}

// reason explains the end of the connection; nil when it was agreed.
func (l *link) reason(ctx context.Context) error {
	switch err, broken := l.failure(), l.conn.reason(); {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case l.draining.Load(), l.hub.isDraining():
		return nil
	case broken != nil:
		return fmt.Errorf("connection lost: %w", broken)
	default: // only the HTTP/2 transport closes without an error of the connection
		return errors.New("connection lost: the agent does not answer pings or broke the protocol")
	}
}

// reserve takes a place for one request, false when there is none.
func (l *link) reserve(body bool) bool {
	if body && l.bodies.Add(1) > maxBodies {
		l.releaseBody()
		return false
	}
	if l.cc.Reserve() != nil {
		if body {
			l.releaseBody()
		}
		return false
	}
	return true
}

func (l *link) releaseBody() { l.bodies.Add(-1) }

// lost says that the connection will answer nothing that has no answer yet.
func (l *link) lost() bool { return l.cc.Err() != nil || l.draining.Load() }

const idlePoll = 10 * time.Millisecond

// waitIdle returns when nothing but the hello is in flight, or the connection
// or ctx has ended.
func (l *link) waitIdle(ctx context.Context) {
	tick := time.NewTicker(idlePoll)
	defer tick.Stop()
	for l.cc.InFlight() > 1 {
		select {
		case <-tick.C:
		case <-l.conn.closed:
			return
		case <-ctx.Done():
			return
		}
	}
}
