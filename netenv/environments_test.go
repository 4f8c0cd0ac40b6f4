package netenv

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The six environments: what teams run, each described once.

func publicSite() *site {
	s := newSite("ml-open", "westeurope")
	ws := s.workspace("churn", s.storage("churnstore", s.region, true), s.vault("churn-vault", true), s.registry("churnimages", "Standard", true), true, false)
	aks := s.cluster("churn", "", false, "loadBalancer")
	made := *s // Azure's own network, in the cluster's node group
	made.group = "MC_ml-open_churn_westeurope"
	s.docs = append(s.docs, vnetOf(&made, "aks-vnet-1", "10.224.0.0/12", subnetOf{name: "aks-subnet", prefix: "10.224.0.0/16"}))
	s.attach(aks, ws, "score.churn.example", false)
	return s
}

func vnetOf(s *site, name, space string, subnets ...subnetOf) doc {
	n := len(s.docs)
	s.vnet(name, s.region, space, []any{}, subnets...)
	return s.docs[n]
}

func publicWorkspaceSite() *site {
	s := newSite("ml-shop", "northeurope")
	net := s.vnet("shop-net", s.region, "10.40.0.0/16", []any{}, subnetOf{name: "nodes", prefix: "10.40.0.0/20", service: "Microsoft.Storage"}, subnetOf{name: "endpoints", prefix: "10.40.16.0/24"})
	st, kv, cr := s.storage("shopstore", s.region, true), s.vault("shop-vault", false), s.registry("shopimages", "Premium", false)
	acls := s.props(st)["networkAcls"].(doc)
	acls["defaultAction"], acls["virtualNetworkRules"] = "Deny", []any{doc{"id": net + "/subnets/nodes", "action": "Allow", "state": "Succeeded"}}
	s.endpoint(kv, "vault", net+"/subnets/endpoints", net)
	s.endpoint(cr, "registry", net+"/subnets/endpoints", net)
	ws := s.workspace("shop", st, kv, cr, true, false)
	aks := s.cluster("shop", net+"/subnets/nodes", true, "loadBalancer")
	s.assign(aks, net+"/subnets/nodes", roleNetworkContributor)
	s.attach(aks, ws, "score.shop.internal", true)
	s.router("score.shop.internal", net)
	s.probe = true
	return s
}

// private is everything in networks, endpoints in one subnet.
func (s *site) private(name, endpoints string, hbi bool, linked ...string) (workspace string) {
	st, kv, cr := s.storage(name+"store", s.region, false), s.vault(name+"-vault", false), s.registry(name+"images", "Premium", false)
	ws := s.workspace(name, st, kv, cr, false, hbi)
	for _, g := range []string{"blob", "file", "queue", "table"} {
		s.endpoint(st, g, endpoints, linked...)
	}
	s.endpoint(kv, "vault", endpoints, linked...)
	s.endpoint(cr, "registry", endpoints, linked...)
	s.endpoint(ws, "amlworkspace", endpoints, linked...)
	s.probe = true
	return ws
}

func privateSite() *site {
	s := newSite("ml-bank", "westeurope")
	guard := s.nsg("nodes", outbound("Allow", virtualNetwork, "*"), outbound("Allow", "AzureActiveDirectory", "443"), outbound("Allow", "AzureMachineLearning", "443"),
		outbound("Allow", "AzureResourceManager", "443"), outbound("Allow", "AzureFrontDoor.FirstParty", "443"), outbound("Allow", "MicrosoftContainerRegistry", "443"),
		outbound("Allow", "AzureMonitor", "443"), outbound("Deny", "Internet", "*"))
	net := s.vnet("bank-net", s.region, "10.50.0.0/16", []any{}, subnetOf{name: "nodes", prefix: "10.50.0.0/20", nsg: guard}, subnetOf{name: "endpoints", prefix: "10.50.16.0/24"},
		subnetOf{name: "AzureBastionSubnet", prefix: "10.50.17.0/26"})
	ws := s.private("bank", net+"/subnets/endpoints", false, net)
	aks := s.cluster("bank", net+"/subnets/nodes", true, "loadBalancer")
	s.assign(aks, net+"/subnets/nodes", roleNetworkContributor)
	s.attach(aks, ws, "score.bank.internal", true)
	s.router("score.bank.internal", net)
	return s
}

