package netenv

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// nsg judges the subnet's security group: the first matching rule decides.
// Azure's own rules behind them let traffic out, and in only from the network.
func (c *check) nsg(t traffic, n need) answer {
	ref := t.subnet.Get("networkSecurityGroup", "id")
	if ref.State() == Absent {
		return answer{v: Pass}
	}
	if ref.State() == Unknown {
		return answer{v: Undecided, reason: "the security group of subnet " + t.subnet.Name() + " is not known", asks: []Ask{{Type: typeNSG, Scope: subscriptionScope(t.subnet.ID)}}}
	}
	g := c.g.Resource(ref.Text())
	if g == nil {
		return answer{v: Undecided, reason: label(ref.Text()) + " is not in the input", asks: []Ask{{Type: typeNSG, Scope: ref.Text()}}}
	}
	list := g.Get("securityRules")
	if list.State() == Unknown {
		return answer{v: Undecided, reason: "the rules of " + g.Label() + " are not known", asks: []Ask{{Type: typeNSG, Scope: g.ID}}}
	}
	rules := c.withApart(list.Items(), g.ID, typeNSGRule)
	slices.SortStableFunc(rules, func(a, b Value) int { return cmp.Compare(order(a), order(b)) })
	space, _, _ := subnetPrefixes(t.subnet)
	for _, r := range rules {
		if !r.Get("direction").Is(cond(n.inbound, "Inbound", "Outbound")) || !speaks(r, n, "protocol") || !portMatches(r, n.port) {
			continue
		}
		name := "rule " + r.Get("name").Text() + " of " + g.Name()
		match := c.holdsTag(r, cond(n.inbound, "source", "destination"), n.tag)
		if from := sourceMatches(texts(r, "sourceAddressPrefix", "sourceAddressPrefixes"), space); !n.inbound && match != Fail && from != Pass {
			match = from
		}
		switch match {
		case Pass:
			if r.Get("access").Is("Allow") {
				return answer{v: Pass, reason: name, at: r}
			}
			return answer{v: Fail, reason: name + " denies it", at: r, res: g}
		case Undecided:
			return answer{v: Undecided, reason: name + " names ranges or groups: whether they hold " + n.tag + " is not known", asks: []Ask{{Type: "service tags"}}}
		}
	}
	if n.inbound {
		return answer{v: Fail, reason: "no rule of " + g.Name() + " lets it in", at: list, res: g}
	}
	return answer{v: Pass, reason: "no rule against it in " + g.Name(), at: list}
}

// withApart adds the rules or routes that stand as resources of their own.
func (c *check) withApart(list []Value, parent, typ string) []Value {
	have := map[string]bool{}
	for _, r := range list {
		have[strings.ToLower(r.Get("name").Text())] = true
	}
	for _, r := range c.g.below(parent, typ) {
		if !have[strings.ToLower(r.Name())] {
			list = append(list, r.self())
		}
	}
	return list
}

// order of a rule: its priority; one that is not known comes first, so that it
// is not overlooked.
func order(r Value) float64 {
	p, _ := r.Get("priority").Number()
	return p
}

// speaks says whether a rule is about the need's protocol.
func speaks(r Value, n need, keys ...string) bool {
	want := cond(n.udp, "Udp", "Tcp")
	for _, key := range keys {
		v := r.Get(key)
		list, _ := v.Texts()
		for _, p := range list {
			if p == "*" || strings.EqualFold(p, "Any") || strings.EqualFold(p, want) {
				return true
			}
		}
		if len(list) > 0 {
			return false
		}
	}
	return true
}

func portMatches(r Value, port int) bool {
	return slices.ContainsFunc(texts(r, "destinationPortRange", "destinationPortRanges"), func(t string) bool { return portIn(t, port) })
}

// portIn reads a port, a range of ports or "*".
func portIn(text string, port int) bool {
	low, high, isRange := strings.Cut(text, "-")
	a, err := strconv.Atoi(low)
	b, err2 := strconv.Atoi(cond(isRange, high, low))
	return text == "*" || err == nil && err2 == nil && a <= port && port <= b
}

// texts of a rule's single value and of its list.
func texts(r Value, one, many string) []string {
	list, _ := r.Get(many).Texts()
	if s := r.Get(one).Text(); s != "" {
		list = append(list, s)
	}
	return list
}

// holdsTag: Pass when a rule's destination (or source) holds the whole tag, Fail
// when it holds nothing of it, else unknown.
func (c *check) holdsTag(r Value, side, tag string) Verdict {
	var given []netip.Prefix
	for _, t := range texts(r, side+"AddressPrefix", side+"AddressPrefixes") {
		switch {
		case t == "*" || t == "0.0.0.0/0" || tagWithin(tag, t):
			return Pass
		case tag == virtualNetwork:
			// A range of the network may hold the endpoints, or not.
			if ps := prefixes([]string{t}); len(ps) > 0 && ps[0].Addr().IsPrivate() {
				return Undecided
			}
		default:
			for _, p := range prefixes([]string{t}) {
				if !p.Addr().IsPrivate() {
					given = append(given, p)
				}
			}
		}
	}
	if len(given) == 0 {
		return Fail
	}
	wanted := c.g.Tags.Ranges(tag)
	if len(wanted) == 0 {
		return Undecided
	}
	if len(covered(wanted, given)) == 0 {
		return Pass
	}
	if _, _, some := overlap(wanted, given); some {
		return Undecided
	}
	return Fail
}

