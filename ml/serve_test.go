package ml

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	fraud = workspace + "/onlineEndpoints/fraud"
	blue  = fraud + "/deployments/blue"
)

// served is the extension where endpoints and deployments are concerned; w.mu is
// held.
func (w *world) served(r *http.Request, parts []string, answer func(int, any)) {
	uid := ""
	if len(parts) > 2 {
		uid = parts[2]
	}
	switch r.Method + " " + parts[1] {
	case "PUT endpoints":
		var e wire.Endpoint
		_ = json.NewDecoder(r.Body).Decode(&e)
		if _, there := w.computes[e.Compute]; !there {
			answer(404, wire.Error{Code: wire.ComputeNotFound, Message: "no"})
			return
		}
		if e.Name == "taken" {
			answer(409, wire.Error{Code: wire.EndpointAlreadyExists, Message: "this workspace has another endpoint named taken in the cluster"})
			return
		}
		w.endpoints[uid] = e
		answer(200, struct{}{})
	case "PUT deployments":
		var d wire.Deployment
		_ = json.NewDecoder(r.Body).Decode(&d)
		if _, there := w.endpoints[d.Endpoint]; !there {
			answer(404, wire.Error{Code: wire.EndpointNotFound, Message: "no"})
			return
		}
		w.servers[uid] = d
		w.told[d.Name]++
		w.version++
		w.serving[uid] = &wire.DeploymentStatus{State: wire.Updating, Version: fmt.Sprint(w.version), Wanted: d.Instances}
		w.wake()
		answer(200, struct{}{})
	case "GET deployments":
		if len(parts) == 4 {
			answer(200, wire.ServerLog{Content: r.FormValue("container") + " " + r.FormValue("tail")})
			return
		}
		for s := w.serving[uid]; s != nil && r.FormValue("after") == s.Version && w.refuse == nil; s = w.serving[uid] {
			changed := w.changed
			w.mu.Unlock()
			select {
			case <-changed:
			case <-r.Context().Done():
			}
			w.mu.Lock()
			if r.Context().Err() != nil {
				return
			}
		}
		if w.refuse != nil {
			answer(403, struct{}{})
		} else if s := w.serving[uid]; s != nil {
			answer(200, s)
		} else {
			answer(404, wire.Error{Code: wire.DeploymentNotFound, Message: "no"})
		}
	case "DELETE endpoints":
		delete(w.endpoints, uid)
		for id, d := range w.servers {
			if d.Endpoint == uid {
				delete(w.servers, id)
			}
		}
		answer(200, struct{}{})
	case "DELETE deployments":
		delete(w.servers, uid)
		answer(200, struct{}{})
	default:
		answer(404, wire.Error{Code: "NotFound", Message: r.URL.Path})
	}
}

// runs has every deployment of a name be in a state, in the cluster.
// It waits until the cluster was told of it so often.
func (w *world) runs(name string, told int, s wire.DeploymentStatus) {
	w.t.Helper()
	w.until("deployment "+name+" was told of", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for uid, d := range w.servers {
			if d.Name == name && w.told[name] >= told {
				w.version++
				s.Version, s.Wanted = fmt.Sprint(w.version), d.Instances
				w.serving[uid] = &s
				w.wake()
				return true
			}
		}
		return false
	})
}

func kubernetesEndpoint(kv ...any) map[string]any {
	return props(append([]any{"authMode", "Key", "compute", workspace + "/computes/k8s"}, kv...)...)
}

func kubernetesDeployment(kv ...any) map[string]any {
	return props(append([]any{"endpointComputeType", "Kubernetes", "environmentId", environment}, kv...)...)
}

// serves makes the endpoint "fraud" with a deployment of that name.
func (w *world) serves(name string) {
	w.t.Helper()
	if r := w.call("GET", fraud, nil); r.err != nil {
		w.must(201, "PUT", fraud, kubernetesEndpoint())
		w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	}
	w.must(201, "PUT", fraud+"/deployments/"+name, kubernetesDeployment())
	w.runs(name, 1, wire.DeploymentStatus{State: wire.Succeeded, Ready: 1})
	w.becomes(fraud+"/deployments/"+name, "properties.provisioningState", arm.Succeeded)
}