// hubSite: a central team owns the hub with firewall, DNS servers, bastion and
// zones; the spoke's Terraform sees them as data sources.
func hubSite() *site {
	s := newSite("ml-spoke", "westeurope")
	hub := newSite("net-hub", "westeurope")
	hub.next, hub.principals = s.next, 100
	policy := hub.add(hub.id(typePolicy, "fw"), hub.region, doc{})
	hub.add(policy+"/ruleCollectionGroups/ml", "", doc{"priority": 200, "ruleCollections": []any{
		doc{"name": "tags", "priority": 100, "action": doc{"type": "Allow"}, "rules": []any{doc{"name": "ml", "ruleType": "NetworkRule", "ipProtocols": []any{"TCP"}, "sourceAddresses": []any{"10.60.0.0/16"},
			"destinationAddresses": []any{"AzureActiveDirectory", "AzureMachineLearning", "AzureResourceManager", "AzureFrontDoor.FirstParty", "MicrosoftContainerRegistry", "AzureMonitor"}, "destinationPorts": []any{"443"}}}},
		doc{"name": "aks", "priority": 200, "action": doc{"type": "Allow"}, "rules": []any{doc{"name": "aks", "ruleType": "ApplicationRule", "sourceAddresses": []any{"*"}, "targetFqdns": []any{}, "fqdnTags": []any{"AzureKubernetesService"}}}}}})
	hub.add(hub.id(typeFirewall, "fw"), hub.region, doc{"firewallPolicy": doc{"id": policy}, "ipConfigurations": []any{doc{"name": "ip", "properties": doc{"privateIPAddress": "10.0.0.4"}}}})
	hubNet := hub.vnet("hub", hub.region, "10.0.0.0/16", []any{"10.0.1.4", "10.0.1.5"}, subnetOf{name: "AzureFirewallSubnet", prefix: "10.0.0.0/26"}, subnetOf{name: "dns", prefix: "10.0.1.0/28"},
		subnetOf{name: "endpoints", prefix: "10.0.2.0/24"}, subnetOf{name: "AzureBastionSubnet", prefix: "10.0.3.0/26"})
	hub.add(hub.id(typeBastion, "bastion"), hub.region, doc{})
	routes := s.add(s.id(typeRoutes, "out"), s.region, doc{"routes": []any{doc{"name": "default", "properties": doc{"addressPrefix": "0.0.0.0/0", "nextHopType": "VirtualAppliance", "nextHopIpAddress": "10.0.0.4"}}}})
	net := s.vnet("spoke", s.region, "10.60.0.0/16", []any{"10.0.1.4", "10.0.1.5"}, subnetOf{name: "nodes", prefix: "10.60.0.0/20", routes: routes})
	s.docs = append(s.docs, hub.docs...)
	s.given = []string{hubNet, policy, hub.id(typeFirewall, "fw"), hub.id(typeBastion, "bastion")}
	s.peer(net, hubNet)
	ws := s.private("spoke", hubNet+"/subnets/endpoints", false, hubNet)
	aks := s.cluster("spoke", net+"/subnets/nodes", true, "userDefinedRouting")
	s.assign(aks, net+"/subnets/nodes", roleNetworkContributor)
	s.given = append(s.given, s.docs[len(s.docs)-1]["id"].(string)) // by the platform team
	s.attach(aks, ws, "score.spoke.internal", true)
	s.router("score.spoke.internal", hubNet)
	return s
}

func regionsSite() *site {
	s := newSite("ml-twin", "westeurope")
	here := s.vnet("twin-weu", "westeurope", "10.70.0.0/16", []any{}, subnetOf{name: "nodes", prefix: "10.70.0.0/20"}, subnetOf{name: "endpoints", prefix: "10.70.16.0/24"}, subnetOf{name: "GatewaySubnet", prefix: "10.70.17.0/27"})
	there := s.vnet("twin-neu", "northeurope", "10.71.0.0/16", []any{}, subnetOf{name: "endpoints", prefix: "10.71.0.0/24"})
	s.peer(here, there)
	ws := s.private("twin", here+"/subnets/endpoints", false, here, there)
	lake := s.storage("twinlake", "northeurope", false)
	s.endpoint(lake, "blob", there+"/subnets/endpoints", here, there)
	s.add(ws+"/datastores/lake", "", doc{"datastoreType": "AzureBlob", "accountName": "twinlake"})
	aks := s.cluster("twin", here+"/subnets/nodes", true, "loadBalancer")
	s.assign(aks, here+"/subnets/nodes", roleNetworkContributor)
	s.attach(aks, ws, "score.twin.internal", true)
	s.router("score.twin.internal", here, there)
	return s
}

