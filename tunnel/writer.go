package tunnel

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	maxGathered = 64 << 10 // bytes that wait for the writer at most
	maxHeld     = 1 << 10  // bytes that wait for company at most
)

// writer is the sending direction of a connection. net/http flushes the header
// and the body of every answer by themselves, and every request, each on a
// goroutine of its own. Here one goroutine sends what all of them have written
// since it last did: they share TLS records, system calls and awakenings of the
// peer, and one stack has grown for TLS instead of one per frame.
type writer struct {
	conn    net.Conn
	timeout time.Duration // the connection is broken when not one byte could be written for this long

	wake chan struct{} // capacity 1: there is something to send; closed by stop

	mu       sync.Mutex // guards what follows
	room     sync.Cond  // signalled when gathered was taken, or err is set
	gathered []byte
	sending  bool  // by run, or by a Write itself
	err      error // why nothing can be written any more
}

func newWriter(conn net.Conn, timeout time.Duration) *writer {
	w := &writer{conn: conn, timeout: timeout, wake: make(chan struct{}, 1)}
	w.room.L = &w.mu
	return w
}

// write takes p, and waits only while too much is waiting already. An error is
// that of an earlier write. At once it sends p itself if nothing else is being
// sent: better where nobody else is about to write.
func (w *writer) write(p []byte, atOnce bool) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if atOnce && !w.sending && len(w.gathered) <= maxHeld && w.err == nil {
		if len(w.gathered) == 0 {
			return w.sendLocked(p)
		}
		all := append(w.gathered, p...)
		w.gathered = nil
		sent, err := w.sendLocked(all)
		if w.gathered == nil {
			w.gathered = all[:0]
		}
		return max(sent-len(all)+len(p), 0), err
	}
	for len(p) > 0 {
		for w.err == nil && len(w.gathered) >= maxGathered {
			w.room.Wait()
		}
		if w.err != nil {
			return n, w.err
		}
		some := p[:min(len(p), maxGathered-len(w.gathered))]
		w.gathered = append(w.gathered, some...)
		w.wakeLocked()
		n += len(some)
		p = p[len(some):]
	}
	return n, nil
}

// hold takes p, which may wait until something else is written.
func (w *writer) hold(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.gathered = append(w.gathered, p...)
	if len(w.gathered) > maxHeld {
		w.wakeLocked()
	}
	return len(p), nil
}

// wakeLocked needs w.mu, and w.err to be nil.
func (w *writer) wakeLocked() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// sendLocked gives w.mu back while it sends.
func (w *writer) sendLocked(p []byte) (int, error) {
	w.sending = true
	w.mu.Unlock()
	n, err := w.send(p)
	w.mu.Lock()
	w.sending = false
	switch {
	case err != nil:
		w.stopLocked(err)
	case len(w.gathered) > 0: // came meanwhile
		w.wakeLocked()
	}
	return n, err
}

// send returns an error when not one byte could be written in time.
func (w *writer) send(p []byte) (sent int, err error) {
	for sent < len(p) {
		if err := w.conn.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
			return sent, err
		}
		n, err := w.conn.Write(p[sent:])
		sent += n
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return sent, err
		}
	}
	return sent, nil
}

// stop makes run return as soon as what is being sent was, and everything else
// fail with err. What was not sent is dropped.
func (w *writer) stop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopLocked(err)
}

func (w *writer) stopLocked(err error) {
	if w.err != nil {
		return
	}
	w.err, w.gathered = err, nil
	close(w.wake)
	w.room.Broadcast()
}

// run sends until stop, or until sending fails, and returns why.
func (w *writer) run() error {
	var free []byte // what was sent, to gather in again
	for range w.wake {
		// Whoever is about to write more does so first: an answer's body comes a
		// moment after its header.
		runtime.Gosched()
		w.mu.Lock()
		if !w.sending && len(w.gathered) > 0 {
			p := w.gathered
			w.gathered = free[:0]
			w.room.Broadcast()
			_, _ = w.sendLocked(p) // its error is w.err
			free = p
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