func (w *world) endpoint() wire.Endpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.endpoints {
		return e
	}
	return wire.Endpoint{}
}

func sum(key any) string {
	s := sha256.Sum256([]byte(key.(string)))
	return hex.EncodeToString(s[:])
}

func TestAnEndpointIsServed(t *testing.T) {
	w := newWorld(t).scene()
	r := w.must(201, "PUT", fraud, kubernetesEndpoint())
	if r.at("properties.provisioningState") != creating || r.Header.Get("Azure-AsyncOperation") == "" {
		t.Errorf("created %v %v", r.body, r.Header)
	}
	r = w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	if r.at("properties.scoringUri") != "https://score.test/api/v1/endpoint/fraud/score" || r.at("location") != "local" {
		t.Errorf("endpoint %v", r.body)
	}
	keys := w.must(200, "POST", fraud+"/listKeys", nil)
	if keys.Header.Get("Cache-Control") != "no-store" {
		t.Error("keys may be kept by whoever carries them")
	}
	primary, secondary := keys.at("primaryKey"), keys.at("secondaryKey")
	if e := w.endpoint(); !slices.Equal(e.Keys, []string{sum(primary), sum(secondary)}) || e.Name != "fraud" {
		t.Errorf("the cluster has %+v", e)
	}
	stored, err := store.Get[store.Provided](t.Context(), w.st, store.ProvidedKey(fraud))
	if raw, _ := json.Marshal(stored.Value); err != nil || strings.Contains(string(raw), primary.(string)) || strings.Contains(string(raw), sum(primary)) {
		t.Errorf("the store shows a key: %v", err)
	}

	// A deployment: what is not said is Azure's default.
	w.must(201, "PUT", blue, kubernetesDeployment("requestSettings", map[string]any{"requestTimeout": "PT1M", "maxQueueWait": "PT0.25S"},
		"readinessProbe", map[string]any{"initialDelay": "PT1S", "failureThreshold": 3}))
	w.runs("blue", 1, wire.DeploymentStatus{State: wire.Updating, Code: "PodUnschedulable", Reason: "no node takes it: 0/1 nodes"})
	r = w.becomes(blue, "properties.properties.statusCode", "PodUnschedulable")
	if r.at("properties.provisioningState") != creating {
		t.Errorf("it is %v", r.body)
	}
	if again := w.call("PUT", blue, kubernetesDeployment()); again.code() != arm.Conflict {
		t.Errorf("a second change meanwhile: %v", again.err)
	}
	w.runs("blue", 1, wire.DeploymentStatus{State: wire.Succeeded, Ready: 1})
	r = w.becomes(blue, "properties.provisioningState", arm.Succeeded)
	if r.at("properties.properties.readyInstances") != "1" || r.at("sku.capacity") != 1.0 || r.at("properties.endpointComputeType") != "Kubernetes" {
		t.Errorf("deployment %v", r.body)
	}
	w.mu.Lock()
	for _, d := range w.servers {
		if d.Request != (wire.RequestSettings{Timeout: 60000, MaxConcurrent: 1, MaxQueueWait: 250}) || d.Scoring != (wire.Route{Path: "/score", Port: 5001}) ||
			*d.Readiness != (wire.Probe{Route: wire.Route{Port: 5001}, InitialDelay: 1, Period: 10, Timeout: 2, Success: 1, Failure: 3}) ||
			*d.Liveness != (wire.Probe{Route: wire.Route{Port: 5001}, InitialDelay: 10, Period: 10, Timeout: 2, Success: 1, Failure: 30}) || d.Image != "example.com/train:1" {
			t.Errorf("the cluster has %+v", d)
		}
	}
	w.mu.Unlock()
	if log := w.must(200, "POST", blue+"/getLogs", map[string]any{"containerType": "InferenceServer", "tail": 7}); log.at("content") != "server 7" {
		t.Errorf("log %v", log.body)
	}
	if s := w.must(200, "GET", blue+"/skus", nil); len(s.at("value").([]any)) != 1 {
		t.Errorf("skus %v", s.body)
	}

	// Scaled, as Azure's SDK does: only the capacity.
	w.must(200, "PATCH", blue, map[string]any{"sku": map[string]any{"name": "Default", "capacity": 3}})
	w.runs("blue", 2, wire.DeploymentStatus{State: wire.Scaling, Ready: 1})
	w.becomes(blue, "properties.provisioningState", wire.Scaling)
	w.runs("blue", 2, wire.DeploymentStatus{State: wire.Succeeded, Ready: 3})
	r = w.becomes(blue, "properties.provisioningState", arm.Succeeded)
	if r.at("sku.capacity") != 3.0 || r.at("properties.requestSettings.requestTimeout") != "PT1M" {
		t.Errorf("scaled %v", r.body)
	}
}

