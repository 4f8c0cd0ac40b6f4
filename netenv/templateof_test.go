package netenv

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// templateOf is a collected environment as an ARM template with literal values:
// references by resourceId, what is below one resource by scope, and nothing
// that only the service sets.
func templateOf(t *testing.T, w *world) map[string][]byte {
	t.Helper()
	var resources []any
	for _, file := range slices.Sorted(mapKeys(w.files)) {
		rows, _ := w.files[file].([]any)
		for _, r := range rows {
			row := nest(r.(map[string]any))
			id, _ := row["id"].(string)
			if typ := idType(id); typ != "" && typ != typeProbe {
				resources = append(resources, templateResource(row, id, typ))
			}
		}
	}
	data, err := json.MarshalIndent(map[string]any{"$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#", "contentVersion": "1.0.0.0", "resources": resources}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"template.json": data}
}

func templateResource(row map[string]any, id, typ string) map[string]any {
	below, _, extends := strings.Cut(strings.TrimPrefix(id, testGroup), "/providers/"+typ[:strings.IndexByte(typ, '/')]+"/"+segment(typ, 1))
	out := map[string]any{"apiVersion": "2024-01-01", "type": typ, "name": strings.Join(namesOf(id, typ), "/")}
	for k, v := range row {
		if k != "id" && k != "name" && k != "type" && k != "resourceGroup" {
			out[k] = templateValue(k, v)
		}
	}
	if p, ok := out["properties"].(map[string]any); ok && typ == typeCompute { // az ml prints it as the type
		p["computeType"] = row["type"]
	}
	if extends && below != "" && idType(testGroup+below) != "" {
		out["scope"] = reference2(testGroup + below)
	}
	return out
}

func segment(typ string, n int) string { return strings.Split(typ, "/")[n] }

// namesOf are the names of an id's own segments.
func namesOf(id, typ string) []string {
	parts := strings.Split(id[strings.LastIndex(strings.ToLower(id), "/providers/")+len("/providers/"):], "/")
	var out []string
	for i := 2; i < len(parts); i += 2 {
		out = append(out, parts[i])
	}
	return out
}

// reference2 is a resourceId call with literals.
func reference2(id string) string {
	typ := idType(id)
	quoted := []string{"'" + typ + "'"}
	for _, n := range namesOf(id, typ) {
		quoted = append(quoted, "'"+n+"'")
	}
	return "[resourceId(" + strings.Join(quoted, ", ") + ")]"
}

var whollyAnID = regexp.MustCompile(`(?i)^/subscriptions/[^/]+/resourcegroups/[^/]+/providers/`)

func templateValue(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if !setByService[fold(k)] && k != "resourceGroup" {
				out[k] = templateValue(k, e)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = templateValue(key, v[i])
		}
		return out
	case string:
		if whollyAnID.MatchString(v) && idType(v) != "" && strings.HasPrefix(v, testGroup+"/") && strings.Count(strings.ToLower(v), "/providers/") == 1 {
			return reference2(v)
		}
	}
	return v
}
