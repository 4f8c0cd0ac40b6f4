package netenv

import "strings"

const (
	testGroup = "/subscriptions/6f2d1c3a-0b57-4e0e-9d2b-5a1f0c7e8b11/resourceGroups/ml-prod"
	otherSub  = "/subscriptions/0a1b2c3d-0000-4000-8000-000000000001/resourceGroups/ml-prod"
)

func ruleCases() []ruleCase {
	cases := networkCases()
	cases = append(cases, clusterCases()...)
	cases = append(cases, workspaceCases()...)
	cases = append(cases, associatedCases()...)
	return append(cases, endpointCases()...)
}

func networkCases() []ruleCase {
	return []ruleCase{
		{code: "VN-01", want: Fail, change: set("vnets.json net-hub addressSpace.addressPrefixes", []any{"10.20.0.0/16", "172.17.0.0/16"})},
		{code: "VN-01", want: Undecided, change: forget("vnets.json")},
		{code: "VN-02", want: Fail, change: set("clusters.json prod networkProfile.serviceCidrs", []any{"10.20.0.0/16"})},
		{code: "VN-02", want: Undecided, change: set("clusters.json prod networkProfile", nil)},
		{code: "VN-03", want: Fail, change: set("vnets.json net-aks subnets.0.addressPrefix", "10.10.0.0/24")},
		{code: "VN-03", want: Undecided, change: forget("vnets.json")},
		{code: "VN-04", want: Fail, change: set("vnets.json net-aks subnets.0.delegations", []any{map[string]any{"name": "d", "serviceName": "Microsoft.Web/serverFarms"}})},
		{code: "VN-04", want: Undecided, change: forget("vnets.json")},
		{code: "VN-05", want: Fail, change: set("vnets.json net-hub virtualNetworkPeerings", []any{}), also: "CR-03 KV-01 PE-03 ST-01 ST-05 WS-02"},
		{code: "VN-05", want: Undecided, change: func(w *world) { w.drop("vnets.json", named("net-hub")); delete(w.manifest, "vnets.json") }},
		{code: "VN-06", want: Fail, change: set("vnets.json net-hub addressSpace.addressPrefixes", []any{"10.20.0.0/16", "10.10.128.0/24"})},
		{code: "VN-06", want: Undecided, change: dropNamed("vnets.json", "net-hub")},
		{code: "VN-07", base: "custom dns", want: Pass},
		{code: "VN-07", base: "custom dns", want: Fail, change: set("probe.json - names.3.addresses", []any{"20.60.1.1"}), also: "DN-05"},
		{code: "VN-07", base: "custom dns", want: Undecided, change: forget("probe.json")},
		{code: "VN-08", want: Fail, change: set("vnets.json net-hub subnets.0.privateEndpointNetworkPolicies", "Enabled")},
		{code: "VN-08", want: Undecided, change: dropNamed("vnets.json", "net-hub")},
	}
}