func TestTrafficIsOfExistingDeployments(t *testing.T) {
	w := newWorld(t).scene()
	w.serves("blue")
	w.serves("green")
	for name, split := range map[string]map[string]int{
		"too little": {"blue": 99}, "too much": {"blue": 60, "green": 50}, "nobody": {"red": 100}, "negative": {"blue": 110, "green": -10},
	} {
		if r := w.call("PUT", fraud, kubernetesEndpoint("traffic", split)); trust.KindOf(r.err) != trust.Invalid {
			t.Errorf("%s: %v", name, r.err)
		}
	}
	w.must(200, "PUT", fraud, kubernetesEndpoint("traffic", map[string]int{"Blue": 90, "green": 10}))
	r := w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	if e := w.endpoint(); e.Traffic["blue"] != 90 || e.Traffic["green"] != 10 || r.at("properties.traffic.blue") != 90.0 {
		t.Errorf("traffic %v, %v", e.Traffic, r.at("properties.traffic"))
	}
	// A PUT that does not name it keeps it.
	w.must(200, "PUT", fraud, kubernetesEndpoint())
	if r = w.becomes(fraud, "properties.provisioningState", arm.Succeeded); r.at("properties.traffic.green") != 10.0 {
		t.Errorf("traffic %v", r.at("properties.traffic"))
	}
	if r := w.call("DELETE", blue, nil); r.code() != arm.Conflict {
		t.Errorf("deleted with traffic: %v", r.err)
	}
	w.must(200, "PATCH", fraud, map[string]any{"properties": map[string]any{"traffic": map[string]int{"blue": 0, "green": 100}}})
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	w.must(202, "DELETE", blue, nil)
	w.gone(blue)
	if r := w.must(200, "GET", fraud, nil); r.at("properties.traffic.blue") != nil || r.at("properties.traffic.green") != 100.0 {
		t.Errorf("traffic %v", r.at("properties.traffic"))
	}
}

func (w *world) gone(path string) {
	w.t.Helper()
	w.until(path+" is gone", func() bool { return w.call("GET", path, nil).code() == arm.ResourceNotFound })
}

