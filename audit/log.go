package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/trust"
)

// Defaults and bounds of the queue.
const (
	defaultQueue = 4096
	overflow     = 16                    // times the queue: what is taken at most
	fullBound    = time.Second           // how long the queue may be full before new requests are refused
	batchBytes   = 64 << 10              // what one write holds, and up to one line more
	gather       = 50 * time.Millisecond // how long a record may wait for others: one write for many requests
	firstRetry   = 50 * time.Millisecond
	lastRetry    = time.Second
)

// Config is what a Log needs.
type Config struct {
	Sink       io.Writer             // takes whole lines; *File, or any writer. A short or failed write is tried again with the rest
	Queue      int                   // records that may wait before the queue counts as full; 0 means 4096
	LetReads   bool                  // when the sink is dead, let requests that only read through without a record
	Now        func() time.Time      // nil means time.Now
	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil: no metrics
}

// Log is a bounded queue in front of one writer. Its methods may be called by
// any number of goroutines; none of them waits for the sink.
//
// Records are encoded and written some milliseconds later, those of many
// requests at once: a request wakes nobody and its record costs it a copy.
//
// A record of a request that was let through is taken even when the queue is
// full: within the second until new requests are refused, and from what runs
// already. There is room for overflow times as many of them.
type Log struct {
	sink     io.Writer
	letReads bool
	limit    int
	now      func() time.Time
	log      *slog.Logger
	metrics  *metrics

	unwritten atomic.Int64  // records that were taken and not written yet
	fullSince atomic.Int64  // Unix nanoseconds; 0: it has room
	failing   atomic.Bool   // the last write failed
	due       *time.Timer   // runs while something waits
	many      chan struct{} // capacity 1: so many wait that they are due now

	mu      sync.Mutex // guards what follows
	waiting []Event
	closed  bool
}

// ErrClosed is returned for records that come after Run has ended.
var ErrClosed = errors.New("audit log is closed")

var errOverflow = errors.New("audit queue has overflowed")

// New makes a Log. Run must be called once for lines to be written.
func New(c Config) *Log {
	if c.Queue <= 0 {
		c.Queue = defaultQueue
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{sink: c.Sink, letReads: c.LetReads, limit: c.Queue, now: c.Now, log: c.Log, many: make(chan struct{}, 1)}
	l.due = time.NewTimer(gather)
	l.due.Stop()
	l.metrics = newMetrics(c.Registerer, l)
	return l
}

// Admit says whether a new request may begin: nil, or an error of kind
// Unavailable when the queue has been full for a second. With LetReads a
// request that only reads begins all the same.
func (l *Log) Admit(reads bool) error {
	if reads && l.letReads {
		return nil
	}
	return l.Ready()
}

// Ready is nil while records are being taken.
func (l *Log) Ready() error {
	if l.stuck() {
		return trust.Errorf(trust.Unavailable, "the audit log cannot be written, so nothing is let through")
	}
	return nil
}

func (l *Log) stuck() bool {
	since := l.fullSince.Load()
	return since != 0 && l.now().UnixNano()-since >= int64(fullBound)
}

// Record queues a copy of an event; what it points to must not change any more.
// An error means that the record is lost, which is
// counted and logged: after Run has ended, when the queue has overflowed, and
// with LetReads for requests that only read while the sink is dead.
func (l *Log) Record(ctx context.Context, e *Event) error {
	if l.letReads && l.stuck() && e.Attributes != nil && Reads(e.Attributes.Verb) {
		return l.lost(ctx, e, errOverflow)
	}
	n := l.unwritten.Add(1)
	l.mu.Lock()
	if l.closed || n > int64(l.limit)*overflow {
		err := errOverflow
		if l.closed {
			err = ErrClosed
		}
		l.mu.Unlock()
		l.unwritten.Add(-1)
		return l.lost(ctx, e, err)
	}
	if len(l.waiting) == 0 {
		l.due.Reset(gather)
	}
	l.waiting = append(l.waiting, *e)
	l.mu.Unlock()
	if n >= int64(l.limit) {
		l.fullSince.CompareAndSwap(0, l.now().UnixNano())
	}
	if n >= int64(l.limit)/2 {
		select {
		case l.many <- struct{}{}:
		default:
		}
	}
	return nil
}

// Reads says whether a Kubernetes verb only reads.
func Reads(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

func (l *Log) lost(ctx context.Context, e *Event, err error) error {
	l.metrics.lost.Inc()
	l.log.ErrorContext(ctx, "audit record lost", "request", e.ID, "error", err)
	return fmt.Errorf("record request: %w", err)
}

// Run writes lines until ctx ends, then writes what is queued, as long as the
// sink takes it and at most two seconds more. What is left then is lost and
// told in the error.
func (l *Log) Run(ctx context.Context) error {
	defer l.end()
	defer l.due.Stop()
	w := &batch{lines: make([]byte, 0, batchBytes)}
	for {
		select {
		case <-l.due.C:
		case <-l.many:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			return l.writeAll(last, w)
		}
		if err := l.writeAll(ctx, w); err != nil {
			return err
		}
	}
}

func (l *Log) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// batch is what the writer uses over and over.
type batch struct {
	lines []byte
	taken []Event
}

// writeAll writes everything that waits.
func (l *Log) writeAll(ctx context.Context, w *batch) error {
	for {
		clear(w.taken) // holds on to nothing of the requests
		l.mu.Lock()
		w.taken, l.waiting = l.waiting, w.taken[:0]
		l.mu.Unlock()
		if len(w.taken) == 0 {
			return nil
		}
		for left := w.taken; len(left) > 0; {
			w.lines = w.lines[:0]
			n := 0
			for n < len(left) && len(w.lines) < batchBytes {
				w.lines = left[n].append(w.lines)
				n++
			}
			left = left[n:]
			if err := l.write(ctx, w.lines); err != nil {
				left := l.unwritten.Load()
				l.metrics.lost.Add(float64(left))
				return fmt.Errorf("write audit log: %w; %d lines are lost", err, left)
			}
			if l.unwritten.Add(int64(-n)) < int64(l.limit) {
				l.fullSince.Store(0)
			}
		}
		if cap(w.taken) > l.limit {
			w.taken = nil // as many do not wait usually
		}
	}
}

// write hands lines to the sink until it has taken all of them. A failure is
// tried again, from the byte it stopped at; the error is ctx's.
func (l *Log) write(ctx context.Context, p []byte) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		n, err := l.sink.Write(p)
		p = p[min(max(n, 0), len(p)):]
		if len(p) == 0 && err == nil {
			l.recovered(ctx)
			return nil
		}
		if err == nil {
			err = io.ErrShortWrite
		}
		if n > 0 {
			wait = firstRetry
		}
		l.metrics.failures.Inc()
		if !l.failing.Swap(true) {
			l.log.ErrorContext(ctx, "audit log cannot be written", "error", err)
		}
		if len(p) == 0 {
			return nil // all taken; the next write tells whether it is well
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// recovered notes that lines are being taken.
func (l *Log) recovered(ctx context.Context) {
	if l.failing.Swap(false) {
		l.log.InfoContext(ctx, "audit log is written again")
	}
}
