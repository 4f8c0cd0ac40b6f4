package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// batch is how many bindings are removed in one transaction.
const batch = 200

// pruneWithin is how long from its beginning the deletion of a cluster waits for
// a connected reconciler to remove our objects from it.
const pruneWithin = 20 * time.Second

// deleteCluster ends the deletion of a cluster, which lets nobody through since
// its DELETE was committed.
func (c *Control) deleteCluster(ctx context.Context, op *store.Operation, progress func(string)) error {
	var in clusterInput
	if err := json.Unmarshal(op.Input, &in); err != nil {
		return fmt.Errorf("read operation: %w", err)
	}
	return c.dissolve(ctx, op.Target, in.UID, progress)
}

// dissolve removes a cluster that is being deleted: once nobody is let through,
// its bindings, then itself. A cluster that is gone is no error.
func (c *Control) dissolve(ctx context.Context, id string, uid trust.ClusterUID, progress func(string)) error {
	key, until := store.ResourceKey(id), c.Now().Add(pruneWithin)
	m, err := store.Get[store.Mandate](ctx, c.Store, store.Mandate{Cluster: uid}.Key())
	if trust.KindOf(err) == trust.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.refusedEverywhere(ctx, uid, m.Revision, progress); err != nil {
		return err
	}
	if err := c.removeBindings(ctx, key); err != nil {
		return err
	}
	if err := c.pruned(ctx, uid, m.Revision, until, progress); err != nil {
		return err
	}
	for {
		item, err := store.Get[store.Cluster](ctx, c.Store, key)
		if trust.KindOf(err) == trust.NotFound || err == nil && item.Value.UID != uid {
			return nil
		}
		if err != nil {
			return err
		}
		ops, err := c.traces(ctx, &item.Value)
		if err != nil {
			return err
		}
		ops = append(ops, store.Delete(key, item.Revision), operation.Fence(ctx))
		if _, err = c.commit(ctx, ops...); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// removeBindings removes the records of a cluster that lets nobody through.
func (c *Control) removeBindings(ctx context.Context, cluster string) error {
	for {
		some, _, err := store.List[store.Binding](ctx, c.Store, cluster+"/", store.Limit(batch))
		if err != nil || len(some) == 0 {
			return err
		}
		ops := []store.Op{operation.Fence(ctx)}
		for _, b := range some {
			ops = append(ops, store.Delete(b.Value.Key(), 0), store.Delete(useOf(&b.Value).Key(), 0))
		}
		if _, err := c.commit(ctx, ops...); err != nil {
			return err
		}
	}
}

// pruned waits for a connected reconciler to clean the cluster, until then.
// What it does not remove is for the owner: sallyport cluster disconnect prints
// the commands.
func (c *Control) pruned(ctx context.Context, uid trust.ClusterUID, revision int64, until time.Time, progress func(string)) error {
	return c.picture.until(ctx, []string{topicAgents(uid)}, func() (bool, time.Duration, error) {
		s, err := c.status(ctx, uid, reconciler)
		if err != nil || c.away(&s) != "" {
			return err == nil, 0, err
		}
		done, err := c.cleaned(ctx, uid, revision)
		left := until.Sub(c.Now())
		if err == nil && !done && left > 0 {
			progress("waiting for the cluster's reconciler agent to remove what it made")
		}
		return done || left <= 0, left, err
	})
}

// traces are what a cluster leaves in the store besides itself.
func (c *Control) traces(ctx context.Context, r *store.Cluster) ([]store.Op, error) {
	ops, err := c.attachedBelow(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	gone, _, err := store.List[store.Departed](ctx, c.Store, store.DepartedPrefix+string(r.UID)+"/")
	if err != nil {
		return nil, err
	}
	for _, d := range gone {
		ops = append(ops, store.Delete(d.Value.Key(), 0))
	}
	extensions, _, err := store.List[store.Extension](ctx, c.Store, r.Key()+"/")
	if err != nil {
		return nil, err
	}
	for i := range extensions {
		ops = append(append(ops, goneExtension(&extensions[i].Value)...), store.Delete(extensions[i].Value.Key(), 0))
	}
	for _, agent := range []string{proxy, reconciler, installer} {
		ops = append(ops, store.Delete(store.AgentStatus{Cluster: r.UID, Agent: agent}.Key(), 0))
	}
	return append(ops, store.Delete(store.AgentReport{Cluster: r.UID}.Key(), 0), store.Delete(store.AgentProbe{Cluster: r.UID}.Key(), 0), store.Delete(mandateOf(r).Key(), 0)), nil
}

// mostOps is how many changes one transaction may hold here, well below what
// etcd takes (store.Config).
const mostOps = 2000

// shut commits that a group or subscription is being deleted (ops), and with it
// that the agents of all clusters in it are told, and that bindings elsewhere
// to sources in it let nobody through. Gateways let nobody into what is in it
// by its own record. Where that is too much for one transaction, or changes too
// fast, the operation does the rest.
func (c *Control) shut(ctx context.Context, id string, ops ...store.Op) error {
	for range attempts {
		ch := change{ops: slices.Clone(ops)}
		if err := c.consequences(ctx, &ch, id); err != nil {
			return err
		}
		if len(ch.ops) > mostOps {
			break
		}
		_, err := c.commit(ctx, ch.ops...)
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) || conflict.Op < len(ops) {
			return err
		}
	}
	_, err := c.commit(ctx, ops...)
	return err
}

func (c *Control) consequences(ctx context.Context, ch *change, id string) error {
	prefix := store.ResourceKey(id) + "/"
	clusters, _, err := store.List[store.Cluster](ctx, c.Store, prefix)
	if err != nil {
		return err
	}
	for i := range clusters {
		ch.touch(mandateOf(&clusters[i].Value))
	}
	sources, _, err := store.List[store.Source](ctx, c.Store, prefix)
	if err != nil {
		return err
	}
	for i := range sources {
		if err := c.orphans(ctx, ch, &sources[i].Value, "is being deleted"); err != nil || len(ch.ops) > mostOps {
			return err
		}
	}
	return nil
}

// deleteSubscription ends the deletion of a subscription: its groups one after
// the other, what lies in none, and the roles that it published.
func (c *Control) deleteSubscription(ctx context.Context, op *store.Operation, progress func(string)) error {
	key := store.ResourceKey(op.Target)
	// All agents are told before any is waited for.
	if err := c.shutClusters(ctx, key); err != nil {
		return err
	}
	groups, _, err := store.List[store.Group](ctx, c.Store, key+"/")
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := c.emptyGroup(ctx, g.Value.ID, progress); err != nil {
			return err
		}
	}
	roles, _, err := store.List[store.Role](ctx, c.Store, store.RolePrefix)
	if err != nil {
		return err
	}
	for _, r := range roles {
		if !is("/subscriptions/"+r.Value.Subscription, op.Target) {
			continue
		}
		if _, err := c.commit(ctx, store.Delete(r.Value.Key(), 0), operation.Fence(ctx)); err != nil {
			return err
		}
	}
	registrations := store.Registrations{Subscription: strings.TrimPrefix(op.Target, "/subscriptions/")}
	if _, err := c.commit(ctx, store.Delete(registrations.Key(), 0), operation.Fence(ctx)); err != nil {
		return err
	}
	return c.removeShell(ctx, op.Target)
}

// deleteGroup ends the deletion of a resource group, which was shut when its
// DELETE was committed, and with it everything in it.
func (c *Control) deleteGroup(ctx context.Context, op *store.Operation, progress func(string)) error {
	return c.emptyGroup(ctx, op.Target, progress)
}

// emptyGroup removes what is in a group and then the group.
func (c *Control) emptyGroup(ctx context.Context, id string, progress func(string)) error {
	key := store.ResourceKey(id)
	// Nothing can be added to a group that is being deleted, so these lists are
	// complete.
	sources, _, err := store.List[store.Source](ctx, c.Store, key+"/")
	if err != nil {
		return err
	}
	if err := c.shutClusters(ctx, key); err != nil {
		return err
	}
	for i := len(sources) - 1; i >= 0; i-- {
		if err := c.dropOne(ctx, sources[i]); err != nil && !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	clusters, _, err := store.List[store.Cluster](ctx, c.Store, key+"/")
	if err != nil {
		return err
	}
	for _, r := range clusters {
		if err := c.dissolve(ctx, r.Value.ID, r.Value.UID, progress); err != nil {
			return err
		}
	}
	return c.removeShell(ctx, id)
}

// shutClusters tells the agents of all clusters in a group to let nobody
// through, all of them before any is waited for.
func (c *Control) shutClusters(ctx context.Context, group string) error {
	clusters, _, err := store.List[store.Cluster](ctx, c.Store, group+"/")
	if err != nil {
		return err
	}
	for _, item := range clusters {
		for !item.Value.Deleting {
			r := item.Value
			r.Deleting, r.State = true, arm.Deleting
			_, err := c.commit(ctx, store.Update(r, item.Revision), store.Put(mandateOf(&r)), operation.Fence(ctx))
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
				return err
			}
			if item, err = store.Get[store.Cluster](ctx, c.Store, r.Key()); trust.KindOf(err) == trust.NotFound {
				break
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// removeShell removes an emptied group or subscription.
func (c *Control) removeShell(ctx context.Context, id string) error {
	key := store.ResourceKey(id)
	for {
		g, err := store.Get[anyRecord](ctx, c.Store, key)
		if trust.KindOf(err) == trust.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		left, _, err := store.List[store.Source](ctx, c.Store, key+"/", store.Limit(1))
		if err != nil {
			return err
		}
		if len(left) > 0 {
			if err := c.dropOne(ctx, left[0]); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			continue
		}
		ops, err := c.attachedBelow(ctx, id)
		if err != nil {
			return err
		}
		ops = append(ops, store.Delete(key, g.Revision), operation.Fence(ctx))
		if _, err = c.commit(ctx, ops...); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}