func TestWhatIsNotServedIsRefusedByName(t *testing.T) {
	w := newWorld(t).scene()
	w.must(201, "PUT", fraud, kubernetesEndpoint())
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	for says, c := range map[string]struct {
		path string
		body map[string]any
	}{
		"AADToken is not supported":       {fraud + "2", kubernetesEndpoint("authMode", "AADToken")},
		"not mirrored":                    {fraud, kubernetesEndpoint("mirrorTraffic", map[string]int{"blue": 10})},
		"no deployments when it is made":  {fraud + "2", kubernetesEndpoint("traffic", map[string]int{"blue": 100})},
		"is not the id of a compute":      {fraud + "2", kubernetesEndpoint("compute", "")},
		"is not attached":                 {fraud + "2", kubernetesEndpoint("compute", workspace+"/computes/none")},
		"3 to 32":                         {workspace + "/onlineEndpoints/a--b", kubernetesEndpoint()},
		"a key has 32":                    {fraud, kubernetesEndpoint("keys", map[string]any{"primaryKey": "short"})},
		"managed endpoints":               {fraud, kubernetesEndpoint("publicNetworkAccess", "Disabled")},
		"cannot be moved":                 {fraud, kubernetesEndpoint("compute", workspace+"/computes/other")},
		"Kubernetes is":                   {blue, kubernetesDeployment("endpointComputeType", "Managed")},
		"scoring scripts are not run":     {blue, kubernetesDeployment("codeConfiguration", map[string]any{"scoringScript": "score.py"})},
		"is not the id of an environment": {blue, kubernetesDeployment("environmentId", "x")},
		"at most 300 seconds":             {blue, kubernetesDeployment("requestSettings", map[string]any{"requestTimeout": "PT301S"})},
		"more than the limit":             {blue, kubernetesDeployment("containerResourceRequirements", map[string]any{"containerResourceRequests": map[string]any{"cpu": "2"}, "containerResourceLimits": map[string]any{"cpu": "1"}})},
		"is less than minInstances":       {blue, kubernetesDeployment("scaleSettings", map[string]any{"scaleType": "TargetUtilization", "minInstances": 3, "maxInstances": 2})},
		"requests are not collected":      {blue, kubernetesDeployment("dataCollector", map[string]any{"collections": map[string]any{}})},
		"whole seconds":                   {blue, kubernetesDeployment("readinessProbe", map[string]any{"period": "PT0.5S"})},
		"not a number of probes":          {blue, kubernetesDeployment("livenessProbe", map[string]any{"successThreshold": 2})},
		"environment variable's name":     {blue, kubernetesDeployment("environmentVariables", map[string]any{"a b": "x"})},
		"have 63 characters together":     {workspace + "/onlineEndpoints/" + strings.Repeat("e", 31) + "/deployments/" + strings.Repeat("d", 32), kubernetesDeployment()},
		"no size like":                    {blue, kubernetesDeployment("properties", map[string]any{"shmSize": "big"})},
		"have no identity of their own": {fraud, func() map[string]any {
			b := kubernetesEndpoint()
			b["identity"] = map[string]any{"type": "SystemAssigned"}
			return b
		}()},
		"number of instances from 1": {blue, func() map[string]any {
			b := kubernetesDeployment()
			b["sku"] = map[string]any{"name": "Default", "capacity": 0}
			return b
		}()},
		"Parent resource 'onlineEndpoints/none": {workspace + "/onlineEndpoints/none/deployments/blue", kubernetesDeployment()},
	} {
		if strings.HasPrefix(says, "have 63") {
			long := workspace + "/onlineEndpoints/" + strings.Repeat("e", 31)
			w.must(201, "PUT", long, kubernetesEndpoint())
			w.becomes(long, "properties.provisioningState", arm.Succeeded)
		}
		r := w.call("PUT", c.path, c.body)
		if r.err == nil || !strings.Contains(r.err.Error(), says) && !strings.HasPrefix(says, "Parent") || trust.KindOf(r.err) == trust.Internal {
			t.Errorf("%s: %v", says, r.err)
		}
	}
	if r := w.call("POST", fraud+"/token", map[string]any{}); trust.KindOf(r.err) != trust.Invalid {
		t.Errorf("a token where keys score: %v", r.err)
	}
	if r := w.call("DELETE", workspace+"/computes/k8s?underlyingResourceAction=Detach", nil); r.code() != arm.Conflict {
		t.Errorf("detached under an endpoint: %v", r.err)
	}
	taken := workspace + "/onlineEndpoints/taken"
	w.must(201, "PUT", taken, kubernetesEndpoint())
	w.becomes(taken, "properties.properties.statusCode", wire.EndpointAlreadyExists)
}

