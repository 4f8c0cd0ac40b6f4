package control

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func TestBindingValidation(t *testing.T) {
	w := newWorld(t).scene()
	vault := groupPath + "/providers/Microsoft.DataProtection/backupVaults/v"
	bare := groupPath + "/providers/Microsoft.MachineLearningServices/workspaces/bare"
	w.must(200, "PUT", bare, map[string]any{"location": "local"})
	w.must(200, "PUT", vault, map[string]any{"identity": map[string]any{"type": "SystemAssigned"}})
	in := clusterPath + "/trustedAccessRoleBindings/"
	const see = ". Please see https://aka.ms/aks-naming-rules for more details."
	tests := []struct {
		name, path string
		body       any
		target     string
		detail     string
	}{
		{"long name", in + strings.Repeat("a", 25), wants(sourcePath, mlworkload), "trustedAccessRoleBindingName", ""},
		{"bad name", in + "a_b", wants(sourcePath, mlworkload), "trustedAccessRoleBindingName", ""},
		{"no properties", in + "x", map[string]any{}, "properties.sourceResourceId", "it is required"},
		{"no roles", in + "x", props("sourceResourceId", sourcePath), "properties.roles", "at least one role is required"},
		{"empty roles", in + "x", wants(sourcePath), "properties.roles", ""},
		{"one role twice", in + "x", wants(sourcePath, mlworkload, strings.ToUpper(mlworkload)), "properties.roles", ""},
		{"unknown role", in + "x", wants(sourcePath, "Microsoft.MachineLearningServices/workspaces/none"), "properties.roles",
			"non-exist role: Microsoft.MachineLearningServices/workspaces/none, please refer to http://aka.ms/aks/ta/role to list available roles"},
		{"empty role", in + "x", wants(sourcePath, " "), "properties.roles", ""},
		{"role of another type", in + "x", wants(sourcePath, "Microsoft.DataProtection/backupVaults/backup-operator"), "properties.roles",
			"role Microsoft.DataProtection/backupVaults/backup-operator is for resources of type Microsoft.DataProtection/backupVaults, the source is of type Microsoft.MachineLearningServices/workspaces"},
		{"malformed id", in + "x", wants("workspaces/w", mlworkload), "properties.sourceResourceId", ""},
		{"id of a group", in + "x", wants(groupPath, mlworkload), "properties.sourceResourceId", ""},
		{"missing source", in + "x", wants(sourcePath+"x", mlworkload), "properties.sourceResourceId", "the resource " + sourcePath + "x does not exist"},
		{"a cluster as source", in + "x", wants(clusterPath, mlworkload), "properties.sourceResourceId", ""},
		{"source without identity", in + "x", wants(bare, mlworkload), "properties.sourceResourceId", "the resource " + bare + " has no system-assigned identity"},
		{"roles of the wrong shape", in + "x", props("sourceResourceId", sourcePath, "roles", "a,b"), "properties.roles", ""},
	}
	for _, tt := range tests {
		r := w.refused(400, arm.InvalidParameter, "PUT", tt.path, tt.body)
		message := r.text("error.message")
		if r.text("error.target") != tt.target || !strings.HasPrefix(message, "The value of parameter "+tt.target+" is invalid. Error details: ") || !strings.HasSuffix(message, see) ||
			tt.detail != "" && message != "The value of parameter "+tt.target+" is invalid. Error details: "+tt.detail+see {
			t.Errorf("%s: %s", tt.name, r.raw)
		}
	}
	if all, _, err := store.List[store.Binding](t.Context(), w.store, "/arm/"); err != nil || len(all) > 0 {
		t.Errorf("something was stored: %v, %v", all, err)
	}
	w.refused(404, arm.ParentResourceNotFound, "PUT", groupPath+"/providers/Microsoft.ContainerService/managedClusters/none/trustedAccessRoleBindings/x", wants(sourcePath, mlworkload))
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	other := groupPath + "/providers/Microsoft.MachineLearningServices/workspaces/w2"
	w.must(200, "PUT", other, map[string]any{"identity": map[string]any{"type": "SystemAssigned"}})
	if r := w.refused(400, arm.InvalidParameter, "PUT", bindingPath, wants(other, mlworkload)); r.text("error.target") != "properties.sourceResourceId" {
		t.Errorf("source changed: %s", r.raw)
	}
}

