package control

import (
	"net/http"

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
		r("GET", one+"/resources", "resources/read", 1, needGroup, (*call).listResources),
	}
}

type groupBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
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
	return groupBody{ID: g.ID, Name: nameOf(g.ID), Type: groupType, Location: g.Location, Tags: g.Tags, Properties: stateProperty{state}}
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
	all, _, err := store.List[store.Group](k.ctx, k.Store, store.ResourceKey(k.id.String())+"/resourcegroups/", store.Limit(page.Top+1), store.After(page.After))
	if err != nil {
		return nil, err
	}
	return listed(k, page, all, func(g store.Item[store.Group]) groupBody { return bodyOfGroup(&g.Value) }), nil
}

func (k *call) getGroup() (*answer, error) { return ok(bodyOfGroup(&k.group.Value)), nil }

type groupRequest struct {
	Location string
	Tags     map[string]string
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
	g.Tags, g.Stamp = body.Tags, k.stamp(g.Stamp, &k.caller)
	if err := checkTags(g.Tags); err != nil {
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

func (k *call) patchGroup() (*answer, error) {
	var body struct{ Tags *map[string]string }
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
	g.Stamp = k.stamp(g.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), store.Update(g, k.group.Revision)); err != nil {
		return nil, err
	}
	return ok(bodyOfGroup(&g)), nil
}

type resourceBody struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
}

// listResources lists tracked resources of a group or of the subscription:
// clusters and sources, not their children.
func (k *call) listResources() (*answer, error) {
	filter, err := parseFilter(k.request.URL.Query().Get("$filter"))
	if err != nil {
		return nil, err
	}
	prefix := store.ResourceKey(k.id.String()) + "/"
	clusters, _, err := store.List[store.Cluster](k.ctx, k.Store, prefix)
	if err != nil {
		return nil, err
	}
	sources, _, err := store.List[store.Source](k.ctx, k.Store, prefix)
	if err != nil {
		return nil, err
	}
	var list []resourceBody
	add := func(r resourceBody) {
		if filter.lets(r) {
			list = append(list, r)
		}
	}
	for _, c := range clusters {
		add(resourceBody{ID: c.Value.ID, Name: nameOf(c.Value.ID), Type: clusterType, Location: c.Value.Location, Tags: c.Value.Tags})
	}
	for _, s := range sources {
		add(resourceBody{ID: s.Value.ID, Name: nameOf(s.Value.ID), Type: s.Value.Type, Location: s.Value.Location, Tags: s.Value.Tags})
	}
	return ok(arm.NewList(list, "")), nil
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