func clusterCases() []ruleCase {
	ranges := "clusters.json prod apiServerAccessProfile.authorizedIpRanges"
	noBindings := func(w *world) { w.files["bindings.json"] = []any{} }
	return []ruleCase{
		{code: "AK-01", want: Fail, change: set("clusters.json prod apiServerAccessProfile.enablePrivateCluster", false), also: "AK-02"},
		{code: "AK-01", want: Undecided, change: forget("clusters.json")},
		{code: "AK-02", want: Fail, change: both(noBindings, set("clusters.json prod disableLocalAccounts", false), set("clusters.json prod apiServerAccessProfile.enablePrivateClusterPublicFqdn", true)), also: "TA-01 TA-02 TA-03 TA-04"},
		{code: "AK-02", want: Undecided, change: set("clusters.json prod apiServerAccessProfile.enablePrivateClusterPublicFqdn", nil)},
		{code: "AK-03", want: Fail, change: noBindings, also: "TA-01 TA-02 TA-03 TA-04"},
		{code: "AK-03", want: Undecided, change: forget("bindings.json")},
		{code: "AK-04", base: "ranges", want: Pass},
		{code: "AK-04", base: "ranges", want: Fail, change: noBindings, also: "AK-03 AK-12 TA-01 TA-02 TA-03 TA-04"},
		{code: "AK-04", base: "ranges", want: Undecided, change: both(noBindings, forget("servicetags.json"))},
		{code: "AK-05", want: Fail, change: both(set("clusters.json prod identity", nil), set("clusters.json prod servicePrincipalProfile.clientId", "9b1d6a4e-0000-4000-8000-000000000001")), also: "AK-11"},
		{code: "AK-05", want: Undecided, change: forget("clusters.json")},
		{code: "AK-06", want: Fail, change: set("clusters.json prod location", "northeurope")},
		{code: "AK-06", want: Undecided, change: both(set("clusters.json prod location", "northeurope"), forget("endpoints.json"), set("workspaces.json fraud properties.privateEndpointConnections", nil))},
		{code: "AK-07", want: Fail, change: func(w *world) { moveWorkspace(w) }, also: "TA-03"},
		{code: "AK-07", want: Undecided, change: forget("clusters.json")},
		{code: "AK-08", want: Fail, change: set("clusters.json prod networkProfile.networkPlugin", "kubenet")},
		{code: "AK-08", want: Undecided, change: set("clusters.json prod networkProfile.networkPlugin", nil)},
		{code: "AK-09", want: Fail, change: set("clusters.json prod powerState.code", "Stopped")},
		{code: "AK-09", want: Undecided, change: set("clusters.json prod powerState", nil)},
		{code: "AK-10", want: Fail, change: both(set("clusters.json prod agentPoolProfiles.0.count", 1), set("clusters.json prod agentPoolProfiles.1.minCount", 1))},
		{code: "AK-10", want: Undecided, change: both(set("clusters.json prod agentPoolProfiles.0.count", nil), set("clusters.json prod agentPoolProfiles.1.minCount", 1))},
		{code: "AK-11", want: Fail, change: dropNamed("roles.json", "00000000-0000-4000-8000-000000000101")},
		{code: "AK-11", want: Undecided, change: forget("roles.json")},
		{code: "AK-12", base: "ranges", want: Pass},
		{code: "AK-12", base: "ranges", want: Fail, change: set(ranges, []any{"198.51.100.0/24", "13.69.64.32/28"})},
		{code: "AK-12", base: "ranges", want: Undecided, change: forget("servicetags.json")},
		{code: "AK-13", base: "ranges", want: Pass},
		{code: "AK-13", base: "ranges", want: Fail, change: set(ranges, []any{"198.51.100.0/24", "2001:db8::/32"})},
		{code: "AK-13", base: "ranges", want: Undecided, change: forget("clusters.json")},
	}
}

// moveWorkspace puts the workspace in another subscription.
func moveWorkspace(w *world) {
	old := testGroup + "/providers/Microsoft.MachineLearningServices/workspaces/fraud"
	w.replace(old, strings.Replace(old, testGroup, otherSub, 1))
}

