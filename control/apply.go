package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// apply makes a binding what its PUT asked for: it waits until both agents have
// applied the desired grants and every gateway has dropped what was taken away,
// and then puts the desired grants in force. It may be called again at any
// point.
func (c *Control) apply(ctx context.Context, op *store.Operation, progress func(string)) error {
	var in bindingInput
	if err := json.Unmarshal(op.Input, &in); err != nil {
		return fmt.Errorf("read operation: %w", err)
	}
	record, err := store.Get[store.Operation](ctx, c.Store, op.Key())
	if err != nil {
		return err
	}
	epoch, err := c.epoch(ctx)
	if err != nil {
		return err
	}
	// The operation was created by the commit that touched the mandate.
	floor := mandate.Floor{Epoch: epoch, Revision: record.Created}
	began := c.Now()
	var problem *mandate.Problem
	topics := []string{topicAgents(in.Cluster), topicGateways, topicMandate(in.Cluster)}
	err = c.picture.until(ctx, topics, func() (bool, time.Duration, error) {
		// Whoever took the binding over, or away, touched the mandate.
		if _, err := c.mine(ctx, op, in); err != nil {
			return false, 0, err
		}
		why, again, err := c.applied(ctx, in, floor, began, &problem)
		if err == nil && why != "" {
			progress(why)
		}
		return why == "", again, err
	})
	if err != nil {
		return err
	}
	if problem != nil {
		return c.refused(ctx, op, in, problem)
	}
	return c.enforce(ctx, op, in)
}

// mine is the binding if this operation is still in charge of it.
func (c *Control) mine(ctx context.Context, op *store.Operation, in bindingInput) (store.Item[store.Binding], error) {
	b, err := store.Get[store.Binding](ctx, c.Store, store.ResourceKey(op.Target))
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return b, err
	}
	if err != nil || b.Value.UID != in.UID {
		return b, arm.Errorf(trust.Conflict, "OperationPreempted", "The binding was deleted before the operation ended.")
	}
	if b.Value.Operation != op.ID {
		return b, arm.Errorf(trust.Conflict, "OperationPreempted", "A later request changed the binding before the operation ended.")
	}
	return b, nil
}

// applied is "" when everybody has followed, or the reconciler has said why it
// cannot; else what is waited for.
func (c *Control) applied(ctx context.Context, in bindingInput, floor mandate.Floor, began time.Time, problem **mandate.Problem) (why string, again time.Duration, err error) {
	report, err := c.lastReport(ctx, in.Cluster)
	if err != nil {
		return "", 0, err
	}
	if (mandate.Floor{Epoch: report.Epoch, Revision: report.Revision}).Before(floor) {
		r, err := c.status(ctx, in.Cluster, reconciler)
		if err != nil {
			return "", 0, err
		}
		if why = c.away(&r); why == "" {
			why = "waiting for the cluster's reconciler agent to apply the binding"
		}
		return why, connectedWithin, nil // by then it may count as away
	}
	i := slices.IndexFunc(report.Bindings, func(b mandate.BindingReport) bool { return b.UID == in.UID })
	switch {
	case i < 0:
		return "waiting for the cluster's reconciler agent to speak of the binding", 0, nil
	case report.Bindings[i].Problem != nil && report.Bindings[i].Problem.Code == mandate.ApplyFailed:
		return "the cluster's reconciler agent tries again: " + report.Bindings[i].Problem.Message, 0, nil
	case report.Bindings[i].Problem != nil:
		*problem = report.Bindings[i].Problem
		return "", 0, nil
	}
	if why, err = c.gatewaysApplied(ctx, floor.Revision); err != nil || why != "" {
		return why, 0, err
	}
	return c.proxiesFollow(ctx, in.Cluster, floor, began)
}

// proxiesFollow is "" when the proxy agent lets through what the revision adds,
// and no process of it still lets through what it took away.
func (c *Control) proxiesFollow(ctx context.Context, cluster trust.ClusterUID, floor mandate.Floor, began time.Time) (why string, again time.Duration, err error) {
	p, err := c.status(ctx, cluster, proxy)
	if err != nil {
		return "", 0, err
	}
	if behind(p.Instances[p.Instance], floor) {
		if why = c.away(&p); why == "" {
			why = "waiting for the cluster's proxy agent to apply the binding"
		}
		return why, connectedWithin, nil
	}
	return c.proxiesRefuse(ctx, cluster, floor, began)
}

// refused ends a PUT that the cluster's owner has not consented to: what was
// kept stays, what was taken away does not come back, what was asked for
// besides is forgotten.
func (c *Control) refused(ctx context.Context, op *store.Operation, in bindingInput, p *mandate.Problem) error {
	f := failureOf(p)
	for {
		b, err := c.mine(ctx, op, in)
		if err != nil {
			return err
		}
		r := b.Value
		r.Desired, r.State, r.Problem = r.Grants, arm.Failed, &f
		ops := []store.Op{store.Update(r, b.Revision), operation.Fence(ctx), store.Put(store.Mandate{Cluster: r.ClusterUID, ClusterID: r.ClusterID})}
		_, err = c.Store.Commit(ctx, ops...)
		if err == nil {
			return &failed{f}
		}
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// failed is an operation's end as it is stored.
type failed struct{ failure store.Failure }

func (f *failed) Error() string          { return f.failure.Message }
func (f *failed) Failure() store.Failure { return f.failure }

// failureOf is a reconciler's problem as people see it: what is not covered, and
// the command that helps.
func failureOf(p *mandate.Problem) store.Failure {
	f := store.Failure{Code: p.Code, Message: p.Message, Target: "properties.roles"}
	for _, r := range p.Uncovered {
		f.Details = append(f.Details, store.Failure{Code: "UncoveredRule", Message: ruleText(r)})
	}
	if p.Command != "" {
		f.Message += " The cluster's owner lets it pass with: " + p.Command
		f.Details = append(f.Details, store.Failure{Code: "Command", Message: p.Command})
	}
	return f
}

// ruleText is a rule in one line.
func ruleText(r trust.Rule) string {
	raw, err := json.Marshal(ruleBody(r))
	if err != nil {
		return ""
	}
	return string(raw)
}

// shownWithin is how long the end of a PUT waits for gateways to let through
// what was added. One that is slower refuses a moment longer, which is safe.
const shownWithin = 500 * time.Millisecond

// enforce puts the desired grants in force, waits for the gateways to know
// them, and settles the binding.
func (c *Control) enforce(ctx context.Context, op *store.Operation, in bindingInput) error {
	revision, err := c.settle(ctx, op, in, func(r *store.Binding) { r.Grants = r.Desired })
	if err != nil {
		return err
	}
	brief, cancel := context.WithTimeout(ctx, shownWithin)
	defer cancel()
	_ = c.picture.until(brief, []string{topicGateways}, func() (bool, time.Duration, error) {
		why, err := c.gatewaysApplied(brief, revision)
		return why == "" || err != nil, 0, nil
	})
	_, err = c.settle(ctx, op, in, func(r *store.Binding) { r.State, r.Problem = arm.Succeeded, nil })
	return err
}

// settle changes the binding as long as this operation is in charge of it.
func (c *Control) settle(ctx context.Context, op *store.Operation, in bindingInput, change func(*store.Binding)) (int64, error) {
	for {
		b, err := c.mine(ctx, op, in)
		if err != nil {
			return 0, err
		}
		change(&b.Value)
		revision, err := c.Store.Commit(ctx, store.Update(b.Value, b.Revision), operation.Fence(ctx))
		if err == nil || !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return revision, err
		}
	}
}
