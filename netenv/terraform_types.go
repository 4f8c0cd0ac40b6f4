package netenv

import (
	"strings"
)

// tfType says how a Terraform resource becomes an ARM resource: its id, and its
// document. The attribute names are those of the azurerm provider 4 and, where
// they differ, 5; azapi resources carry ARM documents.
type tfType struct {
	id   func(*plan, *instance) string
	emit func(*plan, *instance)
}

// document builds an ARM document from an instance's attributes.
type document struct {
	p    *plan
	i    *instance
	root object
}

func newDocument(p *plan, i *instance) *document { return &document{p, i, object{}} }

// put a value at a dotted ARM path.
func (d *document) put(path string, v any, at string) {
	put(d.root, path, v, at)
}

func put(o object, path string, v any, at string) {
	head, rest, deep := strings.Cut(path, ".")
	k := fold(head)
	if !deep {
		o[k] = member{key: head, val: v, at: at}
		return
	}
	inner, ok := o[k].val.(object)
	if !ok {
		inner = object{}
		o[k] = member{key: head, val: inner, at: at}
	}
	put(inner, rest, v, at)
}

// missing says that a data source's empty attribute tells nothing.
func (d *document) missing(v any) bool { return v == nil && d.i.data }

// copy an attribute; null means that it is not set.
func (d *document) copy(path string, attr ...string) {
	v, at := d.i.attr(attr...)
	if !d.missing(v) {
		d.put(path, refold(v), at)
	}
}

// onOff writes a boolean as Enabled or Disabled.
func (d *document) onOff(path string, attr ...string) {
	v, at := d.i.attr(attr...)
	if b, ok := v.(bool); ok {
		v = cond(b, "Enabled", "Disabled")
	}
	if !d.missing(v) {
		d.put(path, v, at)
	}
}

// ref writes an id: known, or of what the expression refers to.
func (d *document) ref(path string, attr ...string) {
	v, at := d.i.attr(attr...)
	if _, hidden := v.(unknowable); hidden {
		if id := d.p.refID(d.i, attr...); id != "" {
			v = id
		}
	}
	if !d.missing(v) {
		d.put(path, v, at)
	}
}

// refs are the ids of a list attribute.
func (d *document) refs(attr ...string) (ids []any, at string) {
	v, at := d.i.attr(attr...)
	list, _ := v.([]any)
	_, all := v.(unknowable)
	hidden := all
	for _, e := range list {
		if _, u := e.(unknowable); u {
			hidden = true
		} else {
			ids = append(ids, e)
		}
	}
	if !hidden {
		return ids, at
	}
	found := []any{}
	for _, t := range d.p.follow(d.i.module, d.p.references(d.i, attr...), d.i.index, 0) {
		if id := d.p.idOf(t.i); id != "" && !containsAny(append(ids, found...), id) {
			found = append(found, id)
		}
	}
	if len(found) == 0 || !all && len(found)+len(ids) < len(list) {
		found = append(found, unknowable{})
	}
	return append(ids, found...), at
}

func containsAny(list []any, s string) bool {
	for _, e := range list {
		if t, ok := e.(string); ok && sameID(t, s) {
			return true
		}
	}
	return false
}

// created writes what Azure sets when the plan is applied without trouble; of
// what exists already, a plan does not tell.
func (d *document) created(path string, v any) {
	if d.i.create {
		d.put(path, v, d.i.at)
	}
}

// identity copies the identity block; a principal that is not known yet gets a
// name that role assignments referring to it get, too.
func (d *document) identity() {
	v, at := d.i.attr("identity")
	list, isList := v.([]any)
	if !isList || len(list) == 0 {
		if _, hidden := v.(unknowable); !hidden && !d.i.data {
			d.put("identity", nil, at)
		}
		return
	}
	d.copy("identity.type", "identity", "type")
	who, at := d.i.attr("identity", "principal_id")
	if text1(who) == "" {
		who = principalOf(d.i, "identity")
	}
	d.put("identity.principalId", who, at)
	ids, at := d.refs("identity", "identity_ids")
	users := object{}
	for _, id := range ids {
		if s, ok := id.(string); ok {
			users[s] = member{key: s, val: object{"principalid": {key: "principalId", val: "~" + foldID(s), at: at}}, at: at}
		}
	}
	d.put("identity.userAssignedIdentities", users, at)
}

// principalOf names an identity that is made when the plan is applied.
func principalOf(i *instance, attr string) string { return "~" + i.address + "/" + attr }

// done gives the document to the graph.
func (d *document) done(id string) {
	typ := idType(id)
	if typ == "" {
		d.p.in.problem(d.p.in.file, d.i.at, d.i.address+": its parent or name is not known")
		return
	}
	d.copy("location", "location")
	d.p.in.g.put(id, typ, &view{root: d.root, file: d.p.in.file, base: d.i.at, time: d.p.in.export.Time, partial: true})
}

// list of blocks below an attribute; nil when it has none.
func (i *instance) blocks(attr string) []object {
	v, _ := i.attr(attr)
	var out []object
	list, _ := v.([]any)
	for _, e := range list {
		if o, ok := e.(object); ok {
			out = append(out, o)
		}
	}
	return out
}

