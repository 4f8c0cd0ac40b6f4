package store

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// EventType tells what happened to a key.
type EventType uint8

// The event types. The zero value is none of them.
const (
	EventPut EventType = iota + 1
	EventDelete
)

// Event is one change of one key.
type Event struct {
	Type     EventType
	Key      string
	Value    []byte // after a put
	Prev     []byte // before; nil for a new key, and where compaction took it
	Revision int64  // of the transaction; equal in all its events
	Created  int64  // revision of the key's creation; 0 after a delete
}

// Batch is what a watch delivers: the next events in order, whole
// transactions, or none when only time has passed.
type Batch struct {
	Events []Event
	// Revision: every change up to here has been delivered, this batch
	// included.
	Revision int64
	// Fresh is when the store was last known to hold nothing newer than what
	// has been delivered: the time at which the question that it answered was
	// put. Zero until the first answer.
	Fresh time.Time
}

// Watch delivers the changes of a prefix. It takes up by itself after a lost
// connection or leader, without loss; until then no Batch comes and Fresh grows
// old.
type Watch struct {
	prefix  string
	batches chan Batch
	fresh   atomic.Pointer[time.Time]
	err     error // set before batches is closed

	// Used by the watch's own goroutine only.
	store     *Store
	delivered int64         // every change up to here is delivered
	asked     time.Time     // when the oldest question without an answer was put
	patience  time.Duration // how long a stream may be silent after a question
}

// Watch delivers every change of what prefix means (see List) after the given
// revision, until ctx or the store ends; revision 0 means from a moment that
// has come when the first Batch has. The caller receives from Batches until it is closed and then looks at Err.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) *Watch {
	w := &Watch{prefix: prefix, batches: make(chan Batch), store: s, delivered: after, patience: progressEvery}
	// A stream of its own: progress is told per stream, and one watch that
	// lags must not hold back the others'.
	id := strconv.FormatInt(s.watches.Add(1), 10)
	wctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "sallyport-watch", id))
	stop := context.AfterFunc(s.ctx, cancel)
	s.wg.Go(func() {
		defer close(w.batches)
		defer cancel()
		defer stop()
		w.err = w.run(wctx, ctx)
	})
	return w
}

// Batches is closed when the watch ends.
func (w *Watch) Batches() <-chan Batch { return w.batches }

// Err tells, after Batches is closed, why the watch ended: ErrCompacted (list
// again), the context's error, or an error of the store's.
func (w *Watch) Err() error { return w.err }

// LastProgress is the Fresh of the last batch that was taken, the zero time
// until there is one. It may be called at any time.
func (w *Watch) LastProgress() time.Time {
	if t := w.fresh.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// run watches until ctx ends, with the caller's or with the store, or watching on
// makes no sense.
func (w *Watch) run(ctx, caller context.Context) error {
	if w.delivered == 0 {
		rev, err := w.store.Revision(caller)
		if err != nil {
			return err
		}
		w.delivered = rev
	}
	const first, most = 50 * time.Millisecond, time.Second
	pause := first
	for {
		before := w.delivered
		err := w.stream(ctx)
		if ctx.Err() != nil {
			return w.store.failed(caller, "watch "+w.prefix, ctx.Err())
		}
		err = w.store.failed(caller, "watch "+w.prefix, err)
		if errors.Is(err, ErrCompacted) || errors.Is(err, ErrPermission) {
			return err
		}
		w.store.log.Debug("watch taken up again", "prefix", w.prefix, "error", err)
		if w.delivered != before {
			pause = first
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, most)
	}
}

// How a stream asks for progress. etcd does not answer a watch that still
// catches up, nor, until the next write, one that starts after the store's
// newest revision; the client library resumes such a one after a reconnect. So
// a stream starts at what is delivered already, and one that stays silent after
// a question is replaced, each time after twice the wait.
const (
	progressEvery = time.Second            // between answer and question
	progressFirst = 100 * time.Millisecond // between questions before the first answer: etcd's own pace of catching up
	mostPatience  = 8 * time.Second
)

// stream runs one watch of etcd's until it ends, and returns why.
func (w *Watch) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	from, end := span(w.prefix)
	responses := w.store.client.Watch(ctx, from, clientv3.WithRange(end), clientv3.WithRev(w.delivered),
		clientv3.WithPrevKV())
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := progressFirst
	heard := w.store.now()
	w.asked = time.Time{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			if !w.asked.IsZero() && w.store.now().Sub(later(heard, w.asked)) >= w.patience {
				w.patience = min(2*w.patience, mostPatience)
				return errSilent
			}
			w.ask(ctx)
			timer.Reset(pause)
		case r, ok := <-responses:
			if !ok {
				return errSilent
			}
			if err := r.Err(); err != nil {
				return err
			}
			if err := w.deliver(ctx, r); err != nil {
				return err
			}
			heard = w.store.now()
			if r.IsProgressNotify() {
				pause, w.patience = progressEvery, progressEvery
				timer.Reset(pause)
			}
		}
	}
}

// errSilent ends a stream that has nothing to say.
var errSilent = errors.New("etcd does not answer the watch")

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ask requests a progress report, on the context that the watch itself runs on:
// with any other it would be asked for another stream. The time of the oldest
// question without an answer is kept.
func (w *Watch) ask(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	if w.asked.IsZero() {
		w.asked = w.store.now()
	}
	actx, cancel := context.WithTimeout(ctx, progressEvery/2)
	defer cancel()
	if err := w.store.client.RequestProgress(actx); err != nil && ctx.Err() == nil {
		w.store.log.Debug("watch progress not asked", "prefix", w.prefix, "error", err)
	}
}

// deliver hands a response to the receiver.
func (w *Watch) deliver(ctx context.Context, r clientv3.WatchResponse) error {
	b := Batch{Revision: r.Header.Revision}
	if r.IsProgressNotify() {
		if b.Revision < w.delivered {
			// The store was restored from a copy that is older than what we
			// have seen.
			return ErrCompacted
		}
		b.Fresh, w.asked = w.asked, time.Time{}
	} else {
		// While a watch catches up the header is ahead of the events.
		b.Revision = r.Events[len(r.Events)-1].Kv.ModRevision
		if b.Revision <= w.delivered {
			return nil
		}
		b.Events = w.events(r.Events)
	}
	if b.Fresh.IsZero() {
		b.Fresh = w.LastProgress()
	}
	select {
	case w.batches <- b:
		// Only now: who takes a batch is done with those before it.
		w.delivered = b.Revision
		w.fresh.Store(&b.Fresh)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// events translates those of etcd's events that are below the prefix.
func (w *Watch) events(in []*clientv3.Event) []Event {
	out := make([]Event, 0, len(in))
	for _, e := range in {
		if e.Kv.ModRevision <= w.delivered || !within(w.prefix, string(e.Kv.Key)) {
			continue
		}
		ev := Event{Type: EventPut, Key: string(e.Kv.Key), Value: e.Kv.Value, Revision: e.Kv.ModRevision, Created: e.Kv.CreateRevision}
		if e.Type == clientv3.EventTypeDelete {
			ev.Type, ev.Value, ev.Created = EventDelete, nil, 0
		}
		if e.PrevKv != nil {
			ev.Prev = e.PrevKv.Value
		}
		out = append(out, ev)
	}
	return out
}
