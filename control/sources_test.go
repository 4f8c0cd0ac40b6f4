package control

import (
	"errors"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func (w *world) identities() []store.Item[store.Identity] {
	w.t.Helper()
	all, _, err := store.List[store.Identity](w.t.Context(), w.store, store.IdentityPrefix)
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func TestSources(t *testing.T) {
	w := newWorld(t)
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	before := len(w.identities())
	system := map[string]any{"type": "systemassigned"}
	r := w.must(200, "PUT", sourcePath, map[string]any{"location": "East US", "kind": "Hub", "tags": map[string]string{"a": "1"}, "identity": system, "properties": map[string]any{"friendlyName": "x", "provisioningState": "y"}})
	oid, client := r.text("identity.principalId"), r.text("identity.clientId")
	if r.text("type") != "Microsoft.MachineLearningServices/workspaces" || r.text("kind") != "Hub" || r.text("location") != "eastus" || r.text("properties.friendlyName") != "x" ||
		r.text("properties.provisioningState") != "Succeeded" || r.text("identity.type") != "SystemAssigned" || r.text("identity.tenantId") != tenant || !arm.ValidGUID(oid) {
		t.Errorf("%s", r.raw)
	}
	i, err := store.Get[store.Identity](t.Context(), w.store, store.Identity{ClientID: client}.Key())
	if err != nil || i.Value.ObjectID != oid || i.Value.ResourceID != sourcePath || i.Value.Kind != "ManagedIdentity" || i.Value.TenantID != tenant {
		t.Errorf("%+v, %v", i, err)
	}
	// A PUT that says nothing of the identity, or asks for it again, keeps it.
	w.must(200, "PUT", sourcePath, map[string]any{})
	if r := w.must(200, "PUT", sourcePath, map[string]any{"identity": system}); r.text("identity.principalId") != oid {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "PATCH", sourcePath, map[string]any{"tags": map[string]string{"b": "2"}}); r.text("identity.principalId") != oid || r.text("tags.b") != "2" {
		t.Errorf("%s", r.raw)
	}
	w.refused(400, arm.InvalidParameter, "PUT", sourcePath, map[string]any{"identity": map[string]any{"type": "UserAssigned"}})
	if r := w.must(200, "GET", groupPath+"/providers/Microsoft.MachineLearningServices/workspaces", nil); len(r.body["value"].([]any)) != 1 {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", groupPath+"/resources", nil); len(r.body["value"].([]any)) != 1 {
		t.Errorf("%s", r.raw)
	}
	// Types of several segments lie under their parent; types of a subscription
	// in no group.
	w.refused(404, arm.ParentResourceNotFound, "PUT", sourcePath+"x/onlineEndpoints/e", map[string]any{})
	w.must(200, "PUT", sourcePath+"/onlineEndpoints/e", map[string]any{"identity": system})
	w.must(200, "PUT", subPath+"/providers/Microsoft.Security/pricings/Containers", map[string]any{"identity": system})
	if r := w.must(200, "GET", subPath+"/providers/Microsoft.Security/pricings/containers", nil); r.text("name") != "Containers" {
		t.Errorf("%s", r.raw)
	}
	if n := len(w.identities()) - before; n != 3 {
		t.Errorf("%d identities", n)
	}
	w.must(200, "DELETE", sourcePath, nil)
	w.must(204, "DELETE", sourcePath, nil)
	w.refused(404, arm.ResourceNotFound, "GET", sourcePath+"/onlineEndpoints/e", nil)
	if n := len(w.identities()) - before; n != 1 {
		t.Errorf("%d identities after the deletion", n)
	}
	if r := w.must(200, "PUT", sourcePath, map[string]any{"identity": system}); r.text("identity.principalId") == oid || r.text("identity.clientId") == client {
		t.Error("a source made anew has the old identity")
	}
	for _, path := range []string{clusterPath + "/clientSecrets", groupPath + "/providers/Sallyport.Access/connections/x/federatedIdentityCredentials"} {
		if r := w.call("admin", "GET", path+"?api-version=2025-02-01", nil); r.status != 404 {
			t.Errorf("%s: %d %s", path, r.status, r.raw)
		}
	}
}

// What becomes of a source takes effect on its bindings in the same
// transaction, and its agents are told; a source made anew is another one.
func TestSourcesThatGoTakeTheirBindingsRights(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *world){
		"deleted":        func(w *world) { w.must(200, "DELETE", sourcePath, nil) },
		"parent deleted": func(w *world) { w.must(200, "DELETE", sourcePath, nil) },
		"identity taken": func(w *world) {
			w.must(200, "PATCH", sourcePath, map[string]any{"identity": map[string]any{"type": "None"}})
		},
		"identity taken by PUT": func(w *world) {
			w.must(200, "PUT", sourcePath, map[string]any{"identity": map[string]any{"type": "None"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).scene()
			source := sourcePath
			system := map[string]any{"identity": map[string]any{"type": "SystemAssigned"}}
			role := mlworkload
			if name == "parent deleted" {
				source = sourcePath + "/endpoints/e"
				w.must(200, "PUT", source, system)
				role = "Microsoft.MachineLearningServices/workspaces/endpoints/caller"
				w.must(201, "PUT", subPath+"/providers/Sallyport.Access/trustedAccessRoles/"+strings.ReplaceAll(role, "/", ":"),
					props("rules", []any{map[string]any{"verbs": []string{"get"}, "apiGroups": []string{""}, "resources": []string{"pods"}}}))
			}
			accepted := accepts(mlworkload)
			rules := []trust.Rule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
			a := w.runAgents(clusterPath, append(accepted, mandate.Accepted{Role: trust.RoleName(trust.Fold("Microsoft.MachineLearningServices/workspaces/endpoints/caller")), Revision: trust.RevisionOf(rules), Rules: rules}))
			w.finished(w.must(201, "PUT", bindingPath, wants(source, role)))
			was := w.binding(bindingPath).Value
			revision := w.mandate(a.proxy.uid)
			end(w)
			b := w.binding(bindingPath)
			if b.Value.Source.Object != "" || len(b.Value.Grants)+len(b.Value.Desired) != 0 || b.Value.State != arm.Failed || b.Value.Problem.Code != "SourceNotFound" {
				t.Fatalf("%+v", b.Value)
			}
			if now := w.mandate(a.proxy.uid); now == revision || now != b.Revision {
				t.Errorf("the mandate is of revision %d, the binding of %d", now, b.Revision)
			}
			if s, err := w.control.currentState(t.Context(), a.proxy.uid); err != nil || len(s.Bindings) != 0 {
				t.Errorf("agents are told %+v, %v", s, err)
			}
			w.must(200, "PUT", sourcePath, system)
			w.must(200, "PUT", source, system)
			if b := w.binding(bindingPath).Value; b.Source.Object != "" || len(b.Grants) != 0 {
				t.Errorf("a source made anew got the old one's rights: %+v", b)
			}
			w.finished(w.must(201, "PUT", bindingPath, wants(source, role)))
			if b := w.binding(bindingPath).Value; b.Source.Object == "" || b.Source == was.Source || len(b.Grants) != 1 || b.UID != was.UID || b.State != arm.Succeeded {
				t.Errorf("consented to again: %+v", b)
			}
		})
	}
}

// A PUT that ran while its source was replaced: nothing of the old source's
// rights passes to the new one before the agents know.
func TestASourceMadeAnewStartsWithNothing(t *testing.T) {
	w := newWorld(t).scene()
	a := w.runAgents(clusterPath, accepts(mlworkload))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload)))
	a.stop()
	w.must(200, "DELETE", sourcePath, nil)
	w.must(200, "PUT", sourcePath, map[string]any{"identity": map[string]any{"type": "SystemAssigned"}})
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	b := w.binding(bindingPath)
	if len(b.Value.Grants) != 0 || len(b.Value.Desired) != 1 {
		t.Errorf("%+v", b.Value)
	}
	// Even if the record still had the old source's grants.
	was := b.Value
	was.Grants, was.Source.Object = was.Desired, newUID()
	if _, err := w.store.Commit(t.Context(), store.Update(was, b.Revision)); err != nil {
		t.Fatal(err)
	}
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	if b := w.binding(bindingPath).Value; len(b.Grants) != 0 || b.Source == was.Source {
		t.Errorf("%+v", b)
	}
}

