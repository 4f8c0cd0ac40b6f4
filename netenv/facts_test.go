package netenv

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// kind of a fact: how it is compared across forms.
type factKind int

const (
	aText  factKind = iota
	aRef            // a resource id
	aSet            // texts in any order
	aTruth          // a boolean, absent meaning false
	aTrue           // a boolean, absent meaning true
	aList           // objects, as JSON with folded keys
)

type fact struct {
	path string // dotted
	kind factKind
}

// factsRead are the values that rules read, by type.
var factsRead = map[string][]fact{
	typeCluster: {{"location", aText}, {"identity.type", aText}, {"apiServerAccessProfile.enablePrivateCluster", aTruth}, {"apiServerAccessProfile.enablePrivateClusterPublicFQDN", aTruth},
		{"apiServerAccessProfile.authorizedIPRanges", aSet}, {"disableLocalAccounts", aTruth}, {"nodeResourceGroup", aText}, {"networkProfile.networkPlugin", aText},
		{"networkProfile.networkPluginMode", aText}, {"networkProfile.serviceCidrs", aSet}, {"networkProfile.podCidrs", aSet}, {"networkProfile.dnsServiceIP", aText},
		{"networkProfile.outboundType", aText}, {"powerState.code", aText}},
	typeBinding: {{"sourceResourceId", aRef}, {"roles", aSet}, {"provisioningState", aText}},
	typeWorkspace: {{"location", aText}, {"identity.type", aText}, {"publicNetworkAccess", aText}, {"allowPublicAccessWhenBehindVnet", aTruth}, {"storageAccount", aRef}, {"keyVault", aRef},
		{"containerRegistry", aRef}, {"hbiWorkspace", aTruth}, {"imageBuildCompute", aText}, {"primaryUserAssignedIdentity", aRef}},
	typeCompute:   {{"resourceId", aRef}, {"identity.type", aText}, {"namespace", aText}},
	typeDatastore: {{"accountName", aText}},
	typeStorage: {{"location", aText}, {"publicNetworkAccess", aText}, {"allowSharedKeyAccess", aTrue}, {"isHnsEnabled", aTruth}, {"networkAcls.bypass", aText}, {"networkAcls.defaultAction", aText},
		{"networkAcls.virtualNetworkRules", aList}, {"networkAcls.resourceAccessRules", aList}},
	typeVault:    {{"location", aText}, {"publicNetworkAccess", aText}, {"networkAcls.bypass", aText}, {"networkAcls.defaultAction", aText}},
	typeRegistry: {{"location", aText}, {"sku.name", aText}, {"adminUserEnabled", aTruth}, {"publicNetworkAccess", aText}, {"networkRuleBypassOptions", aText}, {"dataEndpointEnabled", aTruth}},
	typeVNet:     {{"location", aText}, {"addressSpace.addressPrefixes", aSet}, {"dhcpOptions.dnsServers", aSet}},
	typeSubnet: {{"privateEndpointNetworkPolicies", aText}, {"delegations", aList}, {"serviceEndpoints", aList}, {"networkSecurityGroup.id", aRef},
		{"routeTable.id", aRef}},
	typePeering:  {{"remoteVirtualNetwork.id", aRef}, {"allowVirtualNetworkAccess", aTrue}, {"peeringState", aText}, {"peeringSyncLevel", aText}},
	typeEndpoint: {{"location", aText}, {"subnet.id", aRef}, {"customDnsConfigs", aList}},
	typeZone:     {}, typeFirewall: {},
	typeZoneGroup: {{"privateDnsZoneConfigs", aList}},
	typeLink:      {{"virtualNetwork.id", aRef}, {"registrationEnabled", aTruth}, {"virtualNetworkLinkState", aText}},
	typeA:         {{"aRecords", aList}},
	typeNSG:       {{"securityRules", aList}},
	typeRoutes:    {{"routes", aList}},
	typeExtension: {{"extensionType", aText}, {"configurationSettings", aList}},
}

// readsOf are the members of listed objects that rules read.
var readsOf = map[string][]string{
	"securityRules":         {"name", "priority", "access", "direction", "protocol", "destinationAddressPrefix", "destinationAddressPrefixes", "destinationPortRange", "destinationPortRanges"},
	"routes":                {"name", "addressPrefix", "nextHopType", "nextHopIpAddress"},
	"delegations":           {"serviceName"},
	"serviceEndpoints":      {"service"},
	"virtualNetworkRules":   {"id"},
	"resourceAccessRules":   {"resourceId"},
	"customDnsConfigs":      {"fqdn", "ipAddresses"},
	"privateDnsZoneConfigs": {"privateDnsZoneId"},
	"aRecords":              {"ipv4Address"},
	"configurationSettings": {"enableTraining", "enableInference", "inferenceRouterServiceType", "internalLoadBalancerProvider", "sslCname", "inferenceRouterHA"},
}