func hbiSite() *site {
	s := newSite("ml-care", "swedencentral")
	net := s.vnet("care-net", s.region, "10.80.0.0/16", []any{}, subnetOf{name: "nodes", prefix: "10.80.0.0/20"}, subnetOf{name: "endpoints", prefix: "10.80.16.0/24"}, subnetOf{name: "AzureBastionSubnet", prefix: "10.80.17.0/26"})
	ws := s.private("care", net+"/subnets/endpoints", true, net)
	s.props(s.id(typeStorage, "carestore"))["allowSharedKeyAccess"] = false
	aks := s.cluster("care", net+"/subnets/nodes", true, "loadBalancer")
	s.assign(aks, net+"/subnets/nodes", roleNetworkContributor)
	s.attach(aks, ws, "score.care.internal", true)
	s.router("score.care.internal", net)
	return s
}

// environments by name, with the profile that each is detected as.
var environments = []struct {
	name    string
	profile Profile
	make    func() *site
}{
	{"public", Public, publicSite}, {"public workspace", PublicWorkspace, publicWorkspaceSite}, {"fully private", Private, privateSite},
	{"hub and spoke with custom DNS", Private, hubSite}, {"two peered regions", Private, regionsSite}, {"HBI", Private, hbiSite},
}

// forms of one environment: its findings' verdicts by rule and resources.
func (s *site) forms(t *testing.T, p Profile) (folder, plan *Report) {
	t.Helper()
	w := s.collected(t)
	g := w.graph()
	given := func(r *Resource) bool {
		return slices.ContainsFunc(s.given, func(id string) bool { return inScope(r.ID, id) })
	}
	r := NewReader()
	r.Add("plan.json", terraformPlan(t, g, given), Export{})
	planned := r.Graph()
	for _, problem := range planned.Problems {
		t.Errorf("plan: %+v", problem)
	}
	return Check(g, Options{Profile: p, Now: testNow}), Check(planned, Options{Profile: p, Now: testNow})
}

// byFinding maps "code resources" to its verdict, with a plan's made-up
// subscription and names of assignments put right.
func byFinding(r *Report) map[string]Verdict {
	out := map[string]Verdict{}
	for i := range r.Findings {
		f := &r.Findings[i]
		ids := make([]string, len(f.Resources))
		for n, id := range f.Resources {
			ids[n] = strings.ReplaceAll(foldID(id), "/subscriptions/~azurerm/", "/subscriptions/"+siteSub+"/")
		}
		key := f.Code + " " + strings.Join(ids, " ")
		if old, there := out[key]; !there || verdictRank(f.Verdict) < verdictRank(old) {
			out[key] = f.Verdict
		}
	}
	return out
}

// contradictions are findings that pass in one form and fail in the other.
func contradictions(a, b *Report) []string {
	va, vb := byFinding(a), byFinding(b)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(va)) {
		if x, y := va[k], vb[k]; x == Pass && y == Fail || x == Fail && y == Pass {
			out = append(out, fmt.Sprintf("%s: %s and %s", k, x, y))
		}
	}
	// And by rule as a whole, whatever it was about.
	ra, rb := verdicts(a), verdicts(b)
	for _, r := range Rules() {
		if x, y := ra[r.Code], rb[r.Code]; x == Fail && y == Pass || x == Pass && y == Fail {
			out = append(out, fmt.Sprintf("%s: %s and %s", r.Code, x, y))
		}
	}
	return out
}

