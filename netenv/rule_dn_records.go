package netenv

import (
	"slices"
	"strings"
)

// endpointNames are the names that an endpoint has addresses for.
func endpointNames(p *Resource) []string {
	var out []string
	for _, c := range p.Get("customDnsConfigs").Items() {
		if n := c.Get("fqdn").Text(); n != "" {
			out = append(out, n)
		}
	}
	return out
}

// recordIn is a name's record in a privatelink zone: acct.blob.core.windows.net
// is acct in privatelink.blob.core.windows.net.
func recordIn(fqdn, zone string) (string, bool) {
	fqdn, zone = strings.ToLower(strings.TrimSuffix(fqdn, ".")), strings.ToLower(zone)
	public := strings.TrimPrefix(zone, "privatelink.")
	for _, suffix := range []string{zone, public, strings.Replace(public, "vaultcore.", "vault.", 1)} {
		if r, ok := strings.CutSuffix(fqdn, "."+suffix); ok {
			return r, true
		}
	}
	return "", false
}

func dn03(c *check) {
	for _, p := range c.g.list(typeEndpoint) {
		d := c.about(p)
		if wanted, known := wantedZones(p); len(wanted) == 0 && known {
			d.none("no target that needs one of the zones")
			continue
		}
		configs := p.Get("customDnsConfigs")
		if configs.State() != Known || len(configs.Items()) == 0 {
			d.unclear(configs, "the addresses of private endpoint "+p.Name(), p)
			continue
		}
		var zones []string
		for _, g := range c.g.below(p.ID, typeZoneGroup) {
			zones = append(zones, zoneIDs(g)...)
		}
		if len(zones) == 0 {
			if c.g.complete(typeZoneGroup, p.ID) {
				d.none("no zone group writes records (DN-01)")
			} else {
				d.unknown([]Ask{{Type: typeZoneGroup, Scope: p.ID}}, "the zones of private endpoint %s are not in the input", p.Name())
			}
			continue
		}
		d.fix("az network private-endpoint dns-zone-group delete -g "+idGroup(p.ID)+" --endpoint-name "+p.Name()+" -n default\n# and make it again: it writes the records anew\n"+first(zoneGroupFix(p, idNameList(zones))),
			"# terraform apply -replace=azurerm_private_endpoint."+tfName(p.Name()))
		c.records(d, configs, zones)
	}
}

func first(a, _ string) string { return a }

func idNameList(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = idName(id)
	}
	return out
}

// records compares the names of an endpoint with the A records of its zones.
func (c *check) records(d *draft, configs Value, zones []string) {
	for _, conf := range configs.Items() {
		name := conf.Get("fqdn").Text()
		want, _ := conf.Get("ipAddresses").Texts()
		zone, record := "", ""
		for _, z := range zones {
			if r, ok := recordIn(name, idName(z)); ok {
				zone, record = z, r
			}
		}
		if zone == "" {
			d.ends(name+" belongs to none of the endpoint's zones", conf).fail("%s belongs to none of the zones %s", name, strings.Join(idNameList(zones), ", "))
			return
		}
		r := c.g.Resource(zone + "/A/" + record)
		if r == nil {
			if c.g.complete(typeA, zone) {
				d.ends("no record "+record+" in "+idName(zone), conf).fail("zone %s has no record %s", idName(zone), record)
			} else {
				d.unknown([]Ask{{Type: typeA, Scope: zone}}, "the records of zone %s are not in the input", idName(zone))
			}
			return
		}
		var have []string
		for _, a := range r.Get("aRecords").Items() {
			have = append(have, a.Get("ipv4Address").Text())
		}
		slices.Sort(have)
		slices.Sort(want)
		if !slices.Equal(have, want) {
			d.ends(record+" is "+strings.Join(have, ", "), r.Get("aRecords")).fail("%s has the address %s, the record in %s says %s", name, strings.Join(want, ", "), idName(zone), strings.Join(have, ", "))
			return
		}
		d.see(name+" is "+strings.Join(have, ", "), r.Get("aRecords"))
	}
	d.pass("every name of the endpoint has its record")
}