// A binding that is made while its source's end is being committed is not
// overlooked.
func TestASourcesEndNoticesNewBindings(t *testing.T) {
	w := newWorld(t).scene()
	s, err := store.Get[store.Source](t.Context(), w.store, store.ResourceKey(sourcePath))
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	err = w.control.bereave(t.Context(), &s.Value, "was deleted", func(ops []store.Op) error {
		if tries++; tries == 1 {
			w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
		}
		_, err := w.store.Commit(t.Context(), append(ops, store.Delete(s.Value.Key(), s.Revision))...)
		return err
	})
	if err != nil || tries < 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
	if b := w.binding(bindingPath).Value; b.Source.Object != "" || b.State != arm.Failed {
		t.Errorf("%+v", b)
	}
}

func TestFederatedCredentials(t *testing.T) {
	w := newWorld(t).scene()
	const at = sourcePath + "/federatedIdentityCredentials"
	good := props("issuer", "https://kubernetes.default.svc", "subject", "system:serviceaccount:a:b")
	r := w.must(201, "PUT", at+"/workload", good)
	if r.text("id") != at+"/workload" || r.at("properties.audiences").([]any)[0] != "api://AzureADTokenExchange" {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "PUT", at+"/workload", good)
	k := newKube(t)
	w.must(201, "PUT", at+"/with-keys", props("issuer", "https://other", "subject", "s", "audiences", []string{"aud"}, "keys", k.jwks))
	if r := w.must(200, "GET", at+"/with-keys", nil); r.at("properties.keys") == nil {
		t.Errorf("%s", r.raw)
	}
	w.refused(409, arm.Conflict, "PUT", at+"/another", good)
	for name, body := range map[string]any{
		"http":          props("issuer", "http://x", "subject", "s"),
		"query":         props("issuer", "https://x?y", "subject", "s"),
		"no subject":    props("issuer", "https://x"),
		"two audiences": props("issuer", "https://x", "subject", "s", "audiences", []string{"a", "b"}),
		"private keys":  props("issuer", "https://x", "subject", "s", "keys", map[string]any{"keys": []any{map[string]any{"kty": "oct", "k": "AA", "kid": "1"}}}),
	} {
		if r := w.refused(400, arm.InvalidParameter, "PUT", at+"/bad", body); r == nil {
			t.Error(name)
		}
	}
	w.refused(400, arm.InvalidParameter, "PUT", at+"/a", good)
	w.refused(404, arm.ResourceNotFound, "GET", at+"/none", nil)
	w.refused(404, arm.ParentResourceNotFound, "GET", sourcePath+"x/federatedIdentityCredentials", nil)
	if r := w.must(200, "GET", at, nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "DELETE", at+"/workload", nil)
	w.must(204, "DELETE", at+"/workload", nil)
	w.must(200, "DELETE", sourcePath, nil)
	if left, _, err := store.List[store.Federated](t.Context(), w.store, store.FederatedPrefix); err != nil || len(left) != 0 {
		t.Errorf("%+v, %v", left, err)
	}
}

