package netenv

import (
	"slices"
	"strings"
)

// Terraform writes the whole environment of an intent. It needs the providers
// azurerm 5 and azapi 2.
func (in Intent) Terraform() string {
	head := `# ` + string(in.Profile) + ` environment ` + in.Name + `, made by sallyport env plan
terraform {
  required_providers {
    azurerm = { source = "hashicorp/azurerm", version = "~> 5.0" }
    azapi   = { source = "azure/azapi", version = "~> 2.0" }
  }
}

provider "azurerm" {
  features {}
}

data "azurerm_client_config" "me" {}

`
	return head + hcl(in.blocks())
}

func (in Intent) blocks() []block {
	out := in.services()
	if in.Profile != Public {
		out = append(out, in.network()...)
		out = append(out, in.doors()...)
	}
	return append(out, in.cluster()...)
}

// place are the arguments that most resources share.
func (in Intent) place(name string, more ...setting) []setting {
	return append([]setting{{"name", name}, {"resource_group_name", expr("azurerm_resource_group.env.name")}, {"location", in.Region}}, more...)
}

func (in Intent) services() []block {
	open := in.Profile == Public
	deny := inner("network_rules", setting{"default_action", "Deny"}, setting{"bypass", []any{"AzureServices"}})
	acls := inner("network_acls", setting{"default_action", "Deny"}, setting{"bypass", "AzureServices"})
	storage := resource("azurerm_storage_account", "env", in.place(in.Name+"store", setting{"account_tier", "Standard"}, setting{"account_replication_type", "ZRS"}, setting{"public_network_access_enabled", open}, setting{"shared_access_key_enabled", true})...)
	vault := resource("azurerm_key_vault", "env", in.place(in.Name+"-vault", setting{"tenant_id", expr("data.azurerm_client_config.me.tenant_id")}, setting{"sku_name", "standard"}, setting{"purge_protection_enabled", true}, setting{"public_network_access_enabled", open})...)
	if !open {
		storage, vault = storage.with(deny), vault.with(acls)
	}
	ws := resource("azurerm_machine_learning_workspace", "env", in.place(in.Name,
		setting{"application_insights_id", expr("azurerm_application_insights.env.id")},
		setting{"key_vault_id", expr("azurerm_key_vault.env.id")},
		setting{"storage_account_id", expr("azurerm_storage_account.env.id")},
		setting{"container_registry_id", expr("azurerm_container_registry.env.id")},
		setting{"public_network_access_enabled", in.Profile != Private},
		setting{"high_business_impact", in.HBI})...)
	if !open {
		ws.attrs = append(ws.attrs, setting{"image_build_compute_name", "builders"})
	}
	out := []block{
		resource("azurerm_resource_group", "env", setting{"name", in.Name + "-ml"}, setting{"location", in.Region}),
		resource("azurerm_application_insights", "env", in.place(in.Name, setting{"application_type", "web"})...),
		storage, vault,
		resource("azurerm_container_registry", "env", in.place(in.Name+"images", setting{"sku", cond(open, "Standard", "Premium")}, setting{"admin_enabled", false}, setting{"public_network_access_enabled", open}, setting{"network_rule_bypass_option", "AzureServices"})...),
		ws.with(inner("identity", setting{"type", "SystemAssigned"})),
	}
	if !open {
		builders := resource("azurerm_machine_learning_compute_cluster", "builders",
			setting{"name", "builders"}, setting{"location", in.Region}, setting{"machine_learning_workspace_id", expr("azurerm_machine_learning_workspace.env.id")},
			setting{"vm_priority", "Dedicated"}, setting{"vm_size", "STANDARD_DS3_V2"}, setting{"subnet_resource_id", expr("azurerm_subnet.endpoints.id")}, setting{"node_public_ip_enabled", false})
		out = append(out, builders.with(inner("identity", setting{"type", "SystemAssigned"}),
			inner("scale_settings", setting{"min_node_count", 0}, setting{"max_node_count", 1}, setting{"scale_down_nodes_after_idle_duration", "PT10M"})))
	}
	return out
}

