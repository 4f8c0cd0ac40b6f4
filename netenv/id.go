package netenv

import "strings"

// Resource types, in the case that ARM documents; compare with sameType.
const (
	typeCluster    = "Microsoft.ContainerService/managedClusters"
	typePool       = "Microsoft.ContainerService/managedClusters/agentPools"
	typeBinding    = "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings"
	typeRole       = "Microsoft.ContainerService/locations/trustedAccessRoles"
	typeWorkspace  = "Microsoft.MachineLearningServices/workspaces"
	typeCompute    = "Microsoft.MachineLearningServices/workspaces/computes"
	typeDatastore  = "Microsoft.MachineLearningServices/workspaces/datastores"
	typeStorage    = "Microsoft.Storage/storageAccounts"
	typeVault      = "Microsoft.KeyVault/vaults"
	typeRegistry   = "Microsoft.ContainerRegistry/registries"
	typeVNet       = "Microsoft.Network/virtualNetworks"
	typeSubnet     = "Microsoft.Network/virtualNetworks/subnets"
	typePeering    = "Microsoft.Network/virtualNetworks/virtualNetworkPeerings"
	typeEndpoint   = "Microsoft.Network/privateEndpoints"
	typeZoneGroup  = "Microsoft.Network/privateEndpoints/privateDnsZoneGroups"
	typeZone       = "Microsoft.Network/privateDnsZones"
	typeLink       = "Microsoft.Network/privateDnsZones/virtualNetworkLinks"
	typeA          = "Microsoft.Network/privateDnsZones/A"
	typeNSG        = "Microsoft.Network/networkSecurityGroups"
	typeNSGRule    = "Microsoft.Network/networkSecurityGroups/securityRules"
	typeRoutes     = "Microsoft.Network/routeTables"
	typeRoute      = "Microsoft.Network/routeTables/routes"
	typeFirewall   = "Microsoft.Network/azureFirewalls"
	typePolicy     = "Microsoft.Network/firewallPolicies"
	typePolicySet  = "Microsoft.Network/firewallPolicies/ruleCollectionGroups"
	typeBastion    = "Microsoft.Network/bastionHosts"
	typeGateway    = "Microsoft.Network/virtualNetworkGateways"
	typeVM         = "Microsoft.Compute/virtualMachines"
	typeAssignment = "Microsoft.Authorization/roleAssignments"
	typeExtension  = "Microsoft.KubernetesConfiguration/extensions"
	typeResolver   = "Microsoft.Network/dnsForwardingRulesets/forwardingRules"
	typeProbe      = "Sallyport.Environment/probes"
)

// foldID makes resource ids comparable; ARM compares them without case.
func foldID(id string) string { return strings.ToLower(strings.TrimRight(id, "/")) }

// idType is the resource type in an id, "" when it is none: the part after the
// last /providers/, so an extension resource has its own type.
//
// An id with characters that no ARM id has is none: ids become parts of command
// lines and Terraform that people run.
func idType(id string) string {
	if plain(id) != id {
		return ""
	}
	i := strings.LastIndex(strings.ToLower(id), "/providers/")
	if i < 0 {
		return ""
	}
	parts := strings.Split(strings.Trim(id[i+len("/providers/"):], "/"), "/")
	if len(parts) < 3 || len(parts)%2 == 0 {
		return ""
	}
	t := parts[0]
	for k := 1; k < len(parts); k += 2 {
		if parts[k] == "" || parts[k+1] == "" {
			return ""
		}
		t += "/" + parts[k]
	}
	return t
}

// plain replaces every character that could mean something to a shell or to
// Terraform. Values that are printed inside a fix pass through it.
func plain(s string) string {
	for i := range len(s) {
		if !isPlain(rune(s[i])) {
			return strings.Map(func(r rune) rune {
				if isPlain(r) {
					return r
				}
				return '_'
			}, s)
		}
	}
	return s
}

func isPlain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.()~:*@/,", r)
}

// idName is the last segment.
func idName(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// idPart is the segment after the named one: idPart(id, "resourceGroups").
func idPart(id, after string) string {
	parts := strings.Split(id, "/")
	for i := 0; i+1 < len(parts); i++ {
		if strings.EqualFold(parts[i], after) {
			return parts[i+1]
		}
	}
	return ""
}

func idGroup(id string) string        { return idPart(id, "resourceGroups") }
func idSubscription(id string) string { return idPart(id, "subscriptions") }

// idParent is the id of the resource that a child belongs to: two segments less.
func idParent(id string) string {
	for range 2 {
		i := strings.LastIndexByte(id, '/')
		if i < 0 {
			return ""
		}
		id = id[:i]
	}
	return id
}

// subscriptionScope is "/subscriptions/…" of an id.
func subscriptionScope(id string) string {
	if s := idSubscription(id); s != "" {
		return "/subscriptions/" + s
	}
	return ""
}

// inScope says whether id is the scope or lies below it.
func inScope(id, scope string) bool {
	id, scope = foldID(id), foldID(scope)
	return scope == "" || id == scope || strings.HasPrefix(id, scope+"/")
}

func sameID(a, b string) bool { return foldID(a) == foldID(b) }

// nouns are what people call the types.
var nouns = map[string]string{
	fold(typeCluster): "cluster", fold(typePool): "node pool", fold(typeBinding): "role binding", fold(typeWorkspace): "workspace",
	fold(typeCompute): "compute", fold(typeDatastore): "datastore", fold(typeStorage): "storage account", fold(typeVault): "key vault",
	fold(typeRegistry): "registry", fold(typeVNet): "VNet", fold(typeSubnet): "subnet", fold(typePeering): "peering",
	fold(typeEndpoint): "private endpoint", fold(typeZoneGroup): "zone group", fold(typeZone): "private DNS zone", fold(typeLink): "zone link",
	fold(typeA): "A record", fold(typeNSG): "network security group", fold(typeRoutes): "route table", fold(typeNSGRule): "security rule", fold(typeRoute): "route", fold(typeFirewall): "firewall",
	fold(typePolicy): "firewall policy", fold(typePolicySet): "firewall rules", fold(typeBastion): "bastion", fold(typeGateway): "network gateway",
	fold(typeVM): "virtual machine", fold(typeAssignment): "role assignment", fold(typeExtension): "extension", fold(typeProbe): "live probe",
	fold(typeRole): "trusted access role", fold(typeResolver): "DNS forwarding rule",
}

// noun of a type, for messages.
func noun(t string) string {
	if n := nouns[fold(t)]; n != "" {
		return n
	}
	return t
}

// label names a resource for people, from its id alone.
func label(id string) string { return noun(idType(id)) + " " + idName(id) }
