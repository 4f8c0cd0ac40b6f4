package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// How a job is followed.
const (
	longPoll   = 20          // seconds
	retryFirst = time.Second // after a failure
	retryMost  = 20 * time.Second
	unknownFor = 30 * time.Second // of silence, after which nothing is known of a job
)

// follow submits a job and keeps its record true until it has ended. It ends
// early, as Failed, when the workspace loses its access to the cluster: what
// runs there goes on, and nothing is known of it.
func (m *ML) follow(ctx context.Context, op *store.Operation, progress func(string)) error {
	wait, silent := retryFirst, time.Time{}
	for {
		done, err := m.step(ctx, op)
		if done || ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) {
			return err
		}
		if err == nil {
			wait, silent = retryFirst, time.Time{}
			continue
		}
		if withoutAccess(err) {
			var e *trust.Error
			errors.As(err, &e)
			if lost := m.settle(ctx, op, func(r *store.Provided) error {
				r.State, r.Problem = notResponding, problem(e)
				return nil
			}); lost != nil {
				return lost
			}
			return &failed{*problem(e)}
		}
		if trust.KindOf(err) != trust.Unavailable {
			return m.abandon(ctx, op, err)
		}
		progress(err.Error())
		if silent.IsZero() {
			silent = m.Now()
		}
		if m.Now().Sub(silent) > unknownFor {
			if lost := m.settle(ctx, op, func(r *store.Provided) error {
				if !ended(r.State) && r.State != notStarted && r.State != cancelRequested {
					r.State = notResponding
				}
				return nil
			}); lost != nil {
				return lost
			}
		}
		pause(ctx, wait)
		wait = min(2*wait, retryMost)
	}
}

// abandon ends a job that the extension will never take.
func (m *ML) abandon(ctx context.Context, op *store.Operation, cause error) error {
	var e *trust.Error
	if errors.As(cause, &e) && e.Code == preempted {
		return cause
	}
	if e == nil || e.Kind == trust.Internal {
		return errors.Join(cause, m.settle(ctx, op, func(r *store.Provided) error {
			r.State, r.Problem = notResponding, &store.Failure{Code: arm.InternalServerError, Message: "An internal error ended the operation that followed the job."}
			return nil
		}))
	}
	if err := m.settle(ctx, op, func(r *store.Provided) error {
		p, err := readJob(r)
		if err != nil {
			return err
		}
		p.Status.State, p.Status.Code, p.Status.Reason, p.Status.Ended = wire.Failed, e.Code, e.Message, m.Now().UTC()
		r.State, r.Problem = wire.Failed, problem(e)
		r.Private, err = json.Marshal(p)
		return err
	}); err != nil {
		return err
	}
	return &failed{*problem(e)}
}

// step asks the extension once, telling it of the job first if need be, and
// stores what it says. done: the job has ended.
func (m *ML) step(ctx context.Context, op *store.Operation) (done bool, err error) {
	t, err := m.target(ctx, op)
	if err != nil {
		return false, err
	}
	r := &t.resource.Value
	if r.Operation != op.ID {
		return false, arm.Errorf(trust.Conflict, preempted, "A later operation follows the job.")
	}
	p, err := readJob(r)
	if err != nil || ended(r.State) {
		return err == nil, err
	}
	e, err := m.reach(ctx, &t.workspace, p.Cluster)
	if err != nil {
		return false, err
	}
	if !p.Told {
		if err := m.submit(ctx, e, t, &p); err != nil {
			return false, err
		}
		p.Told = true
		return false, m.note(ctx, op, p)
	}
	if r.State == notResponding { // the first answer counts, whatever it is
		p.Status.Version = ""
	}
	var s wire.Status
	path := fmt.Sprintf("/jobs/%s?wait=%d&after=%s", p.Job.UID, longPoll, url.QueryEscape(p.Status.Version))
	err = e.call(ctx, http.MethodGet, path, nil, &s)
	var refused *trust.Error
	if errors.As(err, &refused) && refused.Code == wire.JobNotFound {
		return false, arm.Errorf(trust.Conflict, wire.JobNotFound, "The job was removed from the cluster '%s' by somebody there.", e.cluster)
	}
	if err != nil {
		return false, err
	}
	if s.Version == p.Status.Version && r.State == s.State {
		return false, nil
	}
	p.Status = s
	return wire.Done(s.State), m.note(ctx, op, p)
}

