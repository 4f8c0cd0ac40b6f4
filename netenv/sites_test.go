package netenv

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const siteSub = "7b1f0c52-9d3e-4a61-8f27-2c6d5e4b3a90"

// doc is a resource in ARM's form.
type doc = map[string]any

// site is an environment while it is described: its resources in ARM's form, of
// which the collected folder and the plan are made.
type site struct {
	group, region string
	docs          []doc
	next          map[string]netip.Addr // by subnet id: the next free address
	principals    int
	// given are ids of what another team's Terraform made: data sources here.
	given []string
	probe bool
}

func newSite(group, region string) *site {
	return &site{group: group, region: region, next: map[string]netip.Addr{}}
}

func (s *site) id(typ string, names ...string) string {
	return joinID("/subscriptions/"+siteSub+"/resourceGroups/"+s.group, typ, names)
}

func (s *site) add(id, location string, properties doc, more ...doc) string {
	d := doc{"id": id, "name": idName(id), "type": idType(id), "properties": properties}
	if location != "" {
		d["location"] = location
	}
	for _, m := range more {
		for k, v := range m {
			d[k] = v
		}
	}
	s.docs = append(s.docs, d)
	return id
}

func (s *site) find(id string) doc {
	for _, d := range s.docs {
		if sameID(d["id"].(string), id) {
			return d
		}
	}
	return nil
}

func (s *site) props(id string) doc { return s.find(id)["properties"].(doc) }

// system is a system-assigned identity.
func (s *site) system() doc {
	s.principals++
	return doc{"identity": doc{"type": "SystemAssigned", "principalId": fmt.Sprintf("c0000000-0000-4000-8000-%012d", s.principals), "tenantId": "72f988bf-0000-0000-0000-000000000000"}}
}

func (s *site) principal(id string) string {
	return s.find(id)["identity"].(doc)["principalId"].(string)
}

type subnetOf struct{ name, prefix, nsg, routes, service string }

func (s *site) vnet(name, region, space string, dns []any, subnets ...subnetOf) string {
	id := s.id(typeVNet, name)
	var list []any
	for _, n := range subnets {
		sid := id + "/subnets/" + n.name
		p := doc{"addressPrefix": n.prefix, "delegations": []any{}, "privateEndpointNetworkPolicies": "Disabled", "serviceEndpoints": []any{}}
		if n.nsg != "" {
			p["networkSecurityGroup"] = doc{"id": n.nsg}
		}
		if n.routes != "" {
			p["routeTable"] = doc{"id": n.routes}
		}
		if n.service != "" {
			p["serviceEndpoints"] = []any{doc{"service": n.service, "locations": []any{"*"}}}
		}
		list = append(list, doc{"id": sid, "name": n.name, "type": typeSubnet, "properties": p})
		s.next[foldID(sid)] = netip.MustParsePrefix(n.prefix).Addr().Next().Next().Next().Next()
	}
	return s.add(id, region, doc{"addressSpace": doc{"addressPrefixes": []any{space}}, "dhcpOptions": doc{"dnsServers": dns}, "subnets": list, "virtualNetworkPeerings": []any{}})
}

// peer two networks, both ways.
func (s *site) peer(a, b string) {
	for _, p := range [][2]string{{a, b}, {b, a}} {
		props := s.props(p[0])
		name := "to-" + idName(p[1])
		props["virtualNetworkPeerings"] = append(props["virtualNetworkPeerings"].([]any), doc{"id": p[0] + "/virtualNetworkPeerings/" + name, "name": name, "type": typePeering,
			"properties": doc{"peeringState": "Connected", "peeringSyncLevel": "FullyInSync", "allowVirtualNetworkAccess": true, "allowForwardedTraffic": true, "remoteVirtualNetwork": doc{"id": p[1]}}})
	}
}

