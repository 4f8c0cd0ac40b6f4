package control

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
)

const connectedPath = groupPath + "/providers/" + connectedType + "/blue"

// A cluster under its second name says what its agents did, and cannot be
// changed under it.
func TestConnectedClusters(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	v := "?api-version=2024-01-01"
	r := w.must(200, "GET", connectedPath+v, nil)
	if r.text("id") != connectedPath || r.text("type") != connectedType || r.text("location") != "local" || r.text("identity.type") != "None" ||
		r.text("properties.provisioningState") != "Succeeded" || r.text("properties.connectivityStatus") != "Connecting" || r.at("properties.lastConnectivityTime") != nil {
		t.Errorf("%s", r.raw)
	}
	k := w.connect(clusterPath)
	uid := w.cluster(clusterPath).UID
	both := []*fakeAgent{w.enrolled(k, uid, proxy), w.enrolled(k, uid, reconciler)}
	for _, a := range both {
		a.ask()
	}
	if got := both[1].call("POST", "/agents/v1/report", mandate.Report{Epoch: 1, KubernetesVersion: "v1.36.3", Nodes: 4, Pools: []mandate.NodePool{
		{Name: "a", Count: 3, MilliCPU: 12500}, {Name: "b", Count: 1, MilliCPU: 3900}}}); got.status != http.StatusNoContent {
		t.Fatalf("%d %s", got.status, got.raw)
	}
	r = w.must(200, "GET", strings.ToLower(connectedPath)+v, nil)
	if r.text("properties.connectivityStatus") != "Connected" || r.text("properties.agentVersion") != "test" || r.text("properties.kubernetesVersion") != "1.36.3" ||
		r.at("properties.totalNodeCount") != 4.0 || r.at("properties.totalCoreCount") != 16.0 || r.text("properties.lastConnectivityTime") == "" {
		t.Errorf("%s", r.raw)
	}
	w.advance(time.Hour)
	if r := w.must(200, "GET", connectedPath+v, nil); r.text("properties.connectivityStatus") != "Offline" {
		t.Errorf("%s", r.raw)
	}
	for _, in := range []string{subPath, groupPath} {
		if r := w.must(200, "GET", in+"/providers/"+connectedType+v, nil); len(r.at("value").([]any)) != 1 {
			t.Errorf("%s: %s", in, r.raw)
		}
	}
	w.refused(404, arm.ResourceNotFound, "GET", connectedPath+"x"+v, nil)
	for _, method := range []string{"PUT", "PATCH", "DELETE"} {
		w.refused(400, arm.BadRequest, method, connectedPath+v, map[string]any{"location": "local"})
	}
	w.refused(404, arm.InvalidResourceType, "PUT", groupPath+"/providers/Microsoft.Kubernetes/others/x?api-version=2024-01-01", props())
	for _, path := range []string{connectedPath, groupPath + "/providers/" + connectedType} {
		if r := w.call("stranger", "GET", path+v, nil); r.status != 403 {
			t.Errorf("a stranger reads %s: %d", path, r.status)
		}
	}
}

// As az k8s-extension extension-types asks: the same types at every cluster and
// location.
func TestExtensionTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	const v = "?api-version=2023-05-01-preview"
	for _, at := range []string{clusterPath + "/providers/Microsoft.KubernetesConfiguration", connectedPath + "/providers/Microsoft.KubernetesConfiguration",
		subPath + "/providers/Microsoft.KubernetesConfiguration/locations/West%20Europe"} {
		all := at + "/extensionTypes"
		plain, err := url.PathUnescape(all)
		if err != nil {
			t.Fatal(err)
		}
		if r := w.must(200, "GET", all+v, nil); len(r.at("value").([]any)) != 2 {
			t.Errorf("%s", r.raw)
		}
		if r := w.must(200, "GET", all+v+"&releaseTrain=preview", nil); len(r.at("value").([]any)) != 1 {
			t.Errorf("%s", r.raw)
		}
		r := w.must(200, "GET", all+"/microsoft.azureml.kubernetes"+v, nil)
		if r.text("id") != plain+"/"+azureMLType || r.text("type") != extensionTypeType || r.text("properties.publisher") != "Microsoft.AzureML" || r.text("properties.supportedScopes.defaultScope") != "cluster" ||
			r.text("properties.supportedScopes.clusterScopeSettings.defaultReleaseNamespace") != "azureml" || len(r.at("properties.supportedClusterTypes").([]any)) != 2 {
			t.Errorf("%s", r.raw)
		}
		versions := all + "/" + azureMLType + "/versions"
		r = w.must(200, "GET", versions+v, nil)
		if list := r.at("value").([]any); len(list) != 1 || list[0].(map[string]any)["name"] != "1.0.0" {
			t.Errorf("%s", r.raw)
		}
		if r := w.must(200, "GET", versions+v+"&majorVersion=7&showLatest=true", nil); string(r.raw) != "{\"value\":[]}\n" {
			t.Errorf("%s", r.raw)
		}
		if r := w.must(200, "GET", versions+"/1.0.0"+v, nil); r.text("properties.version") != "1.0.0" {
			t.Errorf("%s", r.raw)
		}
		w.refused(404, "ExtensionTypeVersionNotFound", "GET", versions+"/9"+v, nil)
		if r := w.refused(404, "ExtensionTypeNotFound", "GET", all+"/Microsoft.AzureML.Kubernete"+v, nil); !strings.Contains(string(r.raw), "did you mean "+azureMLType+"?") {
			t.Errorf("%s", r.raw)
		}
		if r := w.call("stranger", "GET", all+v, nil); r.status != 403 {
			t.Errorf("a stranger: %d", r.status)
		}
	}
	w.refused(400, arm.LocationNotAvailable, "GET", subPath+"/providers/Microsoft.KubernetesConfiguration/locations/mars/extensionTypes"+v, nil)
	w.refused(404, arm.ResourceNotFound, "GET", clusterPath+"x/providers/Microsoft.KubernetesConfiguration/extensionTypes"+v, nil)
}
