package netenv

import "strings"

// networkRules turns a network_rules or network_acls block into ARM's.
func (d *document) networkRules(path string, block ...string) {
	at := func(k string) []string { return append(append([]string{}, block...), k) }
	d.copy(path+".defaultAction", at("default_action")...)
	if v, where := d.i.attr(at("bypass")...); v != nil {
		if list, ok := v.([]any); ok {
			var names []string
			for _, b := range list {
				names = append(names, text1(b))
			}
			v = strings.Join(names, ", ")
		}
		d.put(path+".bypass", v, where)
	}
	ids, where := d.refs(at("virtual_network_subnet_ids")...)
	rules := []any{}
	for _, id := range ids {
		rules = append(rules, object{"id": {key: "id", val: id, at: where}})
	}
	d.put(path+".virtualNetworkRules", rules, where)
	access := []any{}
	v, where := d.i.attr(at("private_link_access")...)
	list, _ := v.([]any)
	for range list {
		c := document{d.p, d.i, object{}}
		c.ref("resourceId", append(at("private_link_access"), "endpoint_resource_id")...)
		access = append(access, c.root)
		break
	}
	d.put(path+".resourceAccessRules", access, where)
}

func tfStorage(p *plan, i *instance) {
	d := newDocument(p, i)
	d.onOff("properties.publicNetworkAccess", "public_network_access_enabled")
	d.copy("properties.allowSharedKeyAccess", "shared_access_key_enabled")
	d.copy("properties.isHnsEnabled", "is_hns_enabled")
	if len(i.blocks("network_rules")) > 0 {
		d.networkRules("properties.networkAcls", "network_rules")
	}
	d.done(p.idOf(i))
}

func tfStorageRules(p *plan, i *instance) {
	d := newDocument(p, i)
	d.networkRules("properties.networkAcls")
	d.done(p.refID(i, "storage_account_id"))
}

func tfVault(p *plan, i *instance) {
	d := newDocument(p, i)
	d.onOff("properties.publicNetworkAccess", "public_network_access_enabled")
	if len(i.blocks("network_acls")) > 0 {
		d.networkRules("properties.networkAcls", "network_acls")
	}
	d.done(p.idOf(i))
}

func tfRegistry(p *plan, i *instance) {
	d := newDocument(p, i)
	d.copy("sku.name", "sku")
	d.copy("properties.adminUserEnabled", "admin_enabled")
	d.onOff("properties.publicNetworkAccess", "public_network_access_enabled")
	d.copy("properties.networkRuleBypassOptions", "network_rule_bypass_option")
	d.copy("properties.dataEndpointEnabled", "data_endpoint_enabled")
	if len(i.blocks("network_rule_set")) > 0 {
		d.copy("properties.networkRuleSet.defaultAction", "network_rule_set", "default_action")
	} else {
		d.put("properties.networkRuleSet", nil, i.at)
	}
	d.done(p.idOf(i))
}

func tfWorkspace(p *plan, i *instance) {
	d := newDocument(p, i)
	d.ref("properties.storageAccount", "storage_account_id")
	d.ref("properties.keyVault", "key_vault_id")
	d.ref("properties.containerRegistry", "container_registry_id")
	d.onOff("properties.publicNetworkAccess", "public_network_access_enabled")
	d.copy("properties.hbiWorkspace", "high_business_impact")
	d.copy("properties.imageBuildCompute", "image_build_compute_name")
	d.ref("properties.primaryUserAssignedIdentity", "primary_user_assigned_identity")
	d.put("properties.allowPublicAccessWhenBehindVnet", nil, i.at) // the provider has no such attribute
	d.identity()
	d.done(p.idOf(i))
}

// tfDatastore names the account of the container or share that it is about.
func tfDatastore(kind, attr string) func(*plan, *instance) {
	return func(p *plan, i *instance) {
		d := newDocument(p, i)
		d.put("properties.datastoreType", kind, i.at)
		v, at := i.attr(attr)
		name := idPart(text1(v), "storageAccounts")
		for _, t := range p.follow(i.module, p.references(i, attr), i.index, 0) {
			if name == "" {
				name = p.accountOf(t.i)
			}
		}
		if name == "" {
			d.put("properties.accountName", unknowable{}, at)
		} else {
			d.put("properties.accountName", name, at)
		}
		d.done(p.idOf(i))
	}
}