// tagWithin says whether a tag lies in another. A tag of one region stands for
// the whole where somebody narrowed a rule to the region that they need.
func tagWithin(tag, in string) bool {
	tag, in = strings.ToLower(tag), strings.ToLower(in)
	if tag == in || strings.HasPrefix(tag, in+".") || strings.HasPrefix(in, tag+".") {
		return true
	}
	return tag != strings.ToLower(virtualNetwork) && (in == "internet" || in == "azurecloud")
}

// sourceMatches says whether a rule is about the subnet: Pass for the whole of
// it, Fail for nothing of it.
func sourceMatches(from []string, space []netip.Prefix) Verdict {
	if len(from) == 0 {
		return Pass // none is written where any is meant
	}
	for _, t := range from {
		if t == "*" || t == "0.0.0.0/0" || strings.EqualFold(t, virtualNetwork) {
			return Pass
		}
	}
	given := prefixes(from)
	if len(space) == 0 || len(given) < len(from) && len(given) == 0 {
		return Undecided
	}
	if len(covered(space, given)) == 0 {
		return Pass
	}
	if _, _, some := overlap(space, given); some {
		return Undecided
	}
	return Fail
}

// route judges the subnet's default route, and the firewall that it leads to.
func (c *check) route(t traffic, n need) answer {
	own := t.out.Is("userDefinedRouting")
	ref := t.subnet.Get("routeTable", "id")
	if ref.State() != Known {
		if own && ref.State() == Absent {
			return answer{v: Fail, reason: "outbound type userDefinedRouting and subnet " + t.subnet.Name() + " has no route table", at: ref, res: t.subnet}
		}
		if ref.State() == Unknown {
			return answer{v: Undecided, reason: "the route table of subnet " + t.subnet.Name() + " is not known", asks: []Ask{{Type: typeRoutes, Scope: subscriptionScope(t.subnet.ID)}}}
		}
		return answer{v: Pass}
	}
	table := c.g.Resource(ref.Text())
	if table == nil {
		return answer{v: Undecided, reason: label(ref.Text()) + " is not in the input", asks: []Ask{{Type: typeRoutes, Scope: ref.Text()}}}
	}
	list := table.Get("routes")
	if list.State() == Unknown {
		return answer{v: Undecided, reason: "the routes of " + table.Label() + " are not known", asks: []Ask{{Type: typeRoutes, Scope: table.ID}}}
	}
	var fallback Value
	routes := c.withApart(list.Items(), table.ID, typeRoute)
	for _, r := range routes {
		prefix := r.Get("addressPrefix").Text()
		if tagWithin(n.tag, prefix) && r.Get("nextHopType").Is("Internet") {
			return answer{v: Pass, reason: "route " + r.Get("name").Text(), at: r}
		}
		if prefix == "0.0.0.0/0" {
			fallback = r
		}
	}
	switch hop := fallback.Get("nextHopType"); {
	case hop.Is("None"):
		return answer{v: Fail, reason: "route " + fallback.Get("name").Text() + " drops everything", at: fallback, res: table}
	case hop.Is("VirtualAppliance"):
		return c.firewall(fallback, t, n)
	case hop.Is("VirtualNetworkGateway"):
		return answer{v: Undecided, reason: "route " + fallback.Get("name").Text() + " leads through a gateway to a network that is not in the input"}
	case own && len(routes) == 0:
		return answer{v: Fail, reason: "outbound type userDefinedRouting and " + table.Label() + " is empty", at: list, res: table}
	}
	return answer{v: Pass}
}

// collection is a set of firewall rules with one action.
type collection struct {
	set, priority float64 // of its group, and its own
	allow         bool
	rules         []Value
}

