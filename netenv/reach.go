package netenv

import (
	"fmt"
	"strings"
)

// homes are the subnets that a cluster's pools stand in.
type homes struct {
	subnets []home
	// gaps say what is not known about them.
	gaps []string
	asks []Ask
}

// home is a subnet of a pool: its id, and the VNet's.
type home struct {
	subnet, vnet string
	pool         string
	at           Value
}

// homesOf finds a cluster's subnets: those its pools name, else the VNet that
// Azure made in the cluster's node resource group.
func (e *env) homesOf(cluster *Resource) *homes {
	if h := e.vnets[cluster]; h != nil {
		return h
	}
	h := &homes{}
	e.vnets[cluster] = h
	managed := 0
	for _, p := range e.pools(cluster) {
		v := p.Get("vnetSubnetID")
		switch v.State() {
		case Known:
			h.subnets = append(h.subnets, home{v.Text(), idParent(v.Text()), p.Get("name").Text(), v})
		case Absent:
			managed++
		case Unknown:
			h.gaps = append(h.gaps, "the subnet of pool "+p.Get("name").Text()+" is not known")
		}
	}
	if managed == 0 {
		if len(h.subnets) == 0 && len(h.gaps) == 0 {
			h.gaps = append(h.gaps, "the cluster's pools are not in the input")
			h.asks = []Ask{{Type: typeCluster, Scope: cluster.ID}}
		}
		return h
	}
	rg := cluster.Get("nodeResourceGroup")
	if rg.State() != Known {
		h.gaps = append(h.gaps, "pools stand in a VNet that Azure makes; its resource group is not known")
		return h
	}
	scope := "/subscriptions/" + idSubscription(cluster.ID) + "/resourceGroups/" + rg.Text()
	found := false
	for _, v := range e.g.inGroup[strings.ToLower(idSubscription(cluster.ID)+"/"+rg.Text())] {
		for _, s := range e.g.below(v.ID, typeSubnet) {
			h.subnets = append(h.subnets, home{s.ID, v.ID, "", rg})
			found = true
		}
	}
	if !found {
		h.gaps = append(h.gaps, "pools stand in the VNet that Azure made in "+rg.Text()+", which is not in the input")
		h.asks = append(h.asks, Ask{Type: typeVNet, Scope: scope})
	}
	return h
}

// pools of a cluster: those of its own document and those listed apart.
func (e *env) pools(cluster *Resource) []Value {
	pools := cluster.Get("agentPoolProfiles").Items()
	have := map[string]bool{}
	for _, p := range pools {
		have[strings.ToLower(p.Get("name").Text())] = true
	}
	for _, r := range e.g.below(cluster.ID, typePool) {
		if !have[strings.ToLower(r.Name())] {
			pools = append(pools, r.self())
		}
	}
	return pools
}

// unseenPools ends a rule for a cluster of which the input does not show the
// pools: registered somewhere, or a data source.
func (c *check) unseenPools(cluster *Resource) bool {
	if len(c.pools(cluster)) > 0 || cluster.Get("agentPoolProfiles").State() == Known {
		return false
	}
	v := cluster.Get("agentPoolProfiles")
	c.about(cluster).see("node pools", v).unknown([]Ask{{Type: typeCluster, Scope: cluster.ID}}, "the node pools of cluster %s are not in the input", cluster.Name())
	return true
}

// way is whether traffic gets from one place to another, and by which path.
type way struct {
	ok, known bool
	steps     []Step
	reason    string
	asks      []Ask
	endpoint  *Resource
}

func yes(steps ...Step) way { return way{ok: true, known: true, steps: steps} }
func no(reason string, steps ...Step) way {
	return way{known: true, reason: reason, steps: steps}
}
func maybe(asks []Ask, reason string, steps ...Step) way {
	return way{reason: reason, steps: steps, asks: asks}
}

// stepTo is a step onto a resource that may be known by id only.
func (e *env) stepTo(id, text string) Step {
	s := Step{Text: text, Resource: id}
	if r := e.g.Resource(id); r != nil {
		s.Source = r.self().Source()
	}
	return s
}