func TestKeysRotateAndTokensExpire(t *testing.T) {
	w := newWorld(t).scene()
	w.serves("blue")
	before := w.must(200, "POST", fraud+"/listKeys", nil)
	w.must(202, "POST", fraud+"/regenerateKeys", map[string]any{"keyType": "Primary"})
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	after := w.must(200, "POST", fraud+"/listKeys", nil)
	if after.at("primaryKey") == before.at("primaryKey") || after.at("secondaryKey") != before.at("secondaryKey") {
		t.Error("not exactly the primary key has changed")
	}
	if e := w.endpoint(); !slices.Equal(e.Keys, []string{sum(after.at("primaryKey")), sum(after.at("secondaryKey"))}) {
		t.Errorf("the cluster has %v", e.Keys)
	}
	own := strings.Repeat("k", 40)
	w.must(202, "POST", fraud+"/regenerateKeys", map[string]any{"keyType": "Secondary", "keyValue": own})
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	if r := w.must(200, "POST", fraud+"/listKeys", nil); r.at("secondaryKey") != own {
		t.Error("the key that was given is not there")
	}
	if r := w.call("POST", fraud+"/regenerateKeys", map[string]any{"keyType": "Third"}); trust.KindOf(r.err) != trust.Invalid {
		t.Errorf("%v", r.err)
	}

	w.must(200, "PUT", fraud, kubernetesEndpoint("authMode", "AMLToken"))
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	if e := w.endpoint(); len(e.Keys) != 0 {
		t.Errorf("keys still score: %v", e.Keys)
	}
	if r := w.call("POST", fraud+"/listKeys", nil); trust.KindOf(r.err) != trust.Invalid {
		t.Errorf("keys where tokens score: %v", r.err)
	}
	r := w.must(200, "POST", fraud+"/token", map[string]any{})
	jws, err := jose.ParseSignedCompact(r.at("accessToken").(string), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := jws.Verify(w.ml.Key.Public())
	var claims wire.ScoringToken
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		t.Fatal(err)
	}
	if claims.Audience != wire.ScoringAudience(wire.Audience(w.ml.Base, clusterUID), w.endpoint().UID) || claims.Issuer != wire.Issuer(w.ml.Base) ||
		float64(claims.Expires) != r.at("expiryTimeUtc") || claims.Subject != w.source().Identity.PrincipalID {
		t.Errorf("claims %+v", claims)
	}
}

// What serves goes on without a binding; what was being changed ends with the
// reason, and is taken up again.
func TestServingWithoutABinding(t *testing.T) {
	w := newWorld(t).scene()
	w.serves("blue")
	w.must(201, "PUT", fraud+"/deployments/green", kubernetesDeployment())
	w.runs("green", 1, wire.DeploymentStatus{State: wire.Updating})
	w.unbind()
	w.becomes(fraud+"/deployments/green", "properties.properties.statusCode", codeNoBinding)
	for _, c := range []struct {
		method, path string
		body         any
	}{
		{"PUT", fraud, kubernetesEndpoint("traffic", map[string]int{"blue": 100})}, {"PUT", blue, kubernetesDeployment()},
		{"POST", fraud + "/regenerateKeys", map[string]any{"keyType": "Primary"}}, {"POST", blue + "/getLogs", map[string]any{}},
	} {
		if r := w.call(c.method, c.path, c.body); r.code() != codeNoBinding {
			t.Errorf("%s %s: %v", c.method, c.path, r.err)
		}
	}
	w.mu.Lock()
	w.refuse = nil
	if len(w.servers) != 2 || len(w.endpoints) != 1 {
		t.Errorf("the cluster has %v", w.servers)
	}
	w.mu.Unlock()
	w.bind()
	w.runs("green", 2, wire.DeploymentStatus{State: wire.Succeeded, Ready: 1})
	w.becomes(fraud+"/deployments/green", "properties.provisioningState", arm.Succeeded)

	// Deleting works without one, and says what stays.
	w.unbind()
	r := w.must(202, "DELETE", fraud, nil)
	w.gone(fraud)
	w.gone(blue)
	op := w.end(r)
	if op.Status != store.OperationSucceeded || !strings.Contains(op.Reason, "kubectl delete -n azureml onlineendpoint/e-") {
		t.Errorf("operation %+v", op)
	}
}

// A deployment that cannot run says why, and another PUT tries again.
func TestADeploymentThatDoesNotRunSaysWhy(t *testing.T) {
	w := newWorld(t).scene()
	w.must(201, "PUT", fraud, kubernetesEndpoint())
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	w.must(201, "PUT", blue, kubernetesDeployment())
	w.runs("blue", 1, wire.DeploymentStatus{State: wire.Failed, Code: "ImagePullLoopBackOff", Reason: "the image cannot be had"})
	r := w.becomes(blue, "properties.provisioningState", arm.Failed)
	if r.at("properties.properties.statusCode") != "ImagePullLoopBackOff" || !strings.Contains(fmt.Sprint(r.at("properties.properties.statusHint")), "get-logs") {
		t.Errorf("deployment %v", r.body)
	}
	w.must(200, "PUT", blue, kubernetesDeployment())
	w.runs("blue", 2, wire.DeploymentStatus{State: wire.Succeeded, Ready: 1})
	if r = w.becomes(blue, "properties.provisioningState", arm.Succeeded); r.at("properties.properties.statusCode") != nil {
		t.Errorf("deployment %v", r.body)
	}
	// The extension was installed anew: everything is told again.
	w.mu.Lock()
	clear(w.computes)
	clear(w.endpoints)
	clear(w.servers)
	w.mu.Unlock()
	w.must(200, "PUT", blue, kubernetesDeployment())
	w.runs("blue", 3, wire.DeploymentStatus{State: wire.Succeeded, Ready: 1})
	w.becomes(blue, "properties.provisioningState", arm.Succeeded)
	if len(w.endpoint().Keys) != 2 {
		t.Error("the endpoint was told of without its keys")
	}
}

