package control

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func (c *Control) bindingRoutes() []*route {
	const in = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.ContainerService/managedClusters/{cluster}/trustedAccessRoleBindings"
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: bindingType, versions: arm.ContainerService, drop: drop,
			action: bindingType + "/" + action, need: needSubscription | needGroup | needCluster, handle: handle}
	}
	return []*route{
		r("GET", in, "read", 1, (*call).listBindings),
		r("GET", in+"/{binding}", "read", 0, (*call).getBinding),
		r("PUT", in+"/{binding}", "write", 0, (*call).putBinding),
		r("DELETE", in+"/{binding}", "delete", 0, (*call).removeBinding),
	}
}

// bindingBody has no systemData, location or tags, as the live service's.
type bindingBody struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	Properties bag    `json:"properties"`
}

func bodyOfBinding(b *store.Binding, reason string) bindingBody {
	p, _ := parseBag(b.Extra)
	p.set("provisioningState", b.State).set("sourceResourceId", b.SourceID).set("roles", b.Roles)
	if b.Problem != nil {
		p.set("error", problemBody(b.Problem))
	}
	if reason != "" {
		p.set("reason", reason)
	}
	return bindingBody{ID: b.ID, Name: nameOf(b.ID), Type: bindingType, Properties: p}
}

// reason is what a binding waits for, which its operation knows.
func (c *Control) reason(ctx context.Context, state, operation string) string {
	if arm.Terminal(state) || operation == "" {
		return ""
	}
	op, err := store.Get[store.Operation](ctx, c.Store, store.Operation{ID: operation}.Key())
	if err != nil {
		return ""
	}
	return op.Value.Reason
}

func (k *call) listBindings() (*answer, error) {
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	all, _, err := store.List[store.Binding](k.ctx, k.Store, store.ResourceKey(k.cluster.Value.ID)+"/", store.Limit(page.Top+1), store.After(page.After))
	if err != nil {
		return nil, err
	}
	return listed(k, page, all, func(b store.Item[store.Binding]) bindingBody {
		return bodyOfBinding(&b.Value, k.reason(k.ctx, b.Value.State, b.Value.Operation))
	}), nil
}

// getBinding shows a deleted binding, as Deleting, until it is refused
// everywhere.
func (k *call) getBinding() (*answer, error) {
	b, err := store.Get[store.Binding](k.ctx, k.Store, store.ResourceKey(k.id.String()))
	if err == nil {
		return ok(bodyOfBinding(&b.Value, k.reason(k.ctx, b.Value.State, b.Value.Operation))), nil
	}
	if trust.KindOf(err) != trust.NotFound {
		return nil, err
	}
	gone, _, err := store.List[store.Departed](k.ctx, k.Store, store.DepartedPrefix+string(k.cluster.Value.UID)+"/")
	if err != nil {
		return nil, err
	}
	for _, d := range gone {
		if !d.Value.Refused && is(d.Value.Binding.ID, k.id.String()) {
			was := d.Value.Binding
			was.State, was.Problem = arm.Deleting, nil
			return ok(bodyOfBinding(&was, k.reason(k.ctx, was.State, d.Value.Operation))), nil
		}
	}
	return nil, arm.NoResource(k.id)
}

// bindingInput tells an operation which creation of a binding it works on.
type bindingInput struct {
	UID     trust.BindingUID
	Cluster trust.ClusterUID
}

// attempts is how often a write is made again after somebody changed what it
// only relies on.
const attempts = 8

// putBinding stores what is wanted and an operation that makes it so. What the
// PUT takes away ends when it commits; what it adds begins when the agents have
// applied it.
func (k *call) putBinding() (*answer, error) {
	if name := k.vars["binding"]; !arm.ValidBindingName(name) {
		return nil, badName("trustedAccessRoleBindingName", name, arm.BindingNamePattern, 24)
	}
	var body struct{ Properties json.RawMessage }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	want, err := k.parseWant(body.Properties)
	if err != nil {
		return nil, err
	}
	first := int64(-1)
	for range attempts {
		var a *answer
		a, err = k.tryPutBinding(want, &first)
		var conflict *store.ConflictError
		if !errors.As(err, &conflict) {
			return a, err
		}
		if conflict.Key == store.ResourceKey(k.id.String()) && first == 0 {
			return nil, pending(arm.Updating) // another PUT made it first
		}
		if err := k.lookAgain(err); err != nil {
			return nil, err
		}
	}
	return nil, pending(arm.Updating)
}

