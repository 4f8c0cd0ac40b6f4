package netenv

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Resource is one ARM resource as the sources show it.
type Resource struct {
	// ID as written by the source that named it first. What a plan will create
	// has an id made from what is known; see planned.
	ID   string
	Type string
	key  string // folded id
	// views, newest export first.
	views []*view
}

// Name is the last segment of the id.
func (r *Resource) Name() string { return idName(r.ID) }

// Label names the resource for people: "storage account mlstore".
func (r *Resource) Label() string { return noun(r.Type) + " " + r.Name() }

// Get looks for a value in all sources, the newest first. A known value wins
// over absence, and absence (the default) over what a source cannot tell.
func (r *Resource) Get(keys ...string) Value {
	var best Value
	for i, w := range r.views {
		v := Value{state: Known, raw: w.root, view: w}.Get(keys...)
		if v.state == Known {
			return v
		}
		if i == 0 || v.state == Absent && best.state == Unknown {
			best = v
		}
	}
	return best
}

// self is evidence that the resource exists.
func (r *Resource) self() Value {
	if len(r.views) == 0 {
		return Value{}
	}
	return Value{state: Known, raw: r.views[0].root, view: r.views[0]}
}

// Problem is a place in the input that could not be used; the rest was.
type Problem struct {
	File   string `json:"file"`
	Place  string `json:"place,omitempty"`
	Reason string `json:"reason"`
}

// Graph is the facts of all inputs: resources by id and type, who points to
// whom, and what the input proves complete.
type Graph struct {
	byID     map[string]*Resource
	byType   map[string][]*Resource
	children map[string][]*Resource // parent id → resources
	// whole holds, by type, the scopes of which the input shows every resource.
	whole map[string]map[string]bool
	// cut holds types whose listing is known to be incomplete.
	cut map[string]string
	// open holds resources of which a source shows some children and not
	// others, as a data source does: one child proves nothing of its siblings.
	open map[string]bool

	Problems []Problem

	endpointsOf map[string][]*Resource // target id → private endpoints
	groupsOf    map[string][]*Resource // zone id → zone groups that write it
	linksOf     map[string][]*Resource // VNet id → zone links
	peeringsTo  map[string][]*Resource // VNet id → peerings of other VNets towards it
	rolesOf     map[string][]*Resource // principal id → role assignments
	inGroup     map[string][]*Resource // subscription/resource group → VNets there
	inSubnet    map[string]int         // subnet id → private endpoints in it
	accounts    map[string]*Resource   // storage account name, unique in Azure → account
	Tags        *ServiceTags
}

func newGraph() *Graph {
	return &Graph{byID: map[string]*Resource{}, byType: map[string][]*Resource{}, children: map[string][]*Resource{},
		whole: map[string]map[string]bool{}, cut: map[string]string{}, open: map[string]bool{}}
}

// put adds a source's picture of a resource, and of what is nested in it.
func (g *Graph) put(id, typ string, w *view) *Resource {
	key := foldID(id)
	r := g.byID[key]
	if r == nil {
		r = &Resource{ID: strings.TrimRight(id, "/"), Type: typ, key: key}
		g.byID[key] = r
		g.byType[fold(typ)] = append(g.byType[fold(typ)], r)
	}
	at := slices.IndexFunc(r.views, func(o *view) bool { return o.time.Before(w.time) })
	if at < 0 {
		at = len(r.views)
	}
	r.views = slices.Insert(r.views, at, w)
	for _, n := range nestings {
		if fold(typ) == fold(n.in) {
			g.expand(id, w, n)
		}
	}
	return r
}

// nestings are the lists of child resources that a parent's document carries.
var nestings = []struct{ in, key, typ string }{
	{typeVNet, "subnets", typeSubnet},
	{typeVNet, "virtualNetworkPeerings", typePeering},
	{typePolicy, "ruleCollectionGroups", typePolicySet},
}

func (g *Graph) expand(id string, w *view, n struct{ in, key, typ string }) {
	list := Value{state: Known, raw: w.root, view: w}.Get(n.key)
	if list.state != Known {
		return
	}
	g.prove(n.typ, id)
	for _, item := range list.Items() {
		o, ok := item.raw.(object)
		if !ok {
			continue
		}
		name := item.Get("name").Text()
		child := item.Get("id").Text()
		if idType(child) == "" {
			if name == "" {
				continue
			}
			child = id + "/" + n.typ[strings.LastIndexByte(n.typ, '/')+1:] + "/" + name
		}
		if len(o) > 1 || name != "" { // a bare {id} is a reference, not a picture
			g.put(child, n.typ, &view{root: o, file: w.file, base: item.Source().Pointer, time: w.time, partial: w.partial, declared: w.declared})
		}
	}
}