func FuzzFraction(f *testing.F) {
	for _, s := range []string{"PT5S", "PT0.5S", "P1DT2H3M4S", "PT", "P", "PT999999999S", "pt1s", "PT1.S"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := fraction(s); err == nil && (d < 0 || d > 365*24*time.Hour) {
			t.Errorf("%q is %s", s, d)
		}
	})
}

// A replica gets its deployment's model whenever it starts, as long as there is
// a binding; and nothing else.
func TestADeploymentMountsAModel(t *testing.T) {
	s := newStored(t)
	w := s.world
	uri := s.upload(workspace+"/models/line/versions/1", map[string]string{"model.json": `{"weights":[3]}`})
	version := workspace + "/models/line/versions/1"
	w.must(201, "PUT", version, props("modelUri", uri, "modelType", "custom_model"))
	w.must(201, "PUT", fraud, kubernetesEndpoint())
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	for says, kv := range map[string][]any{
		"does not exist":       {"model", workspace + "/models/line/versions/2"},
		"id of a model":        {"model", environment},
		"no model":             {"modelMountPath", "/models"},
		"absolute path":        {"model", version, "modelMountPath", "/models/../etc"},
		"is not the id of a m": {"model", "azureml:line:1"},
	} {
		if r := w.call("PUT", blue, kubernetesDeployment(kv...)); r.err == nil || !strings.Contains(r.err.Error(), says) {
			t.Errorf("%s: %v", says, r.err)
		}
	}
	w.must(201, "PUT", blue, kubernetesDeployment("model", version, "modelMountPath", "/models"))
	w.runs("blue", 1, wire.DeploymentStatus{State: wire.Succeeded, Ready: 1})
	w.becomes(blue, "properties.provisioningState", arm.Succeeded)
	var d wire.Deployment
	w.locked(func() bool {
		for _, d = range w.servers {
		}
		return true
	})
	if len(d.Mounts) != 1 || d.Mounts[0] != (wire.Mount{Name: "model", Way: wire.Read, Path: "/models/line/1"}) || d.Environment["AZUREML_MODEL_DIR"] != "/models/line/1" {
		t.Errorf("the cluster has %+v", d)
	}
	ask := wire.Ask{Deployment: d.UID, Resource: "onlineEndpoints/fraud/deployments/blue", Pod: "p", Mount: "model"}
	answer := s.ask(ask)
	if len(answer.Files) != 1 || answer.Files[0].Path != "model.json" || s.send(http.MethodGet, answer.Files[0], "") != `{"weights":[3]}` {
		t.Errorf("answer %+v", answer)
	}
	for name, change := range map[string]func(*wire.Ask){
		"another mount":      func(a *wire.Ask) { a.Mount = "code" },
		"another deployment": func(a *wire.Ask) { a.Deployment = "00000000-0000-4000-8000-000000000000" },
		"to write":           func(a *wire.Ask) { a.Mount, a.Files = "outputs.x", []wire.File{{Path: "x"}} },
	} {
		wrong := ask
		change(&wrong)
		if answer := s.ask(wrong); answer.Error == nil || len(answer.Files) > 0 {
			t.Errorf("%s: %+v", name, answer)
		}
	}
}