// zone makes a private DNS zone once and links it.
func (s *site) zone(name string, vnets ...string) string {
	id := s.id(typeZone, name)
	if s.find(id) == nil {
		s.add(id, "global", doc{})
	}
	for _, v := range vnets {
		link := id + "/virtualNetworkLinks/" + idName(v)
		if s.find(link) == nil {
			s.add(link, "global", doc{"virtualNetwork": doc{"id": v}, "registrationEnabled": false, "virtualNetworkLinkState": "Completed"})
		}
	}
	return id
}

// names of a target's endpoint.
func (s *site) names(target, group string) []string {
	n, home := idName(target), s.find(target)["location"].(string)
	switch group {
	case "amlworkspace":
		id := s.props(target)["workspaceId"].(string)
		return []string{id + ".workspace." + home + ".api.azureml.ms", id + ".workspace." + home + ".cert.api.azureml.ms", "ml-" + n + "-" + home + "-" + id + "." + home + ".notebooks.azure.net"}
	case "vault":
		return []string{n + ".vault.azure.net"}
	case "registry":
		return []string{n + ".azurecr.io", n + "." + home + ".data.azurecr.io"}
	}
	return []string{n + "." + group + ".core.windows.net"}
}

// endpoint makes a private endpoint with its zones, records and the target's own
// note of it. vnets are where its zones are linked.
func (s *site) endpoint(target, group, subnet string, vnets ...string) {
	id := s.id(typeEndpoint, idName(target)+"-"+group)
	var dns, configs []any
	for _, z := range zonesFor(group, "") {
		configs = append(configs, doc{"name": tfName(z), "properties": doc{"privateDnsZoneId": s.zone(z, vnets...)}})
	}
	for _, name := range s.names(target, group) {
		ip := s.next[foldID(subnet)]
		s.next[foldID(subnet)] = ip.Next()
		dns = append(dns, doc{"fqdn": name, "ipAddresses": []any{ip.String()}})
		for _, z := range zonesFor(group, "") {
			if record, ok := recordIn(name, z); ok {
				s.add(s.id(typeZone, z)+"/A/"+record, "", doc{"ttl": 10, "aRecords": []any{doc{"ipv4Address": ip.String()}}})
			}
		}
	}
	state := doc{"status": "Approved", "description": "Auto-Approved", "actionsRequired": "None"}
	region := s.find(idParent(subnet))["location"].(string)
	s.add(id, region, doc{"subnet": doc{"id": subnet}, "manualPrivateLinkServiceConnections": []any{}, "customDnsConfigs": dns,
		"privateLinkServiceConnections": []any{doc{"name": idName(id), "properties": doc{"groupIds": []any{group}, "privateLinkServiceId": target, "privateLinkServiceConnectionState": state}}}})
	s.add(id+"/privateDnsZoneGroups/default", "", doc{"privateDnsZoneConfigs": configs})
	p := s.props(target)
	list, _ := p["privateEndpointConnections"].([]any)
	p["privateEndpointConnections"] = append(list, doc{"id": target + "/privateEndpointConnections/" + idName(id), "name": idName(id), "properties": doc{"privateEndpoint": doc{"id": id}, "privateLinkServiceConnectionState": state}})
}

func (s *site) storage(name, region string, open bool) string {
	action := cond(open, "Allow", "Deny")
	return s.add(s.id(typeStorage, name), region, doc{"publicNetworkAccess": cond(open, "Enabled", "Disabled"), "allowSharedKeyAccess": true, "privateEndpointConnections": []any{},
		"networkAcls": doc{"bypass": "AzureServices", "defaultAction": action, "virtualNetworkRules": []any{}, "resourceAccessRules": []any{}}}, doc{"sku": doc{"name": "Standard_ZRS"}, "kind": "StorageV2"})
}

func (s *site) vault(name string, open bool) string {
	return s.add(s.id(typeVault, name), s.region, doc{"publicNetworkAccess": cond(open, "Enabled", "Disabled"), "sku": doc{"family": "A", "name": "standard"}, "privateEndpointConnections": []any{},
		"networkAcls": doc{"bypass": "AzureServices", "defaultAction": cond(open, "Allow", "Deny"), "virtualNetworkRules": []any{}}})
}

