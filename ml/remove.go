package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// opTell is the kind of operation that tells a cluster of a removal.
const opTell = "ml.cluster.tell"

// removals is the type of what a cluster is still to be told of. It is served
// nowhere: what it is about is gone for whoever asks.
const removals = "removals"

// removalPrivate is what the extension of a cluster is to remove.
type removalPrivate struct {
	Cluster string // resource id
	Path    string // at the extension
}

// detach takes a compute away, removeJob a job. Both always can be: where the
// cluster cannot be told, it is told later.
func (m *ML) detach(ctx context.Context, op *store.Operation, progress func(string)) error {
	return m.remove(ctx, op, progress, func(r *store.Provided) (removalPrivate, string, error) {
		p, err := readCompute(r)
		return removalPrivate{p.Cluster, "/computes/" + p.Compute.UID}, "compute/" + wire.ComputeName(p.Compute.UID), err
	})
}

func (m *ML) removeJob(ctx context.Context, op *store.Operation, progress func(string)) error {
	return m.remove(ctx, op, progress, func(r *store.Provided) (removalPrivate, string, error) {
		p, err := readJob(r)
		return removalPrivate{p.Cluster, "/jobs/" + p.Job.UID}, "trainingjob/" + wire.JobName(p.Job.UID), err
	})
}

func (m *ML) remove(ctx context.Context, op *store.Operation, progress func(string), read func(*store.Provided) (removalPrivate, string, error)) error {
	t, err := m.target(ctx, op)
	if trust.KindOf(err) == trust.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	p, object, err := read(&t.resource.Value)
	if err != nil {
		return err
	}
	return m.removed(ctx, op, progress, t, p, []string{object}, []store.Op{store.Delete(t.resource.Value.Key(), 0), operation.Fence(ctx)})
}

// removed has the cluster forget something and then removes its record, with
// ops. What could not be told is kept, and said: objects are in the cluster.
func (m *ML) removed(ctx context.Context, op *store.Operation, progress func(string), t *target, p removalPrivate, objects []string, ops []store.Op) error {
	progress("telling the cluster")
	var why error
	for try := range attachTries {
		if why = m.forget(ctx, &t.workspace, p); trust.KindOf(why) != trust.Unavailable || ctx.Err() != nil || try == attachTries-1 {
			break
		}
		pause(ctx, m.again)
	}
	if ctx.Err() != nil || errors.Is(why, store.ErrUnavailable) {
		return why
	}
	if ops = slices.Clone(ops); why != nil {
		left, err := m.removal(t, p, op.Caller)
		if err != nil {
			return err
		}
		ops = append(ops, left...)
	}
	_, err := m.Store.Commit(ctx, ops...)
	switch {
	case errors.Is(err, store.ErrConflict):
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err) // something changed beside it: again, as things are then
	case err == nil && why != nil:
		m.Log.WarnContext(ctx, "removed before its cluster was told", "resource", op.Target, "error", why)
		return operation.Remark(fmt.Sprintf("%s What the cluster has stays until the workspace reaches it again, and is removed then. Its owner removes it sooner: kubectl delete -n %s %s",
			sentence(why), wire.Namespace, strings.Join(objects, " ")))
	}
	return err
}

// removal keeps what a cluster is to be told, with the operation that does it.
func (m *ML) removal(t *target, p removalPrivate, caller string) ([]store.Op, error) {
	was, w := &t.resource.Value, &t.workspace.Value
	id, err := arm.ParseID(w.ID)
	if err != nil {
		return nil, err
	}
	r := store.Provided{ID: w.ID + "/" + removals + "/" + was.UID, Type: Namespace + "/" + Tracked + "/" + removals, UID: was.UID, Parent: was.Parent,
		Location: w.Location, State: arm.Deleting, Stamp: was.Stamp}
	if r.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	op, err := operation.NewRecord(opTell, id.Subscription, w.Location, r.ID, caller, inputOf(&r))
	if err != nil {
		return nil, err
	}
	op.Started, r.Operation = m.Now().UTC(), op.ID
	return []store.Op{store.Put(r), store.Create(op)}, nil
}