// RFC 7396, appendix A, as far as it is about objects; and what ARM adds to it.
func TestMergePatch(t *testing.T) {
	for _, c := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"a":"foo"}`, `{"a":{"b":{"c":null},"d":1}}`, `{"a":{"b":{},"d":1}}`},
		{`{"a":12345678901234567890}`, `{}`, `{"a":12345678901234567890}`},
		{`{"Ab":1}`, `{"aB":2}`, `{"Ab":2}`},
		{`{"environmentVariables":{"PATH":"x"}}`, `{"EnvironmentVariables":{"Path":"y","PATH":null}}`, `{"environmentVariables":{"Path":"y"}}`},
	} {
		target, err := object([]byte(c[0]))
		if err != nil {
			t.Fatal(err)
		}
		patch, err := object([]byte(c[1]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(mergePatch(target, patch, trust.SameFold))
		if err != nil || string(got) != c[2] {
			t.Errorf("%s + %s = %s, %v, want %s", c[0], c[1], got, err, c[2])
		}
	}
}

// What was set can be unset.
func TestAPatchRemovesWhatIsNull(t *testing.T) {
	w := newWorld(t).scene()
	w.serves("blue")
	full := kubernetesDeployment("description", "d", "instanceType", "large", "environmentVariables", map[string]any{"A": "1", "B": "2"},
		"requestSettings", map[string]any{"requestTimeout": "PT1M", "maxQueueWait": "PT1S"}, "scaleSettings", map[string]any{"scaleType": "TargetUtilization", "maxInstances": 3})
	full["tags"], full["sku"] = map[string]string{"team": "a", "cost": "b"}, map[string]any{"name": "Default", "capacity": 2}
	w.must(200, "PUT", blue, full)
	w.runs("blue", 2, wire.DeploymentStatus{State: wire.Succeeded, Ready: 2})
	w.becomes(blue, "properties.provisioningState", arm.Succeeded)
	w.must(200, "PATCH", blue, map[string]any{"tags": map[string]any{"team": nil}, "sku": map[string]any{"capacity": nil}, "properties": map[string]any{"description": nil, "instanceType": nil,
		"environmentVariables": map[string]any{"A": nil}, "requestSettings": map[string]any{"requestTimeout": nil}, "scaleSettings": nil}})
	w.runs("blue", 3, wire.DeploymentStatus{State: wire.Succeeded, Ready: 1})
	r := w.becomes(blue, "properties.provisioningState", arm.Succeeded)
	for _, gone := range []string{"tags.team", "properties.description", "properties.instanceType", "properties.environmentVariables.A", "properties.requestSettings.requestTimeout", "properties.scaleSettings"} {
		if v := r.at(gone); v != nil {
			t.Errorf("%s is %v", gone, v)
		}
	}
	for stays, want := range map[string]any{"tags.cost": "b", "properties.environmentVariables.B": "2", "properties.requestSettings.maxQueueWait": "PT1S", "sku.capacity": 1.0} {
		if v := r.at(stays); v != want {
			t.Errorf("%s is %v", stays, v)
		}
	}
	w.locked(func() bool {
		for _, d := range w.servers {
			if d.InstanceType != "" || len(d.Environment) != 1 || d.Request.Timeout != 5000 || d.Request.MaxQueueWait != 1000 || d.Scale != nil || d.Instances != 1 {
				t.Errorf("the cluster has %+v", d)
			}
		}
		return true
	})
	w.must(200, "PATCH", fraud, map[string]any{"properties": map[string]any{"traffic": map[string]int{"blue": 100}, "description": "x", "authMode": "AMLToken"}})
	w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	w.must(200, "PATCH", fraud, map[string]any{"tags": nil, "properties": map[string]any{"traffic": nil, "description": nil, "authMode": nil}})
	r = w.becomes(fraud, "properties.provisioningState", arm.Succeeded)
	if r.at("properties.description") != nil || r.at("properties.traffic.blue") != nil || r.at("properties.authMode") != byKey || r.at("tags") != nil {
		t.Errorf("endpoint %v", r.body)
	}
	for what, patch := range map[string]map[string]any{"properties": {"properties": nil}, "the compute": {"properties": map[string]any{"compute": nil}},
		"an object by a text": {"properties": map[string]any{"traffic": "x"}}} {
		if r := w.call("PATCH", fraud, patch); trust.KindOf(r.err) != trust.Invalid {
			t.Errorf("%s: %v", what, r.err)
		}
	}
}
