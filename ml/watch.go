package ml

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Run follows workspaces, bindings and clusters until ctx ends: computes that
// were refused for want of a binding are attached when one appears, jobs that
// were lost sight of are followed again, and what lay under a workspace goes
// with it. Several servers may do so at once: each step is a comparison with
// what was there.
func (m *ML) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	marks := newMarks()
	var wg sync.WaitGroup
	wg.Go(func() { m.handOvers(ctx, marks.keys) })
	if m.Storage != nil {
		wg.Go(func() { m.sweeping(ctx) })
	}
	var keysLost, revokedLost, modelsLost error
	wg.Go(func() {
		modelsLost = m.serveModels(ctx)
		cancel()
	})
	wg.Go(func() {
		keysLost = m.followKeys(ctx, store.SigningKeyPrefix, marks)
		cancel()
	})
	wg.Go(func() {
		revokedLost = m.followKeys(ctx, store.RevokedKeyPrefix, marks)
		cancel()
	})
	wg.Go(func() {
		for id := marks.next(ctx); id != ""; id = marks.next(ctx) {
			if err := m.look(ctx, id); err != nil && ctx.Err() == nil {
				m.Log.WarnContext(ctx, "workspace not looked after", "workspace", id, "error", err)
				pause(ctx, m.again)
				marks.add(id)
			}
		}
	})
	err := store.Follow(ctx, m.Store, "/arm/",
		func([]store.KV, int64) error { return m.markAll(ctx, marks) },
		func(b store.Batch) error {
			for _, e := range b.Events {
				if err := m.mark(ctx, marks, e); err != nil {
					return err
				}
			}
			return nil
		})
	cancel()
	wg.Wait()
	for _, e := range []error{keysLost, revokedLost, modelsLost, err} {
		if e != nil && !errors.Is(e, context.Canceled) {
			return e
		}
	}
	return nil
}

// markAll marks every workspace that something lies under.
func (m *ML) markAll(ctx context.Context, marks *marks) error {
	all, _, err := store.List[store.Provided](ctx, m.Store, store.ProvidedPrefix+"/")
	for i := range all {
		marks.add(workspaceOf(all[i].Value.ID))
	}
	return err
}

// mark marks whom a change concerns.
func (m *ML) mark(ctx context.Context, marks *marks, e store.Event) error {
	switch {
	case (store.Binding{}).Owns(e.Key) && e.Type == store.EventPut:
		b, err := store.Decode[store.Binding](e.Value)
		if err == nil && b.State == arm.Succeeded {
			marks.add(trust.Fold(b.SourceID))
			marks.keysChanged() // not for this cluster, perhaps
		}
		return err
	case (store.Cluster{}).Owns(e.Key) && e.Type == store.EventPut:
		marks.keysChanged()
		return m.markAll(ctx, marks)
	case (store.Source{}).Owns(e.Key) && e.Type == store.EventDelete:
		marks.add(strings.TrimPrefix(e.Key, "/arm"))
	}
	return nil
}

// workspaceOf is the folded id of the workspace that a resource lies under.
func workspaceOf(id string) string {
	parts := strings.Split(trust.Fold(id), "/")
	return strings.Join(parts[:min(len(parts), 9)], "/")
}

// look takes up what had stopped under a workspace, or removes what an earlier
// one left.
func (m *ML) look(ctx context.Context, id string) error {
	all, _, err := store.List[store.Provided](ctx, m.Store, store.ProvidedKey(id)+"/")
	if err != nil || len(all) == 0 {
		return err
	}
	w, err := store.Get[store.Source](ctx, m.Store, store.ResourceKey(id))
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return err
	}
	for i := range all {
		r := &all[i]
		if err != nil || r.Value.Parent != w.Created {
			if _, err := m.Store.Commit(ctx, store.Delete(r.Value.Key(), r.Revision)); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			continue
		}
		if err := m.resume(ctx, &w, r); err != nil {
			return err
		}
	}
	return nil
}

