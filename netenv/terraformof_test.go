package netenv

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// tfOut is one Terraform resource while it is written: attributes of nested
// blocks have dotted names, each block being a list of one.
type tfOut struct {
	typ, name                    string
	data                         bool
	values, unknown, expressions map[string]any
	w                            *tfWriter
}

// tfWriter writes an environment as "terraform show -json" shows it: the plan
// that creates it, or the state afterwards.
type tfWriter struct {
	t     *testing.T
	g     *Graph
	plan  bool
	addr  map[string]string // folded id → address
	names map[string]bool
	out   []*tfOut
	given func(*Resource) bool // what is there already: data sources
}

// terraformOf is the environment of a graph as a plan or a state. What people do
// not write in Terraform is left out: records that a zone group writes, the
// datastore that a workspace makes, networks that AKS makes, probes.
func terraformOf(t *testing.T, g *Graph, plan bool) []byte {
	t.Helper()
	return (&tfWriter{t: t, g: g, plan: plan, given: func(*Resource) bool { return false }}).write()
}

// terraformPlan is a plan beside what is there already.
func terraformPlan(t *testing.T, g *Graph, given func(*Resource) bool) []byte {
	t.Helper()
	return (&tfWriter{t: t, g: g, plan: true, given: given}).write()
}

func (w *tfWriter) write() []byte {
	w.t.Helper()
	w.addr, w.names = map[string]string{}, map[string]bool{}
	var todo []func()
	for _, r := range w.g.Resources() {
		f := tfWriters[originalType(r.Type)]
		switch {
		case f == nil, sameType(r.Type, typeA) && written(w.g, r), sameType(r.Type, typeDatastore) && strings.HasPrefix(r.Name(), "workspace"), strings.HasPrefix(idGroup(r.ID), "MC_"):
			continue
		case w.given(r):
			if read := tfData[originalType(r.Type)]; read != nil {
				o := w.begin(f.typ, r)
				o.data = true
				read(o, r)
				o.set("id", r.ID)
			}
			continue
		}
		o := w.begin(f.typ, r)
		w.addr[r.key] = o.typ + "." + o.name
		todo = append(todo, func() { f.write(o, r) })
	}
	for _, f := range todo {
		f()
	}
	return w.json()
}

// tfData are the data sources that show something of what is there: a network
// and its subnets.
var tfData = map[string]func(*tfOut, *Resource){
	typeVNet: func(o *tfOut, r *Resource) {
		o.set("name", r.Name())
		o.set("resource_group_name", idGroup(r.ID))
		o.copy("location", r.Get("location"))
		o.copy("address_space", r.Get("addressSpace", "addressPrefixes"))
		o.copy("dns_servers", r.Get("dhcpOptions", "dnsServers"))
	},
	typeSubnet: func(o *tfOut, r *Resource) {
		if r.Name() != "endpoints" { // nobody looks up the others
			o.typ = ""
			return
		}
		o.set("name", r.Name())
		o.set("resource_group_name", idGroup(r.ID))
		o.set("virtual_network_name", idName(idParent(r.ID)))
		ps, _, _ := subnetPrefixes(r)
		o.set("address_prefixes", []any{join(ps)})
		o.copy("private_endpoint_network_policies", r.Get("privateEndpointNetworkPolicies"))
		o.set("network_security_group_id", "")
		o.set("route_table_id", "")
	},
}

// written says whether a zone group writes a record.
func written(g *Graph, r *Resource) bool { return len(g.groupsOf[foldID(idParent(r.ID))]) > 0 }

func (w *tfWriter) begin(typ string, r *Resource) *tfOut {
	name := tfName(r.Name())
	for w.names[typ+name] {
		name += "_x"
	}
	w.names[typ+name] = true
	o := &tfOut{typ: typ, name: name, values: map[string]any{}, unknown: map[string]any{}, expressions: map[string]any{}, w: w}
	w.out = append(w.out, o)
	return o
}

// apart begins a resource that goes with another.
func (o *tfOut) apart(typ string, r *Resource) *tfOut { return o.w.begin(typ, r) }

func lay(m map[string]any, path string, v any) {
	head, rest, deep := strings.Cut(path, ".")
	if !deep {
		m[head] = v
		return
	}
	list, _ := m[head].([]any)
	if len(list) == 0 {
		list = []any{map[string]any{}}
		m[head] = list
	}
	lay(list[0].(map[string]any), rest, v)
}