// facts of a graph, one line each: "type/name path" and what is known. where
// turns a form's made-up scopes into the real ones.
func facts(g *Graph, where func(string) string) map[string]string {
	out := map[string]string{}
	for _, r := range g.Resources() {
		list, judged := factsRead[originalType(r.Type)]
		if !judged {
			continue
		}
		id := where(r.ID)
		out[id] = "there"
		for _, f := range list {
			out[id+" "+f.path] = f.show(r.Get(strings.Split(f.path, ".")...), where)
		}
		switch originalType(r.Type) {
		case typeWorkspace:
			if list := (&env{g: g}).kubernetesComputes(r); len(list) > 0 {
				out[id+" Kubernetes /computes/"] = fmt.Sprint(len(list))
			}
		case typeSubnet:
			ps, _, _ := subnetPrefixes(r)
			out[id+" prefixes"] = join(ps)
		case typeEndpoint:
			for n, c := range connections(r) {
				groups, _ := c.Get("groupIds").Texts()
				slices.Sort(groups)
				out[fmt.Sprintf("%s connection %d", id, n)] = where(c.Get("privateLinkServiceId").Text()) + " " + strings.Join(groups, ",") + " " + fact{"", aText}.show(c.Get("privateLinkServiceConnectionState", "status"), where)
			}
		case typeCluster:
			for _, p := range (&env{g: g}).pools(r) {
				var parts []string
				for _, f := range []fact{{"count", aText}, {"minCount", aText}, {"maxCount", aText}, {"enableAutoScaling", aTruth}, {"maxPods", aText}, {"vmSize", aText}, {"vnetSubnetID", aRef}, {"podSubnetID", aRef}} {
					parts = append(parts, f.show(p.Get(f.path), where))
				}
				parts = append(parts, fact{"", aText}.show(p.Get("upgradeSettings", "maxSurge"), where))
				out[id+" pool "+p.Get("name").Text()] = strings.Join(parts, " ")
			}
		}
	}
	for _, who := range g.list(typeAssignment) { // by content: its name is a new GUID in each form
		out["assignment "+idName(who.Get("roleDefinitionId").Text())+" to "+ownerOf(g, who.Get("principalId").Text(), where)+" at "+where(who.Get("scope").Text())] = "there"
	}
	return out
}

// ownerOf names whose identity a principal is.
func ownerOf(g *Graph, principal string, where func(string) string) string {
	for _, r := range g.Resources() {
		if principal != "" && r.Get("identity", "principalId").Text() == principal {
			return where(r.ID)
		}
	}
	return principal
}

// originalType is the constant that a type of any case stands for.
func originalType(t string) string {
	for k := range factsRead {
		if sameType(k, t) {
			return k
		}
	}
	return t
}

func (f fact) show(v Value, where func(string) string) string {
	if v.State() == Unknown {
		return "?"
	}
	switch f.kind {
	case aTruth, aTrue:
		b, _ := v.Truth(f.kind == aTrue)
		return fmt.Sprint(b)
	case aRef:
		return where(v.Text())
	case aSet:
		texts, whole := v.Texts()
		slices.Sort(texts)
		return strings.Join(texts, " ") + cond(whole, "", " ?")
	case aList:
		name := f.path[strings.LastIndex(f.path, ".")+1:]
		var rows []string
		for _, item := range v.Items() {
			rows = append(rows, showRow(item, readsOf[name], where))
		}
		slices.Sort(rows)
		return strings.Join(rows, "; ")
	}
	return strings.ToLower(fold(strings.ReplaceAll(v.Text(), " ", "")))
}

func showRow(item Value, keys []string, where func(string) string) string {
	if item.State() == Unknown {
		return "?"
	}
	if s := item.Text(); s != "" { // a bare text stands for its one member
		return strings.ToLower(s)
	}
	var parts []string
	for _, k := range keys {
		v := item.Get(k)
		texts, _ := v.Texts()
		slices.Sort(texts)
		if v.State() == Unknown {
			texts = []string{"?"}
		}
		if s := strings.Join(append(texts, cond(len(texts) == 0, v.Text(), "")), ","); strings.Trim(s, ",") != "" {
			parts = append(parts, where(strings.Trim(s, ",")))
		}
	}
	return strings.ToLower(strings.Join(parts, " "))
}

func asIs(id string) string { return foldID(id) }

