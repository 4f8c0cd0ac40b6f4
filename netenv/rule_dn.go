package netenv

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

func rulesDN() []*Rule {
	s := levels(Off, Error, Error)
	return []*Rule{
		{Code: "DN-01", Title: "One zone group with the right zones", Severity: s, Subject: typeEndpoint, Reads: []string{typeZoneGroup}, After: []string{"PE-02"}, check: dn01,
			Why: "Without a zone group nobody writes the endpoint's records; with a wrong zone they are written where nobody looks. Azure takes one group of at most five zones."},
		{Code: "DN-02", Title: "Zones linked to the network that resolves for the cluster", Severity: s, Subject: typeZone, Reads: []string{typeLink, typeZoneGroup, typeVNet, typeCluster}, check: dn02,
			Why: "A zone answers in the VNets that it is linked to, and nowhere else."},
		{Code: "DN-03", Title: "Records exist and equal the endpoint's addresses", Severity: s, Subject: typeEndpoint, Reads: []string{typeA, typeZoneGroup}, After: []string{"DN-01"}, check: dn03,
			Why: "A stale record leads to an address of nobody; a missing one to the public address."},
		{Code: "DN-04", Title: "One zone of a name for one environment", Severity: levels(Off, Warning, Warning), Subject: typeZone, Reads: []string{typeZoneGroup, typeLink}, check: dn04,
			Why: "Of two zones of one name a VNet sees one only: the records in the other do not exist for it."},
		{Code: "DN-05", Title: "Names resolve privately inside the cluster", Severity: s, Subject: typeCluster, Reads: []string{typeProbe}, After: []string{"DN-02", "VN-07"}, check: dn05,
			Why: "Everything else is the plan; this is what pods see. Needs a live probe from inside the cluster."},
	}
}

// cloudOf tells the cloud from a region.
func cloudOf(region string) string {
	switch {
	case strings.HasPrefix(region, "china"):
		return "china"
	case strings.HasPrefix(region, "usgov"), strings.HasPrefix(region, "usdod"):
		return "gov"
	}
	return ""
}

// zonesFor are the private DNS zones that an endpoint of a group needs.
func zonesFor(group, cloud string) []string {
	g := strings.TrimSuffix(strings.ToLower(group), "_secondary")
	pick := func(public, china, gov string) string {
		return "privatelink." + map[string]string{"": public, "china": china, "gov": gov}[cloud]
	}
	switch g {
	case "amlworkspace":
		return []string{pick("api.azureml.ms", "api.ml.azure.cn", "api.ml.azure.us"), pick("notebooks.azure.net", "notebooks.chinacloudapi.cn", "notebooks.usgovcloudapi.net")}
	case "blob", "file", "queue", "table", "dfs", "web":
		return []string{pick(g+".core.windows.net", g+".core.chinacloudapi.cn", g+".core.usgovcloudapi.net")}
	case "vault":
		return []string{pick("vaultcore.azure.net", "vaultcore.azure.cn", "vaultcore.usgovcloudapi.net")}
	case "registry":
		return []string{pick("azurecr.io", "azurecr.cn", "azurecr.us")}
	}
	return nil
}

// zoneNames of a zone group; whole is false when one of them is not known.
func zoneNames(g *Resource) (names []string, whole bool) {
	list := g.Get("privateDnsZoneConfigs")
	whole = list.State() != Unknown
	for _, c := range list.Items() {
		if id := c.Get("privateDnsZoneId"); id.State() == Known {
			names = append(names, idName(id.Text()))
		} else {
			whole = false
		}
	}
	return names, whole
}

func zoneGroupFix(p *Resource, zones []string) (string, string) {
	az := "az network private-endpoint dns-zone-group create -g " + idGroup(p.ID) + " --endpoint-name " + p.Name() + " -n default"
	var ids, names []string
	for _, z := range zones {
		ids = append(ids, "azurerm_private_dns_zone."+tfName(z)+".id")
		names = append(names, plain(z))
	}
	if len(names) > 0 {
		az += " --private-dns-zone " + names[0] + " --zone-name " + tfName(names[0])
		for _, n := range names[1:] {
			az += "\naz network private-endpoint dns-zone-group add -g " + idGroup(p.ID) + " --endpoint-name " + p.Name() + " -n default --private-dns-zone " + n + " --zone-name " + tfName(n)
		}
	}
	return az, "resource \"azurerm_private_endpoint\" \"" + tfName(p.Name()) + "\" {\n  private_dns_zone_group {\n    name                 = \"default\"\n    private_dns_zone_ids = [" + strings.Join(ids, ", ") + "]\n  }\n}"
}

