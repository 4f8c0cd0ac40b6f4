package netenv

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// planJSON shows blocks as "terraform show -json" shows a plan that creates
// them: literal arguments are known, expressions become references, and what
// only the provider sets is unknown.
func planJSON(t *testing.T, blocks []block) []byte {
	t.Helper()
	var changes, config []any
	for _, b := range blocks {
		after, unknown, expressions := planned(b)
		unknown["id"] = true
		if id, ok := unknown["identity"].([]any); ok {
			id[0].(map[string]any)["principal_id"] = true
		}
		address := b.labels[1] + "." + b.labels[2]
		provider := "registry.terraform.io/hashicorp/" + strings.Split(b.labels[1], "_")[0]
		changes = append(changes, map[string]any{"address": address, "mode": "managed", "type": b.labels[1], "name": b.labels[2], "provider_name": provider,
			"change": map[string]any{"actions": []any{"create"}, "before": nil, "after": after, "after_unknown": unknown}})
		config = append(config, map[string]any{"address": address, "mode": "managed", "type": b.labels[1], "name": b.labels[2], "expressions": expressions})
	}
	data, err := json.Marshal(map[string]any{"format_version": "1.2", "terraform_version": "1.9.0", "planned_values": map[string]any{}, "resource_changes": changes,
		"configuration": map[string]any{"root_module": map[string]any{"resources": config}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var reference = regexp.MustCompile(`^[a-z]`)

func planned(b block) (after, unknown, expressions map[string]any) {
	after, unknown, expressions = map[string]any{}, map[string]any{}, map[string]any{}
	for _, a := range b.attrs {
		v, u, refs := plannedValue(a.value)
		name := strings.Trim(a.name, `"`)
		if v != nil {
			after[name] = v
		}
		if u != nil {
			unknown[name] = u
		}
		if refs == nil {
			expressions[name] = map[string]any{"constant_value": v}
		} else {
			expressions[name] = map[string]any{"references": refs}
		}
	}
	for _, n := range b.blocks {
		name := n.labels[0]
		v, u, e := planned(n)
		list, _ := after[name].([]any)
		after[name] = append(list, v)
		us, _ := unknown[name].([]any)
		unknown[name] = append(us, u)
		es, _ := expressions[name].([]any)
		expressions[name] = append(es, e)
	}
	return after, unknown, expressions
}

// names that are literals of what they refer to are known in a real plan.
var knownNames = map[string]string{}

func plannedValue(v any) (after, unknown any, refs []any) {
	switch v := v.(type) {
	case expr:
		s := string(v)
		if !reference.MatchString(s) {
			return s, nil, nil
		}
		short := strings.Join(strings.Split(s, ".")[:2], ".")
		refs = []any{s, short}
		if n := knownNames[s]; n != "" {
			return n, nil, refs
		}
		return nil, true, refs
	case []any:
		var list []any
		hidden := false
		for _, e := range v {
			a, u, r := plannedValue(e)
			list, refs = append(list, a), append(refs, r...)
			hidden = hidden || u != nil
		}
		if hidden { // a list with an unknown element of a set is unknown as a whole
			return nil, true, refs
		}
		return list, nil, refs
	case []setting:
		after, unknown := map[string]any{}, map[string]any{}
		for _, s := range v {
			a, u, r := plannedValue(s.value)
			name := strings.Trim(s.name, `"`)
			if u != nil {
				unknown[name] = u
			}
			if a != nil {
				after[name] = a
			}
			refs = append(refs, r...)
		}
		return after, unknown, refs
	}
	return v, nil, nil
}

func intent(t *testing.T, p Profile, more string) Intent {
	t.Helper()
	in, err := ParseIntent([]byte("name: fraud\nregion: westeurope\nnodes: 12\npodsPerNode: 40\nprofile: " + string(p) + "\n" + more))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestAPlannedEnvironmentPassesItsCheck(t *testing.T) {
	for _, p := range Profiles {
		for _, more := range []string{"", "flatPods: true\n", "highBusinessImpact: true\n"} {
			t.Run(string(p)+" "+strings.TrimSpace(more), func(t *testing.T) {
				in := intent(t, p, more)
				blocks := in.blocks()
				knownNames = map[string]string{"azurerm_resource_group.env.name": "fraud-ml", "azurerm_virtual_network.env.name": "fraud-net"}
				for _, b := range blocks {
					if b.labels[1] == "azurerm_private_dns_zone" {
						knownNames[b.labels[1]+"."+b.labels[2]+".name"] = b.attrs[0].value.(string)
					}
				}
				r := NewReader()
				r.Add("plan.json", planJSON(t, blocks), Export{})
				g := r.Graph()
				if len(g.Problems) > 0 {
					t.Fatalf("problems: %+v", g.Problems)
				}
				report := Check(g, Options{Now: testNow})
				if report.Profile != p {
					t.Errorf("detected %s: %s", report.Profile, report.Chosen)
				}
				for _, f := range report.Findings {
					if f.Verdict == Fail {
						t.Errorf("%s fails: %s %s", f.Code, f.Reason, f.Path())
					}
					if f.Verdict == Undecided && !livesOnly[f.Code] && !(p == Public && strings.HasPrefix(f.Reason, "the input shows no ")) {
						t.Errorf("%s is unknown: %s %v", f.Code, f.Reason, f.Resources)
					}
				}
				t.Log(report.Line())
			})
		}
	}
}

// livesOnly are the rules that a plan cannot answer: addresses and names that
// exist after it was applied, and who applies it.
var livesOnly = map[string]bool{"DN-03": true, "DN-05": true, "RB-02": true, "ST-05": true}

func TestWritePlans(t *testing.T) {
	dir := os.Getenv("NETENV_PLANS")
	if dir == "" {
		t.Skip("set NETENV_PLANS to a folder to look at the plans with terraform validate")
	}
	for _, p := range Profiles {
		if err := os.WriteFile(filepath.Join(dir, string(p)+".tf"), []byte(intent(t, p, "highBusinessImpact: true\n").Terraform()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
