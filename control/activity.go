package control

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The activity log has an entry for each request that passed authorization and
// was to change something. The entry of one that did is part of its first
// transaction: there is no change without it. Others are stored before they are
// answered. Requests that were not allowed are in the server's log alone: who
// may do nothing shall not be able to fill this one.

// Statuses of entries.
const (
	activityAccepted  = "Accepted"
	activitySucceeded = "Succeeded"
	activityFailed    = "Failed"
)

// Bounds of the log by default. Azure keeps 90 days.
const (
	activityAge  = 90 * 24 * time.Hour
	activityMost = 100_000 // of one subscription
	forgetEvery  = 10 * time.Minute
)

// pendingActivity is the entry of a request as long as no transaction has taken
// it along. A request is one goroutine's.
type pendingActivity struct {
	store.Activity
	stored bool
	quiet  []store.Op // what its first transaction must find: no new lock
}

type activityKey struct{}

// commit is Store.Commit with the entry of the request that the context is of,
// if there is one. The entry, and what must hold with it, stand last: conflicts
// keep their index.
func (c *Control) commit(ctx context.Context, ops ...store.Op) (int64, error) {
	p, _ := ctx.Value(activityKey{}).(*pendingActivity)
	if p == nil || p.stored {
		return c.Store.Commit(ctx, ops...)
	}
	revision, err := c.Store.Commit(ctx, append(append(slices.Clone(ops), p.quiet...), store.Put(p.Activity))...)
	p.stored = err == nil
	return revision, err
}

// recorded runs the handler with the request's entry.
func (k *call) recorded() (*answer, error) {
	if m := k.route.method; m == http.MethodGet || m == http.MethodHead {
		return k.route.handle(k)
	}
	p := &pendingActivity{Activity: k.activity()}
	k.ctx = context.WithValue(k.ctx, activityKey{}, p)
	k.entry = p
	a, err := k.change()
	if err == nil && p.stored {
		return a, nil
	}
	if trust.KindOf(err) == trust.Forbidden && !p.stored {
		return a, err
	}
	if err != nil {
		status, body := arm.Translate(err)
		p.Status, p.HTTPStatus, p.Code = activityFailed, status, body.Error.Code
	} else if p.HTTPStatus = a.status; a.status == http.StatusAccepted {
		p.Status = activityAccepted
	}
	if _, stored := k.Store.Commit(k.durable(), store.Put(p.Activity)); stored != nil {
		// What was done is done, and in the log; what failed has failed.
		k.Log.WarnContext(k.ctx, "activity not stored", "request", k.ids.Request, "error", stored)
	}
	return a, err
}

// change runs the handler of a request that is to change something, unless what
// it would change is locked. Where the handler asks for the right, it asks for
// locks after that.
func (k *call) change() (*answer, error) {
	if k.route.action != handlerAsks {
		if err := k.demandUnlocked(); err != nil {
			return nil, err
		}
	}
	return k.route.handle(k)
}

// target is what a request changes: an assignment, say, and not the scope that
// the right is asked for. A cluster has one name here, whichever it was asked by:
// locks lie under it, and the log is searched by it.
func (k *call) target() arm.ID {
	if k.route.method != http.MethodPost && k.route.drop > 0 {
		if whole, err := arm.ParseID("/" + strings.Join(k.path, "/")); err == nil {
			whole, _ = managed(whole)
			return whole
		}
	}
	return k.id
}

// activity is the entry of this request.
func (k *call) activity() store.Activity {
	id, typ := k.target(), k.route.typ
	if typ == "" {
		typ = id.Type()
	}
	who := k.client()
	if k.caller.Name == "" {
		who = k.caller.Object
	}
	return store.Activity{
		ID: newUID(), Time: k.Now().UTC(), Subscription: k.id.Subscription, Operation: k.ids.Request, Correlation: k.ids.Correlation,
		Resource: id.String(), Type: typ, Action: k.asked, Status: activitySucceeded, Caller: who,
		Object: k.caller.Object, ClientID: k.caller.ClientID, Tenant: k.caller.Tenant, ResourceID: k.caller.ResourceID,
		Address: k.ClientAddress(k.request).String(), Method: k.request.Method, ClientRequest: k.ids.Client, Agent: cut(k.request.UserAgent(), 200),
	}
}

