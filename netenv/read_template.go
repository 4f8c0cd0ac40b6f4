package netenv

import (
	"regexp"
	"strconv"
	"strings"
)

func isTemplate(top map[string]any) bool {
	schema, _ := top["$schema"].(string)
	_, list := top["resources"].([]any)
	_, named := top["resources"].(map[string]any) // languageVersion 2
	return strings.Contains(strings.ToLower(schema), "deploymenttemplate.json") && (list || named)
}

// template reads an ARM template. Literals are facts; expressions are unknown,
// but for resourceId() of literals. Ids are below one made-up scope per file.
func (in *input) template(top map[string]any) {
	scope := "/subscriptions/~template/resourceGroups/~template"
	res := folded(expressions(top["resources"], scope))
	switch res := res.(type) {
	case []any:
		in.templateResources(res, "/resources", scope, "", "")
	case object:
		for _, m := range res {
			if o, ok := m.val.(object); ok {
				in.templateResources([]any{o}, "/resources/"+m.key, scope, "", "")
			}
		}
	}
}

var (
	resourceIDCall = regexp.MustCompile(`(?i)^\[\s*resourceId\(\s*((?:'[^']*'\s*,?\s*)+)\)\s*\]$`)
	quoted         = regexp.MustCompile(`'([^']*)'`)
)

// expressions replaces what a deployment computes.
func expressions(raw any, scope string) any {
	switch raw := raw.(type) {
	case map[string]any:
		for k, v := range raw {
			raw[k] = expressions(v, scope)
		}
	case []any:
		for i, v := range raw {
			raw[i] = expressions(v, scope)
		}
	case string:
		if strings.HasPrefix(raw, "[[") {
			return raw[1:]
		}
		if !strings.HasPrefix(raw, "[") || !strings.HasSuffix(raw, "]") {
			return raw
		}
		if m := resourceIDCall.FindStringSubmatch(raw); m != nil {
			var args []string
			for _, q := range quoted.FindAllStringSubmatch(m[1], -1) {
				args = append(args, q[1])
			}
			if id := joinID(scope, args[0], args[1:]); id != "" {
				return id
			}
		}
		return unknowable{}
	}
	return raw
}

// joinID makes the id of a type and the names of its segments.
func joinID(scope, typ string, names []string) string {
	kinds := strings.Split(typ, "/")
	if len(kinds) != len(names)+1 {
		return ""
	}
	id := scope + "/providers/" + kinds[0]
	for i, n := range names {
		if n == "" {
			return ""
		}
		id += "/" + kinds[i+1] + "/" + n
	}
	return id
}

func (in *input) templateResources(list []any, at, scope, parentType, parentName string) {
	for i, e := range list {
		o, ok := e.(object)
		here := at
		if len(list) > 1 || at == "/resources" || parentType != "" {
			here = at + "/" + strconv.Itoa(i)
		}
		if !ok {
			in.problem(in.file, here, "not a resource")
			continue
		}
		typ, _ := o["type"].val.(string)
		name, _ := o["name"].val.(string)
		if parentType != "" && !strings.Contains(typ, ".") {
			typ, name = parentType+"/"+typ, parentName+"/"+name
		}
		of := scope
		if m, extends := o["scope"]; extends { // what extends another resource
			of, _ = m.val.(string)
		}
		id := joinID(of, typ, strings.Split(name, "/"))
		if id == "" || of == "" {
			in.problem(in.file, here, "the type, name or scope is no literal: expand the template first, or export the deployed resources")
			continue
		}
		in.rows++
		w := in.view(o, here)
		w.declared = true
		in.g.put(id, typ, w)
		if nested, ok := o["resources"].val.([]any); ok {
			in.templateResources(nested, here+"/"+o["resources"].key, scope, typ, name)
		}
	}
}
