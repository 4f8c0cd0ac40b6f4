package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	extensionPath = clusterPath + "/providers/Microsoft.KubernetesConfiguration/extensions/azureml"
	azureMLType   = "Microsoft.AzureML.Kubernetes"
)

// training is the body that az k8s-extension create sends.
func training(kv ...any) map[string]any {
	p := props(append([]any{"extensionType", "microsoft.azureml.kubernetes", "autoUpgradeMinorVersion", true, "releaseTrain", "stable", "version", nil,
		"scope", map[string]any{"cluster": map[string]string{"releaseNamespace": "azureml"}},
		"configurationSettings", map[string]string{"enabletraining": "True", "nodeSelector.disk": "ssd"}, "configurationProtectedSettings", map[string]string{}}, kv...)...)
	p["identity"] = map[string]string{"type": "SystemAssigned"}
	return p
}

// installerOf enrols an installer; the fake agent is a real client of the API.
func (w *world) installerOf(path string) *fakeAgent {
	w.t.Helper()
	return w.enrolled(w.connect(path), w.cluster(path).UID, installer)
}

func (a *fakeAgent) told() mandate.Extensions {
	a.w.t.Helper()
	r := a.call("GET", "/agents/v1/extensions?instance="+a.process, nil)
	if r.status != 200 {
		a.w.t.Fatalf("extensions: %d %s", r.status, r.raw)
	}
	var out struct{ Extensions []byte }
	if err := json.Unmarshal(r.raw, &out); err != nil {
		a.w.t.Fatal(err)
	}
	e, err := mandate.OpenExtensions(a.w.signer.Public().(ed25519.PublicKey), a.uid, mandate.Floor{}, out.Extensions)
	if err != nil {
		a.w.t.Fatal(err)
	}
	return e
}

func (a *fakeAgent) says(states ...mandate.ExtensionState) {
	a.w.t.Helper()
	if r := a.call("POST", "/agents/v1/extensions/report", mandate.ExtensionReport{Instance: a.process, Version: "test", Extensions: states}); r.status != http.StatusNoContent {
		a.w.t.Fatalf("report: %d %s", r.status, r.raw)
	}
}

// Without an installer nothing is installed, and nothing says that it was.
func TestExtensionWithoutInstaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	r := w.must(201, "PUT", extensionPath, training())
	if r.text("id") != extensionPath || r.text("type") != extensionType || r.text("properties.extensionType") != azureMLType || r.text("properties.provisioningState") != "Creating" ||
		r.text("identity.type") != "SystemAssigned" || !arm.ValidGUID(r.text("identity.principalId")) {
		t.Errorf("%s", r.raw)
	}
	end := w.finished(r)
	if end.text("status") != "Failed" || end.text("error.code") != codeNoInstaller || !strings.Contains(end.text("error.message"), "sallyport k8s-extension accept -g ") {
		t.Errorf("%s", end.raw)
	}
	// Where Azure's clients look for the operation.
	own := w.must(200, "GET", extensionPath+"/operations/"+r.header.Get("x-ms-request-id"), nil)
	if own.text("status") != "Failed" || own.text("name") != r.header.Get("x-ms-request-id") {
		t.Errorf("%s", own.raw)
	}
	w.refused(404, arm.NotFound, "GET", extensionPath+"x/operations/"+r.header.Get("x-ms-request-id"), nil)
	r = w.must(200, "GET", extensionPath, nil)
	if r.text("properties.provisioningState") != "Failed" || r.text("properties.errorInfo.code") != codeNoInstaller || r.at("properties.currentVersion") != nil ||
		r.text("properties.configurationSettings.enableTraining") != "True" || r.text("properties.configurationSettings.clusterId") != clusterPath ||
		r.text("properties.scope.cluster.releaseNamespace") != "azureml" || !strings.Contains(string(r.raw), "The setting 'enabletraining' is spelled enableTraining") {
		t.Errorf("%s", r.raw)
	}
	// A PUT of what was read is taken: read-only members are noise.
	again := w.must(200, "PUT", extensionPath, map[string]any{"identity": r.at("identity"), "properties": r.at("properties"), "id": r.at("id"), "systemData": r.at("systemData")})
	if again.text("properties.provisioningState") != "Updating" || again.at("identity.principalId") != r.at("identity.principalId") {
		t.Errorf("%s", again.raw)
	}
	w.finished(again)
	if list := w.values(w.must(200, "GET", strings.TrimSuffix(extensionPath, "/azureml"), nil), "name"); len(list) != 1 || list[0] != "azureml" {
		t.Errorf("%v", list)
	}
	// It can be deleted, since nothing is there.
	if end := w.finished(w.must(202, "DELETE", extensionPath, nil)); end.text("status") != "Succeeded" {
		t.Errorf("%s", end.raw)
	}
	w.refused(404, arm.ResourceNotFound, "GET", extensionPath, nil)
	w.must(204, "DELETE", extensionPath, nil)
	identities, _, err := store.List[store.Identity](t.Context(), w.store, store.IdentityPrefix)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range identities {
		if trust.Fold(i.Value.ResourceID) == trust.Fold(extensionPath) {
			t.Error("the extension's identity outlives it")
		}
	}
}

