package ml

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A job reads code and data of somebody's machine, writes a model, and the model
// comes back as it was written; nobody else gets any of it.
func TestAJobReadsAndWrites(t *testing.T) {
	m := start(t)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		m.must(os.MkdirAll(filepath.Dir(file), 0o700))
		m.must(os.WriteFile(file, []byte(text), 0o600))
	}
	var points strings.Builder
	for i := range 20 {
		fmt.Fprintf(&points, "%g,%g\n", float64(i)/20, 5*float64(i)/20-2)
	}
	write("code/settings/points.csv", points.String())
	write("code/secret.env", "not for the cluster")
	write("code/.amlignore", "*.env\n")
	write("data/more.csv", points.String())
	write("job.yml", `type: command
command: /train -steps ${{inputs.steps}} -data settings/points.csv -model ${{outputs.model}} -version ${{inputs.version}} $[[-slope ${{inputs.slope}}]]
code: code
environment: `+trainImage+`
compute: azureml:k8s
inputs:
  steps: 4000
  version: "7"
  more: {type: uri_folder, path: data}
outputs:
  model: {type: uri_folder, mode: rw_mount}
`)
	m.cli(m.in("trainer", "ml", "job", "create", "-f", filepath.Join(dir, "job.yml"), "-n", "writes", "-o", "none")...)
	s := m.until("writes", "Completed", "")
	if w := s.more["metrics.w"]; !strings.HasPrefix(w, "4.9") && !strings.HasPrefix(w, "5") || s.more["node-0.exitCode"] != "0" {
		t.Errorf("job %+v", s)
	}
	code := m.cli(m.in("trainer", "ml", "job", "show", "-n", "writes", "--query", "codeId", "-o", "tsv")...)
	if again := m.cli(m.in("trainer", "ml", "job", "create", "-f", filepath.Join(dir, "job.yml"), "-n", "again", "--query", "codeId", "-o", "tsv")...); again != code {
		t.Errorf("the same code is %s and %s", code, again)
	}
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "again")...)

	// The output, the model made of it, and what a model server reads, are one.
	m.cli(m.in("trainer", "ml", "job", "download", "-n", "writes", "--all", "-p", dir, "-o", "none")...)
	wrote, err := os.ReadFile(filepath.Join(dir, "writes", "named-outputs", "model", "model.json"))
	m.must(err)
	var model struct {
		Weights []float64
		Bias    float64
		Version string
	}
	m.must(json.Unmarshal(wrote, &model))
	if len(model.Weights) != 1 || math.Abs(model.Weights[0]-5) > 0.1 || math.Abs(model.Bias+2) > 0.1 || model.Version != "7" {
		t.Errorf("model %s", wrote)
	}
	for _, want := range []string{"1", "2"} {
		if got := m.cli(m.in("trainer", "ml", "model", "create", "-n", "line", "-p", "azureml://jobs/writes/outputs/model/paths/", "--query", "name", "-o", "tsv")...); got != want {
			t.Errorf("version %q, want %q", got, want)
		}
	}
	m.cli(m.in("trainer", "ml", "job", "download", "-n", "writes", "-p", dir, "-o", "none")...)
	m.cli(m.in("trainer", "ml", "model", "download", "-n", "line", "--version", "1", "-p", dir, "-o", "none")...)
	got, err := os.ReadFile(filepath.Join(dir, "line", "model.json"))
	m.must(err)
	if diff := cmp.Diff(string(wrote), string(got)); diff != "" {
		t.Error(diff)
	}

	m.logsOutliveTheGateway(dir)
	m.othersGetNothing()
}

// logsOutliveTheGateway: the logs are in the store when its volume is gone.
func (m *ml) logsOutliveTheGateway(dir string) {
	m.kubectl("delete", "pods", "-n", "training", "--all", "--wait")
	m.kubectl("delete", "pods", "-n", "azureml", "-l", "app.kubernetes.io/name=sallyport-ml-gateway", "--wait")
	m.kubectl("rollout", "status", "-n", "azureml", "deployment/sallyport-ml-gateway", "--timeout="+patience.String())
	eventually(m.t, "the log comes from the store", func(ctx context.Context) error {
		out, err := m.CLI(ctx, m.in("trainer", "ml", "job", "stream", "-n", "writes")...)
		if err == nil && !strings.HasSuffix(out, "nodes=1") {
			err = fmt.Errorf("it ends with %q", out[max(0, len(out)-100):])
		}
		return err
	})
	m.must(os.RemoveAll(filepath.Join(dir, "writes", "logs")))
	m.cli(m.in("trainer", "ml", "job", "download", "-n", "writes", "-p", dir, "-o", "none")...)
	log, err := os.ReadFile(filepath.Join(dir, "writes", "logs", "node-0", "attempt-0.log"))
	if err != nil || !strings.Contains(string(log), "step 0 loss") {
		m.t.Errorf("log %.200q, %v", log, err)
	}
}

// othersGetNothing: neither another workspace, by any name, nor whoever has no
// signature.
func (m *ml) othersGetNothing() {
	m.cli("ml", "workspace", "create", "-g", m.GroupName(), "-n", "curious", "-o", "none")
	for _, path := range []string{"azureml://jobs/writes/outputs/model", m.workspaceID("trainer") + "/models/line/versions/1"} {
		if _, err := m.CLI(m.t.Context(), m.in("curious", "ml", "model", "create", "-n", "stolen", "-p", path)...); err == nil {
			m.t.Errorf("another workspace made a model of %s", path)
		}
	}
	arm, err := m.ARM()
	m.must(err)
	if _, err := arm.Get(m.t.Context(), m.workspaceID("curious")+"/models/stolen/versions/1", mlVersion); err == nil {
		m.t.Error("the stolen model exists")
	}
	hc := m.HTTP(1)
	defer hc.CloseIdleConnections()
	for _, path := range []string{"/workspaces", "/workspaces?list-type=2", "/workspaces/x"} {
		req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.StorageURL+path, nil)
		m.must(err)
		res, err := hc.Do(req)
		m.must(err)
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			m.t.Errorf("%s without a signature: %s", path, res.Status)
		}
	}
	m.cli("ml", "workspace", "delete", "-g", m.GroupName(), "-n", "curious", "--yes")
}