func (c *check) firewall(route Value, t traffic, n need) answer {
	hop := route.Get("nextHopIpAddress").Text()
	fw := c.firewallAt(hop)
	if fw == nil {
		return answer{v: Undecided, reason: "the appliance " + cond(hop == "", "of the default route", hop) + " is no firewall of the input", asks: []Ask{{Type: typeFirewall, Scope: subscriptionScope(t.subnet.ID)}}}
	}
	sets := []Value{fw.self()}
	if p := fw.Get("firewallPolicy", "id"); p.State() == Known {
		groups := c.g.below(p.Text(), typePolicySet)
		if len(groups) == 0 && !c.g.complete(typePolicySet, p.Text()) {
			return answer{v: Undecided, reason: "the rules of " + label(p.Text()) + " are not in the input", asks: []Ask{{Type: typePolicySet, Scope: p.Text()}}}
		}
		for _, g := range groups {
			sets = append(sets, g.self())
		}
	}
	var all []collection
	for _, s := range sets {
		for _, list := range []string{"networkRuleCollections", "applicationRuleCollections", "ruleCollections"} {
			for _, col := range s.Get(list).Items() {
				all = append(all, collection{order(s), order(col), col.Get("action", "type").Is("Allow") || col.Get("action").Is("Allow"), col.Get("rules").Items()})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b collection) int {
		return cmp.Or(cmp.Compare(a.set, b.set), cmp.Compare(a.priority, b.priority))
	})
	space, _, _ := subnetPrefixes(t.subnet)
	// Network rules come before application rules, whatever their priority.
	for _, names := range []bool{false, true} {
		for _, col := range all {
			for _, rule := range col.rules {
				if a := c.firewallRule(rule, col.allow, names, space, n, fw); a.v != NotApplicable {
					return a
				}
			}
		}
	}
	return answer{v: Fail, reason: "no rule of " + fw.Label() + " lets it through", at: fw.self(), res: fw}
}

// firewallAt finds the firewall with an address. A planned firewall does not
// know its address: it is the one when there is no other and nothing else fits.
func (c *check) firewallAt(hop string) *Resource {
	list := c.g.list(typeFirewall)
	for _, f := range list {
		for _, ip := range f.Get("ipConfigurations").Items() {
			if ip.Get("privateIPAddress").Text() == hop && hop != "" {
				return f
			}
		}
	}
	if len(list) == 1 && slices.ContainsFunc(list[0].Get("ipConfigurations").Items(), func(ip Value) bool { return ip.Get("privateIPAddress").State() == Unknown }) {
		return list[0]
	}
	return nil
}

func (c *check) firewallRule(rule Value, allow, byNames bool, space []netip.Prefix, n need, fw *Resource) answer {
	matches := networkRule
	if byNames {
		matches = applicationRule
	}
	from, _ := rule.Get("sourceAddresses").Texts()
	if !matches(rule, n, allow) {
		return answer{v: NotApplicable}
	}
	reason := "rule " + rule.Get("name").Text() + " of " + fw.Label()
	switch sourceMatches(from, space) {
	case Fail:
		return answer{v: NotApplicable}
	case Undecided:
		return answer{v: Undecided, reason: reason + " is for a part of the subnet, or for a group of addresses"}
	}
	if allow {
		return answer{v: Pass, reason: reason, at: rule}
	}
	return answer{v: Fail, reason: reason + " denies it", at: rule, res: fw}
}

// networkRule says whether a network rule is about a need: by tag, by any
// address, or by every name (one name is enough to be denied).
func networkRule(rule Value, n need, all bool) bool {
	ports, _ := rule.Get("destinationPorts").Texts()
	if len(ports) == 0 || !slices.ContainsFunc(ports, func(p string) bool { return portIn(p, n.port) }) || !speaks(rule, n, "ipProtocols", "protocols") {
		return false
	}
	addresses, _ := rule.Get("destinationAddresses").Texts()
	for _, a := range addresses {
		if a == "*" || a == "0.0.0.0/0" || tagWithin(n.tag, a) {
			return true
		}
	}
	names, _ := rule.Get("destinationFqdns").Texts()
	return namesMatch(names, n, all)
}

// aksTag are the names that the firewall's AzureKubernetesService tag allows.
var aksTag = []string{"mcr.microsoft.com", "management.azure.com", "login.microsoftonline.com", "*.data.mcr.microsoft.com", "*.azmk8s.io"}

// applicationRule likewise, for HTTP and HTTPS.
func applicationRule(rule Value, n need, all bool) bool {
	if n.udp || n.port != 443 && n.port != 80 {
		return false
	}
	names, _ := rule.Get("targetFqdns").Texts()
	tags, _ := rule.Get("fqdnTags").Texts()
	if contains(tags, "AzureKubernetesService") {
		names = append(names, aksTag...)
	}
	return namesMatch(names, n, all)
}

// namesMatch: all of a need's names, or one of them.
func namesMatch(have []string, n need, all bool) bool {
	if len(have) == 0 || len(n.names) == 0 {
		return false
	}
	hit := func(wanted string) bool {
		return slices.ContainsFunc(have, func(h string) bool { return nameMatches(h, wanted) })
	}
	if all {
		return !slices.ContainsFunc(n.names, func(w string) bool { return !hit(w) })
	}
	return slices.ContainsFunc(n.names, hit)
}

// nameMatches compares a firewall's name, which may begin with a wildcard.
func nameMatches(have, wanted string) bool {
	have, wanted = strings.ToLower(have), strings.ToLower(wanted)
	if have == "*" || have == wanted {
		return true
	}
	suffix, wild := strings.CutPrefix(have, "*")
	return wild && strings.HasSuffix(wanted, suffix)
}