func TestSixEnvironmentsAsFolderAndAsPlan(t *testing.T) {
	var table strings.Builder
	columns := make([]map[string]Verdict, 0, 12)
	for _, e := range environments {
		t.Run(e.name, func(t *testing.T) {
			s := e.make()
			folder, plan := s.forms(t, "")
			columns = append(columns, verdicts(folder), verdicts(plan))
			if folder.Profile != e.profile || plan.Profile != e.profile {
				t.Errorf("detected %s (%s) and %s (%s), want %s", folder.Profile, folder.Chosen, plan.Profile, plan.Chosen, e.profile)
			}
			for _, c := range contradictions(folder, plan) {
				t.Error(c)
			}
			for _, r := range []*Report{folder, plan} {
				for _, f := range r.shown(Fail) {
					t.Errorf("%s fails: %s %v %s", f.Code, f.Reason, f.Resources, f.Path())
				}
			}
			for _, f := range folder.shown(Undecided) {
				if f.Code != "RB-02" {
					t.Errorf("%s is unknown in the folder: %s %v", f.Code, f.Reason, f.Resources)
				}
			}
			for _, f := range plan.shown(Undecided) {
				elsewhere := len(s.given) > 0 && strings.HasSuffix(f.Reason, "are peered is not known") || e.profile == Public && strings.HasPrefix(f.Reason, "the input shows no ")
				if fromTerraform[f.Code] == "" && !elsewhere {
					t.Errorf("%s is unknown in the plan: %s %v", f.Code, f.Reason, f.Resources)
				}
			}
			t.Log(folder.Line())
			t.Log(plan.Line())
		})
	}
	if t.Failed() || len(columns) != 12 {
		return
	}
	letter := map[Verdict]string{Pass: "pass", Fail: "FAIL", Undecided: "?", NotApplicable: "n/a", "": "-"}
	table.WriteString("Verdicts of the six environments, as collected folder and as plan:\n\n")
	for i, e := range environments {
		fmt.Fprintf(&table, "%d  %s\n", i+1, e.name)
	}
	table.WriteString("\ncode  " + strings.Join([]string{"1 folder", "1 plan", "2 folder", "2 plan", "3 folder", "3 plan", "4 folder", "4 plan", "5 folder", "5 plan", "6 folder", "6 plan"}, "  ") + "\n")
	for _, r := range Rules() {
		fmt.Fprintf(&table, "%s ", r.Code)
		for i, c := range columns {
			fmt.Fprintf(&table, " %-*s", choose(i%2 == 0, 9, 7), letter[c[r.Code]])
		}
		table.WriteString("\n")
	}
	golden(t, filepath.Join("testdata", "environments.txt"), table.String())
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	got = trailing(got)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s differs (go test ./netenv -update writes it): %v\n%s", path, err, got)
	}
}

