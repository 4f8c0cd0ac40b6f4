package netenv

import (
	"fmt"
	"net/netip"
	"strings"
)

func rulesVN() []*Rule {
	return []*Rule{
		{Code: "VN-01", Title: "VNet avoids 172.17.0.0/16", Severity: always(Error), Subject: typeVNet, check: vn01,
			Why: "172.17.0.0/16 is Docker's bridge: compute of the workspace cannot talk to a network that uses it."},
		{Code: "VN-02", Title: "No range that AKS reserves, and service addresses apart from the network", Severity: always(Error), Subject: typeCluster, Reads: []string{typeVNet, typeSubnet}, check: vn02,
			Why: "AKS uses 169.254.0.0/16, 172.30.0.0/16, 172.31.0.0/16 and 192.0.2.0/24 itself; a service range that overlaps a network makes that network unreachable from pods."},
		{Code: "VN-03", Title: "Node and pod subnets are large enough", Severity: always(Error), Subject: typeCluster, Reads: []string{typeSubnet, typePool}, check: vn03,
			Why:  "Upgrades and scaling stop with SubnetIsFull; pods stay pending.",
			Note: "Azure ML's guide says 128 addresses per node; AKS's formula is (nodes + surge) * (1 + maxPods). The formula decides, the guide's figure stands beside it."},
		{Code: "VN-04", Title: "The cluster's subnet is not delegated", Severity: always(Error), Subject: typeCluster, Reads: []string{typeSubnet}, check: vn04,
			Why: "A delegated subnet belongs to another service: AKS cannot place nodes in it."},
		{Code: "VN-05", Title: "Peerings are usable both ways", Severity: levels(Off, Error, Error), Subject: typePeering, Reads: []string{typeVNet}, check: vn05,
			Why: "A peering that exists or is connected one way only carries no traffic at all."},
		{Code: "VN-06", Title: "Peered address spaces do not overlap", Severity: levels(Warning, Error, Error), Subject: typePeering, Reads: []string{typeVNet}, check: vn06,
			Why: "Addresses in both VNets are reachable in one only; Azure refuses to make or sync such a peering."},
		{Code: "VN-07", Title: "Custom DNS servers forward the privatelink zones to 168.63.129.16", Severity: levels(Off, Warning, Warning), Subject: typeVNet, Reads: []string{typeProbe, typeCluster}, check: vn07,
			Why: "A DNS server of your own answers with public addresses unless it asks Azure's resolver from a VNet that the zones are linked to."},
		{Code: "VN-08", Title: "Network policies of the private endpoints' subnet are as intended", Severity: levels(Off, Info, Info), Subject: typeEndpoint, Reads: []string{typeSubnet}, check: vn08,
			Why:  "With policies on, NSG and routes of the subnet apply to private endpoints and may close them.",
			Note: "Azure ML's guide wants them disabled; newer AKS guidance lets NSGs protect endpoints. Reported as information."},
	}
}

var docker = netip.MustParsePrefix("172.17.0.0/16")

var aksReserved = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.30.0.0/16"),
	netip.MustParsePrefix("172.31.0.0/16"), netip.MustParsePrefix("192.0.2.0/24"),
}

func addressSpace(r *Resource) ([]netip.Prefix, Value, bool) {
	v := r.Get("addressSpace", "addressPrefixes")
	texts, whole := v.Texts()
	return prefixes(texts), v, whole
}