func (s *site) registry(name, sku string, open bool) string {
	return s.add(s.id(typeRegistry, name), s.region, doc{"adminUserEnabled": false, "publicNetworkAccess": cond(open, "Enabled", "Disabled"), "networkRuleBypassOptions": "AzureServices",
		"dataEndpointEnabled": false, "privateEndpointConnections": []any{}}, doc{"sku": doc{"name": sku}})
}

func (s *site) workspace(name, storage, vault, registry string, open, hbi bool) string {
	p := doc{"workspaceId": "3e5d2c7f-1111-4222-8333-94a5b6c7d8e9", "storageAccount": storage, "keyVault": vault, "containerRegistry": registry, "hbiWorkspace": hbi,
		"publicNetworkAccess": cond(open, "Enabled", "Disabled"), "allowPublicAccessWhenBehindVnet": false, "privateEndpointConnections": []any{}}
	if s.props(registry)["publicNetworkAccess"] == "Disabled" {
		p["imageBuildCompute"] = "builders"
	}
	id := s.add(s.id(typeWorkspace, name), s.region, p, s.system(), doc{"kind": "Default", "sku": doc{"name": "Basic"}})
	s.add(id+"/datastores/workspaceblobstore", "", doc{"datastoreType": "AzureBlob", "accountName": idName(storage)})
	return id
}

// cluster stands in subnet, or in a network that Azure makes.
func (s *site) cluster(name, subnet string, private bool, outbound string) string {
	pool := func(name string, count, most int, mode string) doc {
		p := doc{"name": name, "count": count, "enableAutoScaling": most > count, "maxPods": 30, "vmSize": "Standard_D4s_v5", "mode": mode, "upgradeSettings": doc{"maxSurge": "10%"}}
		if most > count {
			p["minCount"], p["maxCount"] = count, most
		}
		if subnet != "" {
			p["vnetSubnetID"] = subnet
		}
		return p
	}
	network := doc{"networkPlugin": "azure", "serviceCidr": "10.240.0.0/16", "serviceCidrs": []any{"10.240.0.0/16"}, "dnsServiceIP": "10.240.0.10", "outboundType": outbound}
	if subnet == "" {
		network["networkPluginMode"], network["podCidr"], network["podCidrs"] = "overlay", "10.244.0.0/16", []any{"10.244.0.0/16"}
	}
	return s.add(s.id(typeCluster, name), s.region, doc{"disableLocalAccounts": true, "nodeResourceGroup": "MC_" + s.group + "_" + name + "_" + s.region, "powerState": doc{"code": "Running"},
		"servicePrincipalProfile": doc{"clientId": "msi"}, "apiServerAccessProfile": doc{"enablePrivateCluster": private, "enablePrivateClusterPublicFQDN": false},
		"networkProfile": network, "agentPoolProfiles": []any{pool("system", 3, 3, "System"), pool("score", 3, 8, "User")}}, s.system())
}

// attach is all that joins a cluster and a workspace.
func (s *site) attach(cluster, workspace, routerName string, internal bool) string {
	compute := s.add(workspace+"/computes/k8s", s.region, doc{"computeType": "Kubernetes", "resourceId": cluster, "properties": doc{"namespace": "ml"}}, s.system())
	s.add(cluster+"/trustedAccessRoleBindings/ml", "", doc{"sourceResourceId": workspace, "roles": []any{mlRole}, "provisioningState": "Succeeded"})
	settings := doc{"enableTraining": "True", "enableInference": "True", "inferenceRouterServiceType": "loadBalancer", "sslSecret": "router-tls", "sslCname": routerName, "inferenceRouterHA": "True"}
	if internal {
		settings["internalLoadBalancerProvider"] = "azure"
	}
	s.add(cluster+"/providers/Microsoft.KubernetesConfiguration/extensions/azureml", "", doc{"extensionType": "Microsoft.AzureML.Kubernetes", "configurationSettings": settings, "configurationProtectedSettings": doc{}})
	p := s.props(workspace)
	s.assign(compute, p["containerRegistry"].(string), roleAcrPull)
	if p["hbiWorkspace"] == true {
		s.assign(compute, p["storageAccount"].(string), roleBlobContributor)
		s.assign(compute, p["storageAccount"].(string), roleAccountContributor)
	}
	return compute
}

