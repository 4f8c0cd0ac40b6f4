package netenv

import (
	"fmt"
	"net/netip"
)

// unpeered ends a rule about peerings when networks are shown and none of them
// has one: what needs a peering (WS-02, ST-01, PE-03) says so itself.
func (c *check) unpeered() {
	if len(c.g.list(typePeering)) == 0 && len(c.g.list(typeVNet)) > 0 {
		c.about().none("no peering among the networks shown")
	}
}

func vn05(c *check) {
	c.unpeered()
	for _, p := range c.g.list(typePeering) {
		from, remote := idParent(p.ID), p.Get("remoteVirtualNetwork", "id")
		d := c.about(p)
		if remote.State() != Known {
			d.unclear(remote, "where peering "+p.Name()+" leads", p)
			continue
		}
		back := c.peering(remote.Text(), from)
		if back != nil && foldID(back.ID) < foldID(p.ID) {
			continue // judged from the other side
		}
		if back != nil {
			d = c.about(p, back)
		}
		to := plain(remote.Text())
		az := fmt.Sprintf("az network vnet peering create -g %s --vnet-name %s -n to-%s --remote-vnet %s --allow-vnet-access\naz network vnet peering sync -g %s --vnet-name %s -n %s",
			idGroup(to), idName(to), idName(from), from, idGroup(p.ID), idName(from), p.Name())
		tf := fmt.Sprintf("resource \"azurerm_virtual_network_peering\" \"%s_to_%s\" {\n  name                      = \"to-%s\"\n  resource_group_name       = %q\n  virtual_network_name      = %q\n  remote_virtual_network_id = %q\n}",
			tfName(idName(to)), tfName(idName(from)), idName(from), idGroup(to), idName(to), from)
		d.fix(az, tf).judge(c.between(from, remote.Text()), "connected, in sync and open both ways")
	}
}

func vn06(c *check) {
	c.unpeered()
	for _, p := range c.g.list(typePeering) {
		remote := p.Get("remoteVirtualNetwork", "id")
		a, b := c.g.Resource(idParent(p.ID)), c.g.Resource(remote.Text())
		if back := c.peering(remote.Text(), idParent(p.ID)); back != nil && foldID(back.ID) < foldID(p.ID) {
			continue
		}
		d := c.about(p, a, b)
		if a == nil || b == nil {
			id := remote.Text()
			if a == nil {
				id = idParent(p.ID)
			}
			d.unknown([]Ask{{Type: typeVNet, Scope: id}}, "VNet %s is not in the input", idName(id))
			continue
		}
		x, ax, wholeA := addressSpace(a)
		y, ay, wholeB := addressSpace(b)
		d.see(a.Label()+": "+join(x), ax).see(b.Label()+": "+join(y), ay)
		if u, v, hit := overlap(x, y); hit {
			d.ends(u.String()+" overlaps "+v.String(), ay).
				fix("# one of the two must be re-addressed\naz network vnet update -g "+idGroup(b.ID)+" -n "+b.Name()+" --address-prefixes <a range apart from "+join(x)+">",
					"resource \"azurerm_virtual_network\" \""+tfName(b.Name())+"\" {\n  address_space = [\"<a range apart from "+join(x)+">\"]\n}").
				fail("%s of %s overlaps %s of %s", u, a.Label(), v, b.Label())
			continue
		}
		if !wholeA || !wholeB || len(x) == 0 || len(y) == 0 {
			d.unclear(ay, "one of the address spaces", nil)
			continue
		}
		d.pass("the address spaces are apart")
	}
}

// azureDNS is Azure's resolver, reachable from inside a VNet only.
var azureDNS = netip.MustParseAddr("168.63.129.16")

// dnsServers of a VNet; empty means Azure's own.
func dnsServers(r *Resource) ([]string, Value, bool) {
	v := r.Get("dhcpOptions", "dnsServers")
	texts, whole := v.Texts()
	var own []string
	for _, t := range texts {
		if t != azureDNS.String() {
			own = append(own, t)
		}
	}
	return own, v, whole
}