// wantedZones of an endpoint, by its groups.
func wantedZones(p *Resource) (zones []string, known bool) {
	known = true
	for _, c := range connections(p) {
		if _, ours := groupsFor[fold(idType(c.Get("privateLinkServiceId").Text()))]; !ours {
			continue
		}
		groups, whole := c.Get("groupIds").Texts()
		known = known && whole
		for _, g := range groups {
			zones = append(zones, zonesFor(g, cloudOf(region(p.Get("location"))))...)
		}
	}
	return zones, known
}

func dn01(c *check) {
	for _, p := range c.g.list(typeEndpoint) {
		d := c.about(p)
		wanted, known := wantedZones(p)
		if len(wanted) == 0 {
			if known {
				d.none("no target that needs one of the zones")
			} else {
				d.unclear(p.Get("privateLinkServiceConnections"), "the group of private endpoint "+p.Name(), p)
			}
			continue
		}
		groups := c.g.below(p.ID, typeZoneGroup)
		d.fix(zoneGroupFix(p, wanted))
		if len(groups) != 1 {
			switch {
			case len(groups) > 1:
				d.fail("%d zone groups, Azure takes one", len(groups))
			case c.g.complete(typeZoneGroup, p.ID):
				d.ends("no zone group", p.self()).fail("private endpoint %s has no zone group", p.Name())
			default:
				d.unknown([]Ask{{Type: typeZoneGroup, Scope: p.ID}}, "the zone group of private endpoint %s is not in the input", p.Name())
			}
			continue
		}
		have, whole := zoneNames(groups[0])
		d.found(groups[0])
		var wrong []string
		hit := 0
		for _, z := range have {
			if contains(wanted, z) {
				hit++
			} else {
				wrong = append(wrong, z)
			}
		}
		switch {
		case len(have) > 5:
			d.fail("%d zones in one group, Azure takes five", len(have))
		case len(wrong) > 0:
			d.ends("zone "+strings.Join(wrong, ", "), groups[0].Get("privateDnsZoneConfigs")).fail("wrong zone %s; needed: %s", strings.Join(wrong, ", "), strings.Join(wanted, ", "))
		case hit == 0 && whole:
			d.ends("no zone", groups[0].Get("privateDnsZoneConfigs")).fail("the zone group names no zone; needed: %s", strings.Join(wanted, ", "))
		case !whole:
			d.unclear(groups[0].Get("privateDnsZoneConfigs"), "a zone of "+p.Name(), groups[0])
		default:
			d.see("zones "+strings.Join(have, ", "), groups[0].Get("privateDnsZoneConfigs")).pass("one group, right zones")
		}
	}
}

// resolvers are the VNets whose links decide what a cluster's VNet resolves:
// itself with Azure's DNS, else the VNets that hold its DNS servers.
func (e *env) resolvers(vnet string) (ids []string, reason string, asks []Ask) {
	r := e.g.Resource(vnet)
	if r == nil {
		return nil, "VNet " + idName(vnet) + " is not in the input", []Ask{{Type: typeVNet, Scope: vnet}}
	}
	own, _, whole := dnsServers(r)
	if !whole {
		return nil, "the DNS servers of VNet " + r.Name() + " are not known", nil
	}
	if len(own) == 0 {
		return []string{r.ID}, "", nil
	}
	candidates := []*Resource{r}
	for _, p := range e.g.below(r.ID, typePeering) {
		if o := e.g.Resource(p.Get("remoteVirtualNetwork", "id").Text()); o != nil {
			candidates = append(candidates, o)
		}
	}
	for _, p := range e.g.peeringsTo[foldID(r.ID)] { // one-way peerings are VN-05's
		if o := e.g.Resource(idParent(p.ID)); o != nil {
			candidates = append(candidates, o)
		}
	}
	for _, s := range own {
		a, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		for _, v := range candidates {
			space, _, _ := addressSpace(v)
			if slices.ContainsFunc(space, func(p netip.Prefix) bool { return p.Contains(a) }) && !contains(ids, v.ID) {
				ids = append(ids, v.ID)
			}
		}
	}
	if len(ids) == 0 {
		return nil, "the DNS servers " + strings.Join(own, ", ") + " are in no VNet of the input", []Ask{{Type: typeVNet, Scope: subscriptionScope(vnet)}}
	}
	return ids, "", nil
}