// below makes the id of a child from its parent's.
func below(kind string, parentID func(*plan, *instance) string) func(*plan, *instance) string {
	return func(p *plan, i *instance) string {
		parent := parentID(p, i)
		if parent == "" {
			return ""
		}
		return parent + "/" + kind + "/" + p.name(i)
	}
}

func terraformTypes() map[string]tfType {
	zone := func(name string) func(*plan, *instance) string {
		return func(p *plan, i *instance) string {
			if id := p.refID(i, "private_dns_zone_id"); id != "" {
				return id
			}
			return p.byName(i, typeZone, name, "resource_group_name")
		}
	}
	byID := func(attr string) func(*plan, *instance) string {
		return func(p *plan, i *instance) string { return p.refID(i, attr) }
	}
	named := func(typ, attr string) func(*plan, *instance) string {
		return func(p *plan, i *instance) string { return p.byName(i, typ, attr, "resource_group_name") }
	}
	vnet := named(typeVNet, "virtual_network_name")
	m := map[string]tfType{
		"azurerm_virtual_network":                           {id: top(typeVNet), emit: tfVNet},
		"azurerm_subnet":                                    {id: below("subnets", vnet), emit: tfSubnet},
		"azurerm_virtual_network_peering":                   {id: below("virtualNetworkPeerings", vnet), emit: tfPeering},
		"azurerm_private_endpoint":                          {id: top(typeEndpoint), emit: tfEndpoint},
		"azurerm_private_dns_zone":                          {id: top(typeZone), emit: tfExists},
		"azurerm_private_dns_zone_virtual_network_link":     {id: below("virtualNetworkLinks", zone("private_dns_zone_name")), emit: tfLink},
		"azurerm_private_dns_a_record":                      {id: below("A", zone("zone_name")), emit: tfRecord},
		"azurerm_storage_account":                           {id: top(typeStorage), emit: tfStorage},
		"azurerm_key_vault":                                 {id: top(typeVault), emit: tfVault},
		"azurerm_container_registry":                        {id: top(typeRegistry), emit: tfRegistry},
		"azurerm_machine_learning_workspace":                {id: top(typeWorkspace), emit: tfWorkspace},
		"azurerm_kubernetes_cluster":                        {id: top(typeCluster), emit: tfCluster},
		"azurerm_kubernetes_cluster_node_pool":              {id: below("agentPools", byID("kubernetes_cluster_id")), emit: tfPool},
		"azurerm_kubernetes_cluster_extension":              {id: below("providers/Microsoft.KubernetesConfiguration/extensions", byID("cluster_id")), emit: tfExtension},
		"azurerm_role_assignment":                           {id: tfAssignmentID, emit: tfAssignment},
		"azurerm_user_assigned_identity":                    {id: top("Microsoft.ManagedIdentity/userAssignedIdentities")},
		"azurerm_network_security_group":                    {id: top(typeNSG), emit: tfNSG},
		"azurerm_route_table":                               {id: top(typeRoutes), emit: tfRoutes},
		"azurerm_subnet_network_security_group_association": {emit: tfAssociation("networkSecurityGroup.id", "network_security_group_id")},
		"azurerm_subnet_route_table_association":            {emit: tfAssociation("routeTable.id", "route_table_id")},
		"azurerm_storage_account_network_rules":             {emit: tfStorageRules},
		"azurerm_virtual_network_dns_servers":               {emit: tfDNSServers},
		"azurerm_network_security_rule":                     {id: below("securityRules", named(typeNSG, "network_security_group_name")), emit: tfSecurityRule},
		"azurerm_route":                                     {id: below("routes", named(typeRoutes, "route_table_name")), emit: tfRoute},
		"azurerm_firewall":                                  {id: top(typeFirewall), emit: tfFirewall},
		"azurerm_firewall_policy":                           {id: top(typePolicy), emit: tfExists},
		"azurerm_firewall_policy_rule_collection_group":     {id: below("ruleCollectionGroups", byID("firewall_policy_id")), emit: tfPolicySet},
		"azurerm_bastion_host":                              {id: top(typeBastion), emit: tfExists},
		"azurerm_virtual_network_gateway":                   {id: top(typeGateway), emit: tfExists},
		"azurerm_machine_learning_compute_cluster":          {id: below("computes", byID("machine_learning_workspace_id")), emit: tfComputeCluster},
		"azurerm_machine_learning_datastore_blobstorage":    {id: below("datastores", byID("workspace_id")), emit: tfDatastore("AzureBlob", "storage_container_id")},
		"azurerm_machine_learning_datastore_datalake_gen2":  {id: below("datastores", byID("workspace_id")), emit: tfDatastore("AzureDataLakeGen2", "storage_container_id")},
		"azurerm_machine_learning_datastore_fileshare":      {id: below("datastores", byID("workspace_id")), emit: tfDatastore("AzureFile", "storage_fileshare_id")},
		"azapi_resource":                                    {id: azapiID, emit: azapi},
	}
	m["azurerm_kubernetes_cluster_trusted_access_role_binding"] = tfType{id: below("trustedAccessRoleBindings", byID("kubernetes_cluster_id")), emit: tfBinding}
	return m
}