func (o *tfOut) set(path string, v any) {
	lay(o.values, path, v)
	lay(o.expressions, path, map[string]any{"constant_value": v})
}

// copy a value that the source knows.
func (o *tfOut) copy(path string, v Value) {
	if v.State() == Known {
		o.set(path, plainJSON(v.raw))
	}
}

func (o *tfOut) onOff(path string, v Value, def bool) {
	b, _ := v.Truth(def)
	o.set(path, b)
}

// hide an attribute until apply; refs are what its expression refers to.
func (o *tfOut) hide(path string, refs ...string) {
	lay(o.unknown, path, true)
	if len(refs) > 0 {
		list := []any{}
		for _, r := range refs {
			list = append(list, r, strings.Join(strings.Split(r, ".")[:2], "."))
		}
		lay(o.expressions, path, map[string]any{"references": list})
	}
}

// id of another resource: a reference in a plan, if the plan makes it.
func (o *tfOut) id(path, id string) {
	switch a := o.w.addr[foldID(id)]; {
	case id == "":
	case o.w.plan && a != "":
		o.hide(path, a+".id")
	default:
		o.set(path, id)
	}
}

func (o *tfOut) ids(path string, ids []string) {
	var refs []string
	all := []any{}
	for _, id := range ids {
		if a := o.w.addr[foldID(id)]; a != "" {
			refs = append(refs, a+".id")
		}
		all = append(all, id)
	}
	if o.w.plan && len(refs) > 0 {
		o.hide(path, refs...)
		return
	}
	o.set(path, all)
}

// standard attributes of a resource in a group.
func (o *tfOut) standard(r *Resource) {
	o.set("name", r.Name())
	o.set("resource_group_name", idGroup(r.ID))
	o.copy("location", r.Get("location"))
	o.own(r)
}

// own id: unknown until it is made.
func (o *tfOut) own(r *Resource) {
	if o.w.plan {
		o.hide("id")
		return
	}
	o.set("id", r.ID)
}

func (o *tfOut) identity(r *Resource) {
	t := r.Get("identity", "type").Text()
	if t == "" {
		return
	}
	o.set("identity.type", map[string]string{"systemassigned": "SystemAssigned", "userassigned": "UserAssigned", "systemassigned,userassigned": "SystemAssigned, UserAssigned"}[strings.ReplaceAll(fold(t), " ", "")])
	if o.w.plan {
		lay(o.unknown, "identity.principal_id", true)
		return
	}
	o.copy("identity.principal_id", r.Get("identity", "principalId"))
}

// plainJSON undoes the reader's folding.
func plainJSON(v any) any {
	switch v := v.(type) {
	case object:
		m := map[string]any{}
		for _, e := range v {
			m[e.key] = plainJSON(e.val)
		}
		return m
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plainJSON(v[i])
		}
		return out
	}
	return v
}

func (w *tfWriter) json() []byte {
	var resources, changes, config, prior []any
	slices.SortFunc(w.out, func(a, b *tfOut) int { return cmp.Compare(a.typ+"."+a.name, b.typ+"."+b.name) })
	for _, o := range w.out {
		provider := "registry.terraform.io/" + cond(strings.HasPrefix(o.typ, "azapi"), "azure/azapi", "hashicorp/azurerm")
		if o.typ == "" {
			continue
		}
		if o.data {
			prior = append(prior, map[string]any{"address": "data." + o.typ + "." + o.name, "mode": "data", "type": o.typ, "name": o.name, "provider_name": "registry.terraform.io/hashicorp/azurerm", "values": o.values})
			continue
		}
		row := map[string]any{"address": o.typ + "." + o.name, "mode": "managed", "type": o.typ, "name": o.name, "provider_name": provider}
		config = append(config, map[string]any{"address": o.typ + "." + o.name, "mode": "managed", "type": o.typ, "name": o.name, "expressions": o.expressions})
		if !w.plan {
			row["values"] = o.values
			resources = append(resources, row)
			continue
		}
		row["change"] = map[string]any{"actions": []any{"create"}, "before": nil, "after": o.values, "after_unknown": o.unknown}
		changes = append(changes, row)
	}
	doc := map[string]any{"format_version": "1.0", "terraform_version": "1.9.8", "values": map[string]any{"root_module": map[string]any{"resources": resources}}}
	if w.plan {
		doc = map[string]any{"format_version": "1.2", "terraform_version": "1.9.8", "planned_values": map[string]any{"root_module": map[string]any{}}, "resource_changes": changes,
			"configuration": map[string]any{"root_module": map[string]any{"resources": config}}}
		if prior != nil {
			doc["prior_state"] = map[string]any{"format_version": "1.0", "values": map[string]any{"root_module": map[string]any{"resources": prior}}}
		}
	}
	data, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		w.t.Fatal(err)
	}
	w.checkNames()
	return data
}