// With an installer the states are what it says, secrets reach it alone, and a
// deletion ends when it has removed what was there.
func TestExtensionWithInstaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	agent := w.installerOf(clusterPath)
	if e := agent.told(); len(e.Extensions) != 0 {
		t.Errorf("%+v", e)
	}
	const probePath = clusterPath + "/providers/Microsoft.KubernetesConfiguration/extensions/probe"
	body := props("extensionType", "Sallyport.EnvironmentProbe", "scope", map[string]any{"namespace": map[string]string{"targetNamespace": "team"}},
		"configurationSettings", map[string]string{"INTERVAL": "60", "targets.store": "store.example.com"}, "configurationProtectedSettings", map[string]string{"proxy": "http://user:s3cret@proxy"}, "newer", map[string]int{"a": 1})
	put := w.must(201, "PUT", probePath, body)
	e := agent.told()
	want := mandate.Extension{UID: e.Extensions[0].UID, Name: "probe", Generation: 1, Type: "Sallyport.EnvironmentProbe", Train: "stable", Namespace: "team",
		Settings: map[string]string{"interval": "60", "targets.store": "store.example.com", "cluster_name": clusterPath}, Protected: map[string]string{"proxy": "http://user:s3cret@proxy"}}
	if len(e.Extensions) != 1 || !cmp.Equal(e.Extensions[0], want) {
		t.Errorf("%s", cmp.Diff(want, e.Extensions[0]))
	}
	if r := w.must(200, "GET", probePath, nil); r.text("properties.provisioningState") != "Creating" || r.text("properties.configurationProtectedSettings.proxy") != "" ||
		!strings.Contains(string(r.raw), `"proxy":""`) || r.at("properties.newer.a") != 1.0 {
		t.Errorf("%s", r.raw)
	}
	agent.says(mandate.ExtensionState{UID: want.UID, Generation: 1, Present: true, Version: "1.0.0", Statuses: []mandate.ExtensionStatus{{Code: "Healthy", Level: "Information", Message: "all pods run"}}})
	if end := w.finished(put); end.text("status") != "Succeeded" {
		t.Errorf("%s", end.raw)
	}
	r := w.must(200, "GET", probePath, nil)
	if r.text("properties.provisioningState") != "Succeeded" || r.text("properties.currentVersion") != "1.0.0" || !strings.Contains(string(r.raw), "all pods run") {
		t.Errorf("%s", r.raw)
	}
	// A later word of the installer's is followed without anybody asking.
	agent.says(mandate.ExtensionState{UID: want.UID, Generation: 1, Present: true, Version: "1.0.0", Problem: &mandate.ExtensionProblem{Code: "E45001", Message: "a pod is not healthy"}})
	if r := w.must(200, "GET", probePath, nil); r.text("properties.provisioningState") != "Failed" || r.text("properties.errorInfo.code") != "E45001" {
		t.Errorf("%s", r.raw)
	}

	// A PATCH keeps protected settings that it does not send, and replaces them
	// all if it sends any.
	patch := w.must(202, "PATCH", probePath, props("configurationSettings", map[string]string{"interval": "90"}))
	if e := agent.told().Extensions[0]; e.Generation != 2 || e.Settings["interval"] != "90" || e.Protected["proxy"] != "http://user:s3cret@proxy" {
		t.Errorf("%+v", e)
	}
	agent.says(mandate.ExtensionState{UID: want.UID, Generation: 2, Problem: &mandate.ExtensionProblem{Code: "E40000", Message: "no"}})
	if end := w.finished(patch); end.text("status") != "Failed" || end.text("error.code") != "E40000" {
		t.Errorf("%s", end.raw)
	}
	w.must(202, "PATCH", probePath, props("configurationProtectedSettings", map[string]string{}))
	if e := agent.told().Extensions[0]; e.Generation != 3 || len(e.Protected) != 0 {
		t.Errorf("%+v", e)
	}
	agent.says(mandate.ExtensionState{UID: want.UID, Generation: 3, Present: true, Version: "1.0.0"})

	// Nothing of the secret is anywhere in the store in the open.
	for _, prefix := range []string{"/arm/", store.ActivityPrefix, store.OperationPrefix, store.AgentPrefix} {
		all, _, err := store.List[rawRecord](t.Context(), w.store, prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range all {
			if bytes.Contains(item.Value.raw, []byte("s3cret")) {
				t.Errorf("a protected setting lies in the open below %s", prefix)
			}
		}
	}

	del := w.must(202, "DELETE", probePath, nil)
	if e := agent.told().Extensions[0]; !e.Remove || e.Generation != 4 {
		t.Errorf("%+v", e)
	}
	if r := w.must(200, "GET", probePath, nil); r.text("properties.provisioningState") != "Deleting" {
		t.Errorf("%s", r.raw)
	}
	w.refused(409, arm.OperationNotAllowed, "PUT", probePath, body)
	agent.says(mandate.ExtensionState{UID: want.UID, Generation: 4})
	if end := w.finished(del); end.text("status") != "Succeeded" {
		t.Errorf("%s", end.raw)
	}
	w.refused(404, arm.ResourceNotFound, "GET", probePath, nil)
	if e := agent.told(); len(e.Extensions) != 0 {
		t.Errorf("%+v", e)
	}
	// forceDelete forgets at once.
	w.must(201, "PUT", probePath, body)
	w.must(200, "DELETE", probePath+"?api-version=2023-05-01&forceDelete=true", nil)
	w.refused(404, arm.ResourceNotFound, "GET", probePath, nil)
}