// tryPutBinding is one attempt. seen is when the binding was last asked for, as
// the first attempt saw it: -1 before that, 0 if there is none. A binding that
// another request made, changed or removed meanwhile is a conflict of the
// callers', not one to be tried again.
func (k *call) tryPutBinding(want *wantedBinding, seen *int64) (*answer, error) {
	old, err := store.Get[store.Binding](k.ctx, k.Store, store.ResourceKey(k.id.String()))
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return nil, err
	}
	if err := k.conditions(old.Revision); err != nil {
		return nil, err
	}
	generation := int64(0)
	if old.Revision != 0 {
		// The operation's id changes with each PUT, and not when it ends.
		started, err := store.Get[store.Operation](k.ctx, k.Store, store.Operation{ID: old.Value.Operation}.Key())
		if err == nil {
			generation = started.Created
		} else {
			generation = old.Created
		}
	}
	if *seen == -1 {
		*seen = generation
	}
	if *seen != generation {
		return nil, pending(arm.Updating)
	}
	b, more, err := k.resolve(want, old)
	if err != nil {
		return nil, err
	}
	op, err := k.newOperation(opApply, b.ID, bindingInput{b.UID, b.ClusterUID})
	if err != nil {
		return nil, err
	}
	b.State, b.Problem, b.Operation, b.Stamp = arm.Updating, nil, op.ID, k.stamp(b.Stamp, &k.caller)
	write := store.Create
	if old.Revision != 0 {
		write = updating(old.Revision)
	}
	ops := append([]store.Op{
		write(b), store.Create(op), store.Put(mandateOf(&k.cluster.Value)),
		store.Guard(k.cluster.Value.Key(), k.cluster.Revision),
		store.Guard(k.group.Value.Key(), k.group.Revision),
	}, more...)
	if _, err := k.commit(k.durable(), ops...); err != nil {
		return nil, err
	}
	a := created(bodyOfBinding(&b, ""))
	k.links(&op, "Microsoft.ContainerService").Created(a.h(), retryAfter)
	return a, nil
}

// resolve makes the record that a PUT asks for, and what must hold with it.
func (k *call) resolve(want *wantedBinding, old store.Item[store.Binding]) (store.Binding, []store.Op, error) {
	b := old.Value
	cluster := &k.cluster.Value
	if err := groupOpen(&k.group.Value); err != nil {
		return b, nil, err
	}
	if cluster.Deleting {
		return b, nil, pending(arm.Deleting)
	}
	source, err := k.consented(want.sourceID)
	if err != nil {
		return b, nil, err
	}
	roles, err := k.wantedRoles(want)
	if err != nil {
		return b, nil, err
	}
	ops := []store.Op{store.Guard(source.Value.Key(), source.Revision)}
	if old.Revision == 0 {
		if err := k.belowLimit(); err != nil {
			return b, nil, err
		}
		b = store.Binding{ID: k.bindingID().String(), UID: trust.BindingUID(newUID()), ClusterID: cluster.ID, ClusterUID: cluster.UID, SourceID: want.sourceID.text}
		ops = append(ops, store.Create(store.Use{SourceID: source.Value.ID, BindingID: b.ID, BindingUID: b.UID}))
	} else if !is(b.SourceID, want.sourceID.text) {
		e := arm.BadParameter("properties.sourceResourceId", "it cannot be changed from %s; delete the binding and create it anew", b.SourceID)
		return b, nil, e
	}
	accepted, err := k.acceptedRoles(k.ctx, cluster.UID)
	if err != nil {
		return b, nil, err
	}
	principal, err := k.sourcePrincipal(&source.Value)
	if err != nil {
		return b, nil, err
	}
	if b.Source != principal {
		// A source that was made anew is another one: nothing that the old one
		// had passes to it without the agents.
		b.Grants = nil
	}
	b.Source, b.Roles, b.Extra = principal, want.roles, want.extra.store()
	b.Desired = grantsFor(roles, accepted, b.Desired)
	b.Grants = inBoth(b.Grants, b.Desired)
	return b, ops, nil
}

