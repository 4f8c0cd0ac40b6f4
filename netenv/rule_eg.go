package netenv

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

func rulesEG() []*Rule {
	return []*Rule{{Code: "EG-01", Title: "Outbound traffic that Azure ML needs is let through", Severity: levels(Warning, Error, Error), Subject: typeCluster,
		Reads: []string{typeSubnet, typeNSG, typeRoutes, typeFirewall, typePolicySet}, check: eg01,
		Why:  "Installing the extension, pulling images and fetching tokens stop at the first closed door, with timeouts instead of errors.",
		Note: "Judged by service tags in NSGs and by tags or names in firewalls; ranges are matched only with the service tag file. Names of training packages (pypi.org, archive.ubuntu.com) are not demanded."}}
}

// need is outbound TCP traffic: a service tag, and the names behind it.
type need struct {
	tag   string
	port  int
	names []string
}

// needs of a cluster's subnets; {region} is its region.
var needs = []need{
	{"AzureActiveDirectory", 443, []string{"login.microsoftonline.com"}},
	{"AzureResourceManager", 443, []string{"management.azure.com"}},
	{"AzureMachineLearning", 443, []string{"{region}.api.azureml.ms", "{region}.experiments.azureml.net"}},
	{"MicrosoftContainerRegistry", 443, []string{"mcr.microsoft.com", "{region}.data.mcr.microsoft.com"}},
	{"AzureFrontDoor.FirstParty", 443, []string{"mcr.microsoft.com"}},
}

// aksTag are the names that the firewall's AzureKubernetesService tag allows.
var aksTag = []string{"mcr.microsoft.com", "management.azure.com", "login.microsoftonline.com", "{region}.data.mcr.microsoft.com"}

func eg01(c *check) {
	for _, r := range c.g.list(typeCluster) {
		out := r.Get("networkProfile", "outboundType")
		subnets := c.poolSubnets(r)
		if len(subnets) == 0 && len(c.homesOf(r).gaps) == 0 || len(c.poolSubnets(r)) == 0 && !out.Is("userDefinedRouting") {
			c.about(r).see("outbound type "+out.Text(), out).none("the cluster's network is Azure's own")
			continue
		}
		for _, id := range subnets {
			s := c.g.Resource(id)
			d := c.about(r, s)
			if s == nil {
				d.also(id).unknown([]Ask{{Type: typeVNet, Scope: idParent(id)}}, "subnet %s is not in the input", idName(id))
				continue
			}
			d.see("outbound type "+cond(out.State() == Absent, "loadBalancer by default", out.Text()), out)
			c.egress(d, r, s, out)
		}
	}
}

// answer to whether traffic passes one door.
type answer struct {
	v      Verdict
	reason string
	at     Value
	asks   []Ask
	res    *Resource
}

func (c *check) egress(d *draft, cluster, subnet *Resource, out Value) {
	if out.Is("none") || out.Is("block") {
		d.unknown(nil, "outbound type %s: a network-isolated cluster takes its images elsewhere", out.Text())
		return
	}
	home := region(cluster.Get("location"))
	d.fix("az network nsg rule create -g "+idGroup(subnet.ID)+" --nsg-name <nsg> -n azureml-out --priority 200 --direction Outbound --access Allow --protocol Tcp --source-address-prefixes '*' --source-port-ranges '*' --destination-address-prefixes <tag> --destination-port-ranges 443",
		"resource \"azurerm_network_security_rule\" \"azureml_out\" {\n  direction                  = \"Outbound\"\n  access                     = \"Allow\"\n  protocol                   = \"Tcp\"\n  destination_address_prefix = \"<tag>\"\n  destination_port_range     = \"443\"\n}")
	var doubt *answer
	for _, n := range needs {
		for _, door := range []answer{c.nsg(subnet, n), c.route(subnet, n, out, home)} {
			switch door.v {
			case Fail:
				if door.res != nil {
					d.found(door.res)
				}
				d.ends(door.reason, door.at).fail("%s on port %d is closed: %s", n.tag, n.port, door.reason)
				return
			case Undecided:
				if doubt == nil {
					doubt = &door
				}
			case Pass:
				if door.reason != "" {
					d.see(n.tag+": "+door.reason, door.at)
				}
			}
		}
	}
	if doubt != nil {
		d.unknown(doubt.asks, "%s", doubt.reason)
		return
	}
	d.pass("every tag that is needed passes")
}