func TestAzuresLimitsAreSettings(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxBindingsPerCluster, c.SameSubscription = 2, true }).scene()
	for i := range 2 {
		w.must(201, "PUT", fmt.Sprintf("%s/trustedAccessRoleBindings/b%d", clusterPath, i), wants(sourcePath, mlworkload))
	}
	w.refused(400, arm.QuotaExceeded, "PUT", clusterPath+"/trustedAccessRoleBindings/b2", wants(sourcePath, mlworkload))
	w.must(201, "PUT", clusterPath+"/trustedAccessRoleBindings/b1", wants(sourcePath, mlworkload))
	w.refused(400, arm.InvalidParameter, "PUT", bindingPath, wants(strings.Replace(sourcePath, "2222", "3333", 1), mlworkload))
}

// The protocol as recorded from the live service (azure-wire 1.3), over the whole
// life of a binding with both agents connected.
func TestBindingLifeWithConnectedAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.runAgents(clusterPath, accepts(mlworkload, inference))
	sent := strings.Replace(sourcePath, "resourceGroups", "resourcegroups", 1) // as a client wrote it once
	start := time.Now()
	put := w.must(201, "PUT", bindingPath, map[string]any{"properties": map[string]any{
		"sourceResourceId": sent, "roles": []string{inference, " " + mlworkload}, "provisioningState": "Succeeded", "newProperty": map[string]any{"a": 1},
	}, "id": bindingPath, "name": "b1", "type": bindingType, "systemData": nil})
	if put.text("properties.provisioningState") != "Updating" || put.text("id") != bindingPath || put.text("name") != "b1" || put.text("type") != bindingType || put.at("systemData") != nil {
		t.Errorf("PUT: %s", put.raw)
	}
	if put.text("properties.sourceResourceId") != sent {
		t.Errorf("source came back as %s", put.text("properties.sourceResourceId"))
	}
	if diff := cmp.Diff([]any{inference, mlworkload}, put.at("properties.roles")); diff != "" {
		t.Errorf("roles:\n%s", diff)
	}
	async := put.header.Get("Azure-AsyncOperation")
	id := put.header.Get("x-ms-request-id")
	if want := base + subPath + "/providers/Microsoft.ContainerService/locations/local/operations/" + id + "?api-version=2025-03-01"; async != want || put.header.Get("Location") != "" || put.header.Get("Retry-After") != "1" {
		t.Errorf("PUT headers: %v, want %s", put.header, want)
	}
	end := w.finished(put)
	took := time.Since(start)
	if end.text("status") != "Succeeded" || end.text("name") != id || end.text("startTime") == "" || end.text("endTime") == "" || end.at("error") != nil {
		t.Fatalf("operation: %s", end.raw)
	}
	for range 4 { // a busy machine may be slow once
		if took < time.Second {
			break
		}
		start = time.Now()
		w.finished(w.must(201, "PUT", bindingPath, map[string]any{"properties": map[string]any{
			"sourceResourceId": sent, "roles": []string{inference, mlworkload}, "newProperty": map[string]any{"a": 1}}}))
		took = time.Since(start)
	}
	if took > time.Second {
		t.Errorf("Succeeded %s after the PUT, want under 1 s", took)
	}
	got := w.must(200, "GET", strings.ToUpper(bindingPath)+"?api-version=2025-02-01", nil)
	if got.text("properties.provisioningState") != "Succeeded" || got.text("id") != bindingPath || got.at("properties.newProperty.a") != 1.0 || got.at("properties.reason") != nil {
		t.Errorf("GET: %s", got.raw)
	}
	b := w.binding(bindingPath).Value
	if !sameGrants(b.Grants, b.Desired) || len(b.Grants) != 2 || b.Grants[0].Role != inference || b.Source.Object == "" || b.Source.Issuer != issuer || b.Source.Tenant != tenant {
		t.Errorf("record: %+v", b)
	}
	if list := w.must(200, "GET", clusterPath+"/trustedAccessRoleBindings", nil); len(list.body["value"].([]any)) != 1 {
		t.Errorf("list: %s", list.raw)
	}
	// An update is 201 too, and keeps the uid.
	w.finished(w.must(201, "PUT", bindingPath, wants(sent, mlworkload)))
	if now := w.binding(bindingPath).Value; now.UID != b.UID || len(now.Grants) != 1 || now.State != "Succeeded" || now.Extra != nil {
		t.Errorf("after the update: %+v", now)
	}
	del := w.must(202, "DELETE", bindingPath, nil)
	if len(del.raw) > 0 || del.header.Get("Location") == "" || del.header.Get("Azure-AsyncOperation") == "" {
		t.Errorf("DELETE: %v %s", del.header, del.raw)
	}
	w.refused(404, arm.ResourceNotFound, "GET", bindingPath, nil) // DELETE waited for the agents
	w.finished(del)
	res := w.must(204, "GET", del.header.Get("Location"), nil)
	if res.header.Get("Location") == "" {
		t.Errorf("operationresults: %v", res.header)
	}
	w.must(204, "DELETE", bindingPath, nil)
	w.eventually("no trace is left", func() bool {
		uses, _, err := store.List[store.Use](t.Context(), w.store, store.UsesPrefix)
		gone, _, err2 := store.List[store.Departed](t.Context(), w.store, store.DepartedPrefix)
		return err == nil && err2 == nil && len(uses)+len(gone) == 0
	})
}