func cut(s string, most int) string { return s[:min(len(s), most)] }

// logged adds the end of an operation to the log. One that is interrupted has
// not ended: another server takes it up.
func (c *Control) logged(run operation.Handler) operation.Handler {
	return func(ctx context.Context, op *store.Operation, progress func(string)) error {
		err := run(ctx, op, progress)
		if ctx.Err() != nil {
			return err
		}
		id, bad := arm.ParseID(op.Target)
		if bad != nil {
			return err
		}
		e := store.Activity{
			ID: op.ID, Time: c.Now().UTC(), Subscription: id.Subscription, Operation: op.ID, Correlation: op.ID, Resource: op.Target, Type: id.Type(),
			Action: actionOf[op.Kind], Ended: true, Status: activitySucceeded, Caller: op.Caller, Object: op.Caller, Tenant: c.Tenant,
		}
		if op.Kind == opSubscriptionDelete {
			e.Subscription = "" // it is gone
		}
		if err != nil {
			_, body := arm.Translate(err)
			e.Status, e.Code = activityFailed, body.Error.Code
		}
		if _, failed := c.Store.Commit(ctx, store.Put(e)); failed != nil {
			c.Log.WarnContext(ctx, "activity not stored", "operation", op.ID, "error", failed)
		}
		return err
	}
}

// actionOf is what an operation of a kind does.
var actionOf = map[string]string{
	opApply:         bindingType + "/write",
	opRemove:        bindingType + "/delete",
	opClusterDelete: clusterType + "/delete",
	opClusterPower:  clusterType + "/write",
	opGroupDelete:   subscriptionType + "/resourceGroups/delete",

	opSubscriptionDelete: subscriptionType + "/delete",
	opExtensionApply:     extensionType + "/write",
	opExtensionDelete:    extensionType + "/delete",
}

// forget removes entries that are too old or too many, until ctx ends.
func (c *Control) forget(ctx context.Context) error {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		if err := c.forgetOnce(ctx); err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "activity log not trimmed", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// forgetOnce visits each subscription that the log knows, those that are gone
// included.
func (c *Control) forgetOnce(ctx context.Context) error {
	for after := ""; ; {
		some, _, err := store.List[store.Activity](ctx, c.Store, store.ActivityPrefix, store.After(after), store.Limit(1))
		if err != nil || len(some) == 0 {
			return err
		}
		of := some[0].Value.Subscription
		if err := c.forgetAfter(ctx, store.ActivityBefore(of, c.Now().Add(-c.ActivityAge))); err != nil {
			return err
		}
		n, err := c.Store.Count(ctx, store.ActivitiesOf(of))
		if err != nil {
			return err
		}
		if n > c.ActivityMost {
			last, err := c.nth(ctx, store.ActivitiesOf(of), c.ActivityMost-c.ActivityMost/10)
			if err != nil {
				return err
			}
			if err := c.forgetAfter(ctx, last); err != nil {
				return err
			}
		}
		after = strings.TrimSuffix(store.ActivitiesOf(of), "/") + "/~" // behind all of its entries
	}
}

// nth is the key of the nth newest entry.
func (c *Control) nth(ctx context.Context, prefix string, n int) (string, error) {
	key := ""
	for n > 0 {
		some, _, err := store.List[store.Activity](ctx, c.Store, prefix, store.After(key), store.Limit(min(n, batch)))
		if err != nil || len(some) == 0 {
			return key, err
		}
		key, n = some[len(some)-1].Value.Key(), n-len(some)
	}
	return key, nil
}

// forgetAfter removes what is older than the entry at key, in its subscription.
func (c *Control) forgetAfter(ctx context.Context, key string) error {
	prefix := key[:strings.LastIndexByte(key, '/')+1]
	for {
		some, _, err := store.List[store.Activity](ctx, c.Store, prefix, store.After(key), store.Limit(batch))
		if err != nil || len(some) == 0 {
			return err
		}
		var ops []store.Op
		for _, a := range some {
			ops = append(ops, store.Delete(a.Value.Key(), 0))
		}
		if _, err := c.Store.Commit(ctx, ops...); err != nil {
			return err
		}
	}
}