// bindingID is the id in the casing that it is stored with: the cluster's own.
func (k *call) bindingID() arm.ID {
	id, err := arm.ParseID(k.cluster.Value.ID)
	if err != nil {
		return k.id
	}
	return id.Child("trustedAccessRoleBindings", k.vars["binding"])
}

func (k *call) belowLimit() error {
	if k.MaxBindingsPerCluster == 0 {
		return nil
	}
	all, _, err := store.List[store.Binding](k.ctx, k.Store, store.ResourceKey(k.cluster.Value.ID)+"/", store.Limit(k.MaxBindingsPerCluster))
	if err == nil && len(all) >= k.MaxBindingsPerCluster {
		return arm.Errorf(trust.Invalid, arm.QuotaExceeded, "The cluster '%s' has %d trusted access role bindings already, which is the limit.", nameOf(k.cluster.Value.ID), len(all))
	}
	return err
}

// deleteWait is how long a DELETE waits for access to be refused everywhere
// before it is answered, so that a GET right after it is a 404 when all is well.
const deleteWait = time.Second

// removeBinding takes the binding away: its record is gone when this commits.
// The operation waits until every gateway and agent has followed.
func (k *call) removeBinding() (*answer, error) { return k.again(k.tryRemoveBinding) }

// again does a write anew that lost a race, after reading what it lies in again:
// for what takes access away, which must not fail because an operation that the
// same client began a moment ago has just ended. Conditions are held each time.
// It tries longer than other writes do: giving up leaves access in place.
func (k *call) again(try func() (*answer, error)) (*answer, error) {
	const persistent = 10 * attempts
	var err error
	for range persistent {
		var a *answer
		if a, err = try(); !errors.Is(err, store.ErrConflict) {
			return a, err
		}
		if err := k.lookAgain(err); err != nil {
			return nil, err
		}
	}
	return nil, err
}

// lookAgain reads what may have changed around a write that lost a race: to a
// lock, or to what it lies in.
func (k *call) lookAgain(lost error) error {
	var conflict *store.ConflictError
	if errors.As(lost, &conflict) && strings.HasPrefix(conflict.Key, store.LocksPrefix) {
		return k.demandUnlocked()
	}
	return k.findParents()
}

func (k *call) tryRemoveBinding() (*answer, error) {
	b, err := store.Get[store.Binding](k.ctx, k.Store, store.ResourceKey(k.id.String()))
	if trust.KindOf(err) == trust.NotFound {
		return empty(http.StatusNoContent), nil
	}
	if err != nil {
		return nil, err
	}
	gone, ops, op, err := k.departure(b)
	if err != nil {
		return nil, err
	}
	if _, err := k.commit(k.durable(), ops...); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(k.durable(), deleteWait)
	defer cancel()
	// Whether it is refused by now does not change the answer.
	_ = k.picture.until(ctx, []string{topicDeparted(b.Value.ClusterUID)}, func() (bool, time.Duration, error) {
		d, err := store.Get[store.Departed](ctx, k.Store, gone.Key())
		return err != nil || d.Value.Refused, 0, nil
	})
	return k.acceptedAs(op, "Microsoft.ContainerService"), nil
}

// departure is the transaction that deletes a binding.
func (k *call) departure(b store.Item[store.Binding]) (store.Departed, []store.Op, store.Operation, error) {
	op, err := k.newOperation(opRemove, b.Value.ID, bindingInput{b.Value.UID, b.Value.ClusterUID})
	gone := store.Departed{Binding: b.Value, Operation: op.ID}
	ops := []store.Op{
		store.Delete(b.Value.Key(), b.Revision),
		store.Delete(useOf(&b.Value).Key(), 0),
		store.Put(mandateOf(&k.cluster.Value)),
		store.Create(gone), store.Create(op),
	}
	return gone, ops, op, err
}

func useOf(b *store.Binding) store.Use {
	return store.Use{SourceID: b.SourceID, BindingID: b.ID, BindingUID: b.UID}
}