// between two VNets: the same one, or directly peered both ways. Peering does
// not pass on: a-b and b-c do not connect a with c.
func (e *env) between(a, b string) way {
	here := e.stepTo(a, "VNet "+idName(a))
	if sameID(a, b) {
		return yes(here)
	}
	there := e.stepTo(b, "VNet "+idName(b))
	out, back := e.peering(a, b), e.peering(b, a)
	switch {
	case out != nil && back != nil:
		steps := []Step{here}
		for _, p := range []*Resource{out, back} {
			s, bad, known := peeringState(p)
			steps = append(steps, s)
			if bad != "" {
				return no("peering "+p.Name()+" "+bad, steps...)
			}
			if !known {
				return maybe([]Ask{{Type: typePeering, Scope: idParent(p.ID)}}, "the state of peering "+p.Name()+" is not known", append(steps, there)...)
			}
		}
		return yes(append(steps, there)...)
	case out == nil && e.g.complete(typePeering, a), back == nil && e.g.complete(typePeering, b):
		one := out
		if one == nil {
			one = back
		}
		if one == nil {
			return no(fmt.Sprintf("VNets %s and %s are not peered", idName(a), idName(b)), here, Step{Text: "no peering", Broken: true}, there)
		}
		return no("the peering exists one way only",
			here, Step{Text: "peering " + one.Name() + ", one way only", Resource: one.ID, Source: one.self().Source(), Broken: true}, there)
	}
	return maybe([]Ask{{Type: typeVNet, Scope: subscriptionScope(a)}, {Type: typeVNet, Scope: subscriptionScope(b)}},
		fmt.Sprintf("whether VNets %s and %s are peered is not known", idName(a), idName(b)), here, there)
}

// peering from one VNet towards another.
func (e *env) peering(from, to string) *Resource {
	for _, p := range e.g.below(from, typePeering) {
		if sameID(p.Get("remoteVirtualNetwork", "id").Text(), to) {
			return p
		}
	}
	return nil
}

// peeringState says what is wrong with one direction of a peering.
func peeringState(p *Resource) (s Step, bad string, known bool) {
	state, sync, access := p.Get("peeringState"), p.Get("peeringSyncLevel"), p.Get("allowVirtualNetworkAccess")
	s = Step{Text: "peering " + p.Name(), Resource: p.ID, Source: p.self().Source()}
	allowed, sure := access.Truth(true)
	switch {
	case state.State() == Known && !state.Is("Connected"):
		bad, s.Source = "is "+state.Text(), state.Source()
	case sync.State() == Known && !sync.Is("FullyInSync"):
		bad, s.Source = "is not in sync ("+sync.Text()+")", sync.Source()
	case sure && !allowed:
		bad, s.Source = "does not allow traffic between the VNets", access.Source()
	}
	if bad != "" {
		s.Text, s.Broken = s.Text+" "+bad, true
		return s, bad, true
	}
	return s, "", sure && state.State() == Known
}

// reaches: every subnet of the cluster gets to a subnet.
func (e *env) reaches(cluster *Resource, subnet string) way {
	h := e.homesOf(cluster)
	vnet := idParent(subnet)
	if idType(subnet) == "" {
		return maybe(nil, "the endpoint's subnet is not known")
	}
	seen := map[string]bool{}
	var doubt, last way
	for _, s := range h.subnets {
		if seen[foldID(s.vnet)] {
			continue
		}
		seen[foldID(s.vnet)] = true
		w := e.between(s.vnet, vnet)
		w.steps = append([]Step{{Text: "cluster subnet " + idName(s.subnet), Resource: s.subnet, Source: s.at.Source()}}, w.steps...)
		if w.known && !w.ok {
			return w
		}
		if !w.known {
			doubt = w
		}
		last = w
	}
	switch {
	case doubt.reason != "":
		return doubt
	case len(h.gaps) > 0:
		return maybe(h.asks, h.gaps[0], last.steps...)
	}
	return last
}

