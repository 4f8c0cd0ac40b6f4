package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/sallyport/sallyport/trust"
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

// progressEvery is how often a watch asks the store for its progress.
const progressEvery = time.Second

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
	delivered int64 // every change up to here is delivered
	asked     time.Time
}

// Watch delivers every change of what prefix means (see List) after the given
// revision, until ctx or the store ends; revision 0 means from now on. The
// caller receives from Batches until it is closed and then looks at Err.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) *Watch {
	w := &Watch{prefix: prefix, batches: make(chan Batch), store: s, delivered: after}
	// A stream of its own: progress is told per stream, and one watch that
	// lags must not hold back the others'.
	id := strconv.FormatInt(s.watches.Add(1), 10)
	wctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "sallyport-watch", id))
	stop := context.AfterFunc(s.ctx, cancel)
	s.wg.Go(func() {
		defer close(w.batches)
		defer cancel()
		defer stop()
		w.err = w.run(wctx)
	})
	return w
}

// Batches is closed when the watch ends.
func (w *Watch) Batches() <-chan Batch { return w.batches }

// Err tells, after Batches is closed, why the watch ended: ErrCompacted (list
// again), the context's error, or an error of the store's.
func (w *Watch) Err() error { return w.err }

// LastProgress is the newest Fresh, the zero time until there is one. It may be
// called at any time.
func (w *Watch) LastProgress() time.Time {
	if t := w.fresh.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// run watches until ctx ends or watching on makes no sense.
func (w *Watch) run(ctx context.Context) error {
	if w.delivered == 0 {
		rev, err := w.store.Revision(ctx)
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
			return w.store.failed(ctx, "watch "+w.prefix, ctx.Err())
		}
		err = translate(err)
		if errors.Is(err, ErrCompacted) || errors.Is(err, ErrPermission) {
			return fmt.Errorf("watch %s: %w", w.prefix, err)
		}
		w.store.log.Warn("watch interrupted", "prefix", w.prefix, "error", err)
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

// stream runs one watch of etcd's until it ends, and returns why.
func (w *Watch) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	from, end := span(w.prefix)
	responses := w.store.client.Watch(ctx, from, clientv3.WithRange(end), clientv3.WithRev(w.delivered+1),
		clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	w.asked = time.Time{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			w.ask(ctx)
		case r, ok := <-responses:
			if !ok {
				return trust.Errorf(trust.Unavailable, "etcd ended the watch")
			}
			if err := r.Err(); err != nil {
				return err
			}
			if r.Created {
				w.ask(ctx)
				continue
			}
			if err := w.deliver(ctx, r); err != nil {
				return err
			}
		}
	}
}

// ask requests a progress report, on the context that the watch itself runs on:
// with any other it would be asked for another stream.
func (w *Watch) ask(ctx context.Context) {
	// etcd drops the question while the watch still catches up; one that old
	// will not be answered any more.
	const dropped = 3 * progressEvery
	now := w.store.now()
	if ctx.Err() != nil || !w.asked.IsZero() && now.Sub(w.asked) < dropped {
		return
	}
	w.asked = now
	actx, cancel := context.WithTimeout(ctx, progressEvery/2)
	defer cancel()
	if err := w.store.client.RequestProgress(actx); err != nil {
		w.asked = time.Time{}
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
		if !w.asked.IsZero() {
			fresh := w.asked
			w.fresh.Store(&fresh)
			w.asked = time.Time{}
		}
	} else {
		// While a watch catches up the header is ahead of the events.
		b.Revision = r.Events[len(r.Events)-1].Kv.ModRevision
		b.Events = w.events(r.Events)
	}
	b.Fresh = w.LastProgress()
	select {
	case w.batches <- b:
		w.delivered = b.Revision
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// events translates those of etcd's events that are below the prefix.
func (w *Watch) events(in []*clientv3.Event) []Event {
	out := make([]Event, 0, len(in))
	for _, e := range in {
		if !within(w.prefix, string(e.Kv.Key)) {
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