// lostAccess tells whether a resource failed because the workspace may not reach
// its cluster.
func lostAccess(r *store.Provided) bool {
	return r.State == arm.Failed && r.Problem != nil && withoutAccess(&trust.Error{Code: r.Problem.Code})
}

// resume begins an operation for something that stopped for want of access, if
// there is access now.
func (m *ML) resume(ctx context.Context, w *store.Item[store.Source], item *store.Item[store.Provided]) error {
	r := item.Value
	var kind, cluster string
	switch {
	case strings.HasSuffix(r.Type, "/"+computes) && lostAccess(&r):
		p, err := readCompute(&r)
		if err != nil {
			return err
		}
		kind, cluster = opAttach, p.Cluster
	case strings.HasSuffix(r.Type, "/"+jobs) && !ended(r.State) && !m.followed(ctx, &r):
		p, err := readJob(&r)
		if err != nil {
			return err
		}
		kind, cluster = opFollow, p.Cluster
	case strings.HasSuffix(r.Type, "/"+endpoints) && lostAccess(&r):
		p, err := readEndpoint(&r)
		if err != nil {
			return err
		}
		kind, cluster = opEndpoint, p.Cluster
	case strings.HasSuffix(r.Type, "/"+deployments) && lostAccess(&r):
		p, err := readDeployment(&r)
		if err != nil {
			return err
		}
		kind, cluster = opDeployment, p.Cluster
	case strings.HasSuffix(r.Type, "/"+removals) && !m.followed(ctx, &r):
		var p removalPrivate
		if err := json.Unmarshal(r.Private, &p); err != nil {
			return trust.Errorf(trust.Internal, "a stored removal cannot be read").Because(err)
		}
		kind, cluster = opTell, p.Cluster
	default:
		return nil
	}
	if _, err := m.bound(ctx, &w.Value, cluster); withoutAccess(err) {
		return nil
	} else if err != nil {
		return err
	}
	return m.takeUp(ctx, kind, w, item)
}

// takeUp begins an operation on a resource that none works on.
func (m *ML) takeUp(ctx context.Context, kind string, w *store.Item[store.Source], item *store.Item[store.Provided]) error {
	r := item.Value
	id, err := arm.ParseID(r.ID)
	if err != nil {
		return err
	}
	op, err := operation.NewRecord(kind, id.Subscription, w.Value.Location, r.ID, r.Stamp.LastModifiedBy, inputOf(&r))
	if err != nil {
		return err
	}
	op.Started, r.Operation = m.Now().UTC(), op.ID
	if kind != opFollow {
		r.State = arm.Updating
	}
	_, err = m.Store.Commit(ctx, store.Update(r, item.Revision), store.Create(op), store.Guard(w.Value.Key(), w.Revision))
	if errors.Is(err, store.ErrConflict) {
		return nil // another server was first, or the next change brings us back
	}
	if err == nil {
		m.Log.InfoContext(ctx, "taken up again", "resource", r.ID, "operation", op.ID)
	}
	return err
}

// marks are the workspaces to look at, each once, and whether there may be keys
// to hand over.
type marks struct {
	mu    sync.Mutex
	ids   map[string]bool
	there chan struct{}
	keys  chan struct{}
}

func newMarks() *marks {
	return &marks{ids: map[string]bool{}, there: make(chan struct{}, 1), keys: make(chan struct{}, 1)}
}

func (q *marks) keysChanged() {
	select {
	case q.keys <- struct{}{}:
	default: // one that waits is enough
	}
}

func (q *marks) add(id string) {
	q.mu.Lock()
	q.ids[id] = true
	q.mu.Unlock()
	select {
	case q.there <- struct{}{}:
	default:
	}
}

// next waits for a mark and takes it; "" when ctx has ended.
func (q *marks) next(ctx context.Context) string {
	for {
		q.mu.Lock()
		for id := range q.ids {
			delete(q.ids, id)
			q.mu.Unlock()
			return id
		}
		q.mu.Unlock()
		select {
		case <-ctx.Done():
			return ""
		case <-q.there:
		}
	}
}