func vn01(c *check) {
	for _, r := range c.g.list(typeVNet) {
		d := c.about(r)
		space, v, whole := addressSpace(r)
		if p, _, hit := overlap(space, []netip.Prefix{docker}); hit {
			d.ends("address space holds "+p.String(), v).
				fix("# an address space in use cannot be exchanged: make a VNet without 172.17.0.0/16, move the subnets, delete this one\naz network vnet create -g "+idGroup(r.ID)+" -n "+r.Name()+"-new --address-prefixes 10.0.0.0/16",
					"resource \"azurerm_virtual_network\" \""+tfName(r.Name())+"\" {\n  address_space = [\"10.0.0.0/16\"] # was "+p.String()+"\n}").
				fail("address space %s overlaps Docker's bridge %s", p, docker)
			continue
		}
		if !whole || len(space) == 0 {
			d.unclear(v, "the address space of VNet "+r.Name(), r)
			continue
		}
		d.see("address space "+join(space), v).pass("no overlap with %s", docker)
	}
}

func join[T fmt.Stringer](list []T) string {
	var s []string
	for _, l := range list {
		s = append(s, l.String())
	}
	return strings.Join(s, ", ")
}

// clusterVNets are the VNets of a cluster's homes, each once.
func (e *env) clusterVNets(cluster *Resource) []string {
	var out []string
	for _, h := range e.homesOf(cluster).subnets {
		if !contains(out, foldID(h.vnet)) {
			out = append(out, foldID(h.vnet))
		}
	}
	return out
}

// ranges is a named list of prefixes with where it was read.
type ranges struct {
	what string
	list []netip.Prefix
	at   Value
}

func clusterRanges(r *Resource) (services, pods ranges, known bool) {
	known = true
	one := func(what, many, single string) ranges {
		v := r.Get("networkProfile", many)
		if v.State() != Known || len(v.Items()) == 0 {
			v = r.Get("networkProfile", single)
		}
		texts, whole := v.Texts()
		known = known && whole
		return ranges{what, prefixes(texts), v}
	}
	return one("service range", "serviceCidrs", "serviceCidr"), one("pod range", "podCidrs", "podCidr"), known
}

func vn02(c *check) {
	for _, r := range c.g.list(typeCluster) {
		services, pods, known := clusterRanges(r)
		d := c.about(r)
		d.fix("# these ranges are set at creation: make the cluster anew\naz aks create -g "+idGroup(r.ID)+" -n "+r.Name()+" --service-cidr 10.240.0.0/16 --dns-service-ip 10.240.0.10 …",
			"resource \"azurerm_kubernetes_cluster\" \""+tfName(r.Name())+"\" {\n  network_profile {\n    service_cidr   = \"10.240.0.0/16\"\n    dns_service_ip = \"10.240.0.10\"\n  }\n}")
		if bad := c.badRanges(r, services, pods); bad.reason != "" {
			d.ends(bad.reason, bad.at).fail("%s", bad.reason)
			continue
		}
		var unseen string
		for _, id := range c.clusterVNets(r) {
			if v := c.g.Resource(id); v == nil {
				unseen = id
			}
		}
		switch {
		case !known || len(services.list) == 0:
			d.unclear(services.at, "the service range of cluster "+r.Name(), r)
		case unseen != "":
			d.unknown([]Ask{{Type: typeVNet, Scope: unseen}}, "VNet %s, in which the cluster stands, is not in the input", idName(unseen))
		default:
			d.see("service range "+join(services.list), services.at).pass("ranges are clear of AKS's own and of the networks")
		}
	}
}

type badRange struct {
	reason string
	at     Value
}

