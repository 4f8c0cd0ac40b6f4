package netenv

import (
	"maps"
	"slices"
	"strconv"
)

func tfVNet(p *plan, i *instance) {
	d := newDocument(p, i)
	d.copy("properties.addressSpace.addressPrefixes", "address_space")
	d.copy("properties.dhcpOptions.dnsServers", "dns_servers")
	id := p.idOf(i)
	d.done(id)
	p.in.g.open[foldID(id)] = i.data
	for n, b := range i.blocks("subnet") {
		inline := &instance{address: i.address, module: i.module, base: i.base, index: i.index, values: b, at: i.at + "/subnet/" + strconv.Itoa(n), create: i.create, prov: i.prov}
		if name := text1(b["name"].val); name != "" && id != "" {
			inline.id = id + "/subnets/" + name
			tfSubnet(p, inline)
		}
	}
}

func tfDNSServers(p *plan, i *instance) {
	d := newDocument(p, i)
	d.copy("properties.dhcpOptions.dnsServers", "dns_servers")
	d.done(p.refID(i, "virtual_network_id"))
}

func tfSubnet(p *plan, i *instance) {
	d := newDocument(p, i)
	d.copy("properties.addressPrefixes", "address_prefixes")
	d.copy("properties.privateEndpointNetworkPolicies", "private_endpoint_network_policies")
	d.copy("properties.serviceEndpoints", "service_endpoints")
	if list := i.blocks("service_endpoint"); len(list) > 0 { // provider 5
		var names []any
		for _, b := range list {
			names = append(names, b["service"].val)
		}
		d.put("properties.serviceEndpoints", names, i.at+"/service_endpoint")
	}
	d.guards()
	d.delegations()
	d.done(p.idOf(i))
}

// guards are a subnet's security group and route table. Data sources and a
// network's own blocks name them; of what this plan makes anew nothing but its
// associations does, and an association's view wins over absence.
func (d *document) guards() {
	for path, attrs := range map[string][]string{"networkSecurityGroup.id": {"network_security_group_id", "security_group"}, "routeTable.id": {"route_table_id"}} {
		none := d.i.create
		for _, a := range attrs {
			switch v, at := d.i.attr(a); {
			case text1(v) != "":
				d.put("properties."+path, v, at)
				none = false
			case v == any(""):
				none = true
			}
		}
		if none {
			d.put("properties."+path, nil, d.i.at)
		}
	}
}

// delegations of a subnet; a data source does not tell them.
func (d *document) delegations() {
	v, at := d.i.attr("delegation")
	if _, hidden := v.(unknowable); hidden || d.missing(v) {
		return
	}
	list := []any{}
	for _, b := range d.i.blocks("delegation") {
		inner, _ := b["service_delegation"].val.([]any)
		for _, s := range inner {
			o, _ := s.(object)
			list = append(list, object{"servicename": {key: "serviceName", val: o["name"].val}})
		}
	}
	d.put("properties.delegations", list, at)
}

func tfAssociation(path, attr string) func(*plan, *instance) {
	return func(p *plan, i *instance) {
		d := newDocument(p, i)
		d.ref("properties."+path, attr)
		d.done(p.refID(i, "subnet_id"))
	}
}

func tfPeering(p *plan, i *instance) {
	d := newDocument(p, i)
	d.ref("properties.remoteVirtualNetwork.id", "remote_virtual_network_id")
	d.copy("properties.allowVirtualNetworkAccess", "allow_virtual_network_access")
	d.created("properties.peeringState", "Connected")
	d.created("properties.peeringSyncLevel", "FullyInSync")
	d.done(p.idOf(i))
}

func tfEndpoint(p *plan, i *instance) {
	d := newDocument(p, i)
	d.ref("properties.subnet.id", "subnet_id")
	at := i.at + "/private_service_connection"
	c := document{p, i, object{}}
	c.copy("groupIds", "private_service_connection", "subresource_names")
	c.ref("privateLinkServiceId", "private_service_connection", "private_connection_resource_id")
	if manual, _ := i.attr("private_service_connection", "is_manual_connection"); i.create {
		if m, ok := manual.(bool); ok {
			c.put("privateLinkServiceConnectionState.status", cond(m, "Pending", "Approved"), at+"/0/is_manual_connection")
		}
	}
	if _, ok := c.root["privatelinkserviceconnectionstate"]; !ok {
		c.put("privateLinkServiceConnectionState", unknowable{}, at)
	}
	d.put("properties.privateLinkServiceConnections", []any{c.root}, at)
	d.put("properties.manualPrivateLinkServiceConnections", []any{}, at)
	if list := i.blocks("custom_dns_configs"); len(list) > 0 {
		d.copy("properties.customDnsConfigs", "custom_dns_configs")
	}
	id := p.idOf(i)
	d.done(id)
	if id == "" {
		return
	}
	p.in.g.prove(typeZoneGroup, id)
	if len(i.blocks("private_dns_zone_group")) == 0 {
		return
	}
	g := newDocument(p, i)
	zones, at := d.refs("private_dns_zone_group", "private_dns_zone_ids")
	var configs []any
	for _, z := range zones {
		configs = append(configs, object{"privatednszoneid": {key: "privateDnsZoneId", val: z, at: at}})
	}
	g.put("properties.privateDnsZoneConfigs", configs, at)
	name, _ := i.attr("private_dns_zone_group", "name")
	g.done(id + "/privateDnsZoneGroups/" + cond(text1(name) == "", "default", text1(name)))
}