// submit tells the extension of the job, and of its compute if the extension was
// installed anew meanwhile.
func (m *ML) submit(ctx context.Context, e *extension, t *target, p *jobPrivate) error {
	put := func() error { return e.call(ctx, http.MethodPut, "/jobs/"+p.Job.UID, p.Job, nil) }
	err := put()
	var refused *trust.Error
	if !errors.As(err, &refused) || refused.Code != wire.ComputeNotFound {
		return err
	}
	compute, err := store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(p.ComputeID))
	if err != nil || compute.Value.UID != p.Job.Compute {
		return orGone(err, arm.Errorf(trust.Conflict, wire.ComputeNotFound, "The compute of the job was detached."))
	}
	c, err := readCompute(&compute.Value)
	if err != nil {
		return err
	}
	if err := m.register(ctx, &t.workspace, c); err != nil {
		return err
	}
	return put()
}

// note stores what is known of a job.
func (m *ML) note(ctx context.Context, op *store.Operation, p jobPrivate) error {
	return m.settle(ctx, op, func(r *store.Provided) error {
		var err error
		if r.Private, err = json.Marshal(p); err != nil {
			return err
		}
		r.Problem = nil
		state := p.Status.State
		if state == "" {
			state = wire.Queued
		}
		if r.State != cancelRequested || wire.Done(state) {
			r.State = state
		}
		return nil
	})
}

// cancel has the extension end a job, and ends when the job has.
func (m *ML) cancel(ctx context.Context, op *store.Operation, progress func(string)) error {
	asked := false
	for ctx.Err() == nil {
		t, err := m.target(ctx, op)
		if err != nil {
			return err
		}
		r := &t.resource.Value
		if ended(r.State) {
			return nil
		}
		p, err := readJob(r)
		if err != nil {
			return err
		}
		switch {
		case !p.Told && !m.followed(ctx, r):
			// Nobody is about to tell the cluster of it.
			p.Status.State, p.Status.Ended = wire.Canceled, m.Now().UTC()
			changed := *r
			changed.State = wire.Canceled
			if changed.Private, err = json.Marshal(p); err != nil {
				return err
			}
			if _, err := m.Store.Commit(ctx, store.Update(changed, t.resource.Revision), operation.Fence(ctx)); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			continue
		case p.Told && !asked:
			e, err := m.reach(ctx, &t.workspace, p.Cluster)
			if err == nil {
				err = e.call(ctx, http.MethodPost, "/jobs/"+p.Job.UID+"/cancel", nil, nil)
			}
			if asked = err == nil; err != nil && trust.KindOf(err) != trust.Unavailable {
				return errors.Join(err, m.uncancel(ctx, t))
			} else if err != nil {
				progress(err.Error())
			}
		case asked && !m.followed(ctx, r):
			if err := m.takeUp(ctx, opFollow, &t.workspace, &t.resource); err != nil {
				return err
			}
		case asked:
			progress("waiting for the cluster to end what runs")
		default:
			progress("waiting for the job to be submitted")
		}
		pause(ctx, 500*time.Millisecond)
	}
	return ctx.Err()
}

// uncancel takes back that a job's end was asked for, since it could not be.
func (m *ML) uncancel(ctx context.Context, t *target) error {
	r := t.resource.Value
	if r.State != cancelRequested {
		return nil
	}
	p, err := readJob(&r)
	if err != nil {
		return err
	}
	if r.State = p.Status.State; r.State == "" {
		r.State = wire.Queued
	}
	if _, err = m.Store.Commit(ctx, store.Update(r, t.resource.Revision), operation.Fence(ctx)); errors.Is(err, store.ErrConflict) {
		return nil // whoever was faster knows better
	}
	return err
}

// followed tells whether an operation works on the resource.
func (m *ML) followed(ctx context.Context, r *store.Provided) bool {
	op, err := store.Get[store.Operation](ctx, m.Store, store.Operation{ID: r.Operation}.Key())
	return err != nil && trust.KindOf(err) != trust.NotFound || err == nil && !op.Value.Done()
}

// removeJob removes a job. In a cluster that cannot be told any more what is
// there stays, and says so in the log.
func (m *ML) removeJob(ctx context.Context, op *store.Operation, progress func(string)) error {
	t, err := m.target(ctx, op)
	if trust.KindOf(err) == trust.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := readJob(&t.resource.Value)
	if err != nil {
		return err
	}
	if p.Told {
		progress("telling the cluster")
		if err := m.forget(ctx, &t.workspace, p.Cluster, "/jobs/"+p.Job.UID); err != nil {
			if ctx.Err() != nil {
				return err
			}
			m.Log.WarnContext(ctx, "job removed without telling its cluster", "job", op.Target, "error", err)
		}
	}
	_, err = m.Store.Commit(ctx, store.Delete(t.resource.Value.Key(), 0), operation.Fence(ctx))
	return err
}