func (e *env) badRanges(r *Resource, services, pods ranges) badRange {
	own := []ranges{services, pods}
	nets := []ranges{}
	for _, id := range e.clusterVNets(r) {
		v := e.g.Resource(id)
		if v == nil {
			continue
		}
		space, at, _ := addressSpace(v)
		own = append(own, ranges{"VNet " + v.Name(), space, at})
		nets = append(nets, ranges{"VNet " + v.Name(), space, at})
		for _, p := range e.g.below(v.ID, typePeering) {
			if o := e.g.Resource(p.Get("remoteVirtualNetwork", "id").Text()); o != nil {
				space, at, _ := addressSpace(o)
				nets = append(nets, ranges{"peered VNet " + o.Name(), space, at})
			}
		}
	}
	for _, o := range own {
		if x, y, hit := overlap(o.list, aksReserved); hit {
			return badRange{fmt.Sprintf("%s %s overlaps %s, which AKS reserves", o.what, x, y), o.at}
		}
	}
	for _, n := range nets {
		if x, y, hit := overlap(services.list, n.list); hit {
			return badRange{fmt.Sprintf("service range %s overlaps %s (%s)", x, n.what, y), services.at}
		}
		if x, y, hit := overlap(pods.list, n.list); hit && r.Get("networkProfile", "networkPlugin").Is("kubenet") {
			return badRange{fmt.Sprintf("pod range %s overlaps %s (%s)", x, n.what, y), pods.at}
		}
	}
	for _, s := range services.list {
		if s.Addr().Is4() && s.Bits() <= 12 {
			return badRange{fmt.Sprintf("service range %s is larger than AKS takes (it must be smaller than /12)", s), services.at}
		}
	}
	dns := r.Get("networkProfile", "dnsServiceIP")
	if a, err := netip.ParseAddr(dns.Text()); err == nil && len(services.list) > 0 {
		in := false
		for _, s := range services.list {
			in = in || s.Contains(a)
		}
		if !in {
			return badRange{fmt.Sprintf("the DNS address %s is outside the service range %s", a, services.list[0]), dns}
		}
	}
	return badRange{}
}

// poolSize reads a pool; flat says that its pods take addresses of the subnet.
func poolSize(p Value, flat bool) (s PoolSize, known bool) {
	s = PoolSize{Name: p.Get("name").Text(), MaxPods: 30, Flat: flat}
	count := p.Get("count")
	if auto, ok := p.Get("enableAutoScaling").Truth(false); !ok {
		return s, false
	} else if auto {
		count = p.Get("maxCount")
	}
	n, ok := count.Number()
	if !ok || n < 0 || n > 1e6 {
		return s, false
	}
	s.Nodes = int(n)
	switch v := p.Get("maxPods"); v.State() {
	case Known:
		m, ok := v.Number()
		if !ok || m < 1 || m > 1000 {
			return s, false
		}
		s.MaxPods = int(m)
	case Unknown:
		return s, !flat
	}
	s.Surge = p.Get("upgradeSettings", "maxSurge").Text()
	return s, true
}

// burden is what stands in one subnet.
type burden struct {
	need, nodes int
	what        []string
	unclear     string
}

func (e *env) loads(cluster *Resource) (map[string]*burden, []string) {
	plugin, mode := cluster.Get("networkProfile", "networkPlugin"), cluster.Get("networkProfile", "networkPluginMode")
	out, order := map[string]*burden{}, []string{}
	at := func(id string) *burden {
		if out[foldID(id)] == nil {
			out[foldID(id)] = &burden{}
			order = append(order, id)
		}
		return out[foldID(id)]
	}
	for _, p := range e.pools(cluster) {
		subnet, pods := p.Get("vnetSubnetID"), p.Get("podSubnetID")
		if subnet.State() != Known {
			continue
		}
		flat := plugin.Is("azure") && !mode.Is("overlay") && pods.State() == Absent
		s, known := poolSize(p, flat)
		l := at(subnet.Text())
		if !known || plugin.State() == Unknown || mode.State() == Unknown || pods.State() == Unknown && plugin.Is("azure") && !mode.Is("overlay") {
			l.unclear = "the size of pool " + s.Name + " or how its pods get addresses is not known"
			continue
		}
		l.need += s.NodeSubnet()
		l.nodes += s.Nodes
		l.what = append(l.what, fmt.Sprintf("%s: %d nodes + %d surge, %d addresses", s.Name, s.Nodes, s.SurgeNodes(), s.NodeSubnet()))
		if pods.State() == Known {
			l := at(pods.Text())
			l.need += s.PodSubnet()
			l.what = append(l.what, fmt.Sprintf("pods of %s: %d addresses", s.Name, s.PodSubnet()))
		}
	}
	return out, order
}