func workspaceCases() []ruleCase {
	pr := "workspaces.json fraud properties."
	return []ruleCase{
		{code: "WS-01", want: Fail, change: set(pr+"publicNetworkAccess", "Enabled"), also: "WS-10"},
		{code: "WS-01", want: Undecided, change: forget("workspaces.json")},
		{code: "WS-02", want: Fail, change: both(dropNamed("endpoints.json", "fraud-amlworkspace"), set(pr+"privateEndpointConnections", []any{}), dropGroupsOf("fraud-amlworkspace")), also: "ST-04 WS-03 WS-09 WS-10"},
		{code: "WS-02", want: Undecided, change: both(forget("endpoints.json"), set(pr+"privateEndpointConnections", nil))},
		{code: "WS-03", want: Fail, change: set("zonegroups.json default privateDnsZoneConfigs", []any{map[string]any{"name": "api", "privateDnsZoneId": testGroup + "/providers/Microsoft.Network/privateDnsZones/privatelink.api.azureml.ms"}}), also: "DN-03"},
		{code: "WS-03", want: Undecided, change: forget("zonegroups.json")},
		{code: "WS-04", want: Fail, change: set("workspaces.json fraud identity.type", "UserAssigned"), also: "TA-03"},
		{code: "WS-04", want: Undecided, change: forget("workspaces.json")},
		{code: "WS-05", base: "user identity", want: Pass},
		{code: "WS-05", base: "user identity", want: Fail, change: dropNamed("roles.json", "20000000002")},
		{code: "WS-05", base: "user identity", want: Undecided, change: forget("roles.json")},
		{code: "WS-06", want: Fail, change: set("computes.json prod-k8s identity", nil), also: "CR-05 RB-01 ST-07"},
		{code: "WS-06", want: Undecided, change: forget("computes.json")},
		{code: "WS-07", want: Fail, change: set(pr+"imageBuildCompute", nil)},
		{code: "WS-07", want: Undecided, change: both(set(pr+"imageBuildCompute", nil), forget("registries.json", "storage.json"))},
		{code: "WS-08", want: Fail, change: func(w *world) { w.replace("/workspaces/fraud", "/workspaces/fraud-") }},
		{code: "WS-08", want: Undecided, change: forget("workspaces.json")},
		{code: "WS-09", want: Fail, change: set("endpoints.json fraud-amlworkspace subnet.id", testGroup+"/providers/Microsoft.Network/virtualNetworks/net-aks/subnets/nodes"), also: "ST-04"},
		{code: "WS-09", want: Undecided, change: forget("endpoints.json")},
		{code: "WS-10", want: Fail, change: func(w *world) { w.replace("AzureBastionSubnet", "desks") }},
		{code: "WS-10", want: Undecided, change: both(func(w *world) { w.replace("AzureBastionSubnet", "desks") }, dropNamed("vnets.json", "net-aks"))},
	}
}

func dropGroupsOf(endpoint string) func(*world) {
	return func(w *world) {
		w.drop("zonegroups.json", func(r map[string]any) bool { return strings.Contains(r["id"].(string), "/"+endpoint+"/") })
	}
}

func associatedCases() []ruleCase {
	noEndpoint := func(name, file, target string) func(*world) {
		return both(dropNamed("endpoints.json", name), dropGroupsOf(name), func(w *world) {
			list := w.row(file, target)["privateEndpointConnections"]
			if list == nil {
				w.set(file+" "+target+" properties.privateEndpointConnections", []any{})
				return
			}
			var keep []any
			for _, c := range list.([]any) {
				if c.(map[string]any)["name"] != name {
					keep = append(keep, c)
				}
			}
			w.set(file+" "+target+" privateEndpointConnections", append([]any{}, keep...))
		})
	}
	return []ruleCase{
		{code: "ST-01", want: Fail, change: noEndpoint("fraudstore-file", "storage.json", "fraudstore")},
		{code: "ST-01", want: Undecided, change: both(forget("endpoints.json"), set("storage.json fraudstore privateEndpointConnections", nil))},
		{code: "ST-02", want: Fail, change: set("storage.json fraudstore networkRuleSet.bypass", "None")},
		{code: "ST-02", want: Undecided, change: forget("storage.json")},
		{code: "ST-03", want: Fail, change: both(set("storage.json fraudstore publicNetworkAccess", "Enabled"), set("storage.json fraudstore networkRuleSet.defaultAction", "Allow"))},
		{code: "ST-03", want: Undecided, change: forget("storage.json")},
		{code: "ST-04", want: Fail, change: set("endpoints.json fraudstore-blob subnet.id", testGroup+"/providers/Microsoft.Network/virtualNetworks/net-aks/subnets/nodes"), also: "WS-09"},
		{code: "ST-04", want: Undecided, change: forget("endpoints.json")},
		{code: "ST-05", want: Fail, change: noEndpoint("fraudlake-blob", "storage.json", "fraudlake")},
		{code: "ST-05", want: Undecided, change: forget("datastores.json")},
		{code: "ST-06", base: "service endpoints", want: Pass},
		{code: "ST-06", base: "service endpoints", want: Fail, change: set("vnets.json net-aks subnets.0.serviceEndpoints", []any{})},
		{code: "ST-06", base: "service endpoints", want: Undecided, change: dropNamed("vnets.json", "net-aks")},
		{code: "ST-07", want: Fail, change: set("computes.json prod-k8s identity", nil), also: "CR-05 RB-01 WS-06"},
		{code: "ST-07", want: Undecided, change: forget("computes.json")},
		{code: "KV-01", want: Fail, change: noEndpoint("fraudvault-vault", "vaults.json", "fraudvault")},
		{code: "KV-01", want: Undecided, change: both(forget("endpoints.json"), set("vaults.json fraudvault properties.privateEndpointConnections", nil))},
		{code: "KV-02", want: Fail, change: set("vaults.json fraudvault properties.networkAcls.bypass", "None")},
		{code: "KV-02", want: Undecided, change: forget("vaults.json")},
		{code: "KV-03", want: Fail, change: both(set("vaults.json fraudvault properties.publicNetworkAccess", "Enabled"), set("vaults.json fraudvault properties.networkAcls.defaultAction", "Allow"))},
		{code: "KV-03", want: Undecided, change: forget("vaults.json")},
		{code: "CR-01", want: Fail, change: set("registries.json fraudimages sku.name", "Standard")},
		{code: "CR-01", want: Undecided, change: forget("registries.json")},
		{code: "CR-02", want: Fail, change: set("registries.json fraudimages networkRuleBypassOptions", "None")},
		{code: "CR-02", want: Undecided, change: forget("registries.json")},
		{code: "CR-03", want: Fail, change: noEndpoint("fraudimages-registry", "registries.json", "fraudimages")},
		{code: "CR-03", want: Undecided, change: both(forget("endpoints.json"), set("registries.json fraudimages privateEndpointConnections", nil))},
		{code: "CR-04", want: Fail, change: both(set("registries.json fraudimages publicNetworkAccess", "Enabled"), set("registries.json fraudimages networkRuleSet.defaultAction", "Allow"))},
		{code: "CR-04", want: Undecided, change: forget("registries.json")},
		{code: "CR-05", want: Fail, change: dropNamed("roles.json", "00000000-0000-4000-8000-000000000104")},
		{code: "CR-05", want: Undecided, change: forget("roles.json")},
		{code: "RB-01", want: Fail, change: dropNamed("roles.json", "00000000-0000-4000-8000-000000000103")},
		{code: "RB-01", want: Undecided, change: forget("roles.json")},
		{code: "RB-02", want: Fail, change: dropNamed("roles.json", "00000000-0000-4000-8000-000000000105")},
		{code: "RB-02", want: Undecided, change: forget("roles.json")},
	}
}

