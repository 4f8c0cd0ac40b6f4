package control

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func TestFirstStart(t *testing.T) {
	w := newWorld(t)
	again, made, err := Bootstrap(t.Context(), w.store, w.now, First{Tenant: newUID()})
	if err != nil || made || again != w.first || w.first.TenantID != tenant || w.first.Subscription != subscription {
		t.Errorf("a second start changed %+v to %+v (%v, %v)", w.first, again, made, err)
	}
	all, _, err := store.List[store.RoleAssignment](t.Context(), w.store, "/arm/")
	if err != nil || len(all) != 1 || all[0].Value.Scope != "/" || !strings.HasSuffix(all[0].Value.RoleDefinitionID, ownerGUID) {
		t.Errorf("%+v, %v", all, err)
	}
	if r := w.must(200, "GET", "/subscriptions", nil); len(r.body["value"].([]any)) != 1 {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", "/tenants", nil); !strings.Contains(string(r.raw), tenant) {
		t.Errorf("%s", r.raw)
	}
	other := "/subscriptions/" + newUID()
	w.must(201, "PUT", other, map[string]any{"displayName": "second"})
	w.must(200, "PUT", other, map[string]any{"displayName": "renamed"})
	if r := w.must(200, "GET", other, nil); r.text("displayName") != "renamed" || r.text("state") != "Enabled" || r.text("tenantId") != tenant {
		t.Errorf("%s", r.raw)
	}
	w.refused(400, "InvalidSubscriptionId", "PUT", "/subscriptions/x", map[string]any{"displayName": "x"})
	if r := w.must(200, "GET", subPath+"/locations", nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
}

// A caller sees the subscriptions in which it has some right.
func TestSubscriptionsAreListedByRight(t *testing.T) {
	w := newWorld(t).scene()
	w.must(201, "PUT", "/subscriptions/"+newUID(), map[string]any{"displayName": "other"})
	w.caller("one", "oid-one", nil)
	w.must(201, "PUT", clusterPath+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", "oid-one"))
	r := w.call("one", "GET", "/subscriptions", nil)
	if list, _ := r.body["value"].([]any); r.status != 200 || len(list) != 1 || list[0].(map[string]any)["subscriptionId"] != subscription {
		t.Errorf("%d %s", r.status, r.raw)
	}
	if r := w.must(200, "GET", "/subscriptions", nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
}

func TestGroups(t *testing.T) {
	w := newWorld(t)
	w.refused(400, arm.LocationRequired, "PUT", groupPath, map[string]any{})
	w.refused(400, "LocationNotAvailableForResourceGroup", "PUT", groupPath, map[string]any{"location": "mars"})
	r := w.must(201, "PUT", groupPath, map[string]any{"location": "West Europe", "tags": map[string]string{"a": "1"}})
	if r.text("location") != "westeurope" || r.text("properties.provisioningState") != "Succeeded" || r.text("type") != groupType || r.text("name") != "rg" {
		t.Errorf("%s", r.raw)
	}
	w.refused(409, "InvalidResourceGroupLocation", "PUT", groupPath, map[string]any{"location": "local"})
	w.must(200, "PUT", strings.ToUpper(groupPath)+"?api-version=2021-04-01", map[string]any{"location": "westeurope", "properties": map[string]any{"provisioningState": "Succeeded"}})
	if r := w.must(200, "PATCH", groupPath, map[string]any{"tags": map[string]string{"b": "2"}}); r.text("id") != groupPath || r.text("tags.b") != "2" {
		t.Errorf("%s", r.raw)
	}
	managed := clusterPath + "-that-need-not-be"
	if r := w.must(200, "PUT", groupPath, map[string]any{"location": "westeurope", "managedBy": managed}); r.text("managedBy") != managed {
		t.Errorf("%s", r.raw)
	}
	// As az and Terraform write a group back.
	if r := w.must(200, "PUT", groupPath, map[string]any{"location": "westeurope", "tags": map[string]string{"b": "2"}}); r.text("managedBy") != managed {
		t.Errorf("%s", r.raw)
	}
	w.refused(409, "ResourceGroupManagedByMismatch", "PUT", groupPath, map[string]any{"location": "westeurope", "managedBy": managed + "x"})
	w.refused(400, arm.InvalidParameter, "PATCH", groupPath, map[string]any{"managedBy": "me"})
	if r := w.must(200, "PATCH", groupPath, map[string]any{"managedBy": ""}); r.text("managedBy") != "" || r.text("tags.b") != "2" {
		t.Errorf("%s", r.raw)
	}
	w.must(204, "HEAD", groupPath, nil)
	w.must(404, "HEAD", groupPath+"x", nil)
	w.refused(404, arm.ResourceGroupNotFound, "DELETE", groupPath+"x", nil)
	w.refused(400, arm.BadRequest, "PUT", subPath+"/resourceGroups/"+strings.Repeat("a", 91), map[string]any{"location": "local"})
	w.must(200, "GET", subPath+"/resourceGroups", nil)
}

func TestClusters(t *testing.T) {
	w := newWorld(t)
	w.refused(404, arm.ResourceGroupNotFound, "PUT", clusterPath, map[string]any{"location": "local"})
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	bad := func(code string, body any) { t.Helper(); w.refused(400, code, "PUT", clusterPath, body) }
	with := func(kv ...any) map[string]any {
		m := props(kv...)
		m["location"] = "local"
		return m
	}
	profile := func(kv ...any) map[string]any { return with("apiServerAccessProfile", props(kv...)["properties"]) }
	bad(arm.LocationRequired, map[string]any{})
	bad(arm.LocationNotAvailable, map[string]any{"location": "mars"})
	bad(arm.InvalidParameter, with("agentPoolProfiles", []any{map[string]any{"name": "a", "count": 3}}))
	bad(arm.InvalidParameter, profile("authorizedIPRanges", []string{"not a range"}))
	bad(arm.InvalidParameter, profile("authorizedIPRanges", []string{"198.51.100.0/24"}, "enablePrivateCluster", true))
	bad(arm.InvalidParameter, profile("enablePrivateCluster", true, "privateDNSZone", "none", "enablePrivateClusterPublicFQDN", false))
	bad(arm.InvalidRequestContent, `{"location":"local","properties":[]}`)
	w.refused(400, arm.InvalidParameter, "PUT", clusterPath+"_", map[string]any{"location": "local"})

	body := map[string]any{"location": "West Europe", "tags": map[string]string{"a": "1"}, "sku": map[string]any{"name": "Base"}, "identity": nil, "properties": map[string]any{
		"disableLocalAccounts": true, "newThing": map[string]any{"x": 1}, "provisioningState": "Failed", "powerState": map[string]any{"code": "Stopped"},
		"apiServerAccessProfile": map[string]any{"authorizedIPRanges": []string{"198.51.100.0/24", "203.0.113.7"}},
	}}
	r := w.must(201, "PUT", clusterPath, body)
	uid := r.text("properties.resourceUID")
	if !arm.ValidGUID(uid) || r.text("properties.provisioningState") != "Succeeded" || r.text("properties.powerState.code") != "Running" || r.text("location") != "westeurope" ||
		r.at("properties.newThing.x") != 1.0 || r.text("sku.name") != "Base" || r.at("properties.disableLocalAccounts") != true || r.text("systemData.createdBy") == "" {
		t.Errorf("%s", r.raw)
	}
	if diff := cmp.Diff([]string{"198.51.100.0/24", "203.0.113.7"}, w.cluster(clusterPath).AuthorizedIPRanges); diff != "" {
		t.Error(diff)
	}
	// What was read can be written back, and nothing changes.
	got := w.must(200, "GET", clusterPath, nil)
	back := w.must(200, "PUT", clusterPath, string(got.raw), "If-Match", got.text("eTag"))
	if diff := cmp.Diff(got.body["properties"], back.body["properties"]); diff != "" {
		t.Errorf("read, written back:\n%s", diff)
	}
	if back.text("properties.resourceUID") != uid || back.text("sku.name") != "Base" {
		t.Errorf("%s", back.raw)
	}
	w.refused(409, arm.InvalidResourceLocation, "PUT", clusterPath, map[string]any{"location": "local"})
	w.refused(412, arm.PreconditionFailed, "PUT", clusterPath, string(got.raw), "If-Match", got.text("eTag"))
	w.refused(412, arm.PreconditionFailed, "PUT", clusterPath, string(got.raw), "If-None-Match", "*")
	w.refused(412, arm.PreconditionFailed, "PUT", clusterPath+"2", string(got.raw), "If-Match", "*")
	w.refused(412, arm.PreconditionFailed, "DELETE", clusterPath, nil, "If-Match", `"1"`)
	if r := w.must(200, "PATCH", clusterPath, map[string]any{"tags": map[string]string{"b": "2"}}); r.text("tags.b") != "2" || r.at("properties.disableLocalAccounts") != true {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", subPath+"/providers/Microsoft.ContainerService/managedClusters", nil); len(r.body["value"].([]any)) != 1 {
		t.Errorf("%s", r.raw)
	}
	w.must(204, "DELETE", clusterPath+"2", nil)
}

func TestStopAndStart(t *testing.T) {
	w := newWorld(t).scene()
	stop := w.must(202, "POST", clusterPath+"/stop", nil)
	if stop.header.Get("Location") == "" {
		t.Errorf("%v", stop.header)
	}
	if end := w.finished(stop); end.text("status") != "Succeeded" {
		t.Errorf("%s", end.raw)
	}
	r := w.must(200, "GET", clusterPath, nil)
	if r.text("properties.powerState.code") != "Stopped" || r.text("properties.provisioningState") != "Succeeded" || !w.cluster(clusterPath).Stopped {
		t.Errorf("%s", r.raw)
	}
	w.finished(w.must(202, "POST", clusterPath+"/start", nil))
	if w.cluster(clusterPath).Stopped {
		t.Error("still stopped")
	}
}

func TestCredentials(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.ServerCA = []byte("-----CA-----") }).scene()
	r := w.must(200, "POST", clusterPath+"/listClusterUserCredential?api-version=2025-02-01&format=exec", nil)
	var out struct {
		Kubeconfigs []struct{ Name, Value string }
	}
	if err := json.Unmarshal(r.raw, &out); err != nil || len(out.Kubeconfigs) != 1 || out.Kubeconfigs[0].Name != "clusterUser" {
		t.Fatalf("%s, %v", r.raw, err)
	}
	text, err := base64.StdEncoding.DecodeString(out.Kubeconfigs[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		CurrentContext string `json:"current-context"`
		Clusters       []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Exec struct {
					APIVersion, Command, InteractiveMode string
					Args                                 []string
				} `json:"exec"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	uid := string(w.cluster(clusterPath).UID)
	if config.CurrentContext != "blue" || config.Clusters[0].Cluster.Server != base+"/clusters/"+uid || string(config.Clusters[0].Cluster.CA) != "-----CA-----" {
		t.Errorf("%s", text)
	}
	exec := config.Users[0].User.Exec
	if exec.Command != "sallyport" || exec.APIVersion != "client.authentication.k8s.io/v1" || strings.Join(exec.Args, " ") != "kubeconfig credential --server "+base+" --cluster-uid "+uid {
		t.Errorf("%+v", exec)
	}
	w.refused(400, arm.BadRequest, "POST", clusterPath+"/listClusterAdminCredential", nil)
	w.must(200, "PUT", clusterPath, map[string]any{"location": "local", "properties": map[string]any{"disableLocalAccounts": true}})
	if r := w.refused(400, arm.BadRequest, "POST", clusterPath+"/listClusterAdminCredential", nil); r.text("error.message") != "Getting static credential is not allowed because this cluster is set to disable local accounts." {
		t.Errorf("%s", r.raw)
	}
}

func TestRoles(t *testing.T) {
	w := newWorld(t)
	const at = subPath + "/providers/Microsoft.ContainerService/locations/"
	r := w.must(200, "GET", at+"West%20Europe/trustedAccessRoles", nil)
	var out struct{ Value []trust.Role }
	var wire struct {
		Value []struct {
			SourceResourceType, Name string
			Rules                    []trust.Rule
		}
	}
	if err := json.Unmarshal(r.raw, &wire); err != nil {
		t.Fatal(err)
	}
	for _, v := range wire.Value {
		out.Value = append(out.Value, trust.Role{SourceType: v.SourceResourceType, Name: v.Name, Rules: v.Rules})
	}
	if diff := cmp.Diff(trust.Published(), out.Value); diff != "" {
		t.Errorf("the published roles, rule for rule:\n%s", diff)
	}
	if strings.Contains(string(r.raw), "resourceNames") || strings.Contains(string(r.raw), "nonResourceURLs") {
		t.Error("empty lists are shown; the live service leaves them out")
	}
	w.refused(400, arm.NoRegisteredProviderFound, "GET", at+"mars/trustedAccessRoles", nil)

	own := subPath + "/providers/Sallyport.Access/trustedAccessRoles/"
	rules := props("sourceResourceType", "Contoso.Scanner/scanners", "rules", []any{map[string]any{"verbs": []string{"get"}, "apiGroups": []string{""}, "resources": []string{"secrets"}}})
	made := w.must(201, "PUT", own+"Contoso.Scanner%3Ascanners:reader", rules)
	if made.text("properties.roleName") != "Contoso.Scanner/scanners/reader" || len(made.text("properties.revision")) != 32 || len(made.at("properties.outlivesRevocation").([]any)) != 1 {
		t.Errorf("%s", made.raw)
	}
	// What a newer client says besides is kept.
	rules["properties"].(map[string]any)["owner"] = "platform"
	w.must(200, "PUT", own+"contoso.scanner:SCANNERS:reader", rules)
	if r := w.must(200, "GET", own+"Contoso.Scanner:scanners:reader", nil); r.text("properties.owner") != "platform" || len(r.text("properties.revision")) != 32 {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", own+"Contoso.Scanner:scanners:reader", nil); r.text("name") != "Contoso.Scanner:scanners:reader" {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", at+"local/trustedAccessRoles", nil); len(r.body["value"].([]any)) != 8 {
		t.Errorf("%s", r.raw)
	}
	w.refused(400, arm.InvalidParameter, "PUT", own+"Contoso.Scanner:scanners:bad", props("rules", []any{map[string]any{"verbs": []string{"impersonate"}, "apiGroups": []string{""}, "resources": []string{"users"}}}))
	w.refused(400, arm.InvalidParameter, "PUT", own+"Microsoft.MachineLearningServices:workspaces:mlworkload", props("rules", []any{map[string]any{"verbs": []string{"get"}, "apiGroups": []string{""}, "resources": []string{"pods"}}}))
	w.refused(400, arm.InvalidParameter, "PUT", own+"x", rules)
	w.refused(400, arm.InvalidParameter, "PUT", own+"Contoso.Scanner:others:reader", rules)
	second := "/subscriptions/" + newUID()
	w.must(201, "PUT", second, map[string]any{"displayName": "second"})
	w.refused(409, arm.Conflict, "PUT", second+"/providers/Sallyport.Access/trustedAccessRoles/Contoso.Scanner:scanners:reader", rules)
	w.must(204, "DELETE", second+"/providers/Sallyport.Access/trustedAccessRoles/Contoso.Scanner:scanners:reader", nil)
	w.must(200, "DELETE", own+"Contoso.Scanner:scanners:reader", nil)
	w.refused(404, arm.ResourceNotFound, "GET", own+"Contoso.Scanner:scanners:reader", nil)
}

func TestAssignments(t *testing.T) {
	w := newWorld(t).scene()
	const at = groupPath + "/providers/Microsoft.Authorization/roleAssignments"
	id := at + "/" + newUID()
	body := props("roleDefinitionId", subPath+"/providers/Microsoft.Authorization/roleDefinitions/"+readerGUID, "principalId", "p1", "principalType", "User")
	r := w.must(201, "PUT", id, body)
	if r.text("id") != id || r.text("properties.scope") != groupPath || r.text("properties.principalId") != "p1" || r.text("properties.roleDefinitionId") != subPath+"/providers/Microsoft.Authorization/roleDefinitions/"+readerGUID {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "PUT", id, body)
	w.refused(409, arm.RoleAssignmentExists, "PUT", at+"/"+newUID(), body)
	w.refused(403, "RoleAssignmentUpdateNotPermitted", "PUT", id, props("roleDefinitionId", ownerGUID, "principalId", "p1"))
	w.refused(400, "RoleDefinitionDoesNotExist", "PUT", at+"/"+newUID(), props("roleDefinitionId", newUID(), "principalId", "p1"))
	w.refused(400, "InvalidRoleAssignmentId", "PUT", at+"/x", body)
	w.refused(404, arm.ResourceNotFound, "PUT", clusterPath+"x/providers/Microsoft.Authorization/roleAssignments/"+newUID(), body)
	if r := w.must(200, "GET", at, nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("at the scope and around it: %s", r.raw)
	}
	// An inherited one names its role as a list of roles does there: az looks it
	// up by that.
	roles := w.must(200, "GET", groupPath+"/providers/Microsoft.Authorization/roleDefinitions", nil)
	known := map[any]bool{}
	for _, d := range roles.body["value"].([]any) {
		known[d.(map[string]any)["id"]] = true
	}
	for _, a := range w.must(200, "GET", at, nil).body["value"].([]any) {
		if id := a.(map[string]any)["properties"].(map[string]any)["roleDefinitionId"]; !known[id] {
			t.Errorf("%v is not among the roles", id)
		}
	}
	if r := w.must(200, "GET", "/providers/Microsoft.Authorization/roleAssignments", nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("below the root: %s", r.raw)
	}
	admins := w.must(200, "GET", "/providers/Microsoft.Authorization/roleAssignments?api-version=2022-04-01&$filter=atScope()", nil)
	list := admins.body["value"].([]any)
	if len(list) != 1 {
		t.Fatalf("%s", admins.raw)
	}
	last := list[0].(map[string]any)["id"].(string)
	w.refused(409, "LastOwner", "DELETE", last, nil)
	w.must(201, "PUT", "/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", ownerGUID, "principalId", "p2"))
	w.must(200, "DELETE", last, nil) // by its own hand
	if r := w.call("admin", "GET", groupPath, nil); r.status != 403 {
		t.Errorf("%d", r.status)
	}
}

func TestDefinitions(t *testing.T) {
	w := newWorld(t)
	r := w.must(200, "GET", subPath+"/providers/Microsoft.Authorization/roleDefinitions?api-version=2022-04-01&$filter=roleName%20eq%20'Owner'", nil)
	if list := r.body["value"].([]any); len(list) != 1 || !strings.HasSuffix(list[0].(map[string]any)["id"].(string), ownerGUID) {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", "/providers/Microsoft.Authorization/roleDefinitions", nil); len(r.body["value"].([]any)) != len(builtIn) {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "GET", "/providers/Microsoft.Authorization/roleDefinitions/"+readerGUID, nil)
	w.refused(404, "RoleDefinitionDoesNotExist", "GET", "/providers/Microsoft.Authorization/roleDefinitions/"+newUID(), nil)
}