// nsg judges the subnet's security group: the first matching rule decides, and
// Azure's default lets traffic out.
func (c *check) nsg(subnet *Resource, n need) answer {
	ref := subnet.Get("networkSecurityGroup", "id")
	if ref.State() == Unknown && subnet.Get("networkSecurityGroup").State() == Absent || ref.State() == Absent {
		return answer{v: Pass}
	}
	if ref.State() == Unknown {
		if len(c.g.list(typeNSG)) == 0 && subnet.views[0].partial {
			return answer{v: Pass, reason: "no security group in the plan", at: ref}
		}
		return answer{v: Undecided, reason: "the security group of subnet " + subnet.Name() + " is not known", asks: []Ask{{Type: typeNSG, Scope: subscriptionScope(subnet.ID)}}}
	}
	g := c.g.Resource(ref.Text())
	if g == nil {
		return answer{v: Undecided, reason: label(ref.Text()) + " is not in the input", asks: []Ask{{Type: typeNSG, Scope: ref.Text()}}}
	}
	list := g.Get("securityRules")
	if list.State() == Unknown {
		return answer{v: Undecided, reason: "the rules of " + g.Label() + " are not known"}
	}
	rules := list.Items()
	slices.SortStableFunc(rules, func(a, b Value) int {
		x, _ := a.Get("priority").Number()
		y, _ := b.Get("priority").Number()
		return int(x - y)
	})
	for _, r := range rules {
		if !r.Get("direction").Is("Outbound") || !protocolMatches(r) || !portMatches(r, n.port) {
			continue
		}
		switch c.destinationMatches(r, n.tag) {
		case Pass:
			if r.Get("access").Is("Allow") {
				return answer{v: Pass, reason: "rule " + r.Get("name").Text() + " of " + g.Name(), at: r}
			}
			return answer{v: Fail, reason: "rule " + r.Get("name").Text() + " of " + g.Name() + " denies it", at: r, res: g}
		case Undecided:
			return answer{v: Undecided, reason: "rule " + r.Get("name").Text() + " of " + g.Name() + " names ranges: the service tag file tells what they hold", asks: []Ask{{Type: "service tags"}}}
		}
	}
	return answer{v: Pass, reason: "no rule against it in " + g.Name(), at: list}
}

func protocolMatches(r Value) bool {
	p := r.Get("protocol")
	return p.Text() == "*" || p.Is("Tcp") || p.State() != Known
}

func portMatches(r Value, port int) bool {
	texts, _ := r.Get("destinationPortRanges").Texts()
	texts = append(texts, r.Get("destinationPortRange").Text())
	for _, t := range texts {
		low, high, isRange := strings.Cut(t, "-")
		a, err := strconv.Atoi(low)
		b, err2 := strconv.Atoi(cond(isRange, high, low))
		if t == "*" || err == nil && err2 == nil && a <= port && port <= b {
			return true
		}
	}
	return false
}

// destinationMatches: Pass when a rule's destination holds the whole tag, Fail
// when it holds nothing of it, else unknown.
func (c *check) destinationMatches(r Value, tag string) Verdict {
	texts, _ := r.Get("destinationAddressPrefixes").Texts()
	texts = append(texts, r.Get("destinationAddressPrefix").Text())
	verdict := Fail
	var given []netip.Prefix
	for _, t := range texts {
		switch {
		case t == "*" || t == "0.0.0.0/0" || strings.EqualFold(t, "Internet") || strings.EqualFold(t, tag) || strings.EqualFold(t, "AzureCloud"):
			return Pass
		case strings.HasPrefix(strings.ToLower(t), strings.ToLower(tag)+"."):
			return Pass // the tag of one region: the one that whoever wrote it needs
		default:
			for _, p := range prefixes([]string{t}) {
				if !p.Addr().IsPrivate() {
					given = append(given, p)
				}
			}
		}
	}
	if len(given) > 0 {
		wanted := c.g.Tags.Ranges(tag)
		if len(wanted) == 0 {
			return Undecided
		}
		missing := covered(wanted, given)
		if len(missing) == 0 {
			return Pass
		}
		if _, _, some := overlap(wanted, given); some {
			return Undecided
		}
	}
	return verdict
}

