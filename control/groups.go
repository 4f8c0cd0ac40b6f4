package control

import (
	"errors"
	"net/http"
	"slices"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func (c *Control) groupRoutes() []*route {
	const all = "/subscriptions/{subscription}/resourceGroups"
	const one = all + "/{group}"
	r := func(method, pattern, action string, drop int, need need, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: groupType, versions: arm.Resources, drop: drop,
			action: subscriptionType + "/resourceGroups/" + action, need: need | needSubscription, handle: handle}
	}
	return []*route{
		r("GET", all, "read", 1, 0, (*call).listGroups),
		r("GET", one, "read", 0, needGroup, (*call).getGroup),
		r("PUT", one, "write", 0, 0, (*call).putGroup),
		r("PATCH", one, "write", 0, needGroup, (*call).patchGroup),
		r("DELETE", one, "delete", 0, needGroup, (*call).removeGroup),
	}
}

type groupBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	ManagedBy  string            `json:"managedBy,omitempty"`
	Properties stateProperty     `json:"properties"`
}

type stateProperty struct {
	ProvisioningState string `json:"provisioningState"`
}

func bodyOfGroup(g *store.Group) groupBody {
	state := arm.Succeeded
	if g.Deleting {
		state = arm.Deleting
	}
	return groupBody{ID: g.ID, Name: nameOf(g.ID), Type: groupType, Location: g.Location, Tags: g.Tags, ManagedBy: g.ManagedBy, Properties: stateProperty{state}}
}

// nameOf is the last segment of a stored id.
func nameOf(id string) string {
	parsed, err := arm.ParseID(id)
	if err != nil {
		return ""
	}
	return parsed.Name()
}

func (k *call) listGroups() (*answer, error) {
	page, err := arm.ParsePage(k.request.URL.Query(), pageSize)
	if err != nil {
		return nil, err
	}
	query := k.request.URL.Query().Get("$filter")
	f, err := parseResourceFilter(query)
	if err != nil {
		return nil, err
	}
	for _, t := range slices.Concat(f...) {
		if !is(t.Name, "tagName") && !is(t.Name, "tagValue") {
			return nil, arm.BadFilter(query)
		}
	}
	all, err := some(k, page, store.ResourceKey(k.id.String())+"/resourcegroups/", func(g *store.Group) bool { return f.lets(&trackedResource{Tags: g.Tags}) })
	if err != nil {
		return nil, err
	}
	return listed(k, page, all, func(g store.Item[store.Group]) groupBody { return bodyOfGroup(&g.Value) }), nil
}

func (k *call) getGroup() (*answer, error) { return ok(bodyOfGroup(&k.group.Value)), nil }

type groupRequest struct {
	Location  string
	Tags      map[string]string
	ManagedBy string
}

func (k *call) putGroup() (*answer, error) {
	var body groupRequest
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	if body.Location == "" {
		return nil, arm.Errorf(trust.Invalid, arm.LocationRequired, "The location property is required for this definition.")
	}
	location, known := k.knownLocation(body.Location)
	if !known {
		return nil, arm.Errorf(trust.Invalid, "LocationNotAvailableForResourceGroup", "The provided location '%.64s' is not available for resource group. List of available regions is '%s'.", body.Location, joined(k.Locations))
	}
	old, err := store.Get[store.Group](k.ctx, k.Store, store.ResourceKey(k.id.String()))
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return nil, err
	}
	g := old.Value
	write, status := store.Create, http.StatusCreated
	if old.Revision != 0 {
		if err := groupOpen(&g); err != nil {
			return nil, err
		}
		if !arm.SameLocation(g.Location, location) {
			return nil, arm.Errorf(trust.Conflict, "InvalidResourceGroupLocation", "Invalid resource group location '%s'. The Resource group already exists in location '%s'.", location, g.Location)
		}
		write, status = updating(old.Revision), http.StatusOK
	} else {
		g.ID, g.Location = k.id.String(), location
	}
	if g.ManagedBy != "" && body.ManagedBy != "" && !is(g.ManagedBy, body.ManagedBy) {
		return nil, arm.Errorf(trust.Conflict, "ResourceGroupManagedByMismatch", "The resource group '%s' is managed by '%.300s' and cannot be given to '%.300s'.", nameOf(g.ID), g.ManagedBy, body.ManagedBy)
	}
	if body.ManagedBy != "" {
		g.ManagedBy = body.ManagedBy
	}
	g.Tags, g.Stamp = body.Tags, k.stamp(g.Stamp, &k.caller)
	if err := errors.Join(checkTags(g.Tags), checkManager(g.ManagedBy)); err != nil {
		return nil, err
	}
	if _, err := k.commit(k.durable(), k.within(write(g))...); err != nil {
		return nil, err
	}
	return &answer{status: status, body: bodyOfGroup(&g)}, nil
}