func endpointCases() []ruleCase {
	conn := "endpoints.json fraudvault-vault privateLinkServiceConnections.0."
	settings := "extensions.json azureml configurationSettings."
	zone := "privatelink.vaultcore.azure.net"
	inZone := func(r map[string]any) bool { return strings.Contains(r["id"].(string), "/privateDnsZones/"+zone+"/") }
	return []ruleCase{
		{code: "PE-01", want: Fail, change: set(conn+"privateLinkServiceConnectionState.status", "Pending"), also: "KV-01"},
		{code: "PE-01", want: Undecided, change: both(set(conn+"privateLinkServiceConnectionState", nil), set("vaults.json fraudvault properties.privateEndpointConnections", nil))},
		{code: "PE-02", want: Fail, change: set(conn+"groupIds", []any{"blob"}), also: "DN-01 KV-01"},
		{code: "PE-02", want: Undecided, change: forget("endpoints.json")},
		{code: "PE-03", want: Fail, change: both(dropPeeredSubnet), also: "KV-01 WS-09"},
		{code: "PE-03", want: Undecided, change: set("endpoints.json fraudvault-vault subnet", nil)},
		{code: "PE-04", want: Fail, change: set("endpoints.json fraudvault-vault location", "northeurope")},
		{code: "PE-04", want: Undecided, change: dropNamed("vnets.json", "net-hub")},
		{code: "DN-01", want: Fail, change: dropGroupsOf("fraudvault-vault")},
		{code: "DN-01", want: Undecided, change: forget("zonegroups.json")},
		{code: "DN-02", want: Fail, change: func(w *world) {
			w.drop("links.json", func(r map[string]any) bool { return inZone(r) && r["name"] == "net-aks" })
		}},
		{code: "DN-02", want: Undecided, change: forget("links.json")},
		{code: "DN-03", want: Fail, change: func(w *world) { w.drop("records.json", inZone) }},
		{code: "DN-03", want: Undecided, change: forget("records.json")},
		{code: "DN-04", want: Fail, change: func(w *world) { secondZone(w) }, also: "DN-02 DN-03"},
		{code: "DN-04", want: Undecided, change: both(func(w *world) { secondZone(w) }, forget("zonegroups.json"))},
		{code: "DN-05", want: Fail, change: set("probe.json - names.3.addresses", []any{"20.60.1.1"})},
		{code: "DN-05", want: Undecided, change: forget("probe.json")},
		{code: "TA-01", want: Fail, change: set("bindings.json ml roles", []any{"Microsoft.MachineLearningServices/workspaces/inference-v1"}), also: "AK-03 TA-04"},
		{code: "TA-01", want: Pass, change: bindingBeside, also: "TA-04"},
		{code: "TA-01", want: Undecided, change: forget("bindings.json")},
		{code: "TA-02", want: Fail, change: set("bindings.json ml roles", []any{mlRole, "mlworkload"})},
		{code: "TA-02", want: Undecided, change: set("bindings.json ml roles", []any{mlRole, "Microsoft.MachineLearningServices/workspaces/mlworkload-v2"})},
		{code: "TA-03", want: Fail, change: set("bindings.json ml provisioningState", "Failed")},
		{code: "TA-03", want: Undecided, change: set("bindings.json ml provisioningState", nil)},
		{code: "TA-04", want: Fail, change: set("bindings.json ml roles", []any{mlRole, "Microsoft.MachineLearningServices/workspaces/inference-v1"})},
		{code: "TA-04", want: Undecided, change: forget("bindings.json")},
		{code: "EX-01", want: Fail, change: set(settings+"InferenceRouterHA", "True")},
		{code: "EX-01", want: Undecided, change: forget("extensions.json")},
		{code: "EX-02", want: Fail, change: set(settings+"internalLoadBalancerProvider", nil)},
		{code: "EX-02", want: Undecided, change: forget("records.json")},
		{code: "EG-01", want: Fail, change: set("nsgs.json aks securityRules.2.access", "Deny")},
		{code: "EG-01", want: Undecided, change: forget("nsgs.json")},
	}
}