func vn07(c *check) {
	for _, cluster := range c.g.list(typeCluster) {
		for _, id := range c.clusterVNets(cluster) {
			r := c.g.Resource(id)
			d := c.about(cluster, r)
			if r == nil {
				d.also(id).unknown([]Ask{{Type: typeVNet, Scope: id}}, "VNet %s is not in the input", idName(id))
				continue
			}
			own, v, whole := dnsServers(r)
			if !whole {
				d.unclear(v, "the DNS servers of VNet "+r.Name(), r)
				continue
			}
			if len(own) == 0 {
				d.see("no DNS servers of its own", v).pass("VNet %s asks Azure's resolver", r.Name())
				continue
			}
			d.see("DNS servers "+fmt.Sprint(own), v).
				fix("# on each of the DNS servers: forward every zone below to 168.63.129.16\n#   api.azureml.ms notebooks.azure.net blob.core.windows.net file.core.windows.net vault.azure.net azurecr.io\naz network private-dns link vnet create -g <zone group> -z <privatelink zone> -n dns-hub -v <VNet of the DNS servers> -e false",
					"# the VNet of the DNS servers must be linked to each zone; forwarders are set on the servers themselves\nresource \"azurerm_private_dns_zone_virtual_network_link\" \"dns_hub\" {\n  registration_enabled = false\n}")
			c.forwards(d, cluster)
		}
	}
}

// forwards judges a custom DNS server by what it answers inside the cluster:
// nothing else tells how it forwards.
func (c *check) forwards(d *draft, cluster *Resource) {
	probes := c.g.below(cluster.ID, typeProbe)
	if len(probes) == 0 {
		d.unknown([]Ask{{Type: typeProbe, Scope: cluster.ID}}, "how these servers forward is seen from inside only: run a live probe")
		return
	}
	answered := false
	for _, n := range probes[0].Get("names").Items() {
		addresses, _ := n.Get("addresses").Texts()
		if len(addresses) == 0 {
			continue
		}
		answered = true
		if a := publicOf(addresses); a != "" && c.hasEndpointFor(n.Get("name").Text()) {
			d.ends(n.Get("name").Text()+" resolves to "+a, n).fail("%s resolves to %s, a public address, inside the cluster", n.Get("name").Text(), a)
			return
		}
	}
	if !answered {
		d.unknown([]Ask{{Type: typeProbe, Scope: cluster.ID}}, "the probe resolved no name")
		return
	}
	d.see("live probe", probes[0].Get("names")).pass("names resolve privately from inside the cluster")
}

// publicOf is the first address that is not private.
func publicOf(addresses []string) string {
	for _, s := range addresses {
		if a, err := netip.ParseAddr(s); err == nil && !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return s
		}
	}
	return ""
}

func vn08(c *check) {
	seen := map[string]bool{}
	for _, p := range c.g.list(typeEndpoint) {
		id := p.Get("subnet", "id")
		if seen[foldID(id.Text())] {
			continue
		}
		seen[foldID(id.Text())] = true
		s := c.g.Resource(id.Text())
		d := c.about(s).found(p)
		if s == nil {
			d.unknown([]Ask{{Type: typeVNet, Scope: idParent(id.Text())}}, "the subnet of private endpoint %s is not in the input", p.Name())
			continue
		}
		v := s.Get("privateEndpointNetworkPolicies")
		switch {
		case v.State() == Unknown:
			d.unclear(v, "privateEndpointNetworkPolicies of subnet "+s.Name(), s)
		case v.Is("Disabled") || v.State() == Absent:
			d.see("network policies are off", v).pass("no NSG or route stands between the network and the endpoints")
		default:
			d.ends("network policies: "+v.Text(), v).
				fix("az network vnet subnet update -g "+idGroup(s.ID)+" --vnet-name "+idName(idParent(s.ID))+" -n "+s.Name()+" --private-endpoint-network-policies Disabled",
					"resource \"azurerm_subnet\" \""+tfName(s.Name())+"\" {\n  private_endpoint_network_policies = \"Disabled\"\n}").
				fail("NSG and routes of subnet %s apply to its private endpoints: make sure that they let the cluster through, or turn them off", s.Name())
		}
	}
}
