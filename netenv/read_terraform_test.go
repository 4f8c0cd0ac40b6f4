package netenv

import "testing"

// modulePlan has a subnet in a module that the root's endpoints use through an
// output, a storage account handed to a module as a variable, and for_each.
const modulePlan = `{"format_version":"1.2","terraform_version":"1.9.0","planned_values":{},
"resource_changes":[
 {"address":"module.net.azurerm_virtual_network.v","mode":"managed","type":"azurerm_virtual_network","name":"v","provider_name":"registry.terraform.io/hashicorp/azurerm",
  "change":{"actions":["create"],"after":{"name":"net","resource_group_name":"rg","location":"westeurope","address_space":["172.17.0.0/16"]},"after_unknown":{"id":true,"dns_servers":true,"address_space":[false]}}},
 {"address":"module.net.azurerm_subnet.s[\"pe\"]","mode":"managed","type":"azurerm_subnet","name":"s","index":"pe","provider_name":"registry.terraform.io/hashicorp/azurerm",
  "change":{"actions":["create"],"after":{"name":"pe","resource_group_name":"rg","virtual_network_name":"net","address_prefixes":["172.17.0.0/24"],"private_endpoint_network_policies":"Disabled","delegation":[]},"after_unknown":{"id":true,"delegation":[],"address_prefixes":[false]}}},
 {"address":"azurerm_storage_account.a","mode":"managed","type":"azurerm_storage_account","name":"a","provider_name":"registry.terraform.io/hashicorp/azurerm",
  "change":{"actions":["create"],"after":{"name":"acct","resource_group_name":"rg","location":"westeurope","public_network_access_enabled":false},"after_unknown":{"id":true,"network_rules":true}}},
 {"address":"module.pe[\"blob\"].azurerm_private_endpoint.e","mode":"managed","type":"azurerm_private_endpoint","name":"e","provider_name":"registry.terraform.io/hashicorp/azurerm",
  "change":{"actions":["create"],"after":{"name":"acct-blob","resource_group_name":"rg","location":"westeurope","private_dns_zone_group":[],"private_service_connection":[{"name":"c","subresource_names":["blob"],"is_manual_connection":true}]},
   "after_unknown":{"id":true,"subnet_id":true,"private_service_connection":[{"private_connection_resource_id":true,"subresource_names":[false]}]}}},
 {"address":"azurerm_storage_account.gone","mode":"managed","type":"azurerm_storage_account","name":"gone","change":{"actions":["delete"],"before":{},"after":null}}],
"configuration":{"root_module":{
 "resources":[{"address":"azurerm_storage_account.a","expressions":{"name":{"constant_value":"acct"}}}],
 "module_calls":{
  "net":{"module":{"outputs":{"subnets":{"expression":{"references":["azurerm_subnet.s[\"pe\"].id","azurerm_subnet.s[\"pe\"]","azurerm_subnet.s"]}}},
    "resources":[{"address":"azurerm_subnet.s","expressions":{"virtual_network_name":{"references":["azurerm_virtual_network.v.name","azurerm_virtual_network.v"]}}}]}},
  "pe":{"expressions":{"subnet":{"references":["module.net.subnets","module.net"]},"target":{"references":["azurerm_storage_account.a.id","azurerm_storage_account.a"]}},
   "module":{"resources":[{"address":"azurerm_private_endpoint.e","expressions":{"subnet_id":{"references":["var.subnet"]},
     "private_service_connection":[{"private_connection_resource_id":{"references":["var.target"]},"subresource_names":{"constant_value":["blob"]}}]}}]}}}}}}`

func TestTerraformReferencesGoThroughModules(t *testing.T) {
	r := NewReader()
	r.Add("plan.json", []byte(modulePlan), Export{})
	g := r.Graph()
	if len(g.Problems) != 0 {
		t.Fatalf("problems: %+v", g.Problems)
	}
	pe := g.list(typeEndpoint)
	if len(pe) != 1 || len(g.list(typeStorage)) != 1 {
		t.Fatalf("%d endpoints, %d accounts", len(pe), len(g.list(typeStorage)))
	}
	if s := g.Resource(pe[0].Get("subnet", "id").Text()); s == nil || s.Name() != "pe" {
		t.Errorf("the endpoint's subnet is %q", pe[0].Get("subnet", "id").Text())
	}
	c := connections(pe[0])[0]
	if id := c.Get("privateLinkServiceId").Text(); g.Resource(id) == nil || idType(id) != typeStorage {
		t.Errorf("the target is %q", id)
	}
	if at := c.Get("groupIds").Source(); at.Pointer != "/resource_changes/3/change/after/private_service_connection/0/subresource_names" {
		t.Errorf("pointer %q", at.Pointer)
	}
	account := g.list(typeStorage)[0]
	if s := account.Get("networkAcls", "bypass").State(); s != Unknown {
		t.Errorf("what is known after apply is %v", s)
	}
	v := verdicts(Check(g, Options{Profile: Private}))
	for code, want := range map[string]Verdict{"VN-01": Fail, "PE-01": Fail, "PE-02": Pass, "DN-01": Fail, "PE-04": Pass, "VN-08": Pass, "DN-03": Undecided} {
		if v[code] != want {
			t.Errorf("%s is %s, want %s", code, v[code], want)
		}
	}
}

func TestTerraformStates(t *testing.T) {
	r := NewReader()
	id := testGroup + "/providers/Microsoft.KeyVault/vaults/kv"
	r.Add("state.json", []byte(`{"format_version":"1.0","terraform_version":"1.9.0","values":{"root_module":{"resources":[],"child_modules":[{"address":"module.m","resources":[
	 {"address":"module.m.azurerm_key_vault.kv","mode":"managed","type":"azurerm_key_vault","name":"kv","values":{"id":"`+id+`","name":"kv","resource_group_name":"ml-prod","location":"westeurope","public_network_access_enabled":false,"network_acls":[{"bypass":"None","default_action":"Deny","virtual_network_subnet_ids":[]}]}},
	 {"address":"module.m.azurerm_machine_learning_workspace.w","mode":"managed","type":"azurerm_machine_learning_workspace","name":"w","values":{"id":"`+testGroup+`/providers/Microsoft.MachineLearningServices/workspaces/w","name":"w","resource_group_name":"ml-prod","location":"westeurope","key_vault_id":"`+id+`","public_network_access_enabled":true,"identity":[{"type":"UserAssigned","identity_ids":["`+testGroup+`/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"]}]}}]}]}}}`), Export{})
	g := r.Graph()
	if len(g.Problems) != 0 {
		t.Fatalf("problems: %+v", g.Problems)
	}
	v := verdicts(Check(g, Options{Profile: Private}))
	for code, want := range map[string]Verdict{"KV-02": Fail, "KV-03": Pass, "WS-01": Fail, "WS-04": Fail, "CR-01": NotApplicable, "CR-04": NotApplicable} {
		if v[code] != want {
			t.Errorf("%s is %s, want %s: %s", code, v[code], want, reasons(Check(g, Options{Profile: Private}), code))
		}
	}
}
