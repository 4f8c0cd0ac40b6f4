package operation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport/sallyport/store"
)

// Handler does the work of one kind of operation. It may be called again for
// the same operation, here or on another server, after a crash or a stop, and
// never while another call for it runs; changes that must not come from a
// server that was thought dead are committed together with Fence(ctx).
//
// nil ends the operation as Succeeded, and so does a Remark. After ctx is done its error is not
// looked at: the operation is left for whoever takes it next. A store that is
// away (store.ErrUnavailable) has the handler called again later. Any other
// error ends the operation as Failed, with what its trust.Error (or Failer) may
// show.
//
// progress stores why the operation is not finished yet, one readable sentence.
type Handler func(ctx context.Context, op *store.Operation, progress func(reason string)) error

// Config is what a Runner needs.
type Config struct {
	Store    *store.Store
	Handlers map[string]Handler // by kind; operations of other kinds are left alone
	Replica  string             // this server's name, for people who look at the store
	Log      *slog.Logger       // nil means slog.Default()
	Now      func() time.Time   // nil means time.Now; for end times and retention

	// TTL is how long after this server's death its operations are taken over.
	// 0 means 5 s.
	TTL time.Duration
}

// How long an ended operation can be looked up, and how often it is looked for
// older ones.
const (
	retention = 24 * time.Hour
	sweeping  = 10 * time.Minute
)

// Runner runs operations.
type Runner struct{ cfg Config }

// New makes a Runner. Nothing happens before Run.
func New(cfg Config) *Runner {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.TTL == 0 {
		cfg.TTL = 5 * time.Second
	}
	return &Runner{cfg: cfg}
}

// Run takes and runs operations until ctx ends, and then waits for its
// handlers, whose contexts end with ctx. It returns nil then, and an error when
// the store ends first.
func (r *Runner) Run(ctx context.Context) error {
	for {
		err := r.term(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case r.cfg.Store.Err() != nil:
			return fmt.Errorf("run operations: %w", r.cfg.Store.Err())
		case err != nil && !errors.Is(err, store.ErrUnavailable):
			return fmt.Errorf("run operations: %w", err)
		}
		r.cfg.Log.Warn("operations are taken up anew", "error", err)
		pause(ctx, time.Second)
	}
}

// term runs operations for the life of one lease. When it returns none of its
// handlers runs any more.
func (r *Runner) term(ctx context.Context) error {
	lease, err := r.cfg.Store.Lease(ctx, r.cfg.TTL)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t := &term{
		Runner: r, lease: lease, stop: cancel,
		open: map[string]opened{}, held: map[string]bool{}, running: map[string]context.CancelFunc{},
	}
	var wg sync.WaitGroup
	wg.Go(func() { cancel(t.followOperations(ctx)) })
	wg.Go(func() { cancel(t.followRuns(ctx)) })
	wg.Go(func() { t.sweep(ctx) })

	select {
	case <-ctx.Done():
	case <-lease.Lost():
		cancel(store.ErrUnavailable)
	}
	wg.Wait()
	t.workers.Wait()
	return errors.Join(context.Cause(ctx), lease.Close())
}

// term is one lease's time.
type term struct {
	*Runner
	lease   *store.Lease
	stop    context.CancelCauseFunc
	workers sync.WaitGroup

	mu      sync.Mutex // guards all below
	open    map[string]opened
	held    map[string]bool               // operations that some server runs
	running map[string]context.CancelFunc // operations with a worker here
}

// opened is an operation in progress, as last seen.
type opened struct {
	op       store.Operation
	revision int64
}

