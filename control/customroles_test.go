package control

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/trust"
)

const authorization = "/providers/Microsoft.Authorization/"

// custom is the body of a role definition.
func custom(name string, scopes []string, actions ...string) map[string]any {
	return props("roleName", name, "type", "CustomRole", "description", "d", "assignableScopes", scopes,
		"permissions", []map[string]any{{"actions": actions, "notActions": []string{}}})
}

func (w *world) values(r *reply, path string) []string {
	w.t.Helper()
	list, ok := r.body["value"].([]any)
	if !ok {
		w.t.Fatalf("no list: %s", r.raw)
	}
	var all []string
	for _, v := range list {
		one := reply{body: v.(map[string]any)}
		all = append(all, one.text(path))
	}
	return all
}

func filtered(path, filter string) string {
	return path + "?api-version=2022-04-01&$filter=" + url.QueryEscape(filter)
}

// A custom role gives exactly what it names, where it may be assigned, as soon as
// it says so and no longer.
func TestCustomRoleDefinitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.must(201, "PUT", subPath+"/resourceGroups/other", map[string]any{"location": "local"})
	guid := newUID()
	definition := subPath + authorization + "roleDefinitions/" + guid
	body := custom("Cluster Stopper", []string{groupPath}, "Microsoft.ContainerService/managedClusters/read", "Microsoft.ContainerService/managedClusters/stop/action")
	r := w.must(201, "PUT", definition, body)
	if r.text("id") != definition || r.text("name") != guid || r.text("type") != definitionType || r.text("properties.type") != "CustomRole" || r.text("properties.roleName") != "Cluster Stopper" || r.text("properties.createdOn") == "" {
		t.Errorf("%s", r.raw)
	}
	w.must(201, "PUT", definition, body) // Azure's clients take no other status
	r = w.must(200, "GET", definition, nil)
	if p, _ := r.at("properties.permissions").([]any); len(p) != 1 || !strings.Contains(string(r.raw), `"notActions":[]`) || !strings.Contains(string(r.raw), `"dataActions":[]`) {
		t.Errorf("%s", r.raw)
	}
	// It is the same one at every scope, the root included.
	w.must(200, "GET", authorization+"roleDefinitions/"+guid, nil)

	// Where it is seen.
	for _, tt := range []struct {
		scope, filter string
		seen          bool
	}{
		{groupPath, "", true}, {clusterPath, "", true}, {subPath, "", false}, {subPath, "atScopeAndBelow()", true}, {subPath + "/resourceGroups/other", "", false},
		{groupPath, "roleName eq 'cluster stopper'", true}, {groupPath, "roleName eq 'Reader'", false}, {groupPath, "type eq 'CustomRole'", true}, {groupPath, "type eq 'BuiltInRole'", false},
		{subPath, "atScopeAndBelow() and type eq 'CustomRole' and roleName eq 'Cluster Stopper'", true},
	} {
		list := w.values(w.must(200, "GET", filtered(tt.scope+authorization+"roleDefinitions", tt.filter), nil), "name")
		if slices.Contains(list, guid) != tt.seen {
			t.Errorf("%s %q: %v", tt.scope, tt.filter, list)
		}
	}
	w.refused(400, "InvalidFilterInQueryString", "GET", filtered(subPath+authorization+"roleDefinitions", "colour eq 'red'"), nil)

	// What it gives.
	w.caller("stopper", "oid-stopper", nil)
	assignment := groupPath + authorization + "roleAssignments/" + newUID()
	w.must(201, "PUT", assignment, props("roleDefinitionId", definition, "principalId", "oid-stopper", "description", "on call"))
	if r := w.must(200, "GET", assignment, nil); r.text("properties.roleDefinitionId") != definition || r.text("properties.description") != "on call" {
		t.Errorf("%s", r.raw)
	}
	may := func(method, path string, want bool) {
		t.Helper()
		if r := w.call("stopper", method, path, nil); (r.status != 403) != want || r.status >= 500 {
			t.Errorf("%s %s: %d %s, want allowed %v", method, path, r.status, r.raw, want)
		}
	}
	may("GET", clusterPath, true)
	may("POST", clusterPath+"/stop", true)
	may("POST", clusterPath+"/start", false)
	may("DELETE", clusterPath, false)
	may("GET", groupPath, false)

	// Narrowing it takes effect at once; it cannot be narrowed off those who hold
	// it, nor deleted from under them.
	w.must(201, "PUT", definition, custom("Cluster Stopper", []string{groupPath}, "Microsoft.ContainerService/managedClusters/read"))
	may("POST", clusterPath+"/stop", false)
	may("GET", clusterPath, true)
	w.refused(409, "RoleDefinitionHasAssignments", "PUT", definition, custom("Cluster Stopper", []string{subPath + "/resourceGroups/other"}, "*/read"))
	w.refused(409, "RoleDefinitionHasAssignments", "DELETE", definition, nil)
	w.must(200, "DELETE", assignment, nil)
	may("GET", clusterPath, false)
	if r := w.must(200, "DELETE", definition, nil); r.text("name") != guid {
		t.Errorf("%s", r.raw)
	}
	w.must(204, "DELETE", definition, nil)
	w.refused(404, "RoleDefinitionDoesNotExist", "GET", definition, nil)
	w.refused(400, "RoleDefinitionDoesNotExist", "PUT", assignment, props("roleDefinitionId", definition, "principalId", "oid-stopper"))
}

func TestCustomRoleDefinitionsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	guid := newUID()
	at := subPath + authorization + "roleDefinitions/"
	one := at + guid
	sub := []string{subPath}
	w.refused(400, "InvalidRoleDefinitionId", "PUT", at+"reader", custom("x", sub, "*/read"))
	w.refused(403, "RoleDefinitionUpdateNotPermitted", "PUT", at+readerGUID, custom("x", sub, "*"))
	w.refused(403, "RoleDefinitionUpdateNotPermitted", "DELETE", at+readerGUID, nil)
	w.refused(409, "RoleDefinitionWithSameNameExists", "PUT", one, custom("READER", sub, "*/read"))
	w.refused(400, arm.InvalidParameter, "PUT", one, custom("", sub, "*/read"))
	w.refused(400, arm.InvalidParameter, "PUT", one, custom("x", nil, "*/read"))
	w.refused(400, arm.InvalidParameter, "PUT", one, custom("x", []string{"/"}, "*/read"))
	w.refused(400, arm.InvalidParameter, "PUT", one, custom("x", []string{clusterPath}, "*/read"))
	w.refused(400, arm.InvalidParameter, "PUT", one, custom("x", []string{"westeurope"}, "*/read"))
	w.refused(404, arm.ResourceGroupNotFound, "PUT", one, custom("x", []string{subPath + "/resourceGroups/none"}, "*/read"))
	w.refused(404, arm.SubscriptionNotFound, "PUT", one, custom("x", []string{"/subscriptions/" + newUID()}, "*/read"))
	w.refused(400, "InvalidActionOrNotAction", "PUT", one, custom("x", sub, "read"))
	w.refused(400, "InvalidActionOrNotAction", "PUT", one, custom("x", sub, "A/b\u00e9/read"))
	w.refused(400, arm.InvalidParameter, "PUT", one, props("roleName", "x", "type", "BuiltInRole", "assignableScopes", sub, "permissions", []any{map[string]any{"actions": []string{"*"}}}))
	w.refused(400, arm.InvalidParameter, "PUT", one, props("roleName", "x", "assignableScopes", sub, "permissions", []any{map[string]any{"actions": []string{"*"}, "condition": "@Resource"}}))
	w.refused(404, "RoleDefinitionDoesNotExist", "GET", one, nil) // nothing of all that was stored

	// It takes the right at every scope that it names, before and after.
	w.must(201, "PUT", subPath+"/resourceGroups/other", map[string]any{"location": "local"})
	w.caller("groupadmin", "oid-groupadmin", nil)
	w.must(201, "PUT", groupPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", accessAdminGUID, "principalId", "oid-groupadmin"))
	local := groupPath + authorization + "roleDefinitions/" + guid
	if r := w.call("groupadmin", "PUT", local, custom("x", []string{groupPath, subPath + "/resourceGroups/other"}, "*")); r.status != 403 {
		t.Errorf("scopes of others: %d %s", r.status, r.raw)
	}
	if r := w.call("groupadmin", "PUT", local, custom("x", []string{groupPath}, "*")); r.status != 201 {
		t.Errorf("its own scope: %d %s", r.status, r.raw)
	}
	w.must(201, "PUT", one, custom("x", []string{groupPath, subPath + "/resourceGroups/other"}, "*"))
	if r := w.call("groupadmin", "PUT", local, custom("x", []string{groupPath}, "*/read")); r.status != 403 {
		t.Errorf("a definition that others use too: %d %s", r.status, r.raw)
	}
	if r := w.call("groupadmin", "DELETE", local, nil); r.status != 403 {
		t.Errorf("deletion of a definition that others use too: %d %s", r.status, r.raw)
	}
	// A contributor may do much, and not this.
	w.caller("contributor", "oid-contributor", nil)
	w.must(201, "PUT", subPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", contributorGUID, "principalId", "oid-contributor"))
	if r := w.call("contributor", "PUT", at+newUID(), custom("mine", sub, "*")); r.status != 403 {
		t.Errorf("a contributor's: %d %s", r.status, r.raw)
	}
}

// The filters that az and Terraform send with lists of assignments.
func TestAssignmentFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	assign := func(scope, who, kind string) string {
		r := w.must(201, "PUT", scope+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", who, "principalType", kind))
		return r.text("name")
	}
	const alice = "aaaaaaaa-0000-4000-8000-000000000000"
	sub, group, cluster := assign(subPath, alice, "User"), assign(groupPath, alice, "User"), assign(clusterPath, alice, "User")
	team := assign(groupPath, "team", "Group")
	w.caller("alice", alice, func(c *trust.Caller) { c.Groups = []string{"team"} })
	tests := []struct {
		token, scope, filter string
		want, not            []string
	}{
		{"admin", groupPath, "", []string{sub, group, cluster, team}, nil},
		{"admin", groupPath, "atScope()", []string{sub, group, team}, []string{cluster}},
		{"admin", groupPath, "principalId eq '" + alice + "'", []string{sub, group, cluster}, []string{team}},
		{"admin", groupPath, "principalId eq '{" + alice + "}'", []string{sub, group, cluster}, []string{team}},
		{"admin", groupPath, "atScope() and principalId eq '" + strings.ToUpper(alice) + "'", []string{sub, group}, []string{cluster, team}},
		{"admin", groupPath, "assignedTo('" + alice + "')", []string{sub, group, cluster}, []string{team}},
		{"alice", groupPath, "atScope() and assignedTo('" + alice + "')", []string{sub, group, team}, []string{cluster}},
		{"alice", groupPath, "assignedTo('team')", []string{team}, []string{sub, group, cluster}},
		{"admin", subPath, "principalId eq 'nobody'", nil, []string{sub, group, cluster, team}},
	}
	for _, tt := range tests {
		r := w.call(tt.token, "GET", filtered(tt.scope+authorization+"roleAssignments", tt.filter), nil)
		list := w.values(r, "name")
		for _, n := range tt.want {
			if !slices.Contains(list, n) {
				t.Errorf("%s %q: %s is missing in %v", tt.scope, tt.filter, n, list)
			}
		}
		for _, n := range tt.not {
			if slices.Contains(list, n) {
				t.Errorf("%s %q: %s is in %v", tt.scope, tt.filter, n, list)
			}
		}
	}
	w.refused(400, "InvalidFilterInQueryString", "GET", filtered(groupPath+authorization+"roleAssignments", "principalId like 'a'"), nil)
	w.refused(400, "InvalidFilterInQueryString", "GET", filtered(groupPath+authorization+"roleAssignments", "roleName eq 'a'"), nil)
	w.refused(400, arm.InvalidParameter, "PUT", groupPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", "p", "condition", "true"))
}