func vn03(c *check) {
	for _, r := range c.g.list(typeCluster) {
		if c.unseenPools(r) {
			continue
		}
		loads, order := c.loads(r)
		if len(order) == 0 {
			c.about(r).none("pools stand in a VNet that Azure makes, and sizes")
		}
		for _, id := range order {
			l, subnet := loads[foldID(id)], c.g.Resource(id)
			d := c.about(r, subnet)
			if subnet == nil {
				d.also(id).unknown([]Ask{{Type: typeVNet, Scope: idParent(id)}}, "subnet %s is not in the input", idName(id))
				continue
			}
			space, v, whole := subnetPrefixes(subnet)
			if !whole || len(space) == 0 {
				d.unclear(v, "the prefix of subnet "+idName(id), subnet)
				continue
			}
			for _, w := range l.what {
				d.see(w, r.Get("agentPoolProfiles"))
			}
			if l.unclear != "" {
				d.unknown([]Ask{{Type: typeCluster, Scope: r.ID}}, "%s", l.unclear)
				continue
			}
			need, have := l.need+c.g.inSubnet[foldID(id)], usable(space)
			hint := fmt.Sprintf("the guide's %d per node would be %d", seedPerNode, seedPerNode*l.nodes)
			d.see(fmt.Sprintf("%s has %d usable addresses", join(space), have), v)
			if need > have {
				d.fix(fmt.Sprintf("# a subnet in use cannot grow under its nodes: add one of /%d and a pool in it, or use CNI Overlay\naz network vnet subnet create -g %s --vnet-name %s -n %s-large --address-prefixes <free range>/%d", prefixFor(need), idGroup(id), idName(idParent(id)), idName(id), prefixFor(need)),
					fmt.Sprintf("resource \"azurerm_subnet\" %q {\n  address_prefixes = [\"<free range>/%d\"]\n}", tfName(idName(id)), prefixFor(need))).
					fail("%d addresses are needed, %d are usable; %s", need, have, hint)
				continue
			}
			d.pass("%d addresses are needed, %d are usable; %s", need, have, hint)
		}
	}
}

func vn04(c *check) {
	for _, r := range c.g.list(typeCluster) {
		if c.unseenPools(r) {
			continue
		}
		for _, id := range c.poolSubnets(r) {
			s := c.g.Resource(id)
			d := c.about(r, s)
			if s == nil {
				d.also(id).unknown([]Ask{{Type: typeVNet, Scope: idParent(id)}}, "subnet %s is not in the input", idName(id))
				continue
			}
			v := s.Get("delegations")
			items := v.Items()
			switch {
			case v.State() == Unknown:
				d.unclear(v, "the delegation of subnet "+s.Name(), s)
			case len(items) > 0 && !sameType(items[0].Get("serviceName").Text(), typeCluster):
				d.ends("delegated to "+items[0].Get("serviceName").Text(), v).
					fix("az network vnet subnet update -g "+idGroup(id)+" --vnet-name "+idName(idParent(id))+" -n "+s.Name()+" --remove delegations",
						"resource \"azurerm_subnet\" \""+tfName(s.Name())+"\" {\n  # without any delegation block\n}").
					fail("subnet %s is delegated to %s", s.Name(), items[0].Get("serviceName").Text())
			default:
				d.see("no delegation to another service", v).pass("subnet %s is not delegated", s.Name())
			}
		}
	}
}

func sameType(a, b string) bool { return strings.EqualFold(a, b) }

// poolSubnets are the node subnets that pools name, each once.
func (e *env) poolSubnets(cluster *Resource) []string {
	var out []string
	for _, h := range e.homesOf(cluster).subnets {
		if h.pool != "" && !contains(out, h.subnet) {
			out = append(out, h.subnet)
		}
	}
	return out
}
