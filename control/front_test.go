package control

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// example is a path that a pattern fits.
func example(rt *route) string {
	r := strings.NewReplacer(
		"{subscription}", subscription, "{group}", "rg", "{cluster}", "blue", "{binding}", "b1", "{extension}", "azureml", "{pool}", "gpu", "{profile}", "clusterUser", "{location}", "local",
		"{namespace}", "Microsoft.MachineLearningServices", "{type}", "workspaces", "{resource...}", "Microsoft.MachineLearningServices/workspaces/w1",
		"{scope...}", strings.TrimPrefix(groupPath, "/"), "{role}", "Contoso.Scanner:scanners:reader",
		"{operation}", "33333333-3333-4333-8333-333333333333", "{name}", "44444444-4444-4444-8444-444444444444",
	)
	p := r.Replace(rt.pattern)
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return p
}

// Every route of the table, with nobody's token, a wrong one, tokens of another
// issuer, tenant and audience, and those of callers without any right.
func TestEveryRouteAsksWhoCallsAndWhetherTheyMay(t *testing.T) {
	w := newWorld(t).scene()
	source, err := store.Get[store.Source](t.Context(), w.store, store.ResourceKey(sourcePath))
	if err != nil {
		t.Fatal(err)
	}
	admin := w.callers["admin"].Object
	bad := map[string]string{
		"":      "no token",
		"wrong": "an unknown token",
		w.caller("issuer", admin, func(c *trust.Caller) { c.Issuer = "https://elsewhere" }):          "the administrator's oid from another issuer",
		w.caller("tenant", admin, func(c *trust.Caller) { c.Tenant = subscription }):                 "the administrator's oid in another tenant",
		w.caller("audience", admin, func(c *trust.Caller) { c.Audience = base + "/gateways/local" }): "the administrator's token for the gateway",
		w.caller("cluster", admin, func(c *trust.Caller) { c.Audience = base + "/clusters/x" }):      "the administrator's token for a cluster",
		w.caller("nobody", "", func(c *trust.Caller) {}):                                             "a token without oid",
	}
	forbidden := map[string]string{
		"stranger": "a caller without any role assignment",
		w.caller("source", source.Value.Identity.PrincipalID, func(c *trust.Caller) { c.ResourceID = sourcePath }): "a source's token",
	}
	tried := 0
	for _, rt := range w.control.routes {
		path := example(rt)
		if vars, fits := rt.fits(strings.Split(path[1:], "/")); !fits {
			t.Fatalf("%s does not fit %s (%v)", path, rt.pattern, vars)
		}
		for token, who := range bad {
			r := w.call(token, rt.method, path, nil)
			if r.status != 401 || !strings.HasPrefix(r.header.Get("WWW-Authenticate"), `Bearer authorization_uri="`+base) || rt.method != "HEAD" && r.text("error.code") == "" {
				t.Errorf("%s: %s %s: %d %s", who, rt.method, path, r.status, r.raw)
			}
			tried++
		}
		for token, who := range forbidden {
			r := w.call(token, rt.method, path, nil)
			if r.status != 403 || rt.method != "HEAD" && r.text("error.code") != arm.AuthorizationFailed {
				t.Errorf("%s: %s %s: %d %s", who, rt.method, path, r.status, r.raw)
			}
			tried++
		}
	}
	for _, rt := range w.control.routes {
		if strings.HasSuffix(rt.pattern, "/changePassword") {
			continue // which nobody may but the user
		}
		if r := w.call("admin", rt.method, example(rt), nil); r.status == 401 || r.status == 403 {
			t.Errorf("the administrator: %s %s: %d %s", rt.method, example(rt), r.status, r.raw)
		}
	}
	for _, path := range []string{"/", "/nothing", subPath + "/nothing", "/subscriptions/x", "//", "/agents/v2/x"} {
		if r := w.call("", "GET", path, nil); r.status != 401 {
			t.Errorf("no token: %s: %d", path, r.status)
		}
	}
	t.Logf("%d refusals", tried)
}