// updating is store.Update as a func of the record alone, like store.Create.
func updating(revision int64) func(store.Record) store.Op {
	return func(r store.Record) store.Op { return store.Update(r, revision) }
}

// within adds to a write that what it lies in is still there, unchanged.
func (k *call) within(ops ...store.Op) []store.Op {
	if k.group.Revision != 0 {
		return append(ops, store.Guard(k.group.Value.Key(), k.group.Revision))
	}
	if k.subscription.Revision != 0 {
		return append(ops, store.Guard(k.subscription.Value.Key(), k.subscription.Revision))
	}
	return ops
}

// groupOpen refuses writes into a group that is being deleted.
func groupOpen(g *store.Group) error {
	if !g.Deleting {
		return nil
	}
	return arm.Errorf(trust.Conflict, arm.ResourceGroupBeingDeleted, "The resource group '%s' is in deprovisioning state and cannot perform this operation.", nameOf(g.ID))
}

// checkTags applies ARM's limits.
func checkTags(tags map[string]string) error {
	if len(tags) > 50 {
		return arm.Errorf(trust.Invalid, "InvalidTags", "A resource may have at most 50 tags; %d were given.", len(tags))
	}
	for name, value := range tags {
		if name == "" || len(name) > 512 || len(value) > 256 {
			return arm.Errorf(trust.Invalid, "InvalidTags", "The tag '%.64s' is not valid: a name has 1 to 512 characters, a value at most 256.", name)
		}
	}
	return nil
}

// checkManager demands that what manages a group is a resource's id; nothing is
// asked of that resource.
func checkManager(id string) error {
	if id == "" {
		return nil
	}
	if parsed, err := arm.ParseID(id); err != nil || !parsed.IsResource() {
		return arm.BadParameter("managedBy", "'%.300s' is not the id of a resource", id)
	}
	return nil
}

func (k *call) patchGroup() (*answer, error) {
	var body struct {
		Tags      *map[string]string
		ManagedBy *string
	}
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	g := k.group.Value
	if err := groupOpen(&g); err != nil {
		return nil, err
	}
	if body.Tags != nil {
		if err := checkTags(*body.Tags); err != nil {
			return nil, err
		}
		g.Tags = *body.Tags
	}
	if body.ManagedBy != nil {
		if err := checkManager(*body.ManagedBy); err != nil {
			return nil, err
		}
		g.ManagedBy = *body.ManagedBy
	}
	g.Stamp = k.stamp(g.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), store.Update(g, k.group.Revision)); err != nil {
		return nil, err
	}
	return ok(bodyOfGroup(&g)), nil
}

// removeGroup shuts the group, and with it everything in it, in one
// transaction; the operation removes what is in it.
func (k *call) removeGroup() (*answer, error) {
	g := k.group.Value
	if g.Deleting {
		return k.accepted(g.ID, "Microsoft.Resources", opGroupDelete)
	}
	g.Deleting, g.Stamp = true, k.stamp(g.Stamp, &k.caller)
	op, err := k.newOperation(opGroupDelete, g.ID, nil)
	if err != nil {
		return nil, err
	}
	if err := k.shut(k.durable(), g.ID, store.Update(g, k.group.Revision), store.Create(op)); err != nil {
		return nil, err
	}
	return k.acceptedAs(op, "Microsoft.Resources"), nil
}