// index builds the edges after the last put.
func (g *Graph) index() {
	g.endpointsOf, g.groupsOf, g.linksOf = map[string][]*Resource{}, map[string][]*Resource{}, map[string][]*Resource{}
	g.peeringsTo = map[string][]*Resource{}
	g.rolesOf, g.inGroup, g.children = map[string][]*Resource{}, map[string][]*Resource{}, map[string][]*Resource{}
	for _, list := range g.byType {
		slices.SortFunc(list, func(a, b *Resource) int { return cmp.Compare(a.key, b.key) })
	}
	for t, list := range g.byType {
		if strings.Count(t, "/") > 1 || t == fold(typeExtension) || t == fold(typeProbe) {
			for _, r := range list {
				parent := foldID(idParent(r.ID))
				if t == fold(typeExtension) || t == fold(typeProbe) {
					parent = foldID(idParent(idParent(r.ID))) // …/providers/NS/type/name
				}
				g.children[parent] = append(g.children[parent], r)
			}
		}
	}
	g.accounts = map[string]*Resource{}
	for _, r := range g.list(typeStorage) {
		g.accounts[strings.ToLower(r.Name())] = r
	}
	g.inSubnet = map[string]int{}
	for _, r := range g.list(typeEndpoint) {
		g.inSubnet[foldID(r.Get("subnet", "id").Text())]++
		for _, c := range connections(r) {
			if t := c.Get("privateLinkServiceId").Text(); t != "" {
				g.endpointsOf[foldID(t)] = append(g.endpointsOf[foldID(t)], r)
			}
		}
	}
	for _, r := range g.list(typeZoneGroup) {
		for _, z := range zoneIDs(r) {
			g.groupsOf[foldID(z)] = append(g.groupsOf[foldID(z)], r)
		}
	}
	for _, r := range g.list(typeLink) {
		v := foldID(r.Get("virtualNetwork", "id").Text())
		g.linksOf[v] = append(g.linksOf[v], r)
	}
	for _, r := range g.list(typePeering) {
		v := foldID(r.Get("remoteVirtualNetwork", "id").Text())
		g.peeringsTo[v] = append(g.peeringsTo[v], r)
	}
	for _, r := range g.list(typeAssignment) {
		if p := strings.ToLower(r.Get("principalId").Text()); p != "" {
			g.rolesOf[p] = append(g.rolesOf[p], r)
		}
	}
	for _, r := range g.list(typeVNet) {
		k := strings.ToLower(idSubscription(r.ID) + "/" + idGroup(r.ID))
		g.inGroup[k] = append(g.inGroup[k], r)
	}
}

// Resource by id; nil when the input does not show it.
func (g *Graph) Resource(id string) *Resource { return g.byID[foldID(id)] }

// Len is the number of resources.
func (g *Graph) Len() int { return len(g.byID) }

// Resources of all types, in order of their ids.
func (g *Graph) Resources() []*Resource {
	all := make([]*Resource, 0, len(g.byID))
	for _, r := range g.byID {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Resource) int { return cmp.Compare(a.key, b.key) })
	return all
}

func (g *Graph) list(typ string) []*Resource { return g.byType[fold(typ)] }

// below are the children of one type of one resource.
func (g *Graph) below(parent, typ string) []*Resource {
	var out []*Resource
	for _, r := range g.children[foldID(parent)] {
		if fold(r.Type) == fold(typ) {
			out = append(out, r)
		}
	}
	return out
}

// prove notes that the input shows every resource of a type in a scope; "" is
// everywhere.
func (g *Graph) prove(typ, scope string) {
	t := fold(typ)
	if g.whole[t] == nil {
		g.whole[t] = map[string]bool{}
	}
	g.whole[t][foldID(scope)] = true
}

// complete says whether the input proves that it holds every resource of a type
// in a scope: a manifest says so, a parent lists its children, an explicit empty
// list, or a resource of that type is there. A listing known to be cut proves
// nothing.
func (g *Graph) complete(typ, scope string) bool {
	t := fold(typ)
	if g.cut[t] != "" {
		return false
	}
	for s := foldID(scope); ; s = s[:max(0, strings.LastIndexByte(s, '/'))] {
		if g.whole[t][s] {
			return true
		}
		if s == "" {
			break
		}
	}
	if strings.Count(typ, "/") > 1 {
		return len(g.below(scope, typ)) > 0 && !g.open[foldID(scope)]
	}
	list := g.byType[t] // sorted by id
	if sameType(typ, typeAssignment) {
		// Roles are inherited from groups and subscriptions, which no plan for
		// an environment makes: a planned assignment proves nothing of others.
		list = slices.DeleteFunc(slices.Clone(list), func(r *Resource) bool { return len(r.views) == 0 || r.views[0].partial || r.views[0].declared })
	}
	if scope == "" {
		return len(list) > 0
	}
	i, _ := slices.BinarySearchFunc(list, foldID(scope)+"/", func(r *Resource, p string) int { return cmp.Compare(r.key, p) })
	return i < len(list) && inScope(list[i].ID, scope)
}

// completeThroughout says whether a type is complete in every subscription that
// the input shows something of.
func (g *Graph) completeThroughout(typ string) bool {
	if g.complete(typ, "") {
		return true
	}
	seen := map[string]bool{}
	for _, list := range g.byType {
		for _, r := range list {
			if s := subscriptionScope(r.ID); !seen[s] {
				seen[s] = true
				if !g.complete(typ, s) {
					return false
				}
			}
		}
	}
	return len(seen) > 0
}

// connections of a private endpoint, automatic and manual.
func connections(r *Resource) []Value {
	return append(r.Get("privateLinkServiceConnections").Items(), r.Get("manualPrivateLinkServiceConnections").Items()...)
}

// zoneIDs that a zone group writes to.
func zoneIDs(r *Resource) []string {
	var out []string
	for _, c := range r.Get("privateDnsZoneConfigs").Items() {
		if id := c.Get("privateDnsZoneId").Text(); id != "" {
			out = append(out, id)
		}
	}
	return out
}

// Export is when a resource was exported last.
func (r *Resource) Export() time.Time {
	if len(r.views) == 0 {
		return time.Time{}
	}
	return r.views[0].time
}
