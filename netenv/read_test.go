package netenv

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/netenv/probe"
)

// flattened and snake turn the fixture's rows into the other forms that az
// prints.
func reshape(v any, key func(string) string, hoist bool) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			e = reshape(e, key, hoist)
			if inner, ok := e.(map[string]any); ok && hoist && k == "properties" {
				for ik, ie := range inner {
					out[ik] = ie
				}
				continue
			}
			out[key(k)] = e
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = reshape(v[i], key, hoist)
		}
		return out
	}
	return v
}

// nest is ARM's form of a flattened row: all but the envelope under properties.
func nest(row map[string]any) map[string]any {
	out, props := map[string]any{}, map[string]any{}
	for k, v := range row {
		switch k {
		case "id", "name", "type", "location", "sku", "identity", "kind", "tags", "resourceGroup", "properties":
			out[k] = v
		default:
			props[k] = v
		}
	}
	if _, has := out["properties"]; !has && len(props) > 0 {
		out["properties"] = props
	}
	return out
}

func snake(k string) string {
	if strings.ContainsAny(k, "/.") {
		return k
	}
	var b strings.Builder
	for _, c := range k {
		if c >= 'A' && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

func TestOneEnvironmentInEveryFormIsJudgedAlike(t *testing.T) {
	want := verdicts(load(t, "private").check(Private))
	forms := map[string]func(rows []any) any{
		"flattened":  func(rows []any) any { return reshape(rows, func(k string) string { return k }, true) },
		"snake case": func(rows []any) any { return reshape(rows, snake, true) },
		"upper case": func(rows []any) any { return reshape(rows, strings.ToUpper, false) },
		"ARM": func(rows []any) any {
			out := make([]any, len(rows))
			for i, r := range rows {
				out[i] = nest(r.(map[string]any))
			}
			return out
		},
		"Resource Graph": func(rows []any) any {
			return map[string]any{"count": len(rows), "total_records": len(rows), "data": rows, "skip_token": nil}
		},
		"ARM list": func(rows []any) any { return map[string]any{"value": rows} },
	}
	for name, form := range forms {
		t.Run(name, func(t *testing.T) {
			w := load(t, "private")
			for file, v := range w.files {
				if rows, ok := v.([]any); ok && (file != "extensions.json" || name != "upper case" && name != "snake case") { // its settings are a map with keys of their own
					w.files[file] = form(rows)
				}
			}
			for code, v := range verdicts(w.check(Private)) {
				if want[code] != v {
					t.Errorf("%s is %s, in the fixture's form %s", code, v, want[code])
				}
			}
		})
	}
}

func TestACutListingProvesNothing(t *testing.T) {
	rows := make([]any, cutAt)
	for i := range rows {
		rows[i] = map[string]any{"id": fmt.Sprintf("%s/providers/Microsoft.Network/privateEndpoints/e%d", testGroup, i), "type": typeEndpoint}
	}
	for _, doc := range []map[string]any{
		{"count": cutAt, "total_records": 1200, "data": rows}, {"count": cutAt, "data": rows}, {"count": 2, "data": rows[:2], "skip_token": "x"},
	} {
		data, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		r := NewReader()
		r.Add("page.json", data, Export{Type: typeEndpoint, Scope: "/subscriptions/6f2d1c3a-0b57-4e0e-9d2b-5a1f0c7e8b11"})
		g := r.Graph()
		if len(g.Problems) != 1 || g.complete(typeEndpoint, testGroup) {
			t.Errorf("problems %v, complete %v", g.Problems, g.complete(typeEndpoint, testGroup))
		}
	}
}

func TestBrokenAndForeignFilesGivePlaceAndReason(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"broken.json": "{\n  \"id\": \"x\",\n  oops\n}", "foreign.json": `[{"hello":1},{"id":"no/arm/id"}]`, "number.json": "7",
		"shell.json": `{"id":"/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/$(reboot)"}`,
		"good.json":  `{"id":"` + testGroup + `/providers/Microsoft.Network/virtualNetworks/v","addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if g.Len() != 1 || len(g.Problems) != 5 {
		t.Errorf("%d resources, problems %+v", g.Len(), g.Problems)
	}
	for _, p := range g.Problems {
		if strings.HasSuffix(p.File, "broken.json") && p.Place != "line 3 column 3" {
			t.Errorf("place %q", p.Place)
		}
	}
	if _, err := Read(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent path was read")
	}
}

func TestTemplates(t *testing.T) {
	r := NewReader()
	r.Add("template.json", []byte(`{"$schema":"https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#","contentVersion":"1.0.0.0","resources":[
		{"type":"Microsoft.Network/virtualNetworks","apiVersion":"2024-01-01","name":"net","location":"[resourceGroup().location]","properties":{"addressSpace":{"addressPrefixes":["172.17.0.0/16"]}},
		 "resources":[{"type":"subnets","name":"a","properties":{"addressPrefix":"172.17.0.0/24","networkSecurityGroup":{"id":"[resourceId('Microsoft.Network/networkSecurityGroups','nsg')]"}}}]},
		{"type":"Microsoft.Network/virtualNetworks","name":"[parameters('name')]","properties":{}}]}`), Export{})
	g := r.Graph()
	v := g.list(typeVNet)
	if len(v) != 1 || len(g.Problems) != 1 {
		t.Fatalf("%d networks, problems %+v", len(v), g.Problems)
	}
	if got := v[0].Get("location").State(); got != Unknown {
		t.Errorf("an expression is %v", got)
	}
	subnets := g.below(v[0].ID, typeSubnet)
	if len(subnets) != 1 || idType(subnets[0].Get("networkSecurityGroup", "id").Text()) != typeNSG {
		t.Errorf("subnets: %+v", subnets)
	}
	if f := verdicts(Check(g, Options{Profile: Private})); f["VN-01"] != Fail {
		t.Errorf("VN-01 is %s", f["VN-01"])
	}
}

func FuzzRead(f *testing.F) {
	for _, dir := range []string{"private", "."} {
		names, _ := filepath.Glob(filepath.Join("testdata", dir, "*.json"))
		for _, n := range names {
			if data, err := os.ReadFile(n); err == nil && len(data) < 8000 {
				f.Add(data)
			}
		}
	}
	f.Add([]byte(`{"format_version":"1.2","terraform_version":"1","resource_changes":[{"address":"module.a.azurerm_subnet.x[0]","type":"azurerm_subnet","change":{"actions":["create"],"after":{"name":"x"},"after_unknown":{"id":true,"delegation":[{}]}}}],"configuration":{"root_module":{"module_calls":{"a":{"expressions":{"v":{"references":["module.a.v"]}},"module":{"outputs":{"v":{"expression":{"references":["var.v"]}}}}}}}}}`))
	f.Add([]byte(`{"$schema":"x/deploymentTemplate.json","resources":[{"type":"A.B/c","name":"d","resources":[{"type":"e","name":"f"}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			t.Skip()
		}
		begin := time.Now()
		r := NewReader()
		r.Add("fuzz.json", data, Export{})
		report := Check(r.Graph(), Options{})
		formats := Formats
		if len(data)%16 != 0 { // the pages cost most: now and then
			formats = formats[:1]
		}
		for _, format := range formats {
			if err := report.Write(discard{}, format); err != nil {
				t.Fatalf("%s: %v", format, err)
			}
		}
		_ = report.FixTerraform()
		if err := report.Draw(discard{}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 20*time.Second {
			t.Fatalf("took %s", took)
		}
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestTheProbesReportIsRead(t *testing.T) {
	w := load(t, "private")
	data, err := json.Marshal(probe.Report{Kind: probe.Kind, Cluster: testGroup + "/providers/Microsoft.ContainerService/managedClusters/prod",
		Names: []probe.Name{{Name: "fraudvault.vault.azure.net", Addresses: []string{"20.60.1.1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	w.files["probe.json"] = v
	if f := verdicts(w.check(Private)); f["DN-05"] != Fail {
		t.Errorf("a public address inside the cluster: DN-05 is %s", f["DN-05"])
	}
}