func (in Intent) network() []block {
	node, others, _ := in.subnets() // ParseIntent has tried it
	subnet := func(id, name, prefix string) block {
		return resource("azurerm_subnet", id, setting{"name", name}, setting{"resource_group_name", expr("azurerm_resource_group.env.name")},
			setting{"virtual_network_name", expr("azurerm_virtual_network.env.name")}, setting{"address_prefixes", []any{prefix}}, setting{"private_endpoint_network_policies", "Disabled"})
	}
	bastion := resource("azurerm_bastion_host", "env", in.place("bastion")...).with(inner("ip_configuration", setting{"name", "bastion"},
		setting{"subnet_id", expr("azurerm_subnet.bastion.id")}, setting{"public_ip_address_id", expr("azurerm_public_ip.bastion.id")}))
	out := []block{
		resource("azurerm_virtual_network", "env", in.place(in.Name+"-net", setting{"address_space", []any{in.Network}})...),
		subnet("nodes", "nodes", node.String()), subnet("endpoints", "endpoints", others[0].String()),
	}
	if in.Profile == Private {
		out = append(out, subnet("bastion", "AzureBastionSubnet", others[1].String()),
			resource("azurerm_public_ip", "bastion", in.place("bastion", setting{"allocation_method", "Static"}, setting{"sku", "Standard"})...), bastion)
	}
	return out
}

// doors are the zones, their links and the private endpoints.
func (in Intent) doors() []block {
	type door struct{ name, target, group string }
	list := []door{{"blob", "azurerm_storage_account.env.id", "blob"}, {"file", "azurerm_storage_account.env.id", "file"},
		{"queue", "azurerm_storage_account.env.id", "queue"}, {"table", "azurerm_storage_account.env.id", "table"},
		{"vault", "azurerm_key_vault.env.id", "vault"}, {"registry", "azurerm_container_registry.env.id", "registry"}}
	if in.Profile == Private {
		list = append(list, door{"workspace", "azurerm_machine_learning_workspace.env.id", "amlworkspace"})
	}
	var zones []string
	var out, endpoints []block
	for _, d := range list {
		var ids []any
		for _, z := range zonesFor(d.group, cloudOf(in.Region)) {
			ids = append(ids, expr("azurerm_private_dns_zone."+tfName(z)+".id"))
			if !slices.Contains(zones, z) {
				zones = append(zones, z)
			}
		}
		endpoints = append(endpoints, resource("azurerm_private_endpoint", d.name, in.place(in.Name+"-"+d.name, setting{"subnet_id", expr("azurerm_subnet.endpoints.id")})...).with(
			inner("private_service_connection", setting{"name", in.Name + "-" + d.name}, setting{"private_connection_resource_id", expr(d.target)}, setting{"subresource_names", []any{d.group}}, setting{"is_manual_connection", false}),
			inner("private_dns_zone_group", setting{"name", "default"}, setting{"private_dns_zone_ids", ids})))
	}
	record, routerZone, _ := strings.Cut(in.RouterName, ".")
	zones = append(zones, routerZone)
	for _, z := range zones {
		out = append(out,
			resource("azurerm_private_dns_zone", tfName(z), setting{"name", z}, setting{"resource_group_name", expr("azurerm_resource_group.env.name")}),
			resource("azurerm_private_dns_zone_virtual_network_link", tfName(z), setting{"name", in.Name},
				setting{"private_dns_zone_id", expr("azurerm_private_dns_zone." + tfName(z) + ".id")}, setting{"virtual_network_id", expr("azurerm_virtual_network.env.id")}, setting{"registration_enabled", false}))
	}
	node, _, _ := in.subnets()
	out = append(out, resource("azurerm_private_dns_a_record", "router", setting{"name", record},
		setting{"private_dns_zone_id", expr("azurerm_private_dns_zone." + tfName(routerZone) + ".id")}, setting{"ttl", 300}, setting{"records", []any{asAddr(asNumber(lastOf(node)) - 5).String()}}))
	return append(out, endpoints...)
}