// checkNames holds every attribute that was written against the provider's
// documentation, so that no fixture is made of attributes that do not exist.
func (w *tfWriter) checkNames() {
	schema := readSchema(w.t)
	version := cond(w.plan, "5", "4") // plans are written as for provider 5, states as for 4
	for _, o := range w.out {
		if !strings.HasPrefix(o.typ, "azurerm_") || o.data {
			continue
		}
		for _, m := range []map[string]any{o.values, o.unknown} {
			for _, bad := range schema.unknownNames(o.typ, version, "-", m) {
				w.t.Errorf("%s.%s: provider %s documents no %s", o.typ, o.name, version, bad)
			}
		}
	}
}

// tfWriters are the inverse of the reader's table, written from the provider's
// documentation.
var tfWriters = map[string]*struct {
	typ   string
	write func(*tfOut, *Resource)
}{
	typeVNet: {"azurerm_virtual_network", func(o *tfOut, r *Resource) {
		o.standard(r)
		o.copy("address_space", r.Get("addressSpace", "addressPrefixes"))
		o.copy("dns_servers", r.Get("dhcpOptions", "dnsServers"))
	}},
	typeSubnet:   {"azurerm_subnet", writeSubnet},
	typePeering:  {"azurerm_virtual_network_peering", writePeering},
	typeEndpoint: {"azurerm_private_endpoint", writeEndpoint},
	typeZone: {"azurerm_private_dns_zone", func(o *tfOut, r *Resource) {
		o.set("name", r.Name())
		o.set("resource_group_name", idGroup(r.ID))
		o.own(r)
	}},
	typeLink:       {"azurerm_private_dns_zone_virtual_network_link", writeLink},
	typeA:          {"azurerm_private_dns_a_record", writeRecord},
	typeStorage:    {"azurerm_storage_account", writeStorage},
	typeVault:      {"azurerm_key_vault", writeVault},
	typeRegistry:   {"azurerm_container_registry", writeRegistry},
	typeWorkspace:  {"azurerm_machine_learning_workspace", writeWorkspace},
	typeCompute:    {"azapi_resource", writeCompute},
	typeDatastore:  {"azurerm_machine_learning_datastore_blobstorage", writeDatastore},
	typeCluster:    {"azurerm_kubernetes_cluster", writeCluster},
	typeExtension:  {"azurerm_kubernetes_cluster_extension", writeExtension},
	typeBinding:    {"azurerm_kubernetes_cluster_trusted_access_role_binding", writeBinding},
	typeAssignment: {"azurerm_role_assignment", writeAssignment},
	typeNSG: {"azurerm_network_security_group", func(o *tfOut, r *Resource) {
		o.standard(r)
		o.rows("security_rule", r.Get("securityRules"), securityRule)
	}},
	typeRoutes:    {"azurerm_route_table", func(o *tfOut, r *Resource) { o.standard(r); o.rows("route", r.Get("routes"), routeShape) }},
	typeFirewall:  {"azurerm_firewall", writeFirewall},
	typePolicy:    {"azurerm_firewall_policy", func(o *tfOut, r *Resource) { o.standard(r) }},
	typePolicySet: {"azurerm_firewall_policy_rule_collection_group", writePolicySet},
	typeBastion:   {"azurerm_bastion_host", func(o *tfOut, r *Resource) { o.standard(r) }},
	typeGateway:   {"azurerm_virtual_network_gateway", func(o *tfOut, r *Resource) { o.standard(r) }},
}

// rows writes listed objects as blocks. Optional lists are there and empty.
func (o *tfOut) rows(block string, list Value, shape map[string]string) {
	out := []any{}
	for _, item := range list.Items() {
		row := map[string]any{}
		for arm, attr := range shape {
			if v := item.Get(arm); v.State() == Known {
				row[attr] = plainJSON(v.raw)
			}
		}
		out = append(out, row)
	}
	o.set(block, out)
}