// route judges the subnet's default route, and the firewall that it leads to.
func (c *check) route(subnet *Resource, n need, out Value, home string) answer {
	own := out.Is("userDefinedRouting")
	ref := subnet.Get("routeTable", "id")
	if ref.State() != Known {
		if own && ref.State() == Absent {
			return answer{v: Fail, reason: "outbound type userDefinedRouting and subnet " + subnet.Name() + " has no route table", at: ref, res: subnet}
		}
		if ref.State() == Unknown && (own || len(c.g.list(typeRoutes)) > 0) {
			return answer{v: Undecided, reason: "the route table of subnet " + subnet.Name() + " is not known", asks: []Ask{{Type: typeRoutes, Scope: subscriptionScope(subnet.ID)}}}
		}
		return answer{v: Pass}
	}
	table := c.g.Resource(ref.Text())
	if table == nil {
		return answer{v: Undecided, reason: label(ref.Text()) + " is not in the input", asks: []Ask{{Type: typeRoutes, Scope: ref.Text()}}}
	}
	list := table.Get("routes")
	for _, r := range list.Items() {
		hop := r.Get("nextHopType")
		switch {
		case strings.EqualFold(r.Get("addressPrefix").Text(), n.tag) && hop.Is("Internet"):
			return answer{v: Pass, reason: "route " + r.Get("name").Text(), at: r}
		case r.Get("addressPrefix").Text() != "0.0.0.0/0":
		case hop.Is("None"):
			return answer{v: Fail, reason: "route " + r.Get("name").Text() + " drops everything", at: r, res: table}
		case hop.Is("VirtualAppliance"):
			return c.firewall(r, n, home)
		case hop.Is("VirtualNetworkGateway"):
			return answer{v: Undecided, reason: "route " + r.Get("name").Text() + " leads through a gateway to a network that is not in the input"}
		}
	}
	if own && list.State() == Known && len(list.Items()) == 0 {
		return answer{v: Fail, reason: "outbound type userDefinedRouting and " + table.Label() + " is empty", at: list, res: table}
	}
	return answer{v: Pass}
}

func (c *check) firewall(route Value, n need, home string) answer {
	hop := route.Get("nextHopIpAddress").Text()
	var fw *Resource
	for _, f := range c.g.list(typeFirewall) {
		for _, ip := range f.Get("ipConfigurations").Items() {
			if ip.Get("privateIPAddress").Text() == hop && hop != "" {
				fw = f
			}
		}
	}
	if fw == nil {
		return answer{v: Undecided, reason: "the appliance " + cond(hop == "", "of the default route", hop) + " is no firewall of the input", asks: []Ask{{Type: typeFirewall, Scope: subscriptionScope(c.g.list(typeCluster)[0].ID)}}}
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
	for _, s := range sets {
		for _, list := range []string{"networkRuleCollections", "applicationRuleCollections", "ruleCollections"} {
			for _, col := range s.Get(list).Items() {
				action := col.Get("action", "type")
				if !action.Is("Allow") {
					continue
				}
				for _, rule := range col.Get("rules").Items() {
					if firewallAllows(rule, n, home) {
						return answer{v: Pass, reason: "rule " + rule.Get("name").Text() + " of " + fw.Label(), at: rule}
					}
				}
			}
		}
	}
	return answer{v: Fail, reason: "no rule of " + fw.Label() + " lets it through", at: fw.self(), res: fw}
}

// firewallAllows reads a network or application rule, classic or of a policy.
func firewallAllows(rule Value, n need, home string) bool {
	addresses, _ := rule.Get("destinationAddresses").Texts()
	ports, _ := rule.Get("destinationPorts").Texts()
	open := slices.ContainsFunc(ports, func(p string) bool { return p == "*" || p == strconv.Itoa(n.port) })
	for _, a := range addresses {
		if open && (a == "*" || strings.EqualFold(a, n.tag) || strings.EqualFold(a, "AzureCloud") || strings.HasPrefix(strings.ToLower(a), strings.ToLower(n.tag)+".")) {
			return true
		}
	}
	var names []string
	for _, k := range []string{"targetFqdns", "destinationFqdns"} {
		t, _ := rule.Get(k).Texts()
		if k == "targetFqdns" || open {
			names = append(names, t...)
		}
	}
	tags, _ := rule.Get("fqdnTags").Texts()
	if contains(tags, "AzureKubernetesService") {
		names = append(names, aksTag...)
	}
	for _, wanted := range n.names {
		if !slices.ContainsFunc(names, func(have string) bool { return nameMatches(have, wanted, home) }) {
			return false
		}
	}
	return true
}

// nameMatches compares a firewall's name, which may begin with a wildcard.
func nameMatches(have, wanted, home string) bool {
	have = strings.ToLower(strings.ReplaceAll(have, "{region}", home))
	wanted = strings.ToLower(strings.ReplaceAll(wanted, "{region}", home))
	if have == "*" || have == wanted {
		return true
	}
	suffix, wild := strings.CutPrefix(have, "*")
	return wild && strings.HasSuffix(wanted, suffix)
}