func (in Intent) cluster() []block {
	open := in.Profile == Public
	pool := inner("default_node_pool", setting{"name", "system"}, setting{"vm_size", "Standard_D4s_v5"}, setting{"auto_scaling_enabled", true},
		setting{"min_count", 3}, setting{"max_count", max(in.Nodes, 3)}, setting{"max_pods", in.PodsPerNode})
	profile := inner("network_profile", setting{"network_plugin", "azure"}, setting{"service_cidr", serviceRange.String()}, setting{"dns_service_ip", "10.240.0.10"})
	if !in.Flat {
		profile.attrs = append(profile.attrs, setting{"network_plugin_mode", "overlay"}, setting{"pod_cidr", podRange.String()})
	}
	aks := resource("azurerm_kubernetes_cluster", "env", in.place(in.Name, setting{"dns_prefix", in.Name}, setting{"local_account_disabled", false})...)
	if !open {
		pool.attrs = append(pool.attrs, setting{"vnet_subnet_id", expr("azurerm_subnet.nodes.id")})
		aks.attrs = append(aks.attrs, setting{"private_cluster_enabled", true}, setting{"private_cluster_public_fqdn_enabled", false})
	}
	pool = pool.with(inner("upgrade_settings", setting{"max_surge", "10%"}))
	out := []block{aks.with(pool, profile, inner("identity", setting{"type", "SystemAssigned"}))}
	if !open {
		out = append(out, assignment("cluster_network", "azurerm_subnet.nodes.id", "Network Contributor", "azurerm_kubernetes_cluster.env.identity[0].principal_id"))
	}
	settings := []setting{{"enableTraining", "True"}, {"enableInference", "True"}, {"inferenceRouterServiceType", "loadBalancer"}, {"inferenceRouterHA", "True"}, {"clusterPurpose", "FastProd"},
		{"sslSecret", "router-tls"}, {"sslCname", in.RouterName}, {"cluster_name", expr("azurerm_kubernetes_cluster.env.id")}, {"clusterId", expr("azurerm_kubernetes_cluster.env.id")},
		{"domain", in.Region + ".cloudapp.azure.com"}, {"location", in.Region}, {"jobSchedulerLocation", in.Region}, {"cluster_name_friendly", in.Name},
		{`"nginxIngress.enabled"`, "true"}, {`"relayserver.enabled"`, "false"}, {`"servicebus.enabled"`, "false"}}
	if !open {
		settings = append(settings, setting{"internalLoadBalancerProvider", "azure"})
	}
	compute := resource("azapi_resource", "compute", setting{"type", "Microsoft.MachineLearningServices/workspaces/computes@2024-10-01"}, setting{"name", in.Name + "-k8s"},
		setting{"parent_id", expr("azurerm_machine_learning_workspace.env.id")}, setting{"location", in.Region},
		setting{"depends_on", []any{expr("azurerm_kubernetes_cluster_extension.azureml"), expr("azurerm_kubernetes_cluster_trusted_access_role_binding.ml")}},
		setting{"body", []setting{{"properties", []setting{{"computeType", "Kubernetes"}, {"resourceId", expr("azurerm_kubernetes_cluster.env.id")}, {"properties", []setting{{"namespace", "default"}}}}}}}).with(inner("identity", setting{"type", "SystemAssigned"}))
	out = append(out,
		resource("azurerm_kubernetes_cluster_trusted_access_role_binding", "ml", setting{"name", "ml"}, setting{"kubernetes_cluster_id", expr("azurerm_kubernetes_cluster.env.id")},
			setting{"source_resource_id", expr("azurerm_machine_learning_workspace.env.id")}, setting{"roles", []any{mlRole}}),
		resource("azurerm_kubernetes_cluster_extension", "azureml", setting{"name", "azureml"}, setting{"cluster_id", expr("azurerm_kubernetes_cluster.env.id")}, setting{"extension_type", "Microsoft.AzureML.Kubernetes"},
			setting{"release_namespace", "azureml"}, setting{"configuration_settings", settings}),
		compute, assignment("compute_images", "azurerm_container_registry.env.id", "AcrPull", "azapi_resource.compute.identity[0].principal_id"))
	if in.HBI {
		out = append(out, assignment("compute_data", "azurerm_storage_account.env.id", "Storage Blob Data Contributor", "azapi_resource.compute.identity[0].principal_id"),
			assignment("compute_keys", "azurerm_storage_account.env.id", "Storage Account Contributor", "azapi_resource.compute.identity[0].principal_id"))
	}
	return out
}

func assignment(name, scope, role, principal string) block {
	return resource("azurerm_role_assignment", name, setting{"scope", expr(scope)}, setting{"role_definition_name", role}, setting{"principal_id", expr(principal)}, setting{"principal_type", "ServicePrincipal"})
}