func dn04(c *check) {
	byName := map[string][]*Resource{}
	var names []string
	for _, z := range c.g.list(typeZone) {
		n := strings.ToLower(z.Name())
		if byName[n] == nil {
			names = append(names, n)
		}
		byName[n] = append(byName[n], z)
	}
	for _, n := range names {
		zones := byName[n]
		if len(zones) == 1 {
			c.about(zones[0]).found(zones[0]).pass("the only zone %s", n)
			continue
		}
		d := c.about(zones...)
		var shared *Resource
		users := map[*Resource]*Resource{}
		for _, z := range zones {
			for _, cluster := range c.clustersOf(z) {
				if other := users[cluster]; other != nil && other != z {
					shared = cluster
				}
				users[cluster] = z
			}
		}
		if shared != nil {
			d.found(shared).fix("# let every endpoint write into one of them, then delete the other\naz network private-endpoint dns-zone-group create --private-dns-zone "+zones[0].ID+" …\naz network private-dns zone delete -g "+idGroup(zones[1].ID)+" -n "+n,
				"# one azurerm_private_dns_zone of name "+n+" for all private_dns_zone_group blocks").
				fail("%d zones %s hold records for %s", len(zones), n, shared.Label())
			continue
		}
		if !c.g.complete(typeZoneGroup, "") && len(c.g.list(typeZoneGroup)) == 0 {
			d.unknown([]Ask{{Type: typeZoneGroup}}, "which endpoints write into the zones %s is not known", n)
			continue
		}
		d.pass("each zone %s serves an environment of its own", n)
	}
}

// Names are what private endpoints have addresses for, sorted: what must resolve
// to them inside the cluster.
func (g *Graph) Names() []string {
	var out []string
	for _, p := range g.list(typeEndpoint) {
		for _, n := range endpointNames(p) {
			if n = strings.ToLower(strings.TrimSuffix(n, ".")); !strings.HasPrefix(n, "*") && plain(n) == n {
				out = append(out, n)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// hasEndpointFor says whether an endpoint of the input has an address for a
// name.
func (e *env) hasEndpointFor(name string) bool {
	return slices.ContainsFunc(e.g.list(typeEndpoint), func(p *Resource) bool { return contains(endpointNames(p), name) })
}

func dn05(c *check) {
	for _, cluster := range c.g.list(typeCluster) {
		d := c.about(cluster)
		wanted, where := map[string][]string{}, map[string]*Resource{}
		for _, p := range c.pairsOf(cluster) {
			for _, id := range c.uses(p.workspace) {
				for _, pe := range c.g.endpointsOf[foldID(id)] {
					for _, conf := range pe.Get("customDnsConfigs").Items() {
						n := strings.ToLower(conf.Get("fqdn").Text())
						addresses, _ := conf.Get("ipAddresses").Texts()
						wanted[n], where[n] = append(wanted[n], addresses...), pe
					}
				}
			}
		}
		probes := c.g.below(cluster.ID, typeProbe)
		if len(probes) == 0 {
			d.unknown([]Ask{{Type: typeProbe, Scope: cluster.ID}}, "no live probe from inside the cluster: what pods resolve is not known")
			continue
		}
		c.resolved(d, probes[0], wanted, where)
	}
}

func (c *check) resolved(d *draft, probe *Resource, wanted map[string][]string, where map[string]*Resource) {
	d.fix("# link the zones to the VNet that resolves for the cluster (DN-02), or forward them on your DNS servers (VN-07)\naz network private-dns link vnet create …", "resource \"azurerm_private_dns_zone_virtual_network_link\" \"cluster\" {\n  # see DN-02\n}")
	seen := 0
	for _, n := range probe.Get("names").Items() {
		name := strings.ToLower(n.Get("name").Text())
		want := wanted[name]
		if want == nil {
			continue
		}
		have, _ := n.Get("addresses").Texts()
		if len(have) == 0 {
			d.found(where[name]).ends(name+" does not resolve", n).fail("%s does not resolve inside the cluster: %s", name, n.Get("error").Text())
			return
		}
		for _, a := range have {
			if !contains(want, a) {
				d.found(where[name])
				for _, g := range c.g.below(where[name].ID, typeZoneGroup) {
					for _, z := range zoneIDs(g) {
						d.found(c.g.Resource(z))
					}
				}
				d.ends(name+" resolves to "+a, n).fail("%s resolves to %s inside the cluster, the private endpoint has %s", name, a, strings.Join(want, ", "))
				return
			}
		}
		seen++
		d.see(name+" resolves to "+strings.Join(have, ", "), n)
	}
	for _, conn := range probe.Get("connections").Items() {
		if e := conn.Get("error").Text(); e != "" && wanted[strings.ToLower(conn.Get("host").Text())] != nil {
			d.ends("no connection: "+e, conn).fail("%s resolves and does not answer: %s", conn.Get("host").Text(), e)
			return
		}
	}
	if seen < len(wanted) || seen == 0 {
		d.unknown([]Ask{{Type: typeProbe, Scope: probe.ID}}, "the probe answered %d of %d names", seen, len(wanted))
		return
	}
	d.pass("%d names resolve to their private endpoints", seen)
}