func TestBindingsTakeConditions(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	body := props("sourceResourceId", sourcePath, "roles", []string{inference})
	w.refused(412, arm.PreconditionFailed, "PUT", bindingPath, body, "If-Match", "*")
	w.must(201, "PUT", bindingPath, body, "If-None-Match", "*")
	w.refused(412, arm.PreconditionFailed, "PUT", bindingPath, props("sourceResourceId", sourcePath, "roles", []string{mlworkload}), "If-None-Match", "*")
	if r := w.must(200, "GET", bindingPath, nil); r.at("properties.roles").([]any)[0] != inference {
		t.Errorf("%s", r.raw)
	}
}

// What a PUT takes away ends with its commit, what it keeps works on, what it
// adds waits.
func TestWhatAPutTakesAwayEndsWithItsCommit(t *testing.T) {
	w := newWorld(t).scene()
	a := w.runAgents(clusterPath, accepts(mlworkload, inference))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload)))
	a.stop()
	revision := w.binding(bindingPath).Revision
	w.must(201, "PUT", bindingPath, wants(sourcePath, inference))
	b := w.binding(bindingPath)
	if len(b.Value.Grants) != 0 || len(b.Value.Desired) != 1 || b.Value.Desired[0].Role != inference || b.Revision == revision {
		t.Errorf("in force %v, desired %v", b.Value.Grants, b.Value.Desired)
	}
	w.must(201, "PUT", bindingPath, wants(sourcePath, inference, mlworkload))
	if b := w.binding(bindingPath); len(b.Value.Grants) != 0 || len(b.Value.Desired) != 2 {
		t.Errorf("a taken right came back before the agents applied it: %v", b.Value.Grants)
	}
}

func TestUnacceptedRoleFails(t *testing.T) {
	w := newWorld(t).scene()
	w.runAgents(clusterPath, accepts(mlworkload))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload)))
	end := w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, inference, mlworkload)))
	if end.text("status") != "Failed" || end.text("error.code") != mandate.RoleNotAccepted || !strings.Contains(end.text("error.message"), "sallyport cluster accept-roles") {
		t.Fatalf("%s", end.raw)
	}
	got := w.must(200, "GET", bindingPath, nil)
	if got.text("properties.provisioningState") != "Failed" || got.text("properties.error.code") != mandate.RoleNotAccepted || !strings.Contains(string(got.raw), "UncoveredRule") {
		t.Errorf("%s", got.raw)
	}
	b := w.binding(bindingPath).Value
	if len(b.Grants) != 1 || b.Grants[0].Role != mlworkload || !sameGrants(b.Grants, b.Desired) {
		t.Errorf("in force %v, desired %v: want what was kept and nothing of what was asked for", b.Grants, b.Desired)
	}
	// A binding of which nothing was ever accepted is none for the agents.
	w.finished(w.must(201, "PUT", clusterPath+"/trustedAccessRoleBindings/none", wants(sourcePath, inference)))
	if s, err := w.control.currentState(t.Context(), b.ClusterUID); err != nil || len(s.Bindings) != 1 {
		t.Errorf("agents are told %+v, %v", s.Bindings, err)
	}
	// The failed part of the operation as its result endpoint tells it.
	async := end.text("id")
	w.refused(409, mandate.RoleNotAccepted, "GET", strings.Replace(async, "/operations/", "/operationresults/", 1)+"?api-version=2025-03-01", nil)
}