// accountOf a container or share is the name of its storage account.
func (p *plan) accountOf(i *instance) string {
	if n := text1(i.values["storage_account_name"].val); n != "" {
		return n
	}
	return idPart(p.refID(i, "storage_account_id"), "storageAccounts")
}

// tfComputeCluster is a managed compute, which stands in a subnet.
func tfComputeCluster(p *plan, i *instance) {
	d := newDocument(p, i)
	d.put("properties.computeType", "AmlCompute", i.at)
	d.ref("properties.properties.subnet.id", "subnet_resource_id")
	d.copy("properties.properties.enableNodePublicIp", "node_public_ip_enabled")
	d.identity()
	d.done(p.idOf(i))
}

// poolAttributes are those that default_node_pool and node pools share.
func (d *document) pool(prefix string, block ...string) {
	at := func(k ...string) []string { return append(append([]string{}, block...), k...) }
	d.copy(prefix+"name", at("name")...)
	d.copy(prefix+"count", at("node_count")...)
	d.copy(prefix+"minCount", at("min_count")...)
	d.copy(prefix+"maxCount", at("max_count")...)
	d.copy(prefix+"maxPods", at("max_pods")...)
	d.copy(prefix+"vmSize", at("vm_size")...)
	d.ref(prefix+"vnetSubnetID", at("vnet_subnet_id")...)
	d.ref(prefix+"podSubnetID", at("pod_subnet_id")...)
	auto, where := d.i.attr(at("auto_scaling_enabled")...)
	if auto == nil {
		auto, where = d.i.attr(at("enable_auto_scaling")...) // provider 3
	}
	d.put(prefix+"enableAutoScaling", auto, where)
	d.copy(prefix+"upgradeSettings.maxSurge", at("upgrade_settings", "max_surge")...)
}

func tfCluster(p *plan, i *instance) {
	d := newDocument(p, i)
	d.copy("properties.apiServerAccessProfile.enablePrivateCluster", "private_cluster_enabled")
	d.copy("properties.apiServerAccessProfile.enablePrivateClusterPublicFQDN", "private_cluster_public_fqdn_enabled")
	if v, at := i.attr("private_cluster_public_fqdn_enabled"); v == nil && !i.data {
		d.put("properties.apiServerAccessProfile.enablePrivateClusterPublicFQDN", false, at) // the provider's default
	}
	d.copy("properties.apiServerAccessProfile.authorizedIPRanges", "api_server_access_profile", "authorized_ip_ranges")
	d.copy("properties.disableLocalAccounts", "local_account_disabled")
	d.copy("properties.nodeResourceGroup", "node_resource_group")
	d.copy("properties.servicePrincipalProfile.clientId", "service_principal", "client_id")
	for arm, attr := range map[string]string{"networkPlugin": "network_plugin", "networkPluginMode": "network_plugin_mode", "serviceCidr": "service_cidr", "serviceCidrs": "service_cidrs",
		"podCidr": "pod_cidr", "podCidrs": "pod_cidrs", "dnsServiceIP": "dns_service_ip", "outboundType": "outbound_type"} {
		d.copy("properties.networkProfile."+arm, "network_profile", attr)
	}
	if v, at := i.attr("network_profile", "service_cidr"); text1(v) != "" { // the computed list repeats it
		d.put("properties.networkProfile.serviceCidrs", []any{v}, at)
	}
	if len(i.blocks("default_node_pool")) > 0 {
		pool := document{p, i, object{}}
		pool.pool("", "default_node_pool")
		d.put("properties.agentPoolProfiles", []any{pool.root}, i.at+"/default_node_pool")
	}
	d.identity()
	d.created("properties.powerState.code", "Running")
	d.done(p.idOf(i))
}

func tfPool(p *plan, i *instance) {
	d := newDocument(p, i)
	d.pool("properties.")
	d.copy("name", "name")
	d.done(p.idOf(i))
}

func tfExtension(p *plan, i *instance) {
	d := newDocument(p, i)
	d.copy("properties.extensionType", "extension_type")
	for arm, attr := range map[string]string{"configurationSettings": "configuration_settings", "configurationProtectedSettings": "configuration_protected_settings"} {
		v, at := i.attr(attr)
		if o, ok := v.(object); ok {
			v = refold(o)
		}
		d.put("properties."+arm, v, at)
	}
	d.done(p.idOf(i))
}

