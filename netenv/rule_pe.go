package netenv

import "strings"

func rulesPE() []*Rule {
	s := levels(Warning, Error, Error)
	return []*Rule{
		{Code: "PE-01", Title: "Private endpoint approved", Severity: s, Subject: typeEndpoint, check: pe01,
			Why: "A pending, rejected or disconnected endpoint has an address and carries nothing."},
		{Code: "PE-02", Title: "The right sub-resource for the target", Severity: s, Subject: typeEndpoint, check: pe02,
			Why: "An endpoint for another sub-resource answers under other names: the wanted ones stay public."},
		{Code: "PE-03", Title: "The endpoint's subnet is in the cluster's reach", Severity: levels(Off, Error, Error), Subject: typeEndpoint, Reads: []string{typeCluster, typePeering, typeSubnet}, After: []string{"VN-05"}, check: pe03,
			Why: "Peering does not pass on: the endpoint must be in the cluster's VNet or in a directly peered one."},
		{Code: "PE-04", Title: "The endpoint is in the region of its VNet", Severity: levels(Warning, Warning, Warning), Subject: typeEndpoint, Reads: []string{typeVNet}, check: pe04,
			Why: "Azure makes private endpoints in the region of their VNet only; a plan that says otherwise fails when it is applied."},
	}
}

// groupsFor are the sub-resources that a target type has.
var groupsFor = map[string][]string{
	fold(typeWorkspace): {"amlworkspace"},
	fold(typeStorage):   {"blob", "blob_secondary", "file", "queue", "queue_secondary", "table", "table_secondary", "dfs", "dfs_secondary", "web", "web_secondary"},
	fold(typeVault):     {"vault"},
	fold(typeRegistry):  {"registry"},
	fold(typeCluster):   {"management"},
}

func pe01(c *check) {
	for _, p := range c.g.list(typeEndpoint) {
		d := c.about(p)
		list := connections(p)
		if len(list) == 0 {
			d.unclear(p.Get("privateLinkServiceConnections"), "the connection of private endpoint "+p.Name(), p)
			continue
		}
		var bad, dim Value
		for _, x := range list {
			v := x.Get("privateLinkServiceConnectionState", "status")
			if v.State() != Known {
				v = c.fromTarget(p, x.Get("privateLinkServiceId").Text(), v)
			}
			if v.State() == Known && !v.Is("Approved") {
				bad = v
			} else if v.State() != Known {
				dim = v
			}
		}
		switch {
		case bad.State() == Known:
			target := plain(list[0].Get("privateLinkServiceId").Text())
			d.ends("status "+bad.Text(), bad).fix("az network private-endpoint-connection approve --description approved --id $(az network private-endpoint-connection list --id "+target+" --query \"[?properties.privateEndpoint.id=='"+p.ID+"'].id\" -o tsv)",
				"# approve on the target's side: azapi_update_resource on its privateEndpointConnections, or is_manual_connection = false with rights on the target").
				fail("the connection is %s", bad.Text())
		case dim.view != nil || dim.place != nil:
			d.unclear(dim, "the status of private endpoint "+p.Name(), p)
		default:
			d.see("Approved", list[0].Get("privateLinkServiceConnectionState", "status")).pass("approved")
		}
	}
}

// fromTarget looks for a connection's status where the target lists it.
func (e *env) fromTarget(p *Resource, target string, v Value) Value {
	t := e.g.Resource(target)
	if t == nil {
		return v
	}
	for _, x := range t.Get("privateEndpointConnections").Items() {
		if sameID(x.Get("privateEndpoint", "id").Text(), p.ID) {
			if s := x.Get("privateLinkServiceConnectionState", "status"); s.State() == Known {
				return s
			}
		}
	}
	return v
}

func pe02(c *check) {
	for _, p := range c.g.list(typeEndpoint) {
		for _, x := range connections(p) {
			d := c.about(p)
			target, groups := x.Get("privateLinkServiceId"), x.Get("groupIds")
			names, whole := groups.Texts()
			wanted, ours := groupsFor[fold(idType(target.Text()))]
			switch {
			case target.State() == Unknown || !whole:
				d.unclear(groups, "the target or group of private endpoint "+p.Name(), p)
			case !ours:
				d.see("target "+idType(target.Text()), target).none("a target that the environment does not use")
			case len(names) == 1 && contains(wanted, names[0]):
				d.see("group "+names[0]+" of "+label(target.Text()), groups).pass("%s has the sub-resource %s", label(target.Text()), names[0])
			default:
				az, tf := c.endpointFix(target.Text(), wanted[0], p.Get("subnet", "id").Text())
				d.ends("group "+strings.Join(names, ", ")+" of "+label(target.Text()), groups).fix(az, tf).
					fail("%s has no sub-resource %q; it has %s", label(target.Text()), strings.Join(names, ", "), strings.Join(wanted, ", "))
			}
		}
	}
}

func pe03(c *check) {
	users := map[string][]pair{}
	for _, p := range c.pairs {
		for _, id := range c.uses(p.workspace) {
			users[foldID(id)] = append(users[foldID(id)], p)
		}
	}
	for _, p := range c.g.list(typeEndpoint) {
		for _, x := range connections(p) {
			target := x.Get("privateLinkServiceId")
			for _, u := range users[foldID(target.Text())] {
				d := c.about(p, u.cluster)
				subnet := p.Get("subnet", "id")
				az, tf := c.endpointFix(target.Text(), groupsFor[fold(idType(target.Text()))][0], "<a subnet in the cluster's VNet or a peered one>")
				if groups, _ := x.Get("groupIds").Texts(); len(groups) > 0 {
					az, tf = c.endpointFix(target.Text(), groups[0], "<a subnet in the cluster's VNet or a peered one>")
				}
				if subnet.State() != Known {
					d.unclear(subnet, "the subnet of private endpoint "+p.Name(), p)
					continue
				}
				w := c.reaches(u.cluster, subnet.Text())
				// Another endpoint of the same group may be the one for this cluster.
				if groups, _ := x.Get("groupIds").Texts(); w.known && !w.ok && len(groups) > 0 && c.privately(u.cluster, target.Text(), groups[0]).ok {
					d.none("the cluster uses another endpoint of %s", label(target.Text()))
					continue
				}
				d.fix(az, tf).judge(w, "in reach")
			}
		}
	}
}

func pe04(c *check) {
	for _, p := range c.g.list(typeEndpoint) {
		d := c.about(p)
		subnet := p.Get("subnet", "id")
		vnet := c.g.Resource(idParent(subnet.Text()))
		if vnet == nil {
			d.unknown([]Ask{{Type: typeVNet, Scope: idParent(subnet.Text())}}, "the VNet of private endpoint %s is not in the input", p.Name())
			continue
		}
		a, b := p.Get("location"), vnet.Get("location")
		switch {
		case a.State() != Known || b.State() != Known:
			d.unclear(a, "the region of the endpoint or its VNet", p)
		case region(a) == region(b):
			d.see("both in "+region(a), a).pass("both in %s", region(a))
		default:
			d.see("VNet in "+region(b), b).ends("endpoint in "+region(a), a).
				fix("# make the endpoint again in "+region(b)+"\naz network private-endpoint create -l "+plain(region(b))+" …", "resource \"azurerm_private_endpoint\" \""+tfName(p.Name())+"\" {\n  location = \""+plain(region(b))+"\"\n}").
				fail("endpoint in %s, VNet in %s", region(a), region(b))
		}
	}
}
