package ml

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/mlext/wire"
)

const scoreImage = "dev.sallyport.test/score:1"

// A workspace serves on a real node: through the gateway it makes and changes
// what serves, and callers score it without passing the gateway.
func TestAWorkspaceServes(t *testing.T) {
	m := start(t)
	m.scoring()
	m.endpoint("fraud")
	e := m.deploys()
	m.splits(e)
	m.rolls(e)
	m.routers(e)
	m.doesNotRun()
	m.rotates(e)
	m.aloneServes(e)
	m.servesUnbound(e)
	m.withdraws()
}

// scoring gives the nodes the image of a model server.
func (m *ml) scoring() {
	m.t.Helper()
	if !m.images[scoreImage] {
		m.image(scoreImage, m.build("../../examples/score"))
	}
}

// endpoint makes one.
func (m *ml) endpoint(name string) {
	m.t.Helper()
	file := m.Path(name + ".yaml")
	m.must(os.WriteFile(file, []byte("name: "+name+"\ncompute: azureml:k8s\nauth_mode: key\n"), 0o600))
	m.cli(m.in("trainer", "ml", "online-endpoint", "create", "-f", file, "-o", "none")...)
}

// deployment writes the YAML of a deployment of the endpoint "fraud", whose
// servers say their version.
func (m *ml) deployment(name, version, more string) string {
	m.t.Helper()
	return m.deploymentOf("fraud", name, version, more)
}

func (m *ml) deploymentOf(endpoint, name, version, more string) string {
	m.t.Helper()
	return m.file(endpoint+"-"+name+".yaml", fmt.Sprintf(`name: %s
endpoint_name: %s
type: kubernetes
environment:
  image: %s
  inference_config:
    scoring_route: {path: /score, port: 5001}
    liveness_route: {path: /healthz, port: 5001}
    readiness_route: {path: /ready, port: 5001}
environment_variables: {VERSION: %s}
resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {cpu: "1", memory: 128Mi}}
readiness_probe: {initial_delay: 0, period: 1}
request_settings: {request_timeout_ms: 60000, max_concurrent_requests_per_instance: 8, max_queue_wait_ms: 60000}
%s`, name, endpoint, scoreImage, version, more))
}

func (m *ml) served(action, deployment string, args ...string) []string {
	return m.in("trainer", append([]string{"ml", "online-deployment", action, "-e", "fraud", "-n", deployment}, args...)...)
}

// scorer is a caller of an endpoint: it knows the address and a key.
type scorer struct {
	url, key string
	http     *http.Client
}

// score asks for one prediction, and gives the version of the server that
// answered.
func (s *scorer) score(ctx context.Context, key, deployment string) (status int, version string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewBufferString(`{"data":[[1]]}`))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if deployment != "" {
		req.Header.Set("azureml-model-deployment", deployment)
	}
	res, err := s.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return res.StatusCode, string(raw), err
	}
	var answer struct{ Version string }
	return res.StatusCode, answer.Version, json.Unmarshal(raw, &answer)
}

// counts scores so often and counts the versions.
func (s *scorer) counts(m *ml, n int) map[string]int {
	m.t.Helper()
	seen := map[string]int{}
	for range n {
		status, version, err := s.score(m.t.Context(), s.key, "")
		if err != nil || status != http.StatusOK {
			m.t.Fatalf("scored: %d %s %v", status, version, err)
		}
		seen[version]++
	}
	return seen
}