// What the installer never began is deleted, though it cannot look; it begins
// nothing of what is being deleted; and what it began stays until it has looked.
func TestExtensionNeverBegun(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	agent := w.installerOf(clusterPath)
	refused := func(generation int64) mandate.ExtensionState {
		return mandate.ExtensionState{UID: agent.told().Extensions[0].UID, Generation: generation, Unseen: true, Problem: &mandate.ExtensionProblem{Code: mandate.ExtensionNotAccepted, Message: "not accepted"}}
	}
	begin := func() int {
		return agent.call("POST", "/agents/v1/extensions/report", mandate.ExtensionReport{Instance: agent.process, Version: "test", Begun: []string{agent.told().Extensions[0].UID}}).status
	}
	put := w.must(201, "PUT", extensionPath, training())
	agent.says(refused(1))
	w.finished(put)
	del := w.must(202, "DELETE", extensionPath, nil)
	if status := begin(); status != 409 {
		t.Errorf("it began while it was deleted: %d", status)
	}
	agent.says(refused(2))
	if end := w.finished(del); end.text("status") != "Succeeded" {
		t.Errorf("%s", end.raw)
	}
	w.refused(404, arm.ResourceNotFound, "GET", extensionPath, nil)

	put = w.must(201, "PUT", extensionPath, training())
	if status := begin(); status != 204 {
		t.Fatalf("begin: %d", status)
	}
	agent.says(refused(1))
	w.finished(put)
	put = w.must(200, "PUT", extensionPath, training())
	agent.says(refused(2))
	w.finished(put)
	del = w.must(202, "DELETE", extensionPath, nil)
	agent.says(refused(3))
	if end := w.finished(del); end.text("error.code") != mandate.ExtensionNotAccepted || !strings.Contains(end.text("error.message"), "forceDelete=true") {
		t.Errorf("%s", end.raw)
	}
}