func writeSubnet(o *tfOut, r *Resource) {
	vnet := idParent(r.ID)
	o.set("name", r.Name())
	o.set("resource_group_name", idGroup(r.ID))
	o.set("virtual_network_name", idName(vnet))
	o.own(r)
	ps, _, _ := subnetPrefixes(r)
	var prefixes, services, delegations []any
	for _, p := range ps {
		prefixes = append(prefixes, p.String())
	}
	o.set("address_prefixes", prefixes)
	o.copy("private_endpoint_network_policies", r.Get("privateEndpointNetworkPolicies"))
	for _, s := range r.Get("serviceEndpoints").Items() {
		services = append(services, cond3(o.w.plan, map[string]any{"service": s.Get("service").Text()}, s.Get("service").Text()))
	}
	o.set(cond(o.w.plan, "service_endpoint", "service_endpoints"), services)
	for _, d := range r.Get("delegations").Items() {
		delegations = append(delegations, map[string]any{"name": "d", "service_delegation": []any{map[string]any{"name": d.Get("serviceName").Text()}}})
	}
	o.set("delegation", append([]any{}, delegations...))
	for attr, kind := range map[string]string{"network_security_group_id": "network_security_group", "route_table_id": "route_table"} {
		v := r.Get(cond(kind == "route_table", "routeTable", "networkSecurityGroup"), "id")
		if v.State() != Known {
			continue
		}
		a := o.apart("azurerm_subnet_"+kind+"_association", r)
		a.id("subnet_id", r.ID)
		a.id(attr, v.Text())
	}
}

func writePeering(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.set("resource_group_name", idGroup(r.ID))
	o.set("virtual_network_name", idName(idParent(r.ID)))
	o.own(r)
	o.id("remote_virtual_network_id", r.Get("remoteVirtualNetwork", "id").Text())
	o.onOff("allow_virtual_network_access", r.Get("allowVirtualNetworkAccess"), true)
}

func writeEndpoint(o *tfOut, r *Resource) {
	o.standard(r)
	o.id("subnet_id", r.Get("subnet", "id").Text())
	for _, manual := range []bool{false, true} {
		for _, c := range r.Get(cond(manual, "manualPrivateLinkServiceConnections", "privateLinkServiceConnections")).Items() {
			o.set("private_service_connection.name", r.Name())
			o.copy("private_service_connection.subresource_names", c.Get("groupIds"))
			o.set("private_service_connection.is_manual_connection", manual)
			o.id("private_service_connection.private_connection_resource_id", c.Get("privateLinkServiceId").Text())
		}
	}
	if o.w.plan {
		o.hide("custom_dns_configs")
	} else {
		var configs []any
		for _, c := range r.Get("customDnsConfigs").Items() {
			ips, _ := c.Get("ipAddresses").Texts()
			configs = append(configs, map[string]any{"fqdn": c.Get("fqdn").Text(), "ip_addresses": ips})
		}
		o.set("custom_dns_configs", configs)
	}
	groups := o.w.g.below(r.ID, typeZoneGroup)
	if len(groups) == 0 {
		o.set("private_dns_zone_group", []any{})
		return
	}
	o.set("private_dns_zone_group.name", groups[0].Name())
	o.ids("private_dns_zone_group.private_dns_zone_ids", zoneIDs(groups[0]))
}

func writeLink(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.own(r)
	if o.w.plan {
		o.id("private_dns_zone_id", idParent(r.ID))
	} else {
		o.set("private_dns_zone_name", idName(idParent(r.ID)))
		o.set("resource_group_name", idGroup(r.ID))
	}
	o.id("virtual_network_id", r.Get("virtualNetwork", "id").Text())
	o.onOff("registration_enabled", r.Get("registrationEnabled"), false)
}

func writeRecord(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.own(r)
	if o.w.plan {
		o.id("private_dns_zone_id", idParent(r.ID))
	} else {
		o.set("zone_name", idName(idParent(r.ID)))
		o.set("resource_group_name", idGroup(r.ID))
	}
	var list []any
	for _, a := range r.Get("aRecords").Items() {
		list = append(list, a.Get("ipv4Address").Text())
	}
	o.set("records", list)
	o.set("ttl", 10)
}

func (o *tfOut) acls(block string, acls Value, list bool) {
	if acls.State() != Known {
		return
	}
	bypass := acls.Get("bypass").Text()
	if list {
		o.set(block+".bypass", []any{bypass})
	} else {
		o.set(block+".bypass", bypass)
	}
	o.copy(block+".default_action", acls.Get("defaultAction"))
	var subnets []string
	for _, v := range acls.Get("virtualNetworkRules").Items() {
		subnets = append(subnets, cmp.Or(v.Get("id").Text(), v.Get("virtualNetworkResourceId").Text()))
	}
	o.ids(block+".virtual_network_subnet_ids", subnets)
	if list {
		for _, v := range acls.Get("resourceAccessRules").Items() {
			o.id(block+".private_link_access.endpoint_resource_id", v.Get("resourceId").Text())
		}
	}
}

