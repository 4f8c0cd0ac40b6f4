package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// batch is how many bindings are removed in one transaction.
const batch = 200

// pruneWithin is how long the deletion of a cluster waits for a connected
// reconciler to remove our objects from it.
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
	key := store.ResourceKey(id)
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
	if err := c.pruned(ctx, uid, m.Revision, progress); err != nil {
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
		if _, err = c.Store.Commit(ctx, ops...); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
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
		if _, err := c.Store.Commit(ctx, ops...); err != nil {
			return err
		}
	}
}

// pruned waits for a connected reconciler to clean the cluster, for a while.
// What it does not remove is for the owner: sallyport cluster disconnect prints
// the commands.
func (c *Control) pruned(ctx context.Context, uid trust.ClusterUID, revision int64, progress func(string)) error {
	until := c.Now().Add(pruneWithin)
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
	ops, err := c.assignmentsBelow(ctx, r.ID)
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
	for _, agent := range []string{proxy, reconciler} {
		ops = append(ops, store.Delete(store.AgentStatus{Cluster: r.UID, Agent: agent}.Key(), 0))
	}
	return append(ops, store.Delete(mandateOf(r).Key(), 0)), nil
}

// deleteGroup ends the deletion of a resource group: the group was shut when its
// DELETE was committed, and with it everything in it at the gateways. Here its
// clusters' agents are told, its sources' bindings elsewhere end, and all of it
// is removed.
func (c *Control) deleteGroup(ctx context.Context, op *store.Operation, progress func(string)) error {
	key := store.ResourceKey(op.Target)
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
	return c.removeShell(ctx, op.Target)
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
			_, err := c.Store.Commit(ctx, store.Update(r, item.Revision), store.Put(mandateOf(&r)), operation.Fence(ctx))
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

// removeShell removes an emptied group.
func (c *Control) removeShell(ctx context.Context, id string) error {
	key := store.ResourceKey(id)
	for {
		g, err := store.Get[store.Group](ctx, c.Store, key)
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
		ops, err := c.assignmentsBelow(ctx, id)
		if err != nil {
			return err
		}
		ops = append(ops, store.Delete(key, g.Revision), operation.Fence(ctx))
		if _, err = c.Store.Commit(ctx, ops...); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}
