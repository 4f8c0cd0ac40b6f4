package ml

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// preempted is the code of an operation that another one took over from.
const preempted = "OperationPreempted"

// target is what an operation works on, with its workspace, as they are now.
type target struct {
	workspace store.Item[store.Source]
	resource  store.Item[store.Provided]
}

// target reads them. An error of kind NotFound: there is nothing to work on any
// more.
func (m *ML) target(ctx context.Context, op *store.Operation) (*target, error) {
	var in input
	if err := json.Unmarshal(op.Input, &in); err != nil {
		return nil, fmt.Errorf("read operation: %w", err)
	}
	gone := arm.Errorf(trust.NotFound, preempted, "The resource was removed before the operation ended.")
	var err error
	t := &target{}
	if t.workspace, err = store.Get[store.Source](ctx, m.Store, store.ResourceKey(workspaceOf(op.Target))); err != nil {
		return nil, orGone(err, gone)
	}
	if t.resource, err = store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(op.Target)); err != nil {
		return nil, orGone(err, gone)
	}
	if t.resource.Value.UID != in.UID || t.resource.Value.Parent != t.workspace.Created {
		return nil, gone
	}
	return t, nil
}

func orGone(err, gone error) error {
	if trust.KindOf(err) == trust.NotFound {
		return gone
	}
	return err
}

// settle changes the operation's resource, however often that takes, and stores
// more with it. An operation that is not in charge any more changes nothing.
func (m *ML) settle(ctx context.Context, op *store.Operation, change func(*store.Provided) error, more ...store.Op) error {
	for {
		t, err := m.target(ctx, op)
		if err != nil {
			return err
		}
		r := t.resource.Value
		if r.Operation != op.ID {
			return arm.Errorf(trust.Conflict, preempted, "A later request changed the resource before the operation ended.")
		}
		if err := change(&r); err != nil {
			return err
		}
		_, err = m.Store.Commit(ctx, append(more, store.Update(r, t.resource.Revision), operation.Fence(ctx))...)
		if err == nil || !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// attach checks, in this order: a binding is there and in force, the cluster
// answers, the extension is installed and healthy, the namespace exists and may
// be used, the name is free. What is wrong first is what the operation ends
// with.
func (m *ML) attach(ctx context.Context, op *store.Operation, progress func(string)) error {
	err := m.attached(ctx, op, progress)
	if ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) {
		return err
	}
	var e *trust.Error
	settled := m.settle(ctx, op, func(r *store.Provided) error {
		r.State, r.Problem = arm.Succeeded, nil
		if err == nil {
			return nil
		}
		if !errors.As(err, &e) || e.Kind == trust.Internal {
			return err
		}
		r.State, r.Problem = arm.Failed, problem(e)
		return nil
	})
	if settled != nil {
		return settled
	}
	if e != nil {
		return &failed{*problem(e)}
	}
	return nil
}

// failed is an operation's end as it is stored.
type failed struct{ failure store.Failure }

func (f *failed) Error() string          { return f.failure.Message }
func (f *failed) Failure() store.Failure { return f.failure }

// problem is an error as people see it; the last detail is what to type next.
func problem(e *trust.Error) *store.Failure {
	p := &store.Failure{Code: e.Code, Message: e.Message, Target: e.Target}
	if e.Hint != "" {
		p.Details = []store.Failure{{Code: nextCommand, Message: e.Hint}}
	}
	return p
}

const nextCommand = "Command"

// hint is what a problem says to type next, "" if nothing.
func hint(p *store.Failure) string {
	for _, d := range p.Details {
		if d.Code == nextCommand {
			return d.Message
		}
	}
	return ""
}

// attachTries and their pause: a tunnel that is just being opened again is not
// worth a failure.
const (
	attachTries = 4
	attachPause = 2 * time.Second
)

func (m *ML) attached(ctx context.Context, op *store.Operation, progress func(string)) error {
	var err error
	for try := range attachTries {
		var t *target
		if t, err = m.target(ctx, op); err != nil {
			return err
		}
		var p computePrivate
		if p, err = readCompute(&t.resource.Value); err != nil {
			return err
		}
		progress("checking binding, cluster, extension and namespace")
		if err = m.register(ctx, &t.workspace, p); trust.KindOf(err) != trust.Unavailable || ctx.Err() != nil || try == attachTries-1 {
			return err
		}
		progress(err.Error())
		pause(ctx, m.again)
	}
	return err
}

// onCompute tells a cluster's extension of something on a compute, after the
// registries; and of the compute, if the extension was installed anew since.
// what names it for messages.
func (m *ML) onCompute(ctx context.Context, w *store.Item[store.Source], computeID, uid, what string, put func() error) error {
	tell := func() error {
		if err := m.tellRegistriesOf(ctx, w, computeID, uid); err != nil {
			return err
		}
		return put()
	}
	err := tell()
	if !refusedAs(err, wire.ComputeNotFound) {
		return err
	}
	compute, err := store.Get[store.Provided](ctx, m.Store, store.ProvidedKey(computeID))
	if err != nil || compute.Value.UID != uid {
		return orGone(err, arm.Errorf(trust.Conflict, wire.ComputeNotFound, "The compute of the %s was detached.", what))
	}
	c, err := readCompute(&compute.Value)
	if err != nil {
		return err
	}
	if err := m.register(ctx, w, c); err != nil {
		return err
	}
	return tell()
}

// register tells the cluster's extension of a compute.
func (m *ML) register(ctx context.Context, w *store.Item[store.Source], p computePrivate) error {
	e, err := m.reach(ctx, w, p.Cluster)
	if err != nil {
		return err
	}
	var health wire.Health
	if err := e.call(ctx, http.MethodGet, "/health", nil, &health); err != nil {
		return err
	}
	if !health.Operator {
		why := arm.Errorf(trust.Unavailable, codeExtensionSick, "The ML extension of the cluster '%s' is not healthy: %s.", e.cluster, health.Message)
		why.Hint = "kubectl get pods -n " + wire.Namespace
		return why
	}
	if e.behind(health.Keys) {
		if _, err := e.handOver(ctx, true); err != nil {
			return err
		}
	}
	err = e.call(ctx, http.MethodPut, "/computes/"+p.Compute.UID, p.Compute, nil)
	var refused *trust.Error
	if errors.As(err, &refused) {
		again := *refused
		switch refused.Code {
		case wire.NamespaceNotFound:
			again.Hint = "kubectl create namespace " + p.Compute.Namespace
		case wire.NamespaceRefused:
			again.Hint = "have the cluster's owner consent to it: sallyport ml extension manifest --namespace " + p.Compute.Namespace + " … | kubectl apply -f -"
		case wire.NameTaken:
			again.Hint = "choose another name"
		default:
			return err
		}
		return &again
	}
	return err
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