// A deletion that fails, or that nobody follows in time, is not the end of it: the
// extension is wanted again, in a generation of its own and with its secrets.
func TestExtensionDeletionFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	agent := w.installerOf(clusterPath)
	const path = clusterPath + "/providers/Microsoft.KubernetesConfiguration/extensions/probe"
	put := w.must(201, "PUT", path, props("extensionType", "Sallyport.EnvironmentProbe", "scope", map[string]any{"namespace": map[string]string{"targetNamespace": "team"}},
		"configurationSettings", map[string]string{"targets.store": "store.example.com"}, "configurationProtectedSettings", map[string]string{"proxy": "http://user:s3cret@proxy"}))
	uid := agent.told().Extensions[0].UID
	agent.says(mandate.ExtensionState{UID: uid, Generation: 1, Present: true, Version: "1.0.0"})
	w.finished(put)
	wanted := func(generation int64, remove bool) {
		t.Helper()
		if e := agent.told().Extensions[0]; e.Generation != generation || e.Remove != remove || e.Protected["proxy"] != "http://user:s3cret@proxy" {
			t.Errorf("generation %d, remove %t, %d protected settings", e.Generation, e.Remove, len(e.Protected))
		}
	}
	del := w.must(202, "DELETE", path, nil)
	wanted(2, true)
	agent.says(mandate.ExtensionState{UID: uid, Generation: 2, Present: true, Problem: &mandate.ExtensionProblem{Code: "E40000", Message: "it holds on"}})
	if end := w.finished(del); end.text("error.code") != "E40000" {
		t.Errorf("%s", end.raw)
	}
	wanted(3, false)
	// What is still said of the removal is not taken for an answer.
	agent.says(mandate.ExtensionState{UID: uid, Generation: 2})
	if r := w.must(200, "GET", path, nil); r.text("properties.provisioningState") != "Failed" || r.text("properties.errorInfo.code") != "E40000" {
		t.Errorf("%s", r.raw)
	}
	agent.says(mandate.ExtensionState{UID: uid, Generation: 3, Present: true, Version: "1.0.0"})
	if r := w.must(200, "GET", path, nil); r.text("properties.provisioningState") != "Succeeded" {
		t.Errorf("%s", r.raw)
	}
	del = w.must(202, "DELETE", path, nil)
	wanted(4, true)
	w.advance(extensionBound + time.Minute)
	agent.ask() // which has the operation look at the clock
	if end := w.finished(del); end.text("error.code") != "ExtensionTimeout" {
		t.Errorf("%s", end.raw)
	}
	wanted(5, false)
}

// What is installed is looked at again and again, though nobody asks for anything:
// with each of the reconciler's reports control sees whose turn it is. Where nobody
// looks, the state does not go on to say that it runs.
func TestExtensionIsLookedAtAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	k := w.connect(clusterPath)
	uid := w.cluster(clusterPath).UID
	reconcilerOf, agent := w.enrolled(k, uid, reconciler), w.enrolled(k, uid, installer)
	work := func() bool {
		t.Helper()
		var s mandate.State
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		reconcilerOf.held = mandate.State{}
		_ = reconcilerOf.listen(ctx, func(told mandate.State) { s = told; cancel() })
		r := reportOn(s, nil)
		r.Installer = &mandate.Installer{Replicas: 1}
		reconcilerOf.send(r)
		return s.Installer
	}
	put := w.must(201, "PUT", extensionPath, training())
	said := mandate.ExtensionState{UID: agent.told().Extensions[0].UID, Generation: 1, Present: true, Version: "1.0.0"}
	agent.says(said)
	w.finished(put)
	state := func() string {
		t.Helper()
		r := w.must(200, "GET", extensionPath, nil)
		return r.text("properties.provisioningState") + " " + r.text("properties.errorInfo.code")
	}
	if work(); work() {
		t.Error("there is work, and it has just spoken")
	}
	w.advance(lookEvery + time.Second)
	work() // the report by which it is seen that it is time
	if !work() || state() != "Succeeded " {
		t.Errorf("it is time to look again, and there is no work; %s", state())
	}
	dead := said
	dead.Problem = &mandate.ExtensionProblem{Code: "E45001", Message: "a Deployment has no replicas"}
	agent.says(dead)
	if state() != "Failed E45001" || work() {
		t.Errorf("it has looked: %s", state())
	}
	w.advance(lookEvery + time.Second)
	work()
	agent.says(said)
	if state() != "Succeeded " || work() {
		t.Errorf("it is well again: %s", state())
	}
	w.advance(lookEvery + time.Second)
	work()
	w.advance(lookBound + time.Second)
	work()
	if !work() || state() != "Failed "+codeNotSeen {
		t.Errorf("nobody came to look: %s", state())
	}
	agent.says(said)
	if state() != "Succeeded " || work() {
		t.Errorf("it came late: %s", state())
	}
	// A cluster out of touch: what is shown says how old it is.
	if r := w.must(200, "GET", extensionPath, nil); strings.Contains(string(r.raw), codeNotSeen) {
		t.Errorf("%s", r.raw)
	}
	w.advance(2*lookEvery + lookBound)
	if r := w.must(200, "GET", extensionPath, nil); r.text("properties.provisioningState") != "Succeeded" || !strings.Contains(string(r.raw), `"code":"`+codeNotSeen+`","level":"Warning"`) {
		t.Errorf("%s", r.raw)
	}
}