func TestClientSecrets(t *testing.T) {
	w := newWorld(t).scene()
	const at = sourcePath + "/clientSecrets"
	r := w.must(201, "POST", at, map[string]any{"validFor": "P30D"})
	if r.text("properties.secretText") != "abcdef" || r.text("properties.keyId") == "" || r.text("properties.clientId") == "" {
		t.Errorf("%s", r.raw)
	}
	w.must(201, "POST", at, nil)
	list := w.must(200, "GET", at, nil)
	if len(list.body["value"].([]any)) != 2 || strings.Contains(string(list.raw), "abcdef") || strings.Contains(string(list.raw), "secretText") {
		t.Errorf("%s", list.raw)
	}
	for _, bad := range []string{"P0D", "P9999D", "30", "PT1H"} {
		w.refused(400, arm.InvalidParameter, "POST", at, map[string]any{"validFor": bad})
	}
	w.must(200, "DELETE", at+"/"+r.text("name"), nil)
	w.must(204, "DELETE", at+"/"+r.text("name"), nil)
	w.must(200, "PATCH", sourcePath, map[string]any{"identity": map[string]any{"type": "None"}})
	w.refused(400, arm.BadRequest, "POST", at, nil)
}

func TestDeletingAClusterRemovesItsBindings(t *testing.T) {
	w := newWorld(t).scene()
	w.runAgents(clusterPath, accepts(mlworkload))
	w.finished(w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload)))
	w.must(201, "PUT", clusterPath+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", "x"))
	old := w.cluster(clusterPath).UID
	del := w.must(202, "DELETE", clusterPath, nil)
	if r := w.call("admin", "PUT", clusterPath+"/trustedAccessRoleBindings/late", wants(sourcePath, mlworkload)); r.status != 409 && r.status != 404 {
		t.Errorf("a binding on a cluster that goes: %d %s", r.status, r.raw)
	}
	if end := w.finished(del); end.text("status") != "Succeeded" {
		t.Fatalf("%s", end.raw)
	}
	w.must(204, "GET", del.header.Get("Location"), nil)
	w.refused(404, arm.ResourceNotFound, "GET", clusterPath, nil)
	w.refused(404, arm.ParentResourceNotFound, "GET", bindingPath, nil)
	w.nothingBelow(store.ResourceKey(clusterPath)+"/", store.UsesPrefix, store.MandatePrefix, store.AgentPrefix, store.DepartedPrefix)
	// Registered again it is another cluster.
	w.must(201, "PUT", clusterPath, map[string]any{"location": "local"})
	if w.cluster(clusterPath).UID == old {
		t.Error("the uid was used again")
	}
}

