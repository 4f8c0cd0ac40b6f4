package netenv

import "strings"

// ProbeKind marks a document of live probes from inside a cluster.
const ProbeKind = "sallyport.dev/environment-probe"

// listings are the read-only commands that list a type. {sub}, {rg}, {name} and
// {parent} are of the scope: the parent resource for child types.
var listings = map[string]string{
	fold(typeCluster):    "az aks list --subscription {sub} -o json",
	fold(typeBinding):    "az aks trustedaccess rolebinding list --subscription {sub} -g {rg} --cluster-name {name} -o json",
	fold(typeRole):       "az aks trustedaccess role list -l {region} -o json",
	fold(typeWorkspace):  "az resource list --subscription {sub} --resource-type " + typeWorkspace + " --query [].id -o tsv | xargs az resource show -o json --ids",
	fold(typeCompute):    "az ml compute list --subscription {sub} -g {rg} -w {name} -o json",
	fold(typeDatastore):  "az ml datastore list --subscription {sub} -g {rg} -w {name} -o json",
	fold(typeStorage):    "az storage account list --subscription {sub} -o json",
	fold(typeVault):      "az resource list --subscription {sub} --resource-type " + typeVault + " --query [].id -o tsv | xargs az resource show -o json --ids",
	fold(typeRegistry):   "az acr list --subscription {sub} -o json",
	fold(typeVNet):       "az network vnet list --subscription {sub} -o json",
	fold(typeSubnet):     "az network vnet list --subscription {sub} -o json",
	fold(typePeering):    "az network vnet list --subscription {sub} -o json",
	fold(typeEndpoint):   "az network private-endpoint list --subscription {sub} -o json",
	fold(typeZoneGroup):  "az network private-endpoint dns-zone-group list --subscription {sub} -g {rg} --endpoint-name {name} -o json",
	fold(typeZone):       "az network private-dns zone list --subscription {sub} -o json",
	fold(typeLink):       "az network private-dns link vnet list --subscription {sub} -g {rg} -z {name} -o json",
	fold(typeA):          "az network private-dns record-set a list --subscription {sub} -g {rg} -z {name} -o json",
	fold(typeNSG):        "az network nsg list --subscription {sub} -o json",
	fold(typeRoutes):     "az network route-table list --subscription {sub} -o json",
	fold(typeFirewall):   "az network firewall list --subscription {sub} -o json",
	fold(typePolicySet):  "az network firewall policy rule-collection-group list --subscription {sub} -g {rg} --policy-name {name} -o json",
	fold(typeBastion):    "az network bastion list --subscription {sub} -o json",
	fold(typeGateway):    "az resource list --subscription {sub} --resource-type " + typeGateway + " -o json",
	fold(typeVM):         "az vm list --subscription {sub} -o json",
	fold(typeAssignment): "az role assignment list --subscription {sub} --all -o json",
	fold(typeExtension):  "az k8s-extension list --subscription {sub} -g {rg} -c {name} -t managedClusters -o json",
}

// commandFor is the command that answers an ask; "" when none does, or when the
// ask does not say where to look.
func commandFor(a Ask) string {
	line := listings[fold(a.Type)]
	if line == "" || strings.HasPrefix(idSubscription(a.Scope), "~") {
		return ""
	}
	scope := a.Scope
	if strings.Contains(line, "{name}") {
		// A child's own id asks for its parent's list.
		if sameType(idType(scope), a.Type) {
			scope = idParent(scope)
			if sameType(a.Type, typeExtension) {
				scope = idParent(scope)
			}
		}
		if idType(scope) == "" {
			return ""
		}
	}
	sub := idSubscription(scope)
	if sub == "" {
		line = strings.Replace(line, " --subscription {sub}", "", 1)
	}
	if strings.Contains(line, "{region}") {
		return ""
	}
	return strings.NewReplacer("{sub}", sub, "{rg}", idGroup(scope), "{name}", idName(scope)).Replace(line)
}