// deploys: requests come when the replicas are ready, and not before.
func (m *ml) deploys() *scorer {
	m.cli(m.in("trainer", "ml", "online-deployment", "create", "-f", m.deployment("blue", "one", ""), "--all-traffic", "-o", "none")...)
	s := m.scorerOf("fraud")
	if seen := s.counts(m, 10); seen["one"] != 10 {
		m.t.Errorf("versions %v", seen)
	}
	if status, text, err := s.score(m.t.Context(), "wrong", ""); err != nil || status != http.StatusUnauthorized {
		m.t.Errorf("a wrong key: %d %s %v", status, text, err)
	}
	out := m.cli(m.in("trainer", "ml", "online-endpoint", "invoke", "-n", "fraud", "--request-file", m.file("sample.json", `{"data":[[1],[2]]}`))...)
	if !strings.Contains(out, `"predictions":[0,0]`) {
		m.t.Errorf("invoke: %s", out)
	}
	if log := m.cli(m.served("get-logs", "blue")...); !strings.Contains(log, `serving version "one"`) {
		m.t.Errorf("log %q", log)
	}
	pod := m.kubectl("get", "pods", "-n", "training", "-l", "ml.sallyport.dev/deployment", "-o", "jsonpath={.items[0].spec}")
	if strings.Contains(pod, "kube-api-access") || !strings.Contains(pod, `"automountServiceAccountToken":false`) {
		m.t.Errorf("a model server has a token of the cluster: %s", pod)
	}
	return s
}

func (m *ml) file(name, text string) string {
	m.t.Helper()
	file := m.Path(name)
	m.must(os.WriteFile(file, []byte(text), 0o600))
	return file
}

// splits: two versions share the traffic as it is set, and a header asks for one.
func (m *ml) splits(s *scorer) {
	m.cli(m.in("trainer", "ml", "online-deployment", "create", "-f", m.deployment("green", "two", "instance_count: 2\n"), "-o", "none")...)
	if seen := s.counts(m, 20); seen["two"] != 0 {
		m.t.Errorf("a deployment without traffic was asked: %v", seen)
	}
	if status, version, err := s.score(m.t.Context(), s.key, "green"); err != nil || status != http.StatusOK || version != "two" {
		m.t.Errorf("asked for by name: %d %s %v", status, version, err)
	}
	m.traffic("blue=75 green=25")
	eventually(m.t, "the split is seen", func(context.Context) error {
		if seen := s.counts(m, 400); seen["two"] < 92 || seen["two"] > 108 { // exact but for the change
			return fmt.Errorf("versions %v", seen)
		}
		return nil
	})
}

func (m *ml) traffic(split string) {
	m.t.Helper()
	m.cli(m.in("trainer", "ml", "online-endpoint", "update", "-n", "fraud", "--traffic", split, "-o", "none")...)
}

// rolls: while replicas are replaced every request is answered.
func (m *ml) rolls(s *scorer) {
	m.traffic("blue=0 green=100")
	ctx, stop := context.WithCancel(m.t.Context())
	defer stop()
	var wg sync.WaitGroup
	var asked, three atomic.Int64
	var mu sync.Mutex
	var lost []string
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				status, version, err := s.score(context.WithoutCancel(ctx), s.key, "")
				asked.Add(1)
				if version == "three" {
					three.Add(1)
				}
				if err != nil || status != http.StatusOK {
					mu.Lock()
					lost = append(lost, fmt.Sprintf("%d %s %v", status, version, err))
					mu.Unlock()
				}
			}
		})
	}
	m.cli(m.served("update", "green", "--set", "environment_variables.VERSION=three", "-o", "none")...)
	eventually(m.t, "the new version alone answers", func(context.Context) error {
		for range 20 {
			if _, version, err := s.score(m.t.Context(), s.key, ""); err != nil || version != "three" {
				return fmt.Errorf("version %q, %w", version, err)
			}
		}
		return nil
	})
	stop()
	wg.Wait()
	if len(lost) > 0 {
		m.t.Errorf("%d of %d requests were lost while replicas were replaced, such as %s", len(lost), asked.Load(), lost[0])
	}
	if three.Load() == 0 || asked.Load() < 20 {
		m.t.Errorf("%d requests, %d of the new version: nothing was seen of the change", asked.Load(), three.Load())
	}
}