func writeStorage(o *tfOut, r *Resource) {
	o.standard(r)
	o.set("public_network_access_enabled", !r.Get("publicNetworkAccess").Is("Disabled"))
	o.onOff("shared_access_key_enabled", r.Get("allowSharedKeyAccess"), true)
	o.onOff("is_hns_enabled", r.Get("isHnsEnabled"), false)
	o.acls("network_rules", r.Get("networkAcls"), true)
}

func writeVault(o *tfOut, r *Resource) {
	o.standard(r)
	o.set("public_network_access_enabled", !r.Get("publicNetworkAccess").Is("Disabled"))
	o.acls("network_acls", r.Get("networkAcls"), false)
}

func writeRegistry(o *tfOut, r *Resource) {
	o.standard(r)
	o.copy("sku", r.Get("sku", "name"))
	o.onOff("admin_enabled", r.Get("adminUserEnabled"), false)
	o.set("public_network_access_enabled", !r.Get("publicNetworkAccess").Is("Disabled"))
	o.copy("network_rule_bypass_option", r.Get("networkRuleBypassOptions"))
	o.onOff("data_endpoint_enabled", r.Get("dataEndpointEnabled"), false)
}

func writeWorkspace(o *tfOut, r *Resource) {
	o.standard(r)
	o.id("storage_account_id", r.Get("storageAccount").Text())
	o.id("key_vault_id", r.Get("keyVault").Text())
	o.id("container_registry_id", r.Get("containerRegistry").Text())
	o.set("public_network_access_enabled", !r.Get("publicNetworkAccess").Is("Disabled"))
	o.onOff("high_business_impact", r.Get("hbiWorkspace"), false)
	o.copy("image_build_compute_name", r.Get("imageBuildCompute"))
	o.identity(r)
}

func writeCompute(o *tfOut, r *Resource) {
	o.set("type", "Microsoft.MachineLearningServices/workspaces/computes@2024-10-01")
	o.set("name", r.Name())
	o.own(r)
	o.id("parent_id", idParent(r.ID))
	o.copy("location", r.Get("location"))
	o.identity(r)
	cluster := r.Get("resourceId").Text()
	props := map[string]any{"computeType": "Kubernetes", "properties": map[string]any{"namespace": r.Get("namespace").Text()}}
	if a := o.w.addr[foldID(cluster)]; o.w.plan && a != "" {
		o.values["body"] = map[string]any{"properties": props}
		o.unknown["body"] = map[string]any{"properties": map[string]any{"resourceId": true}}
		o.expressions["body"] = map[string]any{"references": []any{a + ".id", a}}
		return
	}
	props["resourceId"] = cluster
	o.set("body", map[string]any{"properties": props})
}

func writeDatastore(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.own(r)
	o.id("workspace_id", idParent(r.ID))
	account := o.w.g.accounts[strings.ToLower(r.Get("accountName").Text())]
	id := testGroup + "/providers/Microsoft.Storage/storageAccounts/" + r.Get("accountName").Text()
	if account != nil {
		id = account.ID
	}
	o.set("storage_container_id", id+"/blobServices/default/containers/data")
}

func (o *tfOut) pool(prefix string, p Value) {
	o.copy(prefix+"name", p.Get("name"))
	o.copy(prefix+"node_count", p.Get("count"))
	o.copy(prefix+"min_count", p.Get("minCount"))
	o.copy(prefix+"max_count", p.Get("maxCount"))
	o.onOff(prefix+"auto_scaling_enabled", p.Get("enableAutoScaling"), false)
	o.copy(prefix+"max_pods", p.Get("maxPods"))
	o.copy(prefix+"vm_size", p.Get("vmSize"))
	o.id(prefix+"vnet_subnet_id", p.Get("vnetSubnetID").Text())
	o.id(prefix+"pod_subnet_id", p.Get("podSubnetID").Text())
	o.copy(prefix+"upgrade_settings.max_surge", p.Get("upgradeSettings", "maxSurge"))
}

