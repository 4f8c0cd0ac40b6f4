package control

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
)

// Agent pools are what the reconciler reports, and nobody's to change; without a
// report, or without the right to see nodes, the cluster says so.
func TestAgentPools(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	pools := clusterPath + "/agentPools"
	if r := w.must(200, "GET", clusterPath, nil); !strings.Contains(string(r.raw), `"agentPoolProfiles":[]`) || !strings.Contains(r.text("properties.nodeReport"), "sallyport cluster connect") {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", pools, nil); string(r.raw) != "{\"value\":[]}\n" {
		t.Errorf("%s", r.raw)
	}
	agent := w.enrolled(w.connect(clusterPath), w.cluster(clusterPath).UID, reconciler)
	report := func(r mandate.Report) {
		t.Helper()
		r.Epoch, r.KubernetesVersion = 1, "v1.36.3"
		if got := agent.call("POST", "/agents/v1/report", r); got.status != http.StatusNoContent {
			t.Fatalf("%d %s", got.status, got.raw)
		}
	}
	report(mandate.Report{NodesUnseen: "nodes is forbidden"})
	if r := w.must(200, "GET", clusterPath, nil); !strings.Contains(r.text("properties.nodeReport"), "nodes is forbidden") || r.text("properties.currentKubernetesVersion") != "1.36.3" {
		t.Errorf("%s", r.raw)
	}
	report(mandate.Report{Nodes: 4, Pools: []mandate.NodePool{
		{Name: "gpu", InstanceType: "Standard_NC6", OS: "linux", Versions: []string{"v1.35.2", "v1.36.3"}, Count: 3, Ready: 2, MilliCPU: 18000, Memory: 1 << 36},
		{Name: "system", OS: "linux", ControlPlane: true, Versions: []string{"v1.36.3"}, Count: 1, Ready: 1},
	}})
	r := w.must(200, "GET", pools+"/GPU", nil)
	if r.text("id") != pools+"/gpu" || r.text("type") != poolType || r.at("properties.count") != 3.0 || r.at("properties.readyCount") != 2.0 || r.text("properties.vmSize") != "Standard_NC6" ||
		r.text("properties.orchestratorVersion") != "1.36.3" || r.text("properties.currentOrchestratorVersion") != "1.35.2" || r.text("properties.mode") != "User" || r.text("properties.osType") != "Linux" {
		t.Errorf("%s", r.raw)
	}
	for _, path := range []string{clusterPath, subPath + "/providers/Microsoft.ContainerService/managedClusters"} {
		r := w.must(200, "GET", path, nil)
		if !strings.Contains(string(r.raw), `"name":"gpu"`) || strings.Contains(string(r.raw), "nodeReport") {
			t.Errorf("%s: %s", path, r.raw)
		}
	}
	w.refused(404, arm.ResourceNotFound, "GET", pools+"/none", nil)
	w.refused(400, arm.BadRequest, "PUT", pools+"/gpu", props("count", 5))
	w.refused(400, arm.BadRequest, "DELETE", pools+"/gpu", nil)

	// What was read can be sent back: it is the agent's, not the caller's.
	read := w.must(200, "GET", clusterPath, nil)
	w.must(200, "PUT", clusterPath, map[string]any{"location": "local", "properties": read.at("properties")})
	if strings.Contains(string(w.cluster(clusterPath).Properties), "gpu") {
		t.Error("a report was stored as what somebody wanted")
	}

	if r := w.must(200, "GET", clusterPath+"/upgradeProfiles/default", nil); r.text("properties.controlPlaneProfile.kubernetesVersion") != "1.36.3" {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "POST", clusterPath+"/accessProfiles/clusterUser/listCredential", nil); r.text("properties.kubeConfig") == "" || r.text("location") != "local" {
		t.Errorf("%s", r.raw)
	}
	w.refused(400, arm.BadRequest, "POST", clusterPath+"/accessProfiles/clusterAdmin/listCredential", nil)
	w.refused(404, arm.ResourceNotFound, "GET", clusterPath+"/accessProfiles/other", nil)
}