// privately finds how a cluster gets to a target's sub-resource through an
// approved private endpoint in reach.
func (e *env) privately(cluster *Resource, target, group string) way {
	var failed, doubt way
	for _, p := range e.g.endpointsOf[foldID(target)] {
		for _, c := range connections(p) {
			if !sameID(c.Get("privateLinkServiceId").Text(), target) {
				continue
			}
			w := e.through(cluster, p, c, target, group)
			switch {
			case w.known && w.ok:
				return w
			case w.known && w.reason != "":
				failed = w
			case !w.known:
				doubt = w
			}
		}
	}
	if doubt.reason != "" {
		return doubt
	}
	if failed.reason != "" {
		return failed
	}
	return e.noEndpoint(target, group)
}

// through judges one connection of one endpoint. A way that is known, not ok
// and without reason leads elsewhere (another sub-resource).
func (e *env) through(cluster, p *Resource, c Value, target, group string) way {
	to := Step{Text: "private endpoint " + p.Name(), Resource: p.ID, Source: c.Source()}
	end := e.stepTo(target, label(target)+" ("+group+")")
	groups, whole := c.Get("groupIds").Texts()
	if !contains(groups, group) {
		if !whole {
			return maybe(nil, "the groups of private endpoint "+p.Name()+" are not known", to)
		}
		return way{known: true}
	}
	status := c.Get("privateLinkServiceConnectionState", "status")
	if status.State() == Known && !status.Is("Approved") {
		to.Text, to.Source, to.Broken = to.Text+" is "+status.Text(), status.Source(), true
		return no("private endpoint "+p.Name()+" is "+status.Text(), to, end)
	}
	subnet := p.Get("subnet", "id")
	if subnet.State() != Known {
		return maybe([]Ask{{Type: typeEndpoint, Scope: p.ID}}, "the subnet of private endpoint "+p.Name()+" is not known", to)
	}
	w := e.reaches(cluster, subnet.Text())
	w.steps = append(w.steps, to, end)
	w.endpoint = p
	if w.ok && status.State() != Known {
		return way{reason: "whether private endpoint " + p.Name() + " is approved is not known", steps: w.steps, asks: []Ask{{Type: typeEndpoint, Scope: p.ID}}, endpoint: p}
	}
	return w
}

// noEndpoint: absence needs proof. The target's own list of connections is one,
// whoever made the endpoints.
func (e *env) noEndpoint(target, group string) way {
	asks := []Ask{{Type: typeEndpoint, Scope: subscriptionScope(target)}}
	missing := Step{Text: "no private endpoint for group " + group, Broken: true}
	end := e.stepTo(target, label(target))
	if r := e.g.Resource(target); r != nil {
		list := r.Get("privateEndpointConnections")
		foreign := ""
		for _, c := range list.Items() {
			if id := c.Get("privateEndpoint", "id").Text(); id != "" && e.g.Resource(id) == nil {
				foreign = id
			}
		}
		if foreign != "" {
			return maybe([]Ask{{Type: typeEndpoint, Scope: subscriptionScope(foreign)}}, "private endpoint "+idName(foreign)+" is connected and not in the input", end)
		}
		if list.State() == Known {
			missing.Source = list.Source()
			return no(label(target)+" has no private endpoint for group "+group, end, missing)
		}
	}
	if e.g.complete(typeEndpoint, subscriptionScope(target)) {
		return no(label(target)+" has no private endpoint for group "+group, end, missing)
	}
	return maybe(asks, "the input does not show whether "+label(target)+" has a private endpoint for group "+group, end)
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if strings.EqualFold(l, s) {
			return true
		}
	}
	return false
}

// judge ends a draft by a way.
func (d *draft) judge(w way, passed string) {
	d.follow(w.steps)
	switch {
	case w.ok:
		d.pass("%s", passed)
	case w.known:
		d.fail("%s", w.reason)
	default:
		d.unknown(w.asks, "%s", w.reason)
	}
}