// doesNotRun: what cannot run says why, and disturbs nothing.
func (m *ml) doesNotRun() {
	fails := func(code, says string, args ...string) {
		m.t.Helper()
		out, err := m.CLI(m.t.Context(), m.served("update", "blue", args...)...)
		if err == nil || !strings.Contains(err.Error(), code) || !strings.Contains(err.Error(), says) {
			m.t.Errorf("%v: want %s, %q, got %v\n%s", args, code, says, err, out)
		}
	}
	fails("InvalidDeploymentSpec", "beyond the instance type's", "--set", "resources.limits.cpu=64")
	fails("InvalidDeploymentSpec", "there is no instance type", "--set", "resources.limits.cpu=1", "instance_type=none")
	fails("DeploymentCrashLoopBackOff", "no such file", "--set", "instance_type=defaultinstancetype", "environment_variables.AZUREML_MODEL_DIR=/none")
	fails("ImagePullLoopBackOff", "image", "--set", "environment.image=dev.sallyport.test/none:1", "environment_variables.AZUREML_MODEL_DIR=")
	m.must(m.Cluster.Apply(m.t.Context(), `{apiVersion: amlarc.azureml.com/v1alpha1, kind: InstanceType, metadata: {name: wide},
		spec: {resources: {requests: {cpu: "500", memory: 1Gi}, limits: {cpu: "500", memory: 1Gi}}}}`))
	m.cli(m.in("trainer", "ml", "online-deployment", "create", "-f", m.deployment("wide", "four", "instance_type: wide\n"), "--set", "resources.requests.cpu=500", "resources.limits.cpu=500", "--no-wait", "-o", "none")...)
	eventually(m.t, "it says that no node takes it", func(ctx context.Context) error {
		out, err := m.CLI(ctx, m.served("show", "wide", "--query", "properties.[statusCode,statusReason]", "-o", "tsv")...)
		if err == nil && (!strings.Contains(out, "PodUnschedulable") || !strings.Contains(out, "Insufficient cpu")) {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	m.refused("in progress", m.served("update", "wide", "--set", "instance_count=2")...)
	m.cli(m.served("delete", "wide", "--yes")...)
	// What runs already has not been touched by any of it.
	if out := m.kubectl("get", "pods", "-n", "training", "-l", "ml.sallyport.dev/deployment", "--field-selector=status.phase=Running", "-o", `jsonpath={.items[*].spec.containers[0].env[?(@.name=="VERSION")].value}`); !strings.Contains(out, "one") {
		m.t.Errorf("running %q", out)
	}
}

// rotates: a key is good until the other one is in its place, and not longer.
func (m *ml) rotates(s *scorer) {
	m.cli(m.in("trainer", "ml", "online-endpoint", "regenerate-keys", "-n", "fraud", "--key-type", "primary")...)
	old := s.key
	s.key = m.cli(m.in("trainer", "ml", "online-endpoint", "get-credentials", "-n", "fraud", "--query", "primaryKey", "-o", "tsv")...)
	if s.key == old {
		m.t.Error("the key is the same")
	}
	eventually(m.t, "the new key scores, and the old one does not", func(ctx context.Context) error {
		now, _, err := s.score(ctx, s.key, "")
		before, _, err2 := s.score(ctx, old, "")
		if now != http.StatusOK || before != http.StatusUnauthorized {
			return errors.Join(err, err2, fmt.Errorf("%d with the new, %d with the old", now, before))
		}
		return nil
	})
	objects := m.kubectl("get", "onlineendpoints", "-n", wire.Namespace, "-o", "json")
	if strings.Contains(objects, s.key) {
		m.t.Error("the cluster has the key itself")
	}
}

// aloneServes: another bound workspace and a source that holds services/proxy
// reach nothing of what the first one serves.
func (m *ml) aloneServes(s *scorer) {
	endpoint := m.kubectl("get", "onlineendpoints", "-n", wire.Namespace, "-o", "jsonpath={.items[0].spec.endpoint.uid}")
	compute := m.kubectl("get", "onlineendpoints", "-n", wire.Namespace, "-o", "jsonpath={.items[0].spec.endpoint.compute}")
	deployment := m.kubectl("get", "onlinedeployments", "-n", wire.Namespace, "-o", "jsonpath={.items[0].spec.deployment.uid}")
	other, err := m.NewService(m.t.Context(), workspaces, "rival")
	m.must(err)
	m.bind("rival")
	third, err := m.NewService(m.t.Context(), "Contoso.Prober/probers", "spy")
	m.must(err)
	m.must(third.Bind(m.t.Context(), "spy", prober))
	whole := `"name":"x","image":"i","instances":1,"scoring":{"path":"/","port":1},"request":{"timeoutMs":1,"maxConcurrentPerInstance":1,"maxQueueWaitMs":1}`
	const unused = "00000000-0000-4000-8000-000000000000"
	for _, c := range []struct{ method, path, body string }{
		{"PUT", "/endpoints/" + endpoint, `{"name":"fraud","compute":"` + compute + `"}`}, {"PUT", "/endpoints/" + unused, `{"name":"fraud","compute":"` + compute + `"}`},
		{"DELETE", "/endpoints/" + endpoint, ""}, {"GET", "/deployments/" + deployment, ""}, {"GET", "/deployments/" + deployment + "/logs?container=server", ""},
		{"DELETE", "/deployments/" + deployment, ""}, {"PUT", "/deployments/" + deployment, `{` + whole + `,"endpoint":"` + endpoint + `"}`},
		{"PUT", "/deployments/" + unused, `{` + whole + `,"endpoint":"` + endpoint + `"}`},
	} {
		if status, code := m.ask(other, m.extensionToken(other), c.method, c.path, c.body); status != http.StatusNotFound {
			m.t.Errorf("another workspace: %s %s: %d %s", c.method, c.path, status, code)
		}
		if status, code := m.ask(third, "", c.method, c.path, c.body); status != http.StatusUnauthorized && (status != http.StatusForbidden || code != "Status") {
			m.t.Errorf("a source with services/proxy: %s %s: %d %s", c.method, c.path, status, code)
		}
	}
	if status, _, err := s.score(m.t.Context(), m.extensionToken(other), ""); err != nil || status != http.StatusUnauthorized {
		m.t.Errorf("scored with another workspace's token: %d %v", status, err)
	}
	if seen := s.counts(m, 5); seen["three"] != 5 {
		m.t.Errorf("versions %v", seen)
	}
}

// servesUnbound: without a binding nothing can be changed, and scoring goes on.
func (m *ml) servesUnbound(s *scorer) {
	m.unbind()
	m.refused("TrustedAccessRoleBindingNotFound", m.served("update", "green", "--set", "environment_variables.VERSION=five")...)
	m.refused("TrustedAccessRoleBindingNotFound", m.in("trainer", "ml", "online-endpoint", "update", "-n", "fraud", "--traffic", "blue=100 green=0")...)
	m.refused("TrustedAccessRoleBindingNotFound", m.in("trainer", "ml", "online-endpoint", "regenerate-keys", "-n", "fraud")...)
	m.refused("TrustedAccessRoleBindingNotFound", m.served("get-logs", "green")...)
	if seen := s.counts(m, 20); seen["three"] != 20 {
		m.t.Errorf("versions %v", seen)
	}
	m.bind("trainer")
	m.cli(m.served("update", "green", "--set", "environment_variables.VERSION=five", "-o", "none")...)
}

// withdraws: nothing is left in the cluster.
func (m *ml) withdraws() {
	m.refused("of the traffic", m.served("delete", "green", "--yes")...)
	m.cli(m.in("trainer", "ml", "online-endpoint", "delete", "-n", "fraud", "--yes")...)
	eventually(m.t, "nothing is left", func(ctx context.Context) error {
		left, err := m.Cluster.Kubectl(ctx, "get", "onlineendpoints,onlinedeployments,deployments", "-A", "-l", "ml.sallyport.dev/deployment", "-o", "name")
		if err != nil {
			return err
		}
		own, err := m.Cluster.Kubectl(ctx, "get", "onlineendpoints,onlinedeployments", "-n", wire.Namespace, "-o", "name")
		if err == nil && left+own != "" {
			err = fmt.Errorf("left: %s %s", left, own)
		}
		return err
	})
}
