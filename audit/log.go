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
	fullBound    = time.Second // how long the queue may be full before new requests are refused
	batchBytes   = 64 << 10    // what one write holds at most, unless one line is longer
	largestKept  = 16 << 10    // larger buffers are not pooled
	firstRetry   = 50 * time.Millisecond
	lastRetry    = time.Second
)

// Config is what a Log needs.
type Config struct {
	Sink       io.Writer             // takes whole lines; *File, or any writer. A short or failed write is tried again with the rest
	Queue      int                   // records that may wait; 0 means 4096
	LetReads   bool                  // when the sink is dead, let requests that only read through without a record
	Now        func() time.Time      // nil means time.Now
	Log        *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil: no metrics
}

// Log is a bounded queue in front of one writer. Its methods may be called by
// any number of goroutines.
type Log struct {
	sink     io.Writer
	letReads bool
	now      func() time.Time
	log      *slog.Logger
	metrics  *metrics

	queue     chan *[]byte
	pool      sync.Pool
	fullSince atomic.Int64 // Unix nanoseconds; 0: it has room
	failing   atomic.Bool  // the last write failed
	closed    chan struct{}
	closeOnce sync.Once
}

// ErrClosed is returned for records that come after Run has ended.
var ErrClosed = errors.New("audit log is closed")

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
	l := &Log{sink: c.Sink, letReads: c.LetReads, now: c.Now, log: c.Log, queue: make(chan *[]byte, c.Queue), closed: make(chan struct{})}
	l.pool.New = func() any { b := make([]byte, 0, 2048); return &b }
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

// Record queues an event. It waits while the queue is full, until ctx ends or
// the log is closed; an error means that the record is lost, which is counted
// and logged. With LetReads and a stuck queue a reading request's record is
// dropped at once, counted too.
func (l *Log) Record(ctx context.Context, e *Event) error {
	buf := l.pool.Get().(*[]byte)
	*buf = e.append((*buf)[:0])
	select {
	case l.queue <- buf:
		return nil
	default:
	}
	l.fullSince.CompareAndSwap(0, l.now().UnixNano())
	if l.letReads && l.stuck() && reading(e) {
		return l.lost(ctx, e, errors.New("queue is full and reads are let through"))
	}
	select {
	case l.queue <- buf:
		return nil
	case <-ctx.Done():
		return l.lost(ctx, e, context.Cause(ctx))
	case <-l.closed:
		return l.lost(ctx, e, ErrClosed)
	}
}

func reading(e *Event) bool {
	return e.Attributes != nil && Reads(e.Attributes.Verb)
}

// Reads says whether a Kubernetes verb only reads.
func Reads(verb string) bool { return verb == "get" || verb == "list" || verb == "watch" }

func (l *Log) lost(ctx context.Context, e *Event, err error) error {
	l.metrics.lost.Inc()
	l.log.ErrorContext(ctx, "audit record lost", "request", e.ID, "error", err)
	return fmt.Errorf("record request: %w", err)
}

// Run writes lines until ctx ends, then writes what is queued, as long as the
// sink takes it and at most two seconds more. It returns the number of lines
// that were left as an error.
func (l *Log) Run(ctx context.Context) error {
	defer l.closeOnce.Do(func() { close(l.closed) })
	batch := make([]byte, 0, batchBytes)
	for {
		select {
		case b := <-l.queue:
			batch = l.gather(batch[:0], b)
			if err := l.write(ctx, batch); err != nil {
				l.metrics.lost.Inc()
				return fmt.Errorf("write audit log: %w; %d more lines were queued", err, len(l.queue))
			}
		case <-ctx.Done():
			return l.finish(ctx, batch)
		}
	}
}

// finish writes what is queued when Run is to end.
func (l *Log) finish(ctx context.Context, batch []byte) error {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	for {
		select {
		case b := <-l.queue:
			batch = l.gather(batch[:0], b)
			if err := l.write(last, batch); err != nil {
				return fmt.Errorf("write audit log: %w; %d more lines were queued", err, len(l.queue))
			}
		default:
			return nil
		}
	}
}

// gather appends the first line and what else is queued, up to a batch.
func (l *Log) gather(batch []byte, first *[]byte) []byte {
	for b := first; ; {
		batch = append(batch, *b...)
		if cap(*b) <= largestKept {
			l.pool.Put(b)
		}
		if len(batch) >= batchBytes {
			return batch
		}
		select {
		case b = <-l.queue:
		default:
			return batch
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
	if len(l.queue) < cap(l.queue) {
		l.fullSince.Store(0)
	}
}
