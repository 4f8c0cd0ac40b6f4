package netenv

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// judged reads one document, checks and renders it: no input may make it panic,
// hang, or find more problems than a file may have.
func judged(t *testing.T, data []byte, e Export) {
	t.Helper()
	r := NewReader()
	r.Add("fuzz.json", data, e)
	g := r.Graph()
	if len(g.Problems) > maxProblems+1 {
		t.Fatalf("%d problems of one file", len(g.Problems))
	}
	report := Check(g, Options{})
	if err := report.Write(discard{}, "json"); err != nil {
		t.Fatal(err)
	}
	_ = report.svg()
}

// FuzzTerraform begins at whole plans and states, cut down to one resource each.
func FuzzTerraform(f *testing.F) {
	f.Add([]byte(modulePlan))
	for _, plan := range []bool{true, false} {
		var doc map[string]any
		if err := json.Unmarshal(terraformOf(&testing.T{}, load(&testing.T{}, "private").graph(), plan), &doc); err != nil {
			f.Fatal(err)
		}
		list, _ := doc["resource_changes"].([]any)
		if !plan {
			list = doc["values"].(map[string]any)["root_module"].(map[string]any)["resources"].([]any)
		}
		seen := map[any]bool{}
		for _, r := range list {
			typ := r.(map[string]any)["type"]
			if seen[typ] {
				continue
			}
			seen[typ] = true
			one := map[string]any{"format_version": "1.2", "terraform_version": "1.9.8", "resource_changes": []any{r}, "configuration": doc["configuration"]}
			if !plan {
				one = map[string]any{"format_version": "1.0", "terraform_version": "1.9.8", "values": map[string]any{"root_module": map[string]any{"resources": []any{r}}}}
			}
			data, err := json.Marshal(one)
			if err != nil {
				f.Fatal(err)
			}
			if len(data) < 64<<10 {
				f.Add(data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			t.Skip()
		}
		judged(t, data, Export{})
	})
}

// FuzzTemplate begins at single resources of a template.
func FuzzTemplate(f *testing.F) {
	var doc map[string]any
	if err := json.Unmarshal(templateOf(&testing.T{}, load(&testing.T{}, "private"))["template.json"], &doc); err != nil {
		f.Fatal(err)
	}
	for i, r := range doc["resources"].([]any) {
		if i%5 == 0 {
			data, err := json.Marshal(map[string]any{"$schema": doc["$schema"], "resources": []any{r}})
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			t.Skip()
		}
		judged(t, data, Export{})
	})
}

// FuzzEnvelope is Resource Graph's and ARM's lists under a manifest's claims.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"count":1,"total_records":1,"data":[{"id":"`+testGroup+`/providers/Microsoft.Network/virtualNetworks/v","properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/16"]}}}]}`), 1, false)
	f.Add([]byte(`{"data":{"columns":[{"name":"id"},{"name":"properties"}],"rows":[["`+testGroup+`/providers/Microsoft.Network/virtualNetworks/v",{}]]}}`), 1, true)
	f.Add([]byte(`{"value":[],"nextLink":"https://x"}`), 0, false)
	f.Fuzz(func(t *testing.T, data []byte, rows int, partial bool) {
		if len(data) > 1<<20 {
			t.Skip()
		}
		judged(t, data, Export{Type: typeVNet, Scope: "/subscriptions/s", Rows: &rows, Partial: partial})
	})
}

func FuzzManifest(f *testing.F) {
	if data, err := os.ReadFile(filepath.Join("testdata", "private", ManifestFile)); err == nil {
		f.Add(data)
	}
	f.Add([]byte(`{"kind":"` + ManifestKind + `","files":[{"file":"../../etc/passwd","type":"x","rows":-1}]}`))
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "v.json"), []byte(`[{"id":"`+testGroup+`/providers/Microsoft.Network/virtualNetworks/v"}]`), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, ManifestFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		if g.Len() > 1 { // whatever a manifest names, only the folder is read
			t.Errorf("%d resources", g.Len())
		}
	})
}

func FuzzIntent(f *testing.F) {
	f.Add([]byte("name: fraud\nregion: westeurope\nnodes: 12\npodsPerNode: 40\nprofile: private\n"))
	f.Add([]byte("name: fraud\nregion: westeurope\nprofile: public\nflatPods: true\nhighBusinessImpact: true\nnetwork: 10.0.0.0/8\nrouterName: a.b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := ParseIntent(data)
		if err != nil {
			return
		}
		text := in.Terraform()
		if strings.Count(text, "{") != strings.Count(text, "}") {
			t.Errorf("braces do not pair:\n%s", text)
		}
	})
}
