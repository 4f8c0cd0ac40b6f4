package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// remove ends the deletion of a binding: its record is gone since the DELETE
// was committed; this waits until nobody lets it through. What the reconciler
// has not removed from the cluster by then is a leftover, and goes when it
// returns.
func (c *Control) remove(ctx context.Context, op *store.Operation, progress func(string)) error {
	var in bindingInput
	if err := json.Unmarshal(op.Input, &in); err != nil {
		return fmt.Errorf("read operation: %w", err)
	}
	record, err := store.Get[store.Operation](ctx, c.Store, op.Key())
	if err != nil {
		return err
	}
	if err := c.refusedEverywhere(ctx, in.Cluster, record.Created, progress); err != nil {
		return err
	}
	key := store.Departed{Binding: store.Binding{UID: in.UID, ClusterUID: in.Cluster}}.Key()
	for {
		gone, err := store.Get[store.Departed](ctx, c.Store, key)
		if trust.KindOf(err) == trust.NotFound {
			return nil // its cluster went too
		}
		if err != nil {
			return err
		}
		cleaned, err := c.cleaned(ctx, in.Cluster, gone.Created)
		if err != nil {
			return err
		}
		gone.Value.Refused = true
		change := store.Update(gone.Value, gone.Revision)
		if cleaned {
			change = store.Delete(key, gone.Revision)
		}
		if _, err = c.Store.Commit(ctx, change, operation.Fence(ctx)); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// cleaned tells whether the reconciler has applied a revision without leaving
// anything.
func (c *Control) cleaned(ctx context.Context, cluster trust.ClusterUID, revision int64) (bool, error) {
	report, err := c.lastReport(ctx, cluster)
	if err != nil {
		return false, err
	}
	epoch, err := c.epoch(ctx)
	return err == nil && report.Fence == "" && !(mandate.Floor{Epoch: report.Epoch, Revision: report.Revision}).Before(mandate.Floor{Epoch: epoch, Revision: revision}), err
}

// power ends a stop or start: stopped means that nobody is let through any more.
func (c *Control) power(ctx context.Context, op *store.Operation, progress func(string)) error {
	var in clusterInput
	if err := json.Unmarshal(op.Input, &in); err != nil {
		return fmt.Errorf("read operation: %w", err)
	}
	record, err := store.Get[store.Operation](ctx, c.Store, op.Key())
	if err != nil {
		return err
	}
	for {
		item, err := store.Get[store.Cluster](ctx, c.Store, store.ResourceKey(op.Target))
		if err != nil && trust.KindOf(err) != trust.NotFound {
			return err
		}
		r := item.Value
		if err != nil || r.UID != in.UID || r.Deleting {
			return arm.Errorf(trust.Conflict, "OperationPreempted", "The cluster was deleted before the operation ended.")
		}
		if r.Stopped {
			if err := c.refusedEverywhere(ctx, in.UID, record.Created, progress); err != nil {
				return err
			}
		}
		r.State = arm.Succeeded
		if _, err = c.Store.Commit(ctx, store.Update(r, item.Revision), operation.Fence(ctx)); !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}
