package netenv

import (
	"slices"
	"strconv"
	"strings"
)

// ProbeKind marks a document of live probes from inside a cluster.
const ProbeKind = "sallyport.dev/environment-probe"

// listings are the read-only commands that list a type. {sub}, {rg}, {name} and
// {parent} are of the scope: the parent resource for child types.
var listings = map[string]string{
	fold(typeCluster):    "az aks list --subscription {sub} -o json",
	fold(typeBinding):    "az aks trustedaccess rolebinding list --subscription {sub} -g {rg} --cluster-name {name} -o json",
	fold(typeRole):       "az aks trustedaccess role list -l {region} -o json",
	fold(typeWorkspace):  "az rest --method get --url /subscriptions/{sub}/providers/" + typeWorkspace + "?api-version=2024-10-01 -o json",
	fold(typeCompute):    "az ml compute list --subscription {sub} -g {rg} -w {name} -o json",
	fold(typeDatastore):  "az ml datastore list --subscription {sub} -g {rg} -w {name} -o json",
	fold(typeStorage):    "az storage account list --subscription {sub} -o json",
	fold(typeVault):      "az rest --method get --url /subscriptions/{sub}/providers/" + typeVault + "?api-version=2023-07-01 -o json",
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
	fold(typePolicy):     "az network firewall policy list --subscription {sub} -o json",
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
	if sub == "" && strings.Contains(line, "/{sub}/") {
		return ""
	}
	if sub == "" {
		line = strings.Replace(line, " --subscription {sub}", "", 1)
	}
	if strings.Contains(line, "{region}") {
		return ""
	}
	return strings.NewReplacer("{sub}", sub, "{rg}", idGroup(scope), "{name}", idName(scope)).Replace(line)
}

// Listing is one read-only command of a collection, and the file for its answer.
type Listing struct {
	Line string
	Export
}

// Args of the command, ready to be executed without a shell.
func (l Listing) Args() []string { return strings.Fields(l.Line) }

// wholeSubscription are the types that one command lists.
var wholeSubscription = []string{typeCluster, typeWorkspace, typeStorage, typeVault, typeRegistry, typeVNet, typeEndpoint, typeZone, typeNSG, typeRoutes, typeFirewall, typePolicy, typeBastion, typeVM, typeAssignment}

// perParent are the types that are listed for each parent; Resource Graph has
// none of them.
var perParent = []struct{ parent, child string }{
	{typeCluster, typeBinding}, {typeCluster, typeExtension}, {typeWorkspace, typeCompute}, {typeWorkspace, typeDatastore},
	{typeEndpoint, typeZoneGroup}, {typeZone, typeLink}, {typeZone, typeA}, {typePolicy, typePolicySet},
}

// FirstListings are the commands that list a whole subscription.
func FirstListings(subscription string) []Listing {
	scope := "/subscriptions/" + subscription
	var out []Listing
	for _, t := range wholeSubscription {
		out = append(out, listing(t, scope, strings.ToLower(idName(t))+".json"))
	}
	return out
}

// NextListings are the commands for the children of what the first ones found.
func NextListings(g *Graph) []Listing {
	var out []Listing
	for _, c := range perParent {
		for n, r := range g.list(c.parent) {
			out = append(out, listing(c.child, r.ID, strings.ToLower(idName(c.child))+"-"+strconv.Itoa(n+1)+"-"+fileName(r.Name())+".json"))
		}
	}
	return slices.DeleteFunc(out, func(l Listing) bool { return l.Line == "" })
}

// fileName keeps letters, digits and dashes.
func fileName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, s)
}

func listing(typ, scope, file string) Listing {
	line := commandFor(Ask{Type: typ, Scope: scope})
	return Listing{Line: line, Export: Export{File: file, Type: typ, Scope: scope, Command: line}}
}
