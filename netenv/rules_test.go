package netenv

import (
	"slices"
	"strings"
	"testing"
)

// bases are clean environments that the cases start from: the private one, and
// variants of it that bring other rules into play.
var bases = map[string]func(*world){
	"": func(*world) {},
	"ranges": func(w *world) { // a public cluster, bounded, without the service's ranges
		w.set("clusters.json prod apiServerAccessProfile.enablePrivateCluster", false)
		w.set("clusters.json prod apiServerAccessProfile.authorizedIpRanges", []any{"198.51.100.0/24"})
		w.tags()
	},
	"service endpoints": func(w *world) {
		subnet := "/subscriptions/6f2d1c3a-0b57-4e0e-9d2b-5a1f0c7e8b11/resourceGroups/ml-prod/providers/Microsoft.Network/virtualNetworks/net-aks/subnets/nodes"
		w.set("storage.json fraudstore networkRuleSet.virtualNetworkRules", []any{map[string]any{"virtualNetworkResourceId": subnet, "action": "Allow", "state": "Succeeded"}})
		w.set("storage.json fraudstore publicNetworkAccess", "Enabled")
		w.set("vnets.json net-aks subnets.0.serviceEndpoints", []any{map[string]any{"service": "Microsoft.Storage", "locations": []any{"*"}}})
		w.set("storage.json fraudstore privateEndpointConnections", []any{})
		for _, g := range []string{"blob", "file", "queue", "table"} {
			w.drop("endpoints.json", named("fraudstore-"+g))
			w.drop("zonegroups.json", func(r map[string]any) bool { return strings.Contains(r["id"].(string), "/fraudstore-"+g+"/") })
		}
	},
	"user identity": func(w *world) {
		uai := "/subscriptions/6f2d1c3a-0b57-4e0e-9d2b-5a1f0c7e8b11/resourceGroups/ml-prod/providers/Microsoft.ManagedIdentity/userAssignedIdentities/fraud"
		w.set("workspaces.json fraud identity.type", "SystemAssigned,UserAssigned")
		w.set("workspaces.json fraud identity.userAssignedIdentities", map[string]any{uai: map[string]any{"principalId": "a0000000-0000-4000-8000-000000000007"}})
		w.set("workspaces.json fraud properties.primaryUserAssignedIdentity", uai)
		for i, role := range []string{roleClusterAdmin, roleExtensionContributor, roleContributor} {
			w.assign("2000000000"+string(rune('0'+i)), "a0000000-0000-4000-8000-000000000007", "/providers/Microsoft.ContainerService/managedClusters/prod", role)
		}
	},
	"custom dns": func(w *world) {
		w.set("vnets.json net-aks dhcpOptions.dnsServers", []any{"10.20.1.53"})
	},
}

func (w *world) tags() {
	w.files["servicetags.json"] = load(w.t, ".").files["servicetags.json"]
}

func (w *world) assign(id, principal, at, role string) {
	g := "/subscriptions/6f2d1c3a-0b57-4e0e-9d2b-5a1f0c7e8b11/resourceGroups/ml-prod" + at
	w.add("roles.json", `{"id":"`+g+`/providers/Microsoft.Authorization/roleAssignments/`+id+`","name":"`+id+`","principalId":"`+principal+`","scope":"`+g+`","roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/`+role+`"}`)
}

// a case changes a clean environment until a rule answers as wanted.
type ruleCase struct {
	code   string
	base   string
	want   Verdict
	change func(*world)
	// also are the codes whose verdict changes with it: follow-ons, or rules
	// about the very same fact.
	also string
}

func set(where string, value any) func(*world) {
	return func(w *world) { w.set(where, value) }
}
func forget(files ...string) func(*world) { return func(w *world) { w.forget(files...) } }
func both(fs ...func(*world)) func(*world) {
	return func(w *world) {
		for _, f := range fs {
			f(w)
		}
	}
}
func dropNamed(file string, names ...string) func(*world) {
	return func(w *world) { w.drop(file, named(names...)) }
}

func TestRules(t *testing.T) {
	before := map[string]map[string]Verdict{}
	for name, change := range bases {
		w := load(t, "private")
		change(w)
		r := w.check(Private)
		before[name] = verdicts(r)
		for _, f := range r.Findings {
			if f.Verdict == Fail || f.Verdict == Undecided && f.Code != "EG-01" {
				t.Errorf("base %q is not clean: %s %s %s", name, f.Code, f.Verdict, f.Reason)
			}
		}
	}
	for _, tc := range ruleCases() {
		t.Run(tc.code+" "+string(tc.want), func(t *testing.T) {
			w := load(t, "private")
			bases[tc.base](w)
			if tc.change != nil {
				tc.change(w)
			}
			r := w.check(Private)
			after := verdicts(r)
			if after[tc.code] != tc.want {
				t.Errorf("%s is %s, want %s: %s", tc.code, after[tc.code], tc.want, reasons(r, tc.code))
			}
			if tc.want != Fail {
				return
			}
			var also []string
			for code, v := range after {
				if code != tc.code && v != before[tc.base][code] {
					also = append(also, code)
				}
			}
			slices.Sort(also)
			if got := strings.Join(also, " "); got != tc.also {
				t.Errorf("other verdicts that changed: %q, listed: %q", got, tc.also)
			}
			for _, f := range r.Findings {
				if f.Code != tc.code || f.Verdict != Fail || f.Follows != "" {
					continue
				}
				if f.Fix.Az == "" || f.Fix.Terraform == "" {
					t.Errorf("no fix: %+v", f.Fix)
				}
				if len(f.Evidence) == 0 || !slices.ContainsFunc(f.Evidence, func(s Step) bool { return s.Broken }) {
					t.Errorf("no step of the evidence is broken: %+v", f.Evidence)
				}
				if !slices.ContainsFunc(f.Evidence, func(s Step) bool { return s.File != "" && !s.Time.IsZero() || tc.code == "DN-05" || tc.code == "VN-07" }) {
					t.Errorf("no evidence with file and time: %+v", f.Evidence)
				}
			}
		})
	}
}

func reasons(r *Report, code string) string {
	var out []string
	for _, f := range r.Findings {
		if f.Code == code {
			out = append(out, string(f.Verdict)+": "+f.Reason)
		}
	}
	return strings.Join(out, "; ")
}

func TestEveryRuleHasAllThreeVerdicts(t *testing.T) {
	have := map[string]map[Verdict]bool{}
	for _, tc := range ruleCases() {
		if have[tc.code] == nil {
			have[tc.code] = map[Verdict]bool{}
		}
		have[tc.code][tc.want] = true
	}
	clean := verdicts(load(t, "private").check(Private))
	for _, r := range Rules() {
		for _, v := range []Verdict{Pass, Fail, Undecided} {
			if !have[r.Code][v] && !(v == Pass && clean[r.Code] == Pass) {
				t.Errorf("%s has no case for %q", r.Code, v)
			}
		}
	}
}