func trailing(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

// fault breaks an environment; false means that it has nothing to break.
type fault struct {
	name, code string
	do         func(*site) bool
}

// each applies a change to every resource of a type.
func each(typ string, change func(s *site, d, props doc)) func(*site) bool {
	return func(s *site) bool {
		n := 0
		for _, d := range slices.Clone(s.docs) {
			if d["type"] == typ {
				change(s, d, d["properties"].(doc))
				n++
			}
		}
		return n > 0
	}
}

// without removes resources whose id holds a text.
func without(typ, text string) func(*site) bool {
	return func(s *site) bool {
		n := len(s.docs)
		s.docs = slices.DeleteFunc(s.docs, func(d doc) bool {
			return d["type"] == typ && strings.Contains(strings.ToLower(d["id"].(string)), text)
		})
		return len(s.docs) < n
	}
}

// nodes changes the subnet of the nodes, where it is the team's own.
func nodes(change func(props doc)) func(*site) bool {
	return func(s *site) bool {
		found := false
		each(typeVNet, func(_ *site, _, p doc) {
			for _, n := range p["subnets"].([]any) {
				if n.(doc)["name"] == "nodes" {
					change(n.(doc)["properties"].(doc))
					found = true
				}
			}
		})(s)
		return found
	}
}

func connection(p doc) doc {
	return p["privateLinkServiceConnections"].([]any)[0].(doc)["properties"].(doc)
}

var faults = []fault{
	{"the registry is Standard", "CR-01", each(typeRegistry, func(_ *site, d, _ doc) { d["sku"] = doc{"name": "Standard"} })},
	{"the registry trusts nobody", "CR-02", each(typeRegistry, func(_ *site, _, p doc) { p["networkRuleBypassOptions"] = "None" })},
	{"the storage account trusts nobody", "ST-02", each(typeStorage, func(_ *site, _, p doc) { p["networkAcls"].(doc)["bypass"] = "None" })},
	{"the vault trusts nobody", "KV-02", each(typeVault, func(_ *site, _, p doc) { p["networkAcls"].(doc)["bypass"] = "None" })},
	{"the workspace is open", "WS-01", each(typeWorkspace, func(_ *site, _, p doc) { p["publicNetworkAccess"] = "Enabled" })},
	{"the workspace has a user identity only", "WS-04", each(typeWorkspace, func(_ *site, d, _ doc) { d["identity"].(doc)["type"] = "UserAssigned" })},
	{"nothing builds images", "WS-07", each(typeWorkspace, func(_ *site, _, p doc) { delete(p, "imageBuildCompute") })},
	{"a network uses Docker's range", "VN-01", each(typeVNet, func(_ *site, _, p doc) {
		a := p["addressSpace"].(doc)
		a["addressPrefixes"] = append(a["addressPrefixes"].([]any), "172.17.0.0/16")
	})},
	{"service addresses overlap the network", "VN-02", each(typeCluster, func(s *site, _, p doc) {
		n := p["networkProfile"].(doc)
		for _, d := range s.docs {
			if d["type"] == typeVNet {
				space := d["properties"].(doc)["addressSpace"].(doc)["addressPrefixes"].([]any)[0]
				n["serviceCidr"], n["serviceCidrs"] = space, []any{space}
			}
		}
	})},
	{"the nodes' subnet is small", "VN-03", nodes(func(p doc) { p["addressPrefix"] = strings.Split(p["addressPrefix"].(string), "/")[0] + "/26" })},
	{"the nodes' subnet is delegated", "VN-04", nodes(func(p doc) {
		p["delegations"] = []any{doc{"name": "d", "properties": doc{"serviceName": "Microsoft.Web/serverFarms"}}}
	})},
	{"a peering goes one way", "VN-05", func(s *site) bool {
		done := false
		each(typeVNet, func(_ *site, d, p doc) {
			if list := p["virtualNetworkPeerings"].([]any); len(list) > 0 && !done {
				p["virtualNetworkPeerings"], done = []any{}, true
			}
		})(s)
		return done
	}},
	{"a peering carries nothing", "VN-05", func(s *site) bool {
		done := false
		each(typeVNet, func(_ *site, _, p doc) {
			for _, e := range p["virtualNetworkPeerings"].([]any) {
				e.(doc)["properties"].(doc)["allowVirtualNetworkAccess"], done = false, true
			}
		})(s)
		return done
	}},
	{"endpoints wait for approval", "PE-01", each(typeEndpoint, func(_ *site, _, p doc) {
		connection(p)["privateLinkServiceConnectionState"] = doc{"status": "Pending"}
		p["manualPrivateLinkServiceConnections"], p["privateLinkServiceConnections"] = p["privateLinkServiceConnections"], []any{}
	})},
	{"the vault's endpoint has a wrong group", "PE-02", each(typeEndpoint, func(_ *site, d, p doc) {
		if strings.HasSuffix(d["name"].(string), "-vault") {
			connection(p)["groupIds"] = []any{"sites"}
		}
	})},
	{"no zone groups", "DN-01", without(typeZoneGroup, "/privatednszonegroups/")},
	{"zones are linked nowhere", "DN-02", without(typeLink, "/virtualnetworklinks/")},
	{"links register machines", "DN-02", each(typeLink, func(_ *site, _, p doc) { p["registrationEnabled"] = true })},
	{"no role binding", "AK-03", without(typeBinding, "/trustedaccessrolebindings/")},
	{"the binding names another role", "TA-01", each(typeBinding, func(_ *site, _, p doc) {
		p["roles"] = []any{"Microsoft.MachineLearningServices/workspaces/inference-v1"}
	})},
	{"the cluster is in another region", "AK-06", each(typeCluster, func(_ *site, d, _ doc) { d["location"] = "francecentral" })},
	{"the cluster uses kubenet", "AK-08", each(typeCluster, func(_ *site, _, p doc) { p["networkProfile"].(doc)["networkPlugin"] = "kubenet" })},
	{"a compute without identity", "WS-06", each(typeCompute, func(_ *site, d, _ doc) { delete(d, "identity") })},
	{"nobody may pull images", "CR-05", without(typeAssignment, "/registries/")},
	{"an extension setting is misspelt", "EX-01", each(typeExtension, func(_ *site, _, p doc) { p["configurationSettings"].(doc)["slKeyPemFile"] = "key.pem" })},
	{"the security group denies", "EG-01", each(typeNSG, func(_ *site, _, p doc) { p["securityRules"].([]any)[2].(doc)["properties"].(doc)["access"] = "Deny" })},
	{"the firewall lets nothing through", "EG-01", each(typePolicySet, func(_ *site, _, p doc) { p["ruleCollections"] = []any{} })},
	{"the default route drops everything", "EG-01", each(typeRoutes, func(_ *site, _, p doc) {
		p["routes"].([]any)[0].(doc)["properties"] = doc{"addressPrefix": "0.0.0.0/0", "nextHopType": "None"}
	})},
}

// Every fault in every environment that it fits: the folder shows it, and the
// plan shows it or says that it cannot know. Neither passes what the other fails.
func TestFaultsNeverPassInOneFormAndFailInTheOther(t *testing.T) {
	shown, unsure := 0, 0
	for _, f := range faults {
		fits := 0
		for _, e := range environments {
			s := e.make()
			if RuleByCode(f.code).Severity[e.profile.index()] == Off || !f.do(s) {
				continue
			}
			folder, plan := s.forms(t, e.profile)
			for _, c := range contradictions(folder, plan) {
				t.Errorf("%s, %s: %s", f.name, e.name, c)
			}
			switch v := verdicts(folder)[f.code]; v {
			case Fail:
				fits++
			case NotApplicable:
				continue
			default:
				if !(f.code == "WS-06" && e.name != "HBI") {
					t.Errorf("%s, %s: the folder's %s is %s: %s", f.name, e.name, f.code, v, reasons(folder, f.code))
				}
			}
			if verdicts(plan)[f.code] == Fail {
				shown++
			} else {
				unsure++
			}
		}
		if fits == 0 {
			t.Errorf("%s fits no environment", f.name)
		}
	}
	t.Logf("plans show %d faults and cannot know %d", shown, unsure)
}

// To look at them: NETENV_ENVIRONMENTS=folder go test ./netenv -run WriteEnv.
func TestWriteEnvironments(t *testing.T) {
	dir := os.Getenv("NETENV_ENVIRONMENTS")
	if dir == "" {
		t.Skip("set NETENV_ENVIRONMENTS to a folder to look at the environments, clean and broken")
	}
	for _, e := range environments {
		for _, broken := range []bool{false, true} {
			s := e.make()
			if broken {
				for _, f := range faults {
					if slices.Contains([]string{"a peering goes one way", "the vault's endpoint has a wrong group", "links register machines", "the nodes' subnet is small"}, f.name) {
						f.do(s)
					}
				}
			}
			to := filepath.Join(dir, strings.ReplaceAll(e.name, " ", "-")+cond(broken, "-broken", ""))
			w := s.collected(t)
			if err := os.MkdirAll(to, 0o700); err != nil {
				t.Fatal(err)
			}
			m := Manifest{Kind: ManifestKind, Scope: "/subscriptions/" + siteSub, Time: testNow}
			for name, v := range w.files {
				data, err := json.MarshalIndent(v, "", " ")
				if err != nil {
					t.Fatal(err)
				}
				if x, listed := w.manifest[name]; listed {
					m.Files = append(m.Files, x)
				}
				if err := os.WriteFile(filepath.Join(to, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			data, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range map[string][]byte{ManifestFile: data, "../" + filepath.Base(to) + ".plan": terraformPlan(t, w.graph(), func(r *Resource) bool { return false })} {
				if err := os.WriteFile(filepath.Join(to, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