func TestReasonsWhileAnAgentIsAway(t *testing.T) {
	w := newWorld(t).scene()
	put := w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	reason := func() string { return w.must(200, "GET", bindingPath, nil).text("properties.reason") }
	w.eventually("the reason is told", func() bool {
		return reason() == "waiting for the cluster's reconciler agent: it has never connected; run sallyport cluster connect"
	})
	op := w.must(200, "GET", put.header.Get("Azure-AsyncOperation"), nil)
	if op.text("status") != "InProgress" || op.text("properties.reason") != reason() || op.header.Get("Retry-After") != "1" {
		t.Errorf("%s", op.raw)
	}
	if r := w.must(202, "GET", strings.Replace(put.header.Get("Azure-AsyncOperation"), "/operations/", "/operationresults/", 1), nil); len(r.raw) > 0 || r.header.Get("Location") == "" {
		t.Errorf("operationresults: %v %s", r.header, r.raw)
	}
	a := w.runAgents(clusterPath, accepts(mlworkload))
	w.finished(put)
	a.stop()
	w.advance(time.Minute)
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	w.eventually("the reason names when", func() bool {
		return strings.HasPrefix(reason(), "waiting for the cluster's reconciler agent: not connected since 20")
	})
}

// With the agent away a deleted binding is Deleting until access is refused
// everywhere, and then 404; what is left in the cluster is shown and goes when
// the agent returns.
func TestDeleteWithTheAgentAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.AgentBound = 1500 * time.Millisecond }).scene()
	a := w.runAgents(clusterPath, accepts(mlworkload))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload)))
	a.stop()
	a.proxy.tell("nonce") // a last word just before the DELETE
	uid := w.binding(bindingPath).Value.UID
	start := time.Now()
	del := w.must(202, "DELETE", bindingPath, nil)
	if took := time.Since(start); took < deleteWait {
		t.Errorf("DELETE was answered after %s although the agent may still let requests through", took)
	}
	if got := w.must(200, "GET", bindingPath, nil); got.text("properties.provisioningState") != "Deleting" || !strings.Contains(got.text("properties.reason"), "proxy agent") {
		t.Errorf("%s", got.raw)
	}
	if _, err := store.Get[store.Binding](t.Context(), w.store, store.ResourceKey(bindingPath)); trust.KindOf(err) != trust.NotFound {
		t.Errorf("the record is still there: %v", err)
	}
	w.finished(del)
	if took := time.Since(start); took < 1400*time.Millisecond {
		t.Errorf("Succeeded after %s, before the agent's bound was over", took)
	}
	w.refused(404, arm.ResourceNotFound, "GET", bindingPath, nil)
	connection := clusterPath + "/providers/Sallyport.Access/connections/default"
	left := w.must(200, "GET", connection, nil)
	if rows := left.at("properties.removedBindings").([]any); len(rows) != 1 || rows[0].(map[string]any)["uid"] != string(uid) {
		t.Errorf("%s", left.raw)
	}
	// A binding of the same name may be made meanwhile; it is another one.
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	if again := w.binding(bindingPath).Value; again.UID == uid || len(again.Grants) != 0 {
		t.Errorf("%+v", again)
	}
	m, err := w.control.currentState(t.Context(), a.reconciler.uid)
	if err != nil {
		t.Fatal(err)
	}
	a.reconciler.send(reportOn(m, a.accepted))
	w.eventually("the leftover is gone", func() bool {
		return len(w.must(200, "GET", connection, nil).at("properties.removedBindings").([]any)) == 0
	})
}

// A gateway that has not applied the change holds the operation; one whose key
// is gone does not.
func TestOperationsWaitForGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	w.runAgents(clusterPath, accepts(mlworkload))
	gateway := func(name string, applied int64) {
		if _, err := w.store.Commit(t.Context(), store.Put(store.Gateway{Replica: name, Applied: applied})); err != nil {
			t.Fatal(err)
		}
	}
	gateway("slow", 0)
	put := w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	w.eventually("the PUT waits for the gateway", func() bool {
		return w.must(200, "GET", bindingPath, nil).text("properties.reason") == "waiting for gateway slow to apply the change"
	})
	gateway("slow", 1<<40)
	w.finished(put)
	gateway("slow", 0)
	del := w.must(202, "DELETE", bindingPath, nil)
	if op := w.must(200, "GET", del.header.Get("Azure-AsyncOperation"), nil); op.text("status") != "InProgress" {
		t.Errorf("%s", op.raw)
	}
	if _, err := w.store.Commit(t.Context(), store.Delete(store.Gateway{Replica: "slow"}.Key(), 0)); err != nil {
		t.Fatal(err)
	}
	w.finished(del)
}