// A reader changes nothing; only an owner assigns roles.
func TestRightsByRole(t *testing.T) {
	w := newWorld(t).scene()
	assign := func(token, guid, scope string) {
		object := newUID()
		w.caller(token, object, nil)
		w.must(201, "PUT", scope+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", "/x/"+guid, "principalId", object))
	}
	assign("reader", readerGUID, subPath)
	assign("contributor", contributorGUID, groupPath)
	assign("binder", bindingAdminGUID, groupPath)
	assign("elsewhere", ownerGUID, clusterPath)
	assignment := groupPath + "/providers/Microsoft.Authorization/roleAssignments/" + newUID()
	group := map[string]any{"location": "local"}
	tests := []struct {
		token, method, path string
		body                any
		allowed             bool
	}{
		{"reader", "GET", groupPath, nil, true},
		{"reader", "GET", clusterPath, nil, true},
		{"reader", "PUT", groupPath, group, false},
		{"reader", "POST", clusterPath + "/stop", nil, false},
		{"reader", "POST", clusterPath + "/listClusterUserCredential", nil, false},
		{"reader", "PUT", bindingPath, wants(sourcePath, mlworkload), false},
		{"reader", "POST", sourcePath + "/clientSecrets", nil, false},
		{"contributor", "PUT", groupPath, group, true},
		{"contributor", "PUT", subPath + "/resourceGroups/other", group, false},
		{"contributor", "PUT", assignment, props("roleDefinitionId", ownerGUID, "principalId", "x"), false},
		{"contributor", "DELETE", assignment, nil, false},
		{"contributor", "POST", clusterPath + "/listClusterUserCredential", nil, true},
		{"contributor", "PUT", "/subscriptions/" + newUID(), map[string]any{"displayName": "x"}, false},
		{"binder", "PUT", bindingPath, wants(sourcePath, mlworkload), true},
		{"binder", "DELETE", bindingPath, nil, true},
		{"binder", "DELETE", clusterPath, nil, false},
		{"binder", "PUT", sourcePath, group, false},
		{"elsewhere", "GET", clusterPath, nil, true},
		{"elsewhere", "GET", groupPath, nil, false},
		// The right on the cluster alone does not let it name the source.
		{"elsewhere", "PUT", bindingPath, wants(sourcePath, mlworkload), false},
	}
	for _, tt := range tests {
		r := w.call(tt.token, tt.method, tt.path, tt.body)
		if allowed := r.status != 403; allowed != tt.allowed || r.status == 401 || tt.allowed && r.status >= 400 {
			t.Errorf("%s: %s %s: %d %s, want allowed %v", tt.token, tt.method, tt.path, r.status, r.raw, tt.allowed)
		}
	}
	r := w.call("reader", "PUT", groupPath, group)
	object := w.callers["reader"].Object
	want := "The client '" + object + "' with object id '" + object + "' does not have authorization to perform action 'Microsoft.Resources/subscriptions/resourceGroups/write' over scope '" + groupPath +
		"' or the scope is invalid. If access was recently granted, please refresh your credentials."
	if r.text("error.message") != want {
		t.Errorf("got  %s\nwant %s", r.text("error.message"), want)
	}
	// A right that is taken away is gone with the next request.
	list := w.must(200, "GET", subPath+"/providers/Microsoft.Authorization/roleAssignments?api-version=2022-04-01&$filter=principalId%20eq%20'"+object+"'", nil)
	id := list.body["value"].([]any)[0].(map[string]any)["id"].(string)
	w.must(200, "DELETE", id, nil)
	if r := w.call("reader", "GET", groupPath, nil); r.status != 403 {
		t.Errorf("after its assignment was removed: %d", r.status)
	}
}

func TestActionsCover(t *testing.T) {
	tests := []struct {
		pattern, action string
		want            bool
	}{
		{"*", "A/b/read", true}, {"*/read", "A/b/c/READ", true}, {"*/read", "A/b/write", false}, {"A/b/*", "a/B/write", true}, {"A/b/*", "A/bc/write", false},
		{"A/*/Write", "A/x/y/write", true}, {"A/*/Write", "A/write", false}, {"A/b", "A/b", true}, {"A/b", "A/b/c", false}, {"*a*b*", "xxaxxbxx", true}, {"*a*b", "b", false}, {"", "A", false},
		{"a*a", "a", false},
	}
	for _, tt := range tests {
		if got := covers(tt.pattern, tt.action); got != tt.want {
			t.Errorf("covers(%q, %q) = %v", tt.pattern, tt.action, got)
		}
	}
}

// The order of the checks: each request is wrong in several ways, and the first
// in ARM's order is told.
func TestOrderOfChecks(t *testing.T) {
	w := newWorld(t).scene()
	noSub := "/subscriptions/" + newUID()
	const rg = "/resourceGroups/none/providers/Microsoft.ContainerService/managedClusters/none/trustedAccessRoleBindings/none"
	old := "?api-version=2001-01-01"
	good := "?api-version=2025-02-01"
	tests := []struct {
		token, path string
		status      int
		code        string
	}{
		{"", noSub + rg + old, 401, arm.AuthenticationFailed},
		{"wrong", noSub + rg + old, 401, arm.InvalidAuthenticationToken},
		{"stranger", noSub + rg + "?x=y", 400, arm.MissingAPIVersionParameter},
		{"stranger", noSub + rg + "?api-version=x", 400, arm.InvalidAPIVersionParameter},
		{"stranger", noSub + rg + old, 400, arm.NoRegisteredProviderFound},
		{"stranger", noSub + rg + good, 404, arm.SubscriptionNotFound},
		{"stranger", subPath + rg + good, 403, arm.AuthorizationFailed},
		{"stranger", subPath + "/resourceGroups/none/providers/A.B/c" + good, 403, arm.AuthorizationFailed},
		{"stranger", subPath + "/resourceGroups/none/providers/A.B/c/d/clientSecrets" + good, 403, arm.AuthorizationFailed},
		{"stranger", subPath + "/resourceGroups/none/providers/Microsoft.Authorization/roleAssignments?api-version=2022-04-01", 403, arm.AuthorizationFailed},
		{"admin", subPath + rg + good, 404, arm.ResourceGroupNotFound},
		{"admin", groupPath + strings.TrimPrefix(rg, "/resourceGroups/none") + good, 404, arm.ParentResourceNotFound},
		{"admin", clusterPath + "/trustedAccessRoleBindings/none" + good, 404, arm.ResourceNotFound},
		{"admin", groupPath + "/providers/Microsoft.ContainerService/managedClusters/none" + good, 404, arm.ResourceNotFound},
		{"admin", groupPath + "/providers/Microsoft.ContainerService/snapshots/none" + good, 404, arm.InvalidResourceType},
		{"admin", groupPath + "/providers/Microsoft.MachineLearningServices/workspaces/none" + good, 404, arm.ResourceNotFound},
		{"admin", "/nothing" + good, 404, arm.NotFound},
		{"admin", "/subscriptions/x/resourceGroups/rg" + good, 400, arm.BadRequest},
		{"admin", subPath + "/resourceGroups/a%2Fb?api-version=2021-04-01", 400, arm.BadRequest},
		{"admin", subPath + "/resourceGroups/%E2%84%AA?api-version=2021-04-01", 400, arm.BadRequest},
	}
	for _, tt := range tests {
		if r := w.call(tt.token, "GET", tt.path, nil); r.status != tt.status || r.text("error.code") != tt.code {
			t.Errorf("%s GET %s: %d %s, want %d %s", tt.token, tt.path, r.status, r.raw, tt.status, tt.code)
		}
	}
	r := w.call("admin", "PATCH", bindingPath, nil)
	if r.status != 405 || r.header.Get("Allow") != "DELETE, GET, PUT" {
		t.Errorf("PATCH of a binding: %d, Allow %q", r.status, r.header.Get("Allow"))
	}
	r = w.call("admin", "GET", groupPath+"/providers/Microsoft.ContainerService/managedClusters/none", nil)
	if want := "The Resource 'Microsoft.ContainerService/managedClusters/none' under resource group 'rg' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"; r.text("error.message") != want {
		t.Errorf("got %q", r.text("error.message"))
	}
}

func TestStandardHeaders(t *testing.T) {
	w := newWorld(t)
	r := w.must(200, "GET", "/subscriptions", nil, "x-ms-correlation-request-id", "55555555-5555-4555-8555-555555555555", "x-ms-client-request-id", "mine", "x-ms-return-client-request-id", "true")
	if r.header.Get("x-ms-correlation-request-id") != "55555555-5555-4555-8555-555555555555" || r.header.Get("x-ms-client-request-id") != "mine" ||
		!arm.ValidGUID(r.header.Get("x-ms-request-id")) || !strings.HasPrefix(r.header.Get("x-ms-routing-request-id"), "LOCAL:") ||
		r.header.Get("Content-Type") != "application/json; charset=utf-8" || r.header.Get("Cache-Control") != "no-cache" {
		t.Errorf("%v", r.header)
	}
}

func TestBodies(t *testing.T) {
	w := newWorld(t).scene()
	w.refused(400, arm.InvalidRequestContent, "PUT", groupPath, ``)
	w.refused(400, arm.InvalidRequestContent, "PUT", groupPath, `{"location":"local"`)
	w.refused(400, arm.InvalidRequestContent, "PUT", groupPath, `[]`)
	r := w.refused(400, arm.InvalidRequestContent, "PUT", bindingPath, `{"propertys":{}}`)
	if !strings.Contains(r.text("error.message"), "Could not find member 'propertys' on object of type 'ResourceDefinition'") {
		t.Errorf("%s", r.raw)
	}
	w.refused(413, arm.RequestContentTooLarge, "PUT", bindingPath, `{"properties":{"x":"`+strings.Repeat("a", arm.MaxBody)+`"}}`)
	w.refused(415, arm.UnsupportedMediaType, "PUT", groupPath, `location=local`, "Content-Type", "application/x-www-form-urlencoded")
	// Keys match in any case.
	w.must(200, "PUT", groupPath, `{"LOCATION":"Local","TAGS":{"a":"b"}}`)
	if r := w.must(200, "GET", groupPath, nil); r.text("tags.a") != "b" {
		t.Errorf("%s", r.raw)
	}
}

// A handler that panics is a 500 that says nothing.
func TestPanicsAndInternalErrorsSayNothing(t *testing.T) {
	w := newWorld(t)
	for _, rt := range w.control.routes {
		switch rt.pattern {
		case "/tenants":
			rt.handle = func(*call) (*answer, error) { panic("secret") }
		case "/subscriptions":
			rt.handle = func(*call) (*answer, error) { return nil, errors.New("secret") }
		}
	}
	for _, path := range []string{"/tenants", "/subscriptions"} {
		r := w.refused(http.StatusInternalServerError, arm.InternalServerError, "GET", path, nil)
		if strings.Contains(string(r.raw), "secret") {
			t.Errorf("%s", r.raw)
		}
	}
}