func tfBinding(p *plan, i *instance) {
	d := newDocument(p, i)
	d.copy("properties.roles", "roles")
	d.ref("properties.sourceResourceId", "source_resource_id")
	d.created("properties.provisioningState", "Succeeded")
	d.done(p.idOf(i))
}

// roleNames are the built-in roles that Terraform may name instead of giving
// their definition.
var roleNames = map[string]string{
	"owner": roleOwner, "contributor": roleContributor, "reader": roleReader, "network contributor": roleNetworkContributor,
	"storage blob data contributor": roleBlobContributor, "storage account contributor": roleAccountContributor,
	"acrpull": roleAcrPull, "acrpush": roleAcrPush, "azure kubernetes service cluster admin role": roleClusterAdmin,
	"kubernetes extension contributor": roleExtensionContributor,
}

func tfAssignmentID(p *plan, i *instance) string {
	scope := p.refID(i, "scope")
	if scope == "" {
		return ""
	}
	return scope + "/providers/" + typeAssignment + "/" + p.name(i)
}

func tfAssignment(p *plan, i *instance) {
	d := newDocument(p, i)
	d.ref("properties.scope", "scope")
	d.copy("properties.roleDefinitionId", "role_definition_id")
	if v, at := i.attr("role_definition_name"); text1(v) != "" {
		if guid := roleNames[strings.ToLower(text1(v))]; guid != "" {
			d.put("properties.roleDefinitionId", "/providers/Microsoft.Authorization/roleDefinitions/"+guid, at)
		} else {
			d.put("properties.roleDefinitionId", v, at)
		}
	}
	v, at := i.attr("principal_id")
	if text1(v) == "" {
		v = unknowable{}
		for _, t := range p.follow(i.module, p.references(i, "principal_id"), i.index, 0) {
			attr, _, _ := strings.Cut(t.attr, ".")
			v = principalOf(t.i, anyIndex.ReplaceAllString(attr, ""))
			if t.i.typ == "azurerm_user_assigned_identity" {
				v = "~" + foldID(p.idOf(t.i))
			}
		}
	}
	d.put("properties.principalId", v, at)
	id := p.idOf(i)
	if id == "" { // the scope is nothing that is judged here
		return
	}
	d.done(id)
}

// azapiID joins parent, type and name.
func azapiID(p *plan, i *instance) string {
	typ, _, _ := strings.Cut(text1(i.values["type"].val), "@")
	parent := p.refID(i, "parent_id")
	if parent == "" || typ == "" {
		return ""
	}
	if strings.Count(typ, "/") > 1 && idType(parent) != "" && strings.HasPrefix(strings.ToLower(typ), strings.ToLower(idType(parent))+"/") {
		return parent + "/" + idName(typ) + "/" + p.name(i)
	}
	return joinID(parent, typ, []string{p.name(i)})
}

// azapi takes the body as ARM's document. References inside a body cannot be
// told apart; the two that a rule needs are found by their type.
func azapi(p *plan, i *instance) {
	id := p.idOf(i)
	if id == "" {
		return
	}
	d := newDocument(p, i)
	body, at := i.attr("body")
	if o, ok := azapiBody(body).(object); ok {
		for k, m := range o {
			m.at = at + "/" + m.key
			d.root[k] = m
		}
		p.bodyRefs(i, o)
	} else {
		d.put("properties", unknowable{}, at)
	}
	d.identity()
	d.copy("location", "location")
	p.in.g.put(id, idType(id), &view{root: d.root, file: p.in.file, base: i.at, time: p.in.export.Time, declared: true})
}

func (p *plan) bodyRefs(i *instance, o object) {
	for k, wanted := range map[string]string{"resourceid": typeCluster, "sourceresourceid": typeWorkspace} {
		inner, _ := o["properties"].val.(object)
		m, there := inner[k]
		if _, hidden := m.val.(unknowable); !there || !hidden {
			continue
		}
		for _, t := range p.follow(i.module, p.references(i, "body"), i.index, 0) {
			if ref := p.idOf(t.i); sameType(idType(ref), wanted) {
				inner[k] = member{key: m.key, val: ref, at: m.at}
			}
		}
	}
}
