package control

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

// A segment with an encoded slash would be one name to the route, whose action
// is asked for, and several segments of the id that is acted on.
func TestEncodedSlashesReachNoOtherResource(t *testing.T) {
	w := newWorld(t).scene()
	assign := func(token, guid string) {
		object := newUID()
		w.caller(token, object, nil)
		w.must(201, "PUT", groupPath+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", guid, "principalId", object))
	}
	assign("contributor", contributorGUID)
	assign("binder", bindingAdminGUID)
	w.must(201, "PUT", bindingPath, wants(sourcePath, mlworkload))
	const assignments = "/providers/Microsoft.Authorization/roleAssignments/"
	onCluster, onBinding := newUID(), newUID()
	w.must(201, "PUT", clusterPath+assignments+onCluster, props("roleDefinitionId", ownerGUID, "principalId", "p"))
	w.must(201, "PUT", bindingPath+assignments+onBinding, props("roleDefinitionId", ownerGUID, "principalId", "p"))
	const escaped = "%2Fproviders%2FMicrosoft.Authorization%2FroleAssignments%2F"
	for _, tt := range []struct{ token, method, path string }{
		{"contributor", "DELETE", clusterPath + escaped + onCluster},
		{"contributor", "DELETE", bindingPath + escaped + onBinding},
		{"binder", "DELETE", bindingPath + escaped + onBinding},
		{"contributor", "POST", clusterPath + "%2Fx%2Fy/stop"},
		{"contributor", "PUT", sourcePath + "%2Fx%2Fy"},
		{"contributor", "PUT", sourcePath + "%2fx/y"},
	} {
		r := w.call(tt.token, tt.method, tt.path+"?api-version="+version(clusterPath), map[string]any{"location": "local"})
		if r.status != http.StatusBadRequest || r.text("error.code") != arm.BadRequest {
			t.Errorf("%s: %s %s: %d %s", tt.token, tt.method, tt.path, r.status, r.raw)
		}
	}
	for _, id := range []string{clusterPath + assignments + onCluster, bindingPath + assignments + onBinding} {
		a, err := store.Get[store.RoleAssignment](t.Context(), w.store, store.ResourceKey(id))
		if err != nil || a.Value.PrincipalID != "p" {
			t.Errorf("%s: %+v, %v", id, a.Value, err)
		}
	}
}

// SDKs write an empty segment where a resource has no parent. It is left out
// before anything else reads the path, so that route, rights and id agree.
func TestEmptySegmentsAreLeftOut(t *testing.T) {
	w := newWorld(t).scene()
	doubled := strings.Replace(clusterPath, "/managedClusters", "//managedClusters", 1)
	if r := w.must(200, "GET", doubled, nil); r.text("id") != clusterPath {
		t.Errorf("%s", r.raw)
	}
	w.caller("stranger", newUID(), nil)
	if r := w.call("stranger", "DELETE", "/"+doubled+"/?api-version="+version(clusterPath), nil); r.status != http.StatusForbidden || !strings.Contains(r.text("error.message"), "'"+clusterPath+"'") {
		t.Errorf("%d %s", r.status, r.raw)
	}
}