func dn02(c *check) {
	for _, z := range c.g.list(typeZone) {
		users := c.clustersOf(z)
		if len(users) == 0 {
			continue
		}
		for _, cluster := range users {
			for _, vnet := range c.clusterVNets(cluster) {
				d := c.about(z, cluster)
				at, reason, asks := c.resolvers(vnet)
				if reason != "" {
					d.unknown(asks, "%s", reason)
					continue
				}
				c.linked(d, z, vnet, at)
			}
			if len(c.clusterVNets(cluster)) == 0 {
				h := c.homesOf(cluster)
				c.about(z, cluster).unknown(h.asks, "the cluster's VNet is not known")
			}
		}
	}
}

// uses are the ids of what a workspace's compute talks to: the workspace, its
// storage, vault and registry, and the accounts of its datastores.
func (e *env) uses(ws *Resource) []string {
	out := []string{ws.ID}
	add := func(id string) {
		if id != "" && !contains(out, id) {
			out = append(out, id)
		}
	}
	add(ws.Get("storageAccount").Text())
	add(ws.Get("keyVault").Text())
	add(ws.Get("containerRegistry").Text())
	for _, s := range e.g.below(ws.ID, typeDatastore) {
		if r := e.g.accounts[strings.ToLower(s.Get("accountName").Text())]; r != nil {
			add(r.ID)
		}
	}
	return out
}

// clustersOf are the clusters whose environments write a zone.
func (e *env) clustersOf(z *Resource) []*Resource {
	if e.users == nil {
		e.users = map[string][]*Resource{}
		for _, p := range e.pairs {
			for _, id := range e.uses(p.workspace) {
				e.users[foldID(id)] = append(e.users[foldID(id)], p.cluster)
			}
		}
	}
	var out []*Resource
	for _, g := range e.g.groupsOf[foldID(z.ID)] {
		p := e.g.Resource(idParent(g.ID))
		if p == nil {
			continue
		}
		for _, c := range connections(p) {
			for _, u := range e.users[foldID(c.Get("privateLinkServiceId").Text())] {
				if !slices.Contains(out, u) {
					out = append(out, u)
				}
			}
		}
	}
	return out
}

func (c *check) linked(d *draft, z *Resource, vnet string, at []string) {
	d.follow([]Step{c.stepTo(vnet, "cluster VNet "+idName(vnet))})
	for _, v := range at {
		v := plain(v)
		if !sameID(v, vnet) {
			d.follow([]Step{c.stepTo(v, "resolves through VNet "+idName(v))})
		}
		var link *Resource
		for _, l := range c.g.linksOf[foldID(v)] {
			if sameID(idParent(l.ID), z.ID) {
				link = l
			}
		}
		az := "az network private-dns link vnet create -g " + idGroup(z.ID) + " -z " + z.Name() + " -n " + idName(v) + " -v " + v + " -e false"
		tf := "resource \"azurerm_private_dns_zone_virtual_network_link\" \"" + tfName(z.Name()+"-"+idName(v)) + "\" {\n  name                 = \"" + idName(v) + "\"\n  private_dns_zone_id  = \"" + z.ID + "\"\n  virtual_network_id   = \"" + v + "\"\n  registration_enabled = false\n}"
		d.fix(az, tf)
		if link == nil {
			if c.g.complete(typeLink, z.ID) {
				d.ends("no link to VNet "+idName(v), z.self()).fail("zone %s is not linked to VNet %s", z.Name(), idName(v))
			} else {
				d.unknown([]Ask{{Type: typeLink, Scope: z.ID}}, "the links of zone %s are not in the input", z.Name())
			}
			return
		}
		state, auto := link.Get("virtualNetworkLinkState"), link.Get("registrationEnabled")
		on, known := auto.Truth(false)
		switch {
		case state.State() == Known && !state.Is("Completed"):
			d.ends("link "+link.Name()+" is "+state.Text(), state).fail("link %s is %s", link.Name(), state.Text())
			return
		case known && on:
			d.ends("link "+link.Name()+" registers machines", auto).fix("az network private-dns link vnet update -g "+idGroup(z.ID)+" -z "+z.Name()+" -n "+link.Name()+" -e false", "  registration_enabled = false").
				fail("link %s has autoregistration on: machines' names would be written into %s", link.Name(), z.Name())
			return
		case state.State() != Known || !known:
			d.unclear(state, "the state of link "+link.Name(), link)
			return
		}
		d.found(link)
	}
	d.pass("linked to %s", fmt.Sprint(idNames(at)))
}

func idNames(ids []string) string {
	var out []string
	for _, id := range ids {
		out = append(out, idName(id))
	}
	return strings.Join(out, ", ")
}