// Where the installer could not look, what it last saw holds.
func TestExtensionUnseen(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	agent := w.installerOf(clusterPath)
	put := w.must(201, "PUT", extensionPath, training())
	uid := agent.told().Extensions[0].UID
	agent.says(mandate.ExtensionState{UID: uid, Generation: 1, Present: true, Version: "1.0.0"})
	w.finished(put)
	patch := w.must(202, "PATCH", extensionPath, props("configurationSettings", map[string]string{"nodeSelector.disk": "hdd"}))
	agent.says(mandate.ExtensionState{UID: uid, Generation: 2, Unseen: true, Problem: &mandate.ExtensionProblem{Code: mandate.ExtensionNotAccepted, Message: "no rights"}})
	w.finished(patch)
	if r := w.must(200, "GET", extensionPath, nil); r.text("properties.provisioningState") != "Failed" || r.text("properties.currentVersion") != "1.0.0" {
		t.Errorf("%s", r.raw)
	}
}

// rawRecord reads a record's bytes.
type rawRecord struct{ raw []byte }

func (rawRecord) Key() string                        { return "" }
func (r *rawRecord) UnmarshalJSON(data []byte) error { r.raw = bytes.Clone(data); return nil }

// The installer has its own routes and no others; the other agents have none of
// its.
func TestInstallerIsAnAgentOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	k := w.connect(clusterPath)
	uid := w.cluster(clusterPath).UID
	agents := map[string]*fakeAgent{}
	for _, name := range []string{proxy, reconciler, installer} {
		agents[name] = w.enrolled(k, uid, name)
	}
	for path, who := range map[string][]string{
		"GET /agents/v1/extensions?instance=x": {installer}, "POST /agents/v1/extensions/report": {installer},
		"POST /agents/v1/nonce": {proxy, reconciler, installer}, "POST /agents/v1/report": {reconciler},
	} {
		method, target, _ := strings.Cut(path, " ")
		for name, a := range agents {
			r := a.call(method, target, map[string]any{})
			want := false
			for _, allowed := range who {
				want = want || allowed == name
			}
			if (r.status != 403) != want {
				t.Errorf("%s of the %s: %d %s", path, name, r.status, r.raw)
			}
		}
	}
}

func TestExtensionsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	bad := func(status int, code, contains string, body any) {
		t.Helper()
		r := w.refused(status, code, "PUT", extensionPath, body)
		if !strings.Contains(string(r.raw), contains) {
			t.Errorf("%s does not say %q", r.raw, contains)
		}
	}
	settings := func(kv ...string) map[string]any {
		m := map[string]string{}
		for i := 0; i+1 < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return training("configurationSettings", m)
	}
	bad(400, "ExtensionTypeNotFound", "did you mean Microsoft.AzureML.Kubernetes?", training("extensionType", "Microsoft.AzureML.Kubernets"))
	bad(400, "InvalidConfigurationSettings", "did you mean enableInference?", settings("enableTraining", "True", "enableInferense", "True"))
	bad(400, "InvalidConfigurationSettings", "at least one of", settings())
	bad(400, arm.InvalidParameter, "all settings are strings", training("configurationSettings", map[string]any{"enableTraining": true}))
	bad(400, "InvalidConfigurationSettings", "autoUpgradeMinorVersion false", training("version", "1.0.0"))
	bad(400, "InvalidConfigurationSettings", "release train", training("releaseTrain", "nightly"))
	bad(400, "InvalidConfigurationSettings", "always installed in namespace azureml", training("scope", map[string]any{"cluster": map[string]string{"releaseNamespace": "x"}}))
	bad(400, "InvalidConfigurationSettings", "whole cluster", training("scope", map[string]any{"namespace": map[string]string{"targetNamespace": "x"}}))
	bad(400, arm.InvalidRequestContent, "occurs twice", `{"properties":{"extensionType":"a","ExtensionType":"b"}}`)
	w.refused(404, arm.ResourceNotFound, "PATCH", extensionPath, props("configurationSettings", map[string]string{"a": "b"}))
	w.refused(404, arm.ParentResourceNotFound, "PUT", strings.Replace(extensionPath, "/blue/", "/none/", 1), training())
	w.refused(400, arm.InvalidParameter, "PUT", extensionPath+"_", training())
	w.refused(404, arm.ResourceNotFound, "GET", extensionPath, nil) // nothing of all that was stored

	w.must(201, "PUT", extensionPath, training())
	w.refused(409, arm.Conflict, "PUT", extensionPath+"2", training())
	bad(400, arm.InvalidParameter, "cannot be changed", props("extensionType", "Sallyport.EnvironmentProbe"))
	bad(400, "InvalidConfigurationSettings", "changed and not removed", settings("enableTraining", "True"))
}