// sentence is what may be shown of an error.
func sentence(err error) string {
	var e *trust.Error
	if errors.As(err, &e) && e.Kind != trust.Internal {
		return strings.TrimSuffix(e.Message, ".") + "."
	}
	return "An internal error was in the way."
}

// tell has a cluster remove what was removed here, once it can be reached. It
// fails where the workspace has no access, and is begun again when it has.
func (m *ML) tell(ctx context.Context, op *store.Operation, progress func(string)) error {
	for wait := retryFirst; ; wait = min(2*wait, time.Minute) {
		t, err := m.target(ctx, op)
		if trust.KindOf(err) == trust.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		var p removalPrivate
		if err := json.Unmarshal(t.resource.Value.Private, &p); err != nil {
			return trust.Errorf(trust.Internal, "a stored removal cannot be read").Because(err)
		}
		err = m.forget(ctx, &t.workspace, p)
		var e *trust.Error
		if errors.As(err, &e) && e.Code == codeNoCluster {
			err = nil // nobody is left to be told
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, store.ErrUnavailable):
			return err
		case err == nil:
			_, err = m.Store.Commit(ctx, store.Delete(t.resource.Value.Key(), 0), operation.Fence(ctx))
			return err
		case withoutAccess(err):
			return &failed{*problem(e)}
		}
		progress(sentence(err))
		pause(ctx, max(wait, m.again))
	}
}

// orForget ends an operation that tells a cluster of a resource. One that went
// meanwhile may have come to the cluster after its removal had: the cluster is
// told once more. at is where the resource's kind is at the extension.
func (m *ML) orForget(at string, handle operation.Handler) operation.Handler {
	return func(ctx context.Context, op *store.Operation, progress func(string)) error {
		err := handle(ctx, op, progress)
		if err == nil || ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) {
			return err
		}
		if lost := m.forgetGone(ctx, op, at); lost != nil {
			return errors.Join(lost, err)
		}
		return err
	}
}

// forgetGone has the cluster forget an operation's target, if that is gone or
// going: now, or when the cluster can be told. Without its workspace nobody can
// tell it anything.
func (m *ML) forgetGone(ctx context.Context, op *store.Operation, at string) error {
	var in input
	if err := json.Unmarshal(op.Input, &in); err != nil {
		return fmt.Errorf("read operation: %w", err)
	}
	w, err := store.Get[store.Source](ctx, m.Store, store.ResourceKey(workspaceOf(op.Target)))
	if err != nil || in.Cluster == "" {
		return orGone(err, nil)
	}
	r, err := store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(op.Target))
	if err = orGone(err, nil); err != nil {
		return err
	}
	if r.Value.UID == in.UID && r.Value.State != arm.Deleting {
		return nil
	}
	p := removalPrivate{in.Cluster, at + in.UID}
	why := m.forget(ctx, &w, p)
	var e *trust.Error
	if why == nil || errors.As(why, &e) && e.Code == codeNoCluster {
		return nil
	}
	if ctx.Err() != nil || errors.Is(why, store.ErrUnavailable) {
		return why
	}
	m.Log.WarnContext(ctx, "a cluster is to forget what went while it was told", "resource", op.Target, "error", why)
	left, err := m.removal(&target{workspace: w, resource: store.Item[store.Provided]{Value: store.Provided{UID: in.UID, Parent: w.Created}}}, p, op.Caller)
	if err != nil {
		return err
	}
	_, err = m.Store.Commit(ctx, append(left, store.Guard(w.Value.Key(), w.Revision))...)
	if errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err) // the workspace changed beside it: again
	}
	return err
}

// forget has the extension remove something; that it is gone is no error.
func (m *ML) forget(ctx context.Context, w *store.Item[store.Source], p removalPrivate) error {
	e, err := m.reach(ctx, w, p.Cluster)
	if err != nil {
		return err
	}
	if err := e.call(ctx, http.MethodDelete, p.Path, nil, nil); trust.KindOf(err) != trust.NotFound {
		return err
	}
	return nil
}
