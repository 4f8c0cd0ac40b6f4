package control

import (
	"encoding/json"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Resources of all types in one list: the tracked ones, which are clusters and
// sources, and not their children.
func (c *Control) resourceRoutes() []*route {
	r := func(pattern, action string, need need) *route {
		return &route{method: "GET", pattern: pattern + "/resources", typ: subscriptionType + "/resources", versions: arm.Resources, drop: 1,
			action: subscriptionType + action, need: need | needSubscription, handle: (*call).listResources}
	}
	return []*route{
		r("/subscriptions/{subscription}/resourceGroups/{group}", "/resourceGroups/resources/read", needGroup),
		r("/subscriptions/{subscription}", "/resources/read", 0),
	}
}

// trackedResource reads a cluster or a source for what all of them have.
type trackedResource struct {
	ID, Type, Location string
	Tags               map[string]string
	Identity           *store.SystemIdentity
	State              string
	Other              json.RawMessage
	Stamp              store.Stamp
}

// Key places a resource.
func (r trackedResource) Key() string { return store.ResourceKey(r.ID) }

// Owns tells whether key is a tracked resource's.
func (trackedResource) Owns(key string) bool {
	return store.Cluster{}.Owns(key) || store.Source{}.Owns(key)
}

func (r *trackedResource) typ() string {
	if r.Type == "" {
		return clusterType // whose record needs none
	}
	return r.Type
}

type resourceBody struct {
	ID       string            `json:"id"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Location string            `json:"location,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
	Identity *identityBody     `json:"identity,omitempty"`
	Created  string            `json:"createdTime,omitempty"`
	Changed  string            `json:"changedTime,omitempty"`
	State    string            `json:"provisioningState,omitempty"`
	Other    bag               `json:"-"`
}

// MarshalJSON writes the members that we have no field for beside the others.
func (b resourceBody) MarshalJSON() ([]byte, error) {
	type plain resourceBody
	return beside(b.Other, plain(b))
}

// listedMembers are what a list shows of members that no record has a field for.
var listedMembers = []string{"kind", "managedBy", "sku", "plan", "identity", "extendedLocation", "zones"}

// body shows a resource; expand are what it is to show besides, in lower case.
func (r *trackedResource) body(expand string) resourceBody {
	b := resourceBody{ID: r.ID, Name: nameOf(r.ID), Type: r.typ(), Location: r.Location, Tags: r.Tags, Other: bag{}}
	if i := r.Identity; i != nil {
		b.Identity = &identityBody{Type: "SystemAssigned", PrincipalID: i.PrincipalID, TenantID: i.TenantID}
	}
	other, _ := parseBag(r.Other)
	for _, name := range listedMembers {
		if raw := other.raw(name); raw != nil {
			b.Other[name] = raw
		}
	}
	for part := range strings.SplitSeq(expand, ",") {
		switch strings.TrimSpace(part) {
		case "createdtime":
			b.Created = arm.Time(r.Stamp.CreatedAt)
		case "changedtime":
			b.Changed = arm.Time(r.Stamp.LastModifiedAt)
		case "provisioningstate":
			b.State = r.State
		}
	}
	return b
}

func (k *call) listResources() (*answer, error) {
	query := k.request.URL.Query()
	page, err := arm.ParsePage(query, pageSize)
	if err != nil {
		return nil, err
	}
	filter, err := parseResourceFilter(query.Get("$filter"))
	if err != nil {
		return nil, err
	}
	all, err := some(k, page, store.ResourceKey(k.id.String())+"/", filter.lets)
	if err != nil {
		return nil, err
	}
	expand := trust.Fold(query.Get("$expand"))
	return listed(k, page, all, func(r store.Item[trackedResource]) resourceBody { return r.Value.body(expand) }), nil
}

// some reads as many records as a page has, and one more, of those that lets
// accepts.
func some[T store.Record](k *call, page arm.Page, prefix string, lets func(*T) bool) ([]store.Item[T], error) {
	var found []store.Item[T]
	for after := page.After; ; {
		items, _, err := store.List[T](k.ctx, k.Store, prefix, store.Limit(pageSize), store.After(after))
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			if after = item.Value.Key(); lets(&item.Value) {
				if found = append(found, item); len(found) > page.Top {
					return found, nil
				}
			}
		}
		if len(items) < pageSize {
			return found, nil
		}
	}
}

