package operation

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// worker runs one operation once, if it can take it.
type worker struct {
	*term
	handler Handler
	fence   store.Op // holds while this server's claim does

	mu         sync.Mutex // guards both; progress may be called by several goroutines
	op         store.Operation
	opRevision int64
}

// How long a worker waits before it tries again what others or the store
// refused.
const (
	afterConflict = 100 * time.Millisecond
	afterFailure  = time.Second
)

type fenceKey struct{}

// Fence is a comparison that holds as long as the operation that the handler
// with this context runs is still this server's. A Commit with it cannot come
// from a server whose lease is over. Outside a handler it compares nothing.
func Fence(ctx context.Context) store.Op {
	op, _ := ctx.Value(fenceKey{}).(store.Op)
	return op
}

// work takes the operation, runs its handler and stores the end. ctx ends with
// the lease, with the runner, or when somebody else ended the operation.
func (w *worker) work(ctx context.Context) {
	run := store.Run{Operation: w.op.ID, Replica: w.cfg.Replica, Started: w.cfg.Now()}
	revision, err := w.cfg.Store.Commit(ctx,
		store.Guard(w.op.Key(), w.opRevision), store.Under(w.lease, store.Create(run)))
	if err != nil {
		w.later(ctx, "operation not taken", err)
		return
	}
	w.fence = store.Guard(run.Key(), revision)
	started := time.Now()
	err = w.handle(context.WithValue(ctx, fenceKey{}, w.fence))
	switch {
	case ctx.Err() != nil || errors.Is(err, store.ErrUnavailable):
		if err != nil {
			w.cfg.Log.Info("operation left for later", "operation", w.op.ID, "kind", w.op.Kind, "error", err)
		}
		if ctx.Err() == nil {
			pause(ctx, afterFailure)
		}
		w.release(ctx, run, revision)
		return
	}
	w.end(ctx, err, run, revision)
	w.cfg.Log.Info("operation ended", "operation", w.op.ID, "kind", w.op.Kind,
		"status", w.op.Status, "seconds", time.Since(started).Seconds(), "error", err)
}

// handle calls the handler and turns its panic into an error.
func (w *worker) handle(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.cfg.Log.Error("operation panicked", "operation", w.op.ID, "kind", w.op.Kind,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = trust.Errorf(trust.Internal, "the handler panicked")
		}
	}()
	w.mu.Lock()
	op := w.op // the handler's own copy
	w.mu.Unlock()
	return w.handler(ctx, &op, func(reason string) { w.progress(ctx, reason) })
}

// progress stores the reason. A failure only costs the reason.
func (w *worker) progress(ctx context.Context, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.op.Reason == reason {
		return
	}
	changed := w.op
	changed.Reason = reason
	revision, err := w.cfg.Store.Commit(ctx, w.fence, store.Update(changed, w.opRevision))
	if err != nil {
		w.cfg.Log.Warn("operation's reason not stored", "operation", w.op.ID, "error", err)
		return
	}
	w.op, w.opRevision = changed, revision
}

// end stores how the operation ended and gives it up, in one transaction,
// trying until the lease or the runner ends.
func (w *worker) end(ctx context.Context, failure error, run store.Run, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.op.Status, w.op.Reason, w.op.Problem = store.OperationSucceeded, "", nil
	var said remark
	switch {
	case errors.As(failure, &said):
		w.op.Reason = string(said)
	case failure != nil:
		w.op.Status, w.op.Problem = store.OperationFailed, problem(&w.op, failure)
	}
	w.op.Ended = w.cfg.Now().UTC()
	for ctx.Err() == nil {
		_, err := w.cfg.Store.Commit(ctx, store.Update(w.op, w.opRevision), store.Delete(run.Key(), revision))
		if err == nil {
			return
		}
		if errors.Is(err, store.ErrConflict) {
			// Ended by somebody else, or by this very commit, whose answer
			// was lost.
			w.cfg.Log.Warn("operation's end not stored", "operation", w.op.ID, "error", err)
			break
		}
		w.later(ctx, "operation's end not stored yet", err)
	}
	w.release(ctx, run, revision)
}

// release lets another server, or this one, take the operation at once. Without
// it the lease's end does.
func (w *worker) release(ctx context.Context, run store.Run, revision int64) {
	// The runner may be stopping; the store is still there.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterFailure)
	defer cancel()
	_, err := w.cfg.Store.Commit(ctx, store.Delete(run.Key(), revision))
	if err != nil && !errors.Is(err, store.ErrConflict) {
		w.cfg.Log.Warn("operation not given up", "operation", w.op.ID, "error", err)
	}
}

// later logs err, unless it is an everyday one, and waits.
func (w *worker) later(ctx context.Context, what string, err error) {
	if errors.Is(err, store.ErrConflict) {
		pause(ctx, afterConflict)
		return
	}
	if ctx.Err() != nil {
		return
	}
	w.cfg.Log.Warn(what, "operation", w.op.ID, "error", err)
	if errors.Is(err, store.ErrLeaseLost) {
		w.stop(err)
	}
	pause(ctx, afterFailure)
}