func (s *site) assign(who, at, role string) {
	s.principals++
	id := at + "/providers/" + typeAssignment + "/" + fmt.Sprintf("d0000000-0000-4000-8000-%012d", s.principals)
	s.add(id, "", doc{"scope": at, "principalId": s.principal(who), "principalType": "ServicePrincipal", "roleDefinitionId": "/subscriptions/" + siteSub + "/providers/Microsoft.Authorization/roleDefinitions/" + role})
}

// router is the A record of the router's name in a zone of one's own.
func (s *site) router(name string, vnets ...string) {
	record, zone, _ := strings.Cut(name, ".")
	s.add(s.zone(zone, vnets...)+"/A/"+record, "", doc{"ttl": 300, "aRecords": []any{doc{"ipv4Address": "10.64.0.250"}}})
}

func (s *site) nsg(name string, rules ...doc) string {
	var list []any
	for n, r := range rules {
		r["priority"] = 100 + 10*n
		list = append(list, doc{"name": fmt.Sprintf("r%d", n), "properties": r})
	}
	return s.add(s.id(typeNSG, name), s.region, doc{"securityRules": list})
}

func outbound(access, tag, ports string) doc {
	return doc{"access": access, "direction": "Outbound", "protocol": "*", "sourceAddressPrefix": "*", "sourcePortRange": "*", "destinationAddressPrefix": tag, "destinationPortRange": ports}
}

// collected is the environment as `env collect --run` leaves it: each listing's
// answer in the form that its command prints, and the manifest.
func (s *site) collected(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, files: map[string]any{}, manifest: map[string]Export{}}
	run := func(list []Listing) {
		for _, l := range list {
			rows := []any{}
			for _, d := range s.docs {
				if sameType(d["type"].(string), l.Type) && inScope(d["id"].(string), l.Scope) {
					rows = append(rows, s.printed(t, d, l.Line))
				}
			}
			e := l.Export
			n := len(rows)
			e.Rows, e.Time = &n, time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
			w.manifest[l.File] = e
			w.files[l.File] = cond3(strings.HasPrefix(l.Line, "az rest "), doc{"value": rows}, rows)
		}
	}
	run(FirstListings(siteSub))
	run(NextListings(w.graph()))
	if s.probe {
		w.files["probe.json"] = s.probed()
	}
	return w
}

// printed is a document as a command prints it.
func (s *site) printed(t *testing.T, d doc, line string) any {
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil { // a copy
		t.Fatal(err)
	}
	switch {
	case strings.HasPrefix(line, "az rest "):
		return v
	case strings.HasPrefix(line, "az ml "):
		row := reshape(reshape(v, func(k string) string { return k }, true), snake, true).(map[string]any)
		row["type"] = snake(cond(fmt.Sprint(row["compute_type"]) != "<nil>", "kubernetes", "azure_blob"))
		delete(row, "compute_type")
		delete(row, "datastore_type")
		return row
	}
	row := reshape(v, func(k string) string { return k }, true).(map[string]any)
	if a, ok := row["networkAcls"]; ok && strings.HasPrefix(line, "az storage ") {
		row["networkRuleSet"] = a
		delete(row, "networkAcls")
	}
	return row
}

// probed is what a probe from inside the cluster answers when all is well.
func (s *site) probed() any {
	var names []any
	cluster := ""
	for _, d := range s.docs {
		if d["type"] == typeCluster {
			cluster = d["id"].(string)
		}
		if configs, ok := d["properties"].(doc)["customDnsConfigs"].([]any); ok {
			for _, c := range configs {
				names = append(names, doc{"name": c.(doc)["fqdn"], "addresses": c.(doc)["ipAddresses"]})
			}
		}
	}
	return doc{"kind": ProbeKind, "cluster": cluster, "time": "2026-11-20T08:00:00Z", "dnsServers": []any{"10.240.0.10"}, "names": names, "connections": []any{}}
}
