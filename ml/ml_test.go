package ml

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// What stands in the way is said in order: the first that is wrong, with what
// to type next.
func TestAttachChecksInOrder(t *testing.T) {
	w := newWorld(t)
	compute := workspace + "/computes/k8s"
	failure := func(r *reply) (code, message, next string) {
		errs, _ := r.at("properties.provisioningErrors").([]any)
		if len(errs) != 1 {
			return "", "", ""
		}
		e := errs[0].(map[string]any)["error"].(map[string]any)
		if details, _ := e["details"].([]any); len(details) == 1 {
			next, _ = details[0].(map[string]any)["message"].(string)
		}
		return e["code"].(string), e["message"].(string), next
	}
	refuse := func(f func(string) (int, string)) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refuse = f
	}
	stages := []struct {
		name       string
		prepare    func()
		namespace  string
		code, next string
	}{
		{"no binding", func() {}, "nowhere", codeNoBinding, "rolebinding create"},
		{"binding not in force", func() {
			w.bind(func(b *store.Binding) { b.Grants, b.State, b.Reason = nil, arm.Updating, "waiting" })
		}, "nowhere", codeNotInForce, "rolebinding show"},
		{"binding of an earlier identity", func() { w.bind(func(b *store.Binding) { b.Source.Object = "earlier" }) }, "nowhere", codeNotInForce, ""},
		{"binding for other namespaces", func() { w.bind(func(b *store.Binding) { b.Grants[0].Namespaces = []string{"else"} }) }, "nowhere", codeNotInForce, ""},
		{"cluster stopped", func() {
			w.bind()
			w.put(store.Cluster{ID: clusterID, UID: clusterUID, Stopped: true})
		}, "nowhere", codeStopped, "aks start"},
		{"cluster not reachable", func() {
			refuse(func(string) (int, string) { return 503, status("no agent holds a tunnel for the cluster", "") })
			w.put(store.Cluster{ID: clusterID, UID: clusterUID})
		}, "nowhere", codeNotReachable, "sallyport cluster status -g rg -n c"},
		{"not let through", func() {
			refuse(func(string) (int, string) { return 403, status("no binding covers the request", "") })
		}, "nowhere", codeUnauthorized, "rolebinding list -g rg --cluster-name c"},
		{"no extension", func() {
			refuse(func(string) (int, string) {
				return 404, status(`services "https:sallyport-ml:443" not found`, "services")
			})
		}, "nowhere", codeNoExtension, "ml extension manifest"},
		{"extension not running", func() {
			refuse(func(string) (int, string) { return 503, status("no endpoints available for service", "") })
		}, "nowhere", codeNoService, "kubectl get pods"},
		{"extension unhealthy", func() {
			refuse(nil)
			w.mu.Lock()
			w.unhealthy = true
			w.mu.Unlock()
		}, "nowhere", codeExtensionSick, "kubectl get pods"},
		{"no namespace", func() {
			w.mu.Lock()
			w.unhealthy = false
			w.mu.Unlock()
		}, "nowhere", wire.NamespaceNotFound, "kubectl create namespace"},
	}
	for _, s := range stages {
		s.prepare()
		r := w.call("PUT", compute, kubernetes(s.namespace))
		for errors.Is(r.err, store.ErrConflict) { // it was just being tried again by itself
			r = w.call("PUT", compute, kubernetes(s.namespace))
		}
		if r.err != nil || r.Header.Get("Azure-AsyncOperation") == "" || r.at("properties.provisioningState") == arm.Succeeded {
			t.Fatalf("%s: %v %+v", s.name, r.err, r.Answer)
		}
		deadline := time.Now().Add(60 * time.Second)
		for {
			r = w.must(200, "GET", compute, nil)
			code, message, next := failure(r)
			if r.at("properties.provisioningState") == arm.Failed && code == s.code {
				if message == "" || !strings.Contains(next, s.next) {
					t.Errorf("%s: %s, next %q", s.name, message, next)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", s.name, r.body)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	w.must(200, "GET", compute, nil)
	if r := w.call("PUT", compute, kubernetes("other")); r.code() != arm.Conflict {
		t.Errorf("a compute was moved: %v", r.err)
	}
	w.must(202, "DELETE", compute+"?underlyingResourceAction=Detach", nil)
}

// A compute that was attached before there was a binding works as soon as one
// appears.
func TestABindingThatAppearsIsEnough(t *testing.T) {
	w := newWorld(t)
	w.must(201, "PUT", workspace+"/computes/k8s", kubernetes("default"))
	w.becomes(workspace+"/computes/k8s", "properties.provisioningState", arm.Failed)
	w.bind()
	w.becomes(workspace+"/computes/k8s", "properties.provisioningState", arm.Succeeded)
}

func TestAJobFromItsPutToItsEnd(t *testing.T) {
	w := newWorld(t).scene()
	job := workspace + "/jobs/j1"
	r := w.must(201, "PUT", job, command("environmentVariables", map[string]any{"A": "1"}, "limits", map[string]any{"jobLimitsType": "Command", "timeout": "PT1H30M"},
		"resources", map[string]any{"instanceCount": 2, "shmSize": "2g", "properties": map[string]any{"maxRetries": 3}}, "distribution", map[string]any{"distributionType": "PyTorch"}))
	if r.at("properties.status") != notStarted {
		t.Errorf("at first it is %v", r.at("properties.status"))
	}
	w.becomes(job, "properties.status", wire.Queued)
	w.mu.Lock()
	var sent wire.Job
	for _, sent = range w.submitted {
	}
	w.mu.Unlock()
	if sent.Image != "example.com/train:1" || sent.Nodes != 2 || sent.ShmSize != "2Gi" || sent.Retries != 3 || sent.Timeout != 5400 || sent.Distribution != "PyTorch" || sent.Environment["A"] != "1" {
		t.Errorf("submitted %+v", sent)
	}
	w.tell(sent.UID, wire.Status{State: wire.Queued, Code: "PodUnschedulable", Reason: "no node takes it"})
	w.becomes(job, "properties.properties.statusReason", "no node takes it")
	w.tell(sent.UID, wire.Status{State: wire.Running})
	w.becomes(job, "properties.status", wire.Running)
	exit := int32(3)
	w.tell(sent.UID, wire.Status{State: wire.Failed, Code: "UserProgramFailed", Nodes: []wire.Node{{Index: 1, ExitCode: &exit}}})
	if r := w.becomes(job, "properties.status", wire.Failed); r.body["properties"].(map[string]any)["properties"].(map[string]any)["node-1.exitCode"] != "3" {
		t.Errorf("job %v", r.body)
	}
	if r := w.must(200, "POST", job+"/cancel", nil); r.Header != nil {
		t.Errorf("a job that has ended was canceled: %v", r.Header)
	}
	if r := w.call("PUT", job, command("command2", 1)); r.code() != arm.Conflict {
		t.Errorf("a job was changed: %v", r.err)
	}
	w.must(202, "DELETE", job, nil)
	gone(t, w, job)
}

func gone(t *testing.T, w *world, path string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for w.call("GET", path, nil).code() != arm.ResourceNotFound {
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", path)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestWithoutItsBindingNothingIsKnownOfAJob(t *testing.T) {
	w := newWorld(t).scene()
	job := workspace + "/jobs/j1"
	w.must(201, "PUT", job, command())
	w.becomes(job, "properties.status", wire.Queued)
	p := w.privateOf(job)
	w.tell(p.Job.UID, wire.Status{State: wire.Running})
	w.becomes(job, "properties.status", wire.Running)
	w.unbind()
	r := w.becomes(job, "properties.status", notResponding)
	if r.at("properties.properties.statusCode") != codeNoBinding {
		t.Errorf("job %v", r.body)
	}
	item, err := store.Get[store.Provided](t.Context(), w.st, store.ProvidedKey(job))
	if err != nil {
		t.Fatal(err)
	}
	op, err := store.Get[store.Operation](t.Context(), w.st, store.Operation{ID: item.Value.Operation}.Key())
	if err != nil || op.Value.Status == store.OperationSucceeded {
		t.Errorf("operation %+v, %v", op.Value, err)
	}
	w.mu.Lock()
	if w.canceled[p.Job.UID] {
		t.Error("what ran was ended")
	}
	w.mu.Unlock()
	if r := w.call("PUT", workspace+"/jobs/j2", command()); r.err != nil {
		t.Errorf("a job is taken and fails when it is submitted: %v", r.err)
	}
	w.becomes(workspace+"/jobs/j2", "properties.status", notResponding)
	w.mu.Lock()
	w.refuse = nil
	w.mu.Unlock()
	w.bind()
	w.becomes(job, "properties.status", wire.Running)
	w.becomes(workspace+"/jobs/j2", "properties.status", wire.Queued)
	w.must(202, "POST", job+"/cancel", nil)
	w.becomes(job, "properties.status", wire.Canceled)
}

func (w *world) privateOf(job string) jobPrivate {
	w.t.Helper()
	item, err := store.Get[store.Provided](w.t.Context(), w.st, store.ProvidedKey(job))
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := readJob(&item.Value)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func TestWhatIsNotDoneIsRefusedByName(t *testing.T) {
	w := newWorld(t).scene()
	job := workspace + "/jobs/j"
	for target, body := range map[string]map[string]any{
		"properties.jobType":  props("jobType", "Sweep"),
		"properties.command":  command("command", " "),
		"properties.inputs.a": command("inputs", map[string]any{"a": map[string]any{"jobInputType": "mltable", "uri": "x"}}),
		"properties.resources.properties.kueue.x-k8s.io/queue-name": command("resources", map[string]any{"properties": map[string]any{wire.QueueLabel: "Not a label"}}),
		"properties.queueSettings":                                  command("queueSettings", map[string]any{"jobTier": "Spot"}),
		"properties.identity":                                       command("identity", map[string]any{"identityType": "Managed"}),
		"properties.environmentId":                                  command("environmentId", workspace+"/environments/train/versions/2"),
		"properties.computeId":                                      command("computeId", group+"/providers/"+Namespace+"/workspaces/other/computes/k8s"),
		"properties.limits.timeout":                                 command("limits", map[string]any{"timeout": "1h"}),
		"properties.resources.instanceCount":                        command("resources", map[string]any{"instanceCount": 0}),
		"properties.resources.shmSize":                              command("resources", map[string]any{"shmSize": "much"}),
		"properties.resources.dockerArgs":                           command("resources", map[string]any{"dockerArgs": "--privileged"}),
		"properties.resources.properties":                           command("resources", map[string]any{"properties": map[string]any{"x": 1}}),
		"properties.distribution.distributionType":                  command("distribution", map[string]any{"distributionType": "Mpi"}),
		"properties.distribution.processCountPerInstance":           command("distribution", map[string]any{"distributionType": "PyTorch", "processCountPerInstance": 4}),
		"properties.environmentVariables":                           command("environmentVariables", map[string]any{"a b": "x"}),
	} {
		var e *trust.Error
		if r := w.call("PUT", job, body); !errors.As(r.err, &e) || e.Kind != trust.Invalid || e.Target != target {
			t.Errorf("%s: %v", target, r.err)
		}
	}
	for _, more := range []map[string]any{
		command("codeId", workspace+"/codes/c/versions/1"), command("inputs", map[string]any{"a": map[string]any{"jobInputType": "uri_file", "uri": "x"}}),
		command("outputs", map[string]any{"a": map[string]any{"jobOutputType": "uri_folder"}}),
	} {
		if r := w.call("PUT", job, more); r.code() != "WorkspaceStorageNotConfigured" || !strings.Contains(r.err.Error(), "volume claim") {
			t.Errorf("without a store: %v", r.err)
		}
	}
	if r := w.call("PUT", job, command("computeId", workspace+"/computes/none")); r.code() != "ComputeNotFound" {
		t.Errorf("no compute: %v", r.err)
	}
	compute := workspace + "/computes/new"
	for target, body := range map[string]map[string]any{
		"properties.computeType":          props("computeType", "AmlCompute"),
		"properties.resourceId":           props("computeType", "Kubernetes", "resourceId", clusterID+"x"),
		"properties.properties":           props("computeType", "Kubernetes", "resourceId", clusterID, "properties", map[string]any{"relayConnectionString": "secret"}),
		"properties.properties.namespace": kubernetes("No"),
		"properties.properties.instanceTypes.a.resources.limits": props("computeType", "Kubernetes", "resourceId", clusterID, "properties",
			map[string]any{"instanceTypes": map[string]any{"a": map[string]any{"resources": map[string]any{"limits": map[string]any{"cpu": "1"}}}}}),
		"properties.properties.instanceTypes.a.resources.requests": props("computeType", "Kubernetes", "resourceId", clusterID, "properties",
			map[string]any{"instanceTypes": map[string]any{"a": map[string]any{"resources": map[string]any{"requests": map[string]any{"cpu": "2"}, "limits": map[string]any{"cpu": "1", "memory": "1Gi"}}}}}),
	} {
		var e *trust.Error
		if r := w.call("PUT", compute, body); !errors.As(r.err, &e) || e.Kind != trust.Invalid || e.Target != target || strings.Contains(e.Message, "secret") {
			t.Errorf("%s: %v", target, r.err)
		}
	}
	if r := w.call("DELETE", workspace+"/computes/k8s?underlyingResourceAction=Delete", nil); trust.KindOf(r.err) != trust.Invalid {
		t.Errorf("delete a cluster: %v", r.err)
	}
}

func TestAnEnvironmentsVersionNeverChanges(t *testing.T) {
	w := newWorld(t)
	w.must(201, "PUT", environment, props("image", "a:1"))
	w.must(200, "PUT", environment, props("image", "a:1", "description", "x"))
	if r := w.call("PUT", environment, props("image", "a:2")); r.code() != arm.Conflict {
		t.Errorf("changed: %v", r.err)
	}
	w.must(201, "PUT", workspace+"/environments/train/versions/10", props("image", "a:10"))
	r := w.must(200, "GET", workspace+"/environments/train", nil)
	if r.at("properties.latestVersion") != "10" || r.at("properties.nextVersion") != "11" {
		t.Errorf("container %v", r.body)
	}
	if r := w.must(200, "GET", workspace+"/environments/train/versions", nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("versions %v", r.body)
	}
	if r := w.must(200, "GET", workspace+"/environments/train/versions?$top=1", nil); len(r.body["value"].([]any)) != 1 || r.body["nextLink"] == nil {
		t.Errorf("first page %v", r.body)
	}
	for _, body := range []map[string]any{props("image", ""), props("build", map[string]any{"contextUri": "x"}), props("condaFile", "x"), props("image", "a b")} {
		if r := w.call("PUT", workspace+"/environments/e/versions/1", body); trust.KindOf(r.err) != trust.Invalid {
			t.Errorf("%v: %v", body, r.err)
		}
	}
}

// A workspace made anew under the same name has no children.
func TestChildrenDieWithTheirWorkspace(t *testing.T) {
	w := newWorld(t).scene()
	s := w.source()
	if _, err := w.st.Commit(t.Context(), store.Delete(s.Key(), 0)); err != nil {
		t.Fatal(err)
	}
	if r := w.call("GET", environment, nil); r.code() != arm.ParentResourceNotFound {
		t.Errorf("without the workspace: %v", r.err)
	}
	w.put(s)
	if r := w.call("GET", environment, nil); r.code() != arm.ResourceNotFound {
		t.Errorf("of another workspace: %v", r.err)
	}
	if r := w.must(200, "GET", workspace+"/computes", nil); len(r.body["value"].([]any)) != 0 {
		t.Errorf("computes %v", r.body)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		left, _, err := store.List[store.Provided](t.Context(), w.st, store.ProvidedPrefix+"/")
		if err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left %v %v", left, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{"PT1H": time.Hour, "P1DT1S": 24*time.Hour + time.Second, "PT90M": 90 * time.Minute, "PT3600S": time.Hour,
		"": 0, "P": 0, "PT": 0, "1h": 0, "PT0S": 0, "PT-1S": 0, "P9999D": 0, "PT1.5S": 0, "P1M": 0} {
		if d, err := duration(s); d != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %v %v, want %v", s, d, err, want)
		}
	}
}

func FuzzDuration(f *testing.F) {
	f.Add("P1DT2H3M4S")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := duration(s); err == nil && d <= 0 {
			t.Errorf("%q is %v", s, d)
		}
	})
}

func TestFederateIsBoundToTheIdentity(t *testing.T) {
	w := newWorld(t)
	s := w.source()
	f := w.ml.Federate(&s)
	if f.Subject != s.Identity.PrincipalID || f.ClientID != s.Identity.ClientID || !strings.Contains(string(f.JWKS), w.ml.keyID) || strings.Contains(string(f.JWKS), `"d"`) {
		t.Errorf("credential %+v %s", f, f.JWKS)
	}
	if err := w.ml.Complete(&s, &store.Source{}); err != nil {
		t.Fatal(err)
	}
	var p struct{ WorkspaceID string }
	if err := json.Unmarshal(s.Properties, &p); err != nil || p.WorkspaceID == "" {
		t.Errorf("properties %s", s.Properties)
	}
	again := s
	again.Properties = json.RawMessage(`{"workspaceid":"other","friendlyName":"x"}`)
	if err := w.ml.Complete(&again, &s); err != nil || !strings.Contains(string(again.Properties), p.WorkspaceID) || strings.Contains(string(again.Properties), "other") {
		t.Errorf("properties %s, %v", again.Properties, err)
	}
}

func TestAJobsQueueIsCarried(t *testing.T) {
	w := newWorld(t).scene()
	job := workspace + "/jobs/j"
	w.must(201, "PUT", job, command("resources", map[string]any{"properties": map[string]any{wire.QueueLabel: "team-a"}}))
	if p := w.privateOf(job); p.Job.Queue != "team-a" {
		t.Errorf("job %+v", p.Job)
	}
}