// tfExists is for what matters by being there.
func tfExists(p *plan, i *instance) { newDocument(p, i).done(p.idOf(i)) }

func tfLink(p *plan, i *instance) {
	d := newDocument(p, i)
	d.ref("properties.virtualNetwork.id", "virtual_network_id")
	d.copy("properties.registrationEnabled", "registration_enabled")
	d.created("properties.virtualNetworkLinkState", "Completed")
	d.done(p.idOf(i))
}

func tfRecord(p *plan, i *instance) {
	d := newDocument(p, i)
	v, at := i.attr("records")
	list, _ := v.([]any)
	var records []any
	for _, a := range list {
		records = append(records, object{"ipv4address": {key: "ipv4Address", val: a, at: at}})
	}
	d.put("properties.aRecords", records, at)
	d.done(p.idOf(i))
}

// securityRule is the shape of a rule, in a group's block and by itself.
var securityRule = map[string]string{"name": "name", "priority": "priority", "access": "access", "direction": "direction", "protocol": "protocol",
	"sourceAddressPrefix": "source_address_prefix", "sourceAddressPrefixes": "source_address_prefixes", "destinationAddressPrefix": "destination_address_prefix",
	"destinationAddressPrefixes": "destination_address_prefixes", "destinationPortRange": "destination_port_range", "destinationPortRanges": "destination_port_ranges"}

// routeShape likewise.
var routeShape = map[string]string{"name": "name", "addressPrefix": "address_prefix", "nextHopType": "next_hop_type", "nextHopIpAddress": "next_hop_in_ip_address"}

// rows writes blocks as a list of ARM objects. The list of what this plan makes
// anew is whole without its blocks: rules apart from it are resources, too.
func (d *document) rows(path, attr string, shape map[string]string) {
	v, at := d.i.attr(attr)
	if _, hidden := v.(unknowable); hidden && !d.i.create {
		d.put(path, v, at)
		return
	}
	if d.missing(v) {
		return
	}
	rows := []any{}
	for n, b := range d.i.blocks(attr) {
		o := object{}
		for arm, name := range shape {
			put(o, arm, refold(b[name].val), at+"/"+strconv.Itoa(n)+"/"+name)
		}
		rows = append(rows, o)
	}
	d.put(path, rows, at)
}

func tfNSG(p *plan, i *instance) {
	d := newDocument(p, i)
	d.rows("properties.securityRules", "security_rule", securityRule)
	d.done(p.idOf(i))
}

func tfRoutes(p *plan, i *instance) {
	d := newDocument(p, i)
	d.rows("properties.routes", "route", routeShape)
	d.done(p.idOf(i))
}

// tfSecurityRule and tfRoute are rules and routes that stand apart.
func tfSecurityRule(p *plan, i *instance) { p.apart(i, securityRule) }
func tfRoute(p *plan, i *instance)        { p.apart(i, routeShape) }

func (p *plan) apart(i *instance, shape map[string]string) {
	d := newDocument(p, i)
	for arm, attr := range shape {
		d.copy("properties."+arm, attr)
	}
	d.done(p.idOf(i))
}

func tfFirewall(p *plan, i *instance) {
	d := newDocument(p, i)
	d.ref("properties.firewallPolicy.id", "firewall_policy_id")
	rows := []any{}
	v, at := i.attr("ip_configuration")
	list, _ := v.([]any)
	for n, e := range list {
		b, _ := e.(object)
		rows = append(rows, object{"privateipaddress": {key: "privateIPAddress", val: b["private_ip_address"].val, at: at + "/" + strconv.Itoa(n) + "/private_ip_address"}})
	}
	d.put("properties.ipConfigurations", rows, at)
	d.done(p.idOf(i))
}

// tfPolicySet turns the collections of a policy's rule group into ARM's, which
// puts both kinds of rules into one list.
func tfPolicySet(p *plan, i *instance) {
	d := newDocument(p, i)
	var sets []any
	shapes := map[string]map[string]string{
		"network_rule_collection": {"name": "name", "sourceAddresses": "source_addresses", "destinationAddresses": "destination_addresses", "destinationFqdns": "destination_fqdns",
			"destinationPorts": "destination_ports", "ipProtocols": "protocols"},
		"application_rule_collection": {"name": "name", "sourceAddresses": "source_addresses", "targetFqdns": "destination_fqdns", "fqdnTags": "destination_fqdn_tags"},
	}
	for _, block := range slices.Sorted(maps.Keys(shapes)) {
		shape := shapes[block]
		for n, b := range i.blocks(block) {
			at := i.at + "/" + block + "/" + strconv.Itoa(n)
			inner, _ := b["rule"].val.([]any)
			rules := []any{}
			for m, e := range inner {
				r, _ := e.(object)
				o := object{}
				for arm, name := range shape {
					put(o, arm, refold(r[name].val), at+"/rule/"+strconv.Itoa(m)+"/"+name)
				}
				rules = append(rules, o)
			}
			set := object{}
			put(set, "action.type", b["action"].val, at+"/action")
			put(set, "priority", b["priority"].val, at+"/priority")
			put(set, "rules", rules, at+"/rule")
			sets = append(sets, set)
		}
	}
	d.copy("properties.priority", "priority")
	d.put("properties.ruleCollections", sets, i.at)
	d.done(p.idOf(i))
}