func writeCluster(o *tfOut, r *Resource) {
	o.standard(r)
	o.identity(r)
	o.onOff("private_cluster_enabled", r.Get("apiServerAccessProfile", "enablePrivateCluster"), false)
	o.onOff("private_cluster_public_fqdn_enabled", r.Get("apiServerAccessProfile", "enablePrivateClusterPublicFQDN"), false)
	if ranges, _ := r.Get("apiServerAccessProfile", "authorizedIPRanges").Texts(); len(ranges) > 0 {
		o.set("api_server_access_profile.authorized_ip_ranges", ranges)
	}
	o.onOff("local_account_disabled", r.Get("disableLocalAccounts"), false)
	if o.w.plan {
		o.hide("node_resource_group")
	} else {
		o.copy("node_resource_group", r.Get("nodeResourceGroup"))
	}
	for arm, attr := range map[string]string{"networkPlugin": "network_plugin", "networkPluginMode": "network_plugin_mode", "serviceCidr": "service_cidr", "podCidr": "pod_cidr", "dnsServiceIP": "dns_service_ip", "outboundType": "outbound_type"} {
		o.copy("network_profile."+attr, r.Get("networkProfile", arm))
	}
	for i, p := range r.Get("agentPoolProfiles").Items() {
		if i == 0 {
			o.pool("default_node_pool.", p)
			continue
		}
		id := r.ID + "/agentPools/" + p.Get("name").Text()
		node := o.apart("azurerm_kubernetes_cluster_node_pool", &Resource{ID: id})
		node.own(&Resource{ID: id})
		node.id("kubernetes_cluster_id", r.ID)
		node.pool("", p)
	}
}

func writeExtension(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.own(r)
	o.id("cluster_id", idParent(idParent(r.ID)))
	o.copy("extension_type", r.Get("extensionType"))
	o.copy("configuration_settings", r.Get("configurationSettings"))
	o.copy("configuration_protected_settings", r.Get("configurationProtectedSettings"))
}

func writeBinding(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.own(r)
	o.id("kubernetes_cluster_id", idParent(r.ID))
	o.id("source_resource_id", r.Get("sourceResourceId").Text())
	o.copy("roles", r.Get("roles"))
}

func writeAssignment(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.own(r)
	scope := r.Get("scope").Text()
	if idType(scope) == "" { // a resource group's name is in the input of nobody
		o.set("scope", scope)
	} else {
		o.id("scope", scope)
	}
	o.copy("role_definition_id", r.Get("roleDefinitionId"))
	who := r.Get("principalId").Text()
	for _, owner := range o.w.g.Resources() {
		a := o.w.addr[owner.key]
		if o.w.plan && a != "" && owner.Get("identity", "principalId").Text() == who {
			o.hide("principal_id", a+".identity[0].principal_id")
			return
		}
	}
	o.set("principal_id", who)
}

func writeFirewall(o *tfOut, r *Resource) {
	o.standard(r)
	o.id("firewall_policy_id", r.Get("firewallPolicy", "id").Text())
	o.set("ip_configuration.name", "ip")
	if o.w.plan {
		o.hide("ip_configuration.private_ip_address")
		return
	}
	o.copy("ip_configuration.private_ip_address", r.Get("ipConfigurations").Items()[0].Get("privateIPAddress"))
}

func writePolicySet(o *tfOut, r *Resource) {
	o.set("name", r.Name())
	o.own(r)
	o.id("firewall_policy_id", idParent(r.ID))
	o.copy("priority", r.Get("priority"))
	for n, col := range r.Get("ruleCollections").Items() {
		net := len(col.Get("rules").Items()) > 0 && col.Get("rules").Items()[0].Get("ruleType").Is("NetworkRule")
		shape := map[string]string{"name": "name", "sourceAddresses": "source_addresses", "targetFqdns": "destination_fqdns", "fqdnTags": "destination_fqdn_tags"}
		if net {
			shape = map[string]string{"name": "name", "sourceAddresses": "source_addresses", "destinationAddresses": "destination_addresses", "destinationPorts": "destination_ports", "ipProtocols": "protocols"}
		}
		inner := &tfOut{values: map[string]any{}, expressions: map[string]any{}, unknown: map[string]any{}, w: o.w}
		inner.rows("rule", col.Get("rules"), shape)
		block := cond(net, "network_rule_collection", "application_rule_collection")
		list, _ := o.values[block].([]any)
		o.values[block] = append(list, map[string]any{"name": fmt.Sprint("c", n), "priority": 100 + n, "action": col.Get("action", "type").Text(), "rule": inner.values["rule"]})
	}
}