// resourceFilter is what a $filter demands of a resource: all terms of one of
// the alternatives. Without any, everything passes.
type resourceFilter [][]arm.Term

// parseResourceFilter reads eq and ne on resourceType, name, location,
// resourceGroup and identity/principalId, eq on tagName and tagValue,
// substringof on name and resourceGroup, and startswith on tagName.
func parseResourceFilter(s string) (resourceFilter, error) {
	f, err := arm.ParseAlternatives(s)
	if err != nil {
		return nil, err
	}
	return f, resourceFilter(f).check(s)
}

// check refuses what lets would not know; s is the filter as it was sent.
func (f resourceFilter) check(s string) error {
	known := map[string]string{"resourcetype": "eq ne", "name": "eq ne substringof", "location": "eq ne", "resourcegroup": "eq ne substringof",
		"identity/principalid": "eq ne", "tagname": "eq startswith", "tagvalue": "eq"}
	for _, terms := range f {
		tagged := false
		for _, t := range terms {
			if t.Op == "()" || !strings.Contains(" "+known[trust.Fold(t.Name)]+" ", " "+t.Op+" ") {
				return arm.BadFilter(s)
			}
			tagged = tagged || is(t.Name, "tagName") && t.Op == "eq"
		}
		for _, t := range terms {
			if is(t.Name, "tagValue") && !tagged {
				return arm.BadFilter(s) // whose value?
			}
		}
	}
	return nil
}

func (f resourceFilter) lets(r *trackedResource) bool {
	for _, terms := range f {
		if meets(r, terms) {
			return true
		}
	}
	return len(f) == 0
}

// meets tells whether a resource meets all terms.
func meets(r *trackedResource, terms []arm.Term) bool {
	tag := ""
	for _, t := range terms {
		if is(t.Name, "tagName") && t.Op == "eq" {
			tag = t.Value
		}
	}
	for _, t := range terms {
		if !meetsOne(r, t, tag) {
			return false
		}
	}
	return true
}

// meetsOne tells whether a resource meets one term; tag is the name that a
// term on tagValue means.
func meetsOne(r *trackedResource, t arm.Term, tag string) bool {
	switch trust.Fold(t.Name) {
	case "tagname":
		if t.Op == "startswith" {
			for name := range r.Tags {
				if strings.HasPrefix(trust.Fold(name), trust.Fold(t.Value)) {
					return true
				}
			}
			return false
		}
		_, tagged := tagOf(r.Tags, t.Value)
		return tagged
	case "tagvalue":
		value, tagged := tagOf(r.Tags, tag)
		return tagged && value == t.Value
	case "location":
		return arm.SameLocation(r.Location, t.Value) == (t.Op == "eq")
	}
	have := ""
	switch trust.Fold(t.Name) {
	case "resourcetype":
		have = r.typ()
	case "name":
		have = nameOf(r.ID)
	case "resourcegroup":
		if id, err := arm.ParseID(r.ID); err == nil {
			have = id.Group
		}
	case "identity/principalid":
		if r.Identity != nil {
			have = r.Identity.PrincipalID
		}
	}
	if t.Op == "substringof" {
		return strings.Contains(trust.Fold(have), trust.Fold(t.Value))
	}
	return is(have, t.Value) == (t.Op == "eq")
}

// tagOf finds a tag, whose name compares without regard to case.
func tagOf(tags map[string]string, name string) (string, bool) {
	for k, v := range tags {
		if is(k, name) {
			return v, true
		}
	}
	return "", false
}
