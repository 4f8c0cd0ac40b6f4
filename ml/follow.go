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
	wait, silent, said := retryFirst, time.Time{}, ""
	if t, err := m.target(ctx, op); err == nil {
		if p, err := readJob(&t.resource.Value); err == nil {
			defer m.attend(ctx, t.workspace.Value.ID, p.Cluster)()
		}
	}
	for {
		done, err := m.step(ctx, op)
		if done && err == nil {
			m.keepLogs(ctx, op, progress)
		}
		if done || ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) {
			return err
		}
		if err == nil {
			wait, silent, said = retryFirst, time.Time{}, ""
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
		progress(sentence(err))
		if silent.IsZero() {
			silent = m.Now()
		}
		long := m.Now().Sub(silent) > m.silence
		if now := fmt.Sprint(long, err); now != said {
			if lost := m.unknown(ctx, op, err, long); lost != nil {
				return lost
			}
			said = now
		}
		pause(ctx, wait)
		wait = min(2*wait, retryMost)
	}
}

// unknown says in a job's record why nothing is heard of it. After a long
// silence that is all that is known.
func (m *ML) unknown(ctx context.Context, op *store.Operation, cause error, long bool) error {
	var e *trust.Error
	if !errors.As(cause, &e) {
		return cause
	}
	return m.settle(ctx, op, func(r *store.Provided) error {
		waits := r.State == notStarted || r.State == cancelRequested
		if ended(r.State) || !waits && !long {
			return nil
		}
		if r.Problem = problem(e); !waits {
			r.State = notResponding
		}
		return nil
	})
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
	if p.Cancel && !p.Told {
		return false, m.canceled(ctx, t, p, op.Caller)
	}
	e, err := m.reach(ctx, &t.workspace, p.Cluster)
	if err != nil {
		return false, err
	}
	if !p.Told {
		if err := m.onCompute(ctx, &t.workspace, p.ComputeID, p.Job.Compute, "job", func() error {
			return e.call(ctx, http.MethodPut, "/jobs/"+p.Job.UID, p.Job, nil)
		}); err != nil {
			return false, err
		}
		p.Told = true
		return false, m.note(ctx, op, p)
	}
	if r.Problem != nil { // the first answer counts, whatever it is
		p.Status.Version = ""
	}
	if p.Cancel {
		err = e.call(ctx, http.MethodPost, "/jobs/"+p.Job.UID+"/cancel", nil, nil)
	}
	var s wire.Status
	if err == nil {
		path := fmt.Sprintf("/jobs/%s?wait=%d&after=%s", p.Job.UID, longPoll, url.QueryEscape(p.Status.Version))
		err = e.call(ctx, http.MethodGet, path, nil, &s)
	}
	if err != nil {
		return false, e.ofTold(err)
	}
	if s.Version == p.Status.Version && r.State == s.State {
		return false, nil
	}
	p.Status = s
	return wire.Done(s.State), m.note(ctx, op, p)
}

// ofTold is an error about a job that the extension has had.
func (e *extension) ofTold(err error) error {
	var refused *trust.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.Code {
	case wire.JobNotFound:
		return arm.Errorf(trust.Conflict, wire.JobNotFound, "The job was removed from the cluster '%s' by somebody there.", e.cluster)
	case codeNoExtension, codeExtensionTrust: // what runs may run on
		away := *refused
		away.Kind = trust.Unavailable
		return &away
	}
	return err
}

// note stores what is known of a job; that its end is wanted may have been said
// meanwhile.
func (m *ML) note(ctx context.Context, op *store.Operation, p jobPrivate) error {
	return m.settle(ctx, op, func(r *store.Provided) error {
		was, err := readJob(r)
		if err != nil {
			return err
		}
		p.Cancel = was.Cancel
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

// cancel has the extension end a job, and ends when the job has. That its end is
// wanted is in the job's record: where the cluster cannot be told now, whoever
// follows the job tells it later, and the operation fails and says so.
func (m *ML) cancel(ctx context.Context, op *store.Operation, progress func(string)) error {
	asked, silent := false, time.Time{}
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
		followed := m.followed(ctx, r)
		switch {
		case !p.Told && !followed:
			if err := m.canceled(ctx, t, p, op.Caller); err != nil {
				return err
			}
			continue
		case p.Told && !asked:
			e, err := m.reach(ctx, &t.workspace, p.Cluster)
			if err == nil {
				err = e.call(ctx, http.MethodPost, "/jobs/"+p.Job.UID+"/cancel", nil, nil)
			}
			if errors.Is(err, store.ErrUnavailable) {
				return err
			}
			if asked = err == nil; asked {
				break
			}
			if silent.IsZero() {
				silent = m.Now()
			}
			if trust.KindOf(err) != trust.Unavailable || m.Now().Sub(silent) > m.silence {
				return canceledLater(err)
			}
			progress(sentence(err))
		case asked && !followed:
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

// canceledLater is the end of an operation whose wish lives on.
func canceledLater(err error) error {
	var e *trust.Error
	if !errors.As(err, &e) || e.Kind == trust.Internal {
		return err
	}
	p := problem(e)
	p.Message = sentence(e) + " The job is canceled as soon as the workspace reaches the cluster again."
	return &failed{*p}
}

// canceled ends a job that nobody told the cluster of; that an answer was lost
// on the way from there is seen to.
func (m *ML) canceled(ctx context.Context, t *target, p jobPrivate, caller string) error {
	r := t.resource.Value
	p.Status.State, p.Status.Ended, r.State, r.Problem = wire.Canceled, m.Now().UTC(), wire.Canceled, nil
	var err error
	if r.Private, err = json.Marshal(p); err != nil {
		return err
	}
	ops, err := m.removal(t, removalPrivate{p.Cluster, "/jobs/" + p.Job.UID}, caller)
	if err != nil {
		return err
	}
	_, err = m.Store.Commit(ctx, append(ops, store.Update(r, t.resource.Revision), operation.Fence(ctx))...)
	if errors.Is(err, store.ErrConflict) {
		return nil // whoever was faster knows better
	}
	return err
}

// followed tells whether an operation works on the resource.
func (m *ML) followed(ctx context.Context, r *store.Provided) bool {
	op, err := store.Get[store.Operation](ctx, m.Store, store.Operation{ID: r.Operation}.Key())
	return err != nil && trust.KindOf(err) != trust.NotFound || err == nil && !op.Value.Done()
}