// differences between what a form should show and what it does. cannot lists
// what the form cannot tell: parts of a fact's name.
func differences(want, got map[string]string, cannot ...string) []string {
	var out []string
	excused := func(k string) bool {
		return slices.ContainsFunc(cannot, func(c string) bool { return strings.Contains(strings.ToLower(k), strings.ToLower(c)) })
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		switch g, there := got[k]; {
		case g == want[k]:
		case excused(k) && (!there || strings.Contains(g, "?")):
		default:
			out = append(out, fmt.Sprintf("%s: %q, want %q", k, cmp.Or(g, "(nothing)"), want[k]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, there := want[k]; !there && !excused(k) {
			out = append(out, fmt.Sprintf("%s: %q, which is not there", k, got[k]))
		}
	}
	return out
}

// One environment in every form that people have it in: each must yield the
// very same facts, or say that it cannot tell.
func TestOneEnvironmentInEveryFormYieldsTheSameFacts(t *testing.T) {
	base := load(t, "private")
	want := facts(base.graph(), asIs)
	if len(want) < 250 {
		t.Fatalf("only %d facts", len(want))
	}
	rows := func(change func(file string, rows []any) any) map[string][]byte {
		out := map[string][]byte{}
		for file, v := range load(t, "private").files {
			if list, ok := v.([]any); ok {
				v = change(file, list)
			}
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			out[file] = data
		}
		return out
	}
	nested := func(list []any) []any {
		out := make([]any, len(list))
		for i, r := range list {
			out[i] = nest(r.(map[string]any))
		}
		return out
	}
	settings := func(file string) bool { return file == "extensions.json" } // a map with keys of its own
	plan, state := terraformOf(t, base.graph(), true), terraformOf(t, base.graph(), false)
	byService := []string{"customdnsconfigs", "/privatednszones/privatelink", "noderesourcegroup", "datastores/workspaceblobstore"}
	for _, form := range []struct {
		name   string
		files  map[string][]byte
		where  func(string) string
		cannot []string
	}{
		{"az, flattened", rows(func(_ string, l []any) any { return reshape(l, func(k string) string { return k }, true) }), asIs, nil},
		{"az ml, snake case", rows(func(f string, l []any) any { return cond3(settings(f), l, reshape(l, snake, true)) }), asIs, nil},
		{"keys in capitals", rows(func(f string, l []any) any { return cond3(settings(f), l, reshape(l, strings.ToUpper, false)) }), asIs, nil},
		{"ARM", rows(func(_ string, l []any) any { return map[string]any{"value": nested(l)} }), asIs, nil},
		{"Resource Graph", rows(func(_ string, l []any) any {
			kept := []any{}
			for _, r := range nested(l) {
				if graphTable[fold(idType(r.(map[string]any)["id"].(string)))] != "" {
					kept = append(kept, r)
				}
			}
			return map[string]any{"count": len(kept), "total_records": len(kept), "data": kept, "skip_token": nil}
		}), asIs, []string{"/privatednszonegroups/", "/trustedaccessrolebindings/", "/computes/", "/datastores/", "assignment acrpull", "assignment " + roleBlobContributor, "assignment " + roleAccountContributor, "assignment " + roleAcrPull}},
		{"template", templateOf(t, base), func(id string) string {
			return strings.ReplaceAll(foldID(id), "/subscriptions/~template/resourcegroups/~template", foldID(testGroup))
		}, []string{"customdnsconfigs", "peeringstate", "peeringsynclevel", "linkstate", "powerstate", "provisioningstate", "noderesourcegroup", " connection ", "assignment "}},
		{"Terraform plan", map[string][]byte{"plan.json": plan}, planned2real, append(byService, "assignment "+roleNetworkContributor+" to "+deployer)},
		{"Terraform state", map[string][]byte{"state.json": state}, asIs, append(byService, "peeringstate", "peeringsynclevel", "linkstate", "powerstate", "provisioningstate", " connection ", "/azurebastionsubnet network", "/azurebastionsubnet route", "/endpoints network", "/endpoints route", "/nodes route")},
	} {
		t.Run(form.name, func(t *testing.T) {
			g := readAll(form.files)
			for _, p := range g.Problems {
				t.Errorf("problem: %+v", p)
			}
			got := facts(g, form.where)
			for _, d := range differences(want, got, form.cannot...) {
				t.Error(d)
			}
			t.Logf("%d of %d facts known", len(got), len(want))
		})
	}
}

func cond3(b bool, yes, no any) any {
	if b {
		return yes
	}
	return no
}

// planned2real puts the subscription into ids that a plan made up.
func planned2real(id string) string {
	return strings.ReplaceAll(foldID(id), "/subscriptions/~azurerm/", "/subscriptions/"+idSubscription(testGroup)+"/")
}
