package netenv

import (
	"strings"
)

func rulesEG() []*Rule {
	return []*Rule{{Code: "EG-01", Title: "Traffic that Azure ML needs is let through", Severity: levels(Warning, Error, Error), Subject: typeCluster,
		Reads: []string{typeSubnet, typeNSG, typeRoutes, typeFirewall, typePolicySet, typeCompute}, check: eg01,
		Why:  "Installing the extension, pulling images and fetching tokens stop at the first closed door, with timeouts instead of errors.",
		Note: "Judged by service tags in NSGs and by tags or names in firewalls; ranges are matched only with the service tag file. What a private endpoint carries needs no door. Telemetry is reported as information; names of training packages (pypi.org, archive.ubuntu.com) are not demanded."}}
}

// traffic is what one subnet needs, and what is judged of it.
type traffic struct {
	owner, subnet *Resource // a cluster or a managed compute, and where it stands
	home          string    // region
	out           Value     // a cluster's outbound type
	needs         []need
}

func eg01(c *check) {
	for _, r := range c.g.list(typeCluster) {
		if c.unseenPools(r) {
			continue
		}
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
			if out.Is("none") || out.Is("block") {
				d.unknown(nil, "outbound type %s: a network-isolated cluster takes its images elsewhere", out.Text())
				continue
			}
			c.egress(d, traffic{r, s, region(r.Get("location")), out, c.needsOfNodes(r)})
		}
	}
	for _, x := range c.g.list(typeCompute) {
		if id := managedSubnet(x); id != "" {
			c.managed(x, id)
		}
	}
}

// managedSubnet is where a managed compute of the workspace stands; "" for
// others, and for those outside a network.
func managedSubnet(x *Resource) string {
	if t := x.Get("computeType"); !t.Is("AmlCompute") && !t.Is("ComputeInstance") && !x.Get("type").Is("amlcompute") && !x.Get("type").Is("computeinstance") {
		return ""
	}
	for _, v := range []Value{x.Get("subnet", "id"), x.Get("networkSettings", "subnet"), x.Get("subnet")} {
		if idType(v.Text()) != "" {
			return v.Text()
		}
	}
	return ""
}

func (c *check) managed(x *Resource, subnet string) {
	s := c.g.Resource(subnet)
	d := c.about(x, s)
	if s == nil {
		d.also(subnet).unknown([]Ask{{Type: typeVNet, Scope: idParent(subnet)}}, "subnet %s of compute %s is not in the input", idName(subnet), x.Name())
		return
	}
	ws := c.g.Resource(idParent(x.ID))
	home := region(x.Get("location"))
	if v := c.g.Resource(idParent(subnet)); v != nil && v.Get("location").State() == Known {
		home = region(v.Get("location"))
	}
	c.egress(d.see("managed compute in subnet "+s.Name(), x.self()), traffic{x, s, home, Value{}, c.needsOfManaged(x, ws)})
}

// answer to whether traffic passes one door.
type answer struct {
	v      Verdict
	reason string
	at     Value
	asks   []Ask
	res    *Resource
}

// egress sends every need through every door. What is closed and only telemetry
// becomes a finding of its own, as information.
func (c *check) egress(d *draft, t traffic) {
	g := idGroup(t.subnet.ID)
	d.fix("az network nsg rule create -g "+g+" --nsg-name <nsg> -n azureml-out --priority 200 --direction Outbound --access Allow --protocol Tcp --source-address-prefixes '*' --source-port-ranges '*' --destination-address-prefixes <tag> --destination-port-ranges 443",
		"resource \"azurerm_network_security_rule\" \"azureml_out\" {\n  direction                  = \"Outbound\"\n  access                     = \"Allow\"\n  protocol                   = \"Tcp\"\n  destination_address_prefix = \"<tag>\"\n  destination_port_range     = \"443\"\n}")
	var closed, lost []answer
	var doubt *answer
	var names []string
	for _, n := range t.needs {
		a := c.passes(t, n)
		switch {
		case a.v == Undecided && !n.telemetry && doubt == nil:
			doubt = &a
		case a.v == Fail && n.telemetry:
			lost = append(lost, a)
		case a.v == Fail:
			closed = append(closed, a)
			names = append(names, n.String())
		case a.v == Pass && a.reason != "" && !n.telemetry:
			d.see(n.String()+": "+a.reason, a.at)
		}
	}
	if len(lost) > 0 && len(closed) == 0 {
		about := c.about(t.owner, t.subnet).grave(Info)
		about.f.Fix = d.f.Fix
		about.found(lost[0].res).ends(lost[0].reason, lost[0].at).fail("telemetry is closed: Azure's support sees nothing of this cluster")
	}
	switch {
	case len(closed) > 0:
		d.found(closed[0].res).ends(closed[0].reason, closed[0].at).fail("closed: %s; %s", strings.Join(names, ", "), closed[0].reason)
	case doubt != nil:
		d.unknown(doubt.asks, "%s", doubt.reason)
	default:
		d.pass("all %d needs of subnet %s pass", len(t.needs), t.subnet.Name())
	}
}

// passes sends one need through the security group and then the route. Traffic
// inside the network and traffic from outside meet the group only.
func (c *check) passes(t traffic, n need) answer {
	a := c.nsg(t, n)
	if a.v != Pass || n.inbound || n.tag == virtualNetwork {
		return a
	}
	if r := c.route(t, n); r.v != Pass || a.reason == "" {
		return r
	}
	return a
}