// followOperations keeps open true.
func (t *term) followOperations(ctx context.Context) error {
	id := func(key string) string { return key[len(store.OperationPrefix):] }
	snapshot := func(all []store.KV, _ int64) error {
		there := make(map[string]bool, len(all))
		for _, kv := range all {
			there[id(kv.Key)] = true
			t.see(ctx, id(kv.Key), kv.Value, kv.Revision)
		}
		for _, known := range t.unfinished() {
			if !there[known] {
				t.ended(known)
			}
		}
		return nil
	}
	return store.Follow(ctx, t.cfg.Store, store.OperationPrefix, snapshot, func(b store.Batch) error {
		for _, e := range b.Events {
			if e.Type == store.EventDelete {
				t.ended(id(e.Key))
			} else {
				t.see(ctx, id(e.Key), e.Value, e.Revision)
			}
		}
		return nil
	})
}

// see takes note of an operation's record.
func (t *term) see(ctx context.Context, id string, value []byte, revision int64) {
	op, err := store.Decode[store.Operation](value)
	if err != nil {
		t.cfg.Log.Error("operation not readable", "operation", id, "error", err)
		return
	}
	if op.Done() {
		t.ended(id)
		return
	}
	t.mu.Lock()
	t.open[id] = opened{op, revision}
	t.mu.Unlock()
	t.consider(ctx, id)
}

// followRuns keeps held true: who runs what.
func (t *term) followRuns(ctx context.Context) error {
	id := func(key string) string { return key[len(store.RunnerPrefix):] }
	snapshot := func(all []store.KV, _ int64) error {
		t.mu.Lock()
		clear(t.held)
		for _, kv := range all {
			t.held[id(kv.Key)] = true
		}
		t.mu.Unlock()
		for _, known := range t.unfinished() {
			t.consider(ctx, known)
		}
		return nil
	}
	return store.Follow(ctx, t.cfg.Store, store.RunnerPrefix, snapshot, func(b store.Batch) error {
		for _, e := range b.Events {
			t.mu.Lock()
			if e.Type == store.EventPut {
				t.held[id(e.Key)] = true
			} else {
				delete(t.held, id(e.Key))
			}
			t.mu.Unlock()
			t.consider(ctx, id(e.Key))
		}
		return nil
	})
}

// unfinished lists what is in progress.
func (t *term) unfinished() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make([]string, 0, len(t.open))
	for id := range t.open {
		ids = append(ids, id)
	}
	return ids
}

// ended forgets an operation and stops its handler, if it still runs here:
// somebody else ended the operation.
func (t *term) ended(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, id)
	if cancel := t.running[id]; cancel != nil {
		cancel()
	}
}

// consider starts a worker for an operation that nobody seems to run.
func (t *term) consider(ctx context.Context, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	o, isOpen := t.open[id]
	handler := t.cfg.Handlers[o.op.Kind]
	if !isOpen || t.held[id] || handler == nil || t.running[id] != nil || ctx.Err() != nil {
		return
	}
	wctx, cancel := context.WithCancel(ctx)
	t.running[id] = cancel
	t.workers.Go(func() {
		w := &worker{term: t, op: o.op, opRevision: o.revision, handler: handler}
		w.work(wctx)
		cancel()
		t.mu.Lock()
		delete(t.running, id)
		t.mu.Unlock()
		// Things may have changed while this worker stood in the way.
		t.consider(ctx, id)
	})
}

// sweep removes operations that ended long ago.
func (t *term) sweep(ctx context.Context) {
	for ctx.Err() == nil {
		if err := t.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			t.cfg.Log.Warn("old operations not removed", "error", err)
		}
		pause(ctx, sweeping)
	}
}

func (r *Runner) sweepOnce(ctx context.Context) error {
	all, _, err := store.List[store.Operation](ctx, r.cfg.Store, store.OperationPrefix)
	if err != nil {
		return err
	}
	old := r.cfg.Now().Add(-retention)
	for _, o := range all {
		if !o.Value.Done() || o.Value.Ended.After(old) {
			continue
		}
		_, err := r.cfg.Store.Commit(ctx, store.Delete(o.Value.Key(), o.Revision))
		if err != nil && !errors.Is(err, store.ErrConflict) { // another server sweeps too
			return err
		}
	}
	return nil
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