var errDone = errors.New("done")

// nothingBelow demands that no key is left below the prefixes.
func (w *world) nothingBelow(prefixes ...string) {
	w.t.Helper()
	for _, p := range prefixes {
		err := store.Follow(w.t.Context(), w.store, p, func(all []store.KV, _ int64) error {
			for _, kv := range all {
				w.t.Errorf("left: %s", kv.Key)
			}
			return errDone
		}, func(store.Batch) error { return errDone })
		if !errors.Is(err, errDone) {
			w.t.Fatal(err)
		}
	}
}

func TestDeletingAGroupCascades(t *testing.T) {
	w := newWorld(t).scene()
	// A cluster elsewhere is bound to a source in the group.
	far := subPath + "/resourceGroups/far"
	farCluster := far + "/providers/Microsoft.ContainerService/managedClusters/red"
	w.must(201, "PUT", far, map[string]any{"location": "local"})
	w.must(201, "PUT", farCluster, map[string]any{"location": "local"})
	a := w.runAgents(farCluster, accepts(mlworkload))
	farBinding := farCluster + "/trustedAccessRoleBindings/far"
	w.finished(w.must(201, "PUT", farBinding, wants(sourcePath, mlworkload)))
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	w.must(200, "PUT", sourcePath+"/onlineEndpoints/e", map[string]any{})
	w.must(201, "PUT", groupPath+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", readerGUID, "principalId", "x"))
	del := w.must(202, "DELETE", groupPath, nil)
	if r := w.call("admin", "PUT", groupPath, map[string]any{"location": "local"}); r.status != 409 && r.status != 201 {
		t.Errorf("%d %s", r.status, r.raw)
	}
	if end := w.finished(del); end.text("status") != "Succeeded" {
		t.Fatalf("%s", end.raw)
	}
	b := w.binding(farBinding).Value
	if len(b.Grants) != 0 || b.State != arm.Failed || b.Problem.Code != "SourceNotFound" {
		t.Errorf("%+v", b)
	}
	if s, err := w.control.currentState(t.Context(), a.proxy.uid); err != nil || len(s.Bindings) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if w.call("admin", "GET", groupPath, nil).status == 404 {
		w.nothingBelow(store.ResourceKey(groupPath))
	}
}

// The DELETE itself takes the rights away: before its operation has done
// anything, agents are told and bindings elsewhere are ended.
func TestDeletingAGroupTakesRightsAtOnce(t *testing.T) {
	w := newWorld(t).scene()
	far := subPath + "/resourceGroups/far"
	farCluster := far + "/providers/Microsoft.ContainerService/managedClusters/red"
	farBinding := farCluster + "/trustedAccessRoleBindings/far"
	w.must(201, "PUT", far, map[string]any{"location": "local"})
	w.must(201, "PUT", farCluster, map[string]any{"location": "local"})
	w.must(201, "PUT", farBinding, wants(sourcePath, mlworkload))
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	w.must(202, "DELETE", groupPath, nil)
	g, err := store.Get[store.Group](t.Context(), w.store, store.ResourceKey(groupPath))
	if trust.KindOf(err) == trust.NotFound {
		return // so fast is the operation
	}
	if err != nil || !g.Value.Deleting {
		t.Fatalf("%+v, %v", g, err)
	}
	if b := w.binding(farBinding).Value; b.Source.Object != "" || len(b.Desired) != 0 {
		t.Errorf("%+v", b)
	}
}

func TestDeletingASubscription(t *testing.T) {
	w := newWorld(t)
	other := "/subscriptions/" + newUID()
	w.must(201, "PUT", other, map[string]any{"displayName": "other"})
	in := func(path string) string { return strings.Replace(path, subPath, other, 1) }
	w.must(201, "PUT", in(groupPath), map[string]any{"location": "local"})
	w.must(201, "PUT", in(clusterPath), map[string]any{"location": "local"})
	w.must(200, "PUT", in(sourcePath), map[string]any{"identity": map[string]any{"type": "SystemAssigned"}})
	w.must(200, "PUT", other+"/providers/Microsoft.Security/pricings/Containers", map[string]any{"identity": map[string]any{"type": "SystemAssigned"}})
	w.must(201, "PUT", other+"/providers/Sallyport.Access/trustedAccessRoles/A:b:c", props("rules", []any{map[string]any{"verbs": []string{"get"}, "apiGroups": []string{""}, "resources": []string{"pods"}}}))
	a := w.runAgents(in(clusterPath), accepts(mlworkload))
	w.finished(w.must(201, "PUT", in(bindingPath), wants(in(sourcePath), mlworkload)))
	revision := w.mandate(a.proxy.uid)
	w.caller("owner", "oid-owner", nil)
	w.must(201, "PUT", other+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", ownerGUID, "principalId", "oid-owner"))
	if r := w.call("owner", "DELETE", other, nil); r.status != 403 {
		t.Errorf("an owner of the subscription alone removed it: %d", r.status)
	}
	del := w.must(202, "DELETE", other, nil)
	if r := w.call("admin", "PUT", in(groupPath)+"2", map[string]any{"location": "local"}); r.status != 409 && r.status != 404 {
		t.Errorf("a write into it: %d %s", r.status, r.raw)
	}
	if end := w.finished(del); end.text("status") != "Succeeded" {
		t.Fatalf("%s", end.raw)
	}
	w.nothingBelow(store.ResourceKey(other), store.RolePrefix, store.UsesPrefix, store.MandatePrefix)
	a.stop()
	if a.proxy.held.Revision == revision || len(a.proxy.held.Bindings) != 0 {
		t.Errorf("the agent holds %+v", a.proxy.held)
	}
	w.refused(404, arm.SubscriptionNotFound, "GET", other, nil)
	w.must(200, "GET", subPath, nil)
}