// A connected cluster's id names the same registration, rights included.
func TestExtensionsOfConnectedClusters(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	connected := strings.Replace(extensionPath, clusterType, "Microsoft.Kubernetes/connectedClusters", 1)
	r := w.must(201, "PUT", connected, training())
	if r.text("id") != connected || r.text("properties.configurationSettings.cluster_name") != clusterPath {
		t.Errorf("%s", r.raw)
	}
	if r := w.must(200, "GET", extensionPath, nil); r.text("id") != extensionPath {
		t.Errorf("%s", r.raw)
	}
	w.caller("helper", "oid-helper", nil)
	w.must(201, "PUT", clusterPath+authorization+"roleAssignments/"+newUID(), props("roleDefinitionId", extensionAdminGUID, "principalId", "oid-helper"))
	for _, path := range []string{connected, extensionPath} {
		if r := w.call("helper", "GET", path, nil); r.status != 200 {
			t.Errorf("%s: %d %s", path, r.status, r.raw)
		}
		if r := w.call("stranger", "GET", path, nil); r.status != 403 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	// It goes with its cluster.
	w.finished(w.must(202, "DELETE", clusterPath, nil))
	left, _, err := store.List[store.Extension](t.Context(), w.store, "/arm/")
	if err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// With an installer that the reconciler starts, an operation waits for it, and the
// state tells the reconciler when there is work; without the owner's consent it
// ends, as soon as the reconciler has said so, with the command that gives it.
func TestExtensionWaitsForTheReconciler(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	k := w.connect(clusterPath)
	uid := w.cluster(clusterPath).UID
	reconcilerOf := w.enrolled(k, uid, reconciler)
	state := func() mandate.State {
		t.Helper()
		var s mandate.State
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		reconcilerOf.held = mandate.State{} // so that the newest is sent again
		_ = reconcilerOf.listen(ctx, func(told mandate.State) { s = told; cancel() })
		return s
	}
	report := func(installer *mandate.Installer) {
		t.Helper()
		r := reportOn(state(), nil)
		r.Installer, r.Pools = installer, []mandate.NodePool{{Name: "a", Count: 2, Ready: 2}}
		reconcilerOf.tell("nonce")
		reconcilerOf.send(r)
	}
	report(nil)
	if state().Installer {
		t.Error("there is work before anything is asked for")
	}
	put := w.must(201, "PUT", extensionPath, training())
	if !state().Installer {
		t.Error("the reconciler is told of no work")
	}
	report(nil)
	if end := w.finished(put); end.text("error.code") != codeNoInstaller || !strings.Contains(end.text("error.message"), "sallyport k8s-extension accept -g rg --cluster-name blue") {
		t.Errorf("%s", end.raw)
	}
	// Consent was given: the same request again waits until the installer, which
	// was never heard, has come.
	put = w.must(200, "PUT", extensionPath, training("configurationSettings", map[string]string{"enableTraining": "True", "enableInference": "True",
		"inferenceRouterServiceType": "nodePort", "allowInsecureConnections": "True", "nodeSelector.disk": "ssd"}))
	if put.text("properties.configurationSettings.inferenceRouterHA") != "False" {
		t.Errorf("two nodes and a router on three: %s", put.raw)
	}
	report(&mandate.Installer{Replicas: 1})
	installerOf := w.enrolled(k, uid, installer)
	e := installerOf.told()
	if e.Nodes != 2 || len(e.Extensions) != 1 || e.Extensions[0].Generation != 2 {
		t.Errorf("%+v", e)
	}
	installerOf.says(mandate.ExtensionState{UID: e.Extensions[0].UID, Generation: 2, Problem: &mandate.ExtensionProblem{Code: mandate.ExtensionDigestRefused, Message: "Another chart."}})
	if end := w.finished(put); end.text("error.code") != mandate.ExtensionDigestRefused || !strings.Contains(end.text("error.message"), "sallyport k8s-extension accept") {
		t.Errorf("%s", end.raw)
	}
	if state().Installer {
		t.Error("there is work though the installer has spoken")
	}
}