// dropPeeredSubnet moves the vault's endpoint to a VNet that nobody peers with.
func dropPeeredSubnet(w *world) {
	id := testGroup + "/providers/Microsoft.Network/virtualNetworks/far"
	w.add("vnets.json", `{"id":"`+id+`","name":"far","location":"westeurope","addressSpace":{"addressPrefixes":["10.30.0.0/16"]},"dhcpOptions":{"dnsServers":[]},"virtualNetworkPeerings":[],"subnets":[{"id":"`+id+`/subnets/x","name":"x","addressPrefix":"10.30.0.0/24","delegations":[],"privateEndpointNetworkPolicies":"Disabled"}]}`)
	w.set("endpoints.json fraudvault-vault subnet.id", id+"/subnets/x")
}

// bindingBeside binds the workspace a second time, to a role that attaching does
// not need.
func bindingBeside(w *world) {
	id := testGroup + "/providers/Microsoft.ContainerService/managedClusters/prod/trustedAccessRoleBindings/inference"
	w.add("bindings.json", `{"id":"`+id+`","name":"inference","provisioningState":"Succeeded","type":"Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings","roles":["Microsoft.MachineLearningServices/workspaces/inference-v1"],"sourceResourceId":"`+testGroup+`/providers/Microsoft.MachineLearningServices/workspaces/fraud"}`)
}

// secondZone gives one endpoint of the storage account a zone of its own, of the
// same name in another group.
func secondZone(w *world) {
	other := strings.Replace(testGroup, "ml-prod", "ml-dns", 1) + "/providers/Microsoft.Network/privateDnsZones/privatelink.blob.core.windows.net"
	w.add("zones.json", `{"id":"`+other+`","name":"privatelink.blob.core.windows.net","location":"global"}`)
	for _, r := range w.files["zonegroups.json"].([]any) {
		g := r.(map[string]any)
		if strings.Contains(g["id"].(string), "/fraudlake-blob/") {
			g["privateDnsZoneConfigs"] = []any{map[string]any{"name": "blob", "privateDnsZoneId": other}}
		}
	}
}