// Of writers that race to create one binding, one wins and the others are told;
// whatever happens there is one whole binding and no stray record.
func TestRacingWriters(t *testing.T) {
	w := newWorld(t).scene()
	w.runAgents(clusterPath, accepts(mlworkload, inference))
	const n = 12
	var wg sync.WaitGroup
	statuses := make([]int, n)
	codes := make([]string, n)
	for i := range n {
		wg.Go(func() {
			roles := []string{mlworkload, inference}[:1+i%2]
			r, err := w.try("admin", "PUT", bindingPath, wants(sourcePath, roles...))
			if err != nil {
				t.Error(err)
				return
			}
			statuses[i], codes[i] = r.status, r.text("error.code")
		})
	}
	wg.Wait()
	won := 0
	for i, s := range statuses {
		switch {
		case s == 201:
			won++
		case s != 409 || codes[i] != arm.OperationNotAllowed:
			t.Errorf("%d %s", s, codes[i])
		}
	}
	if won == 0 {
		t.Error("nobody won")
	}
	w.eventually("the last one settles", func() bool { return w.binding(bindingPath).Value.State == arm.Succeeded })
	if uses, _, err := store.List[store.Use](t.Context(), w.store, store.UsesPrefix); err != nil || len(uses) != 1 {
		t.Errorf("%d uses, %v", len(uses), err)
	}
	// Different bindings of one cluster do not get in each other's way.
	for i := range n {
		wg.Go(func() {
			r, err := w.try("admin", "PUT", fmt.Sprintf("%s/trustedAccessRoleBindings/r%d", clusterPath, i), wants(sourcePath, mlworkload))
			if err != nil || r.status != 201 {
				t.Errorf("%v %v", r, err)
			}
		})
	}
	wg.Wait()
}

// A client that hangs up in the middle of a PUT leaves the old or the new.
func TestClientHangsUp(t *testing.T) {
	w := newWorld(t).scene()
	for i := range 30 {
		path := fmt.Sprintf("%s/trustedAccessRoleBindings/h%d", clusterPath, i)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*200)*time.Microsecond)
		body := `{"properties":{"sourceResourceId":"` + sourcePath + `","roles":["` + mlworkload + `"]}}`
		req, err := http.NewRequestWithContext(ctx, "PUT", w.server.URL+path+"?api-version=2025-02-01", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer admin")
		if res, err := w.client.Do(req); err == nil {
			res.Body.Close()
		}
		cancel()
	}
	w.server.CloseClientConnections()
	bindings, _, err := store.List[store.Binding](t.Context(), w.store, "/arm/")
	if err != nil {
		t.Fatal(err)
	}
	uses, _, err := store.List[store.Use](t.Context(), w.store, store.UsesPrefix)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bindings {
		op, err := store.Get[store.Operation](t.Context(), w.store, store.Operation{ID: b.Value.Operation}.Key())
		if err != nil || op.Created != b.Created || len(b.Value.Desired) != 1 {
			t.Errorf("%s is not whole: %+v, %v", b.Value.ID, b.Value, err)
		}
	}
	t.Logf("%d of 30 were stored", len(bindings))
	if len(uses) < len(bindings) {
		t.Errorf("%d bindings, %d uses", len(bindings), len(uses))
	}
}

func TestPagingOfBindings(t *testing.T) {
	w := newWorld(t).scene()
	for i := range 5 {
		w.must(201, "PUT", fmt.Sprintf("%s/trustedAccessRoleBindings/p%d", clusterPath, i), wants(sourcePath, mlworkload))
	}
	next := clusterPath + "/trustedAccessRoleBindings?api-version=2025-02-01&$top=2"
	var names []string
	pages := 0
	for ; next != ""; pages++ {
		r := w.must(200, "GET", next, nil)
		for _, v := range r.body["value"].([]any) {
			names = append(names, v.(map[string]any)["name"].(string))
		}
		next = r.text("nextLink")
		if next != "" && !strings.HasPrefix(next, base+"/subscriptions/") {
			t.Fatalf("nextLink %q is not absolute", next)
		}
	}
	if diff := cmp.Diff([]string{"p0", "p1", "p2", "p3", "p4"}, names); diff != "" || pages != 3 {
		t.Errorf("%d pages\n%s", pages, diff)
	}
	if r := w.must(200, "GET", groupPath+"/providers/Microsoft.ContainerService/managedClusters", nil); !strings.Contains(string(r.raw), `"value":[{`) {
		t.Errorf("%s", r.raw)
	}
	w.must(201, "PUT", subPath+"/resourceGroups/empty", map[string]any{"location": "westeurope"})
	if r := w.must(200, "GET", subPath+"/resourceGroups/empty/providers/Microsoft.ContainerService/managedClusters", nil); string(r.raw) != "{\"value\":[]}\n" {
		t.Errorf("an empty list is %s", r.raw)
	}
}
