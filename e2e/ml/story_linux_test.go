package ml

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The two data sets: points of y = slope·x + 1. What a good fit predicts is
// computed here, from the data and not from the model.
var slopes = map[string]float64{"1": 3, "2": -2}

const fitWithin = 0.01

// The whole story, as a data scientist lives it: train twice on different data,
// register what the jobs wrote, serve both, shift the traffic under load; the
// binding goes, and scoring goes on. `make demo ML=1` tells it with 10,000 calls.
func TestFromTrainingToScoring(t *testing.T) {
	m := start(t)
	m.scoring()
	calls := 1000
	if n, err := strconv.Atoi(os.Getenv("SALLYPORT_E2E_CALLS")); err == nil {
		calls = n
	}
	for _, v := range []string{"1", "2"} {
		t.Logf("train on y = %g·x + 1, and register what the job wrote as slope:%s", slopes[v], v)
		m.trains(v)
	}
	t.Log("serve both")
	m.cli(m.in("trainer", "ml", "online-endpoint", "create", "-f", m.file("line.yaml", "name: line\ncompute: azureml:k8s\n"), "-o", "none")...)
	m.serves("blue", "1", "--all-traffic")
	m.serves("green", "2")
	s := &line{scorer: m.scorerOf("line"), m: m}
	s.expect(map[string]int{"1": 20})

	t.Log("shift the traffic under load")
	ctx, stop := context.WithCancel(t.Context())
	lost := s.load(ctx)
	m.lineTraffic("blue=70 green=30")
	eventually(t, "the new split is seen", func(context.Context) error {
		if seen := s.count(100); seen["2"] == 0 {
			return fmt.Errorf("versions %v", seen)
		}
		return nil
	})
	stop()
	if failures := lost(); len(failures) > 0 {
		t.Errorf("%d requests were lost while the traffic shifted, such as %s", len(failures), failures[0])
	}
	seen := s.count(calls)
	if off := math.Abs(float64(seen["2"])/float64(calls) - 0.3); off > 0.002 || seen["1"]+seen["2"] != calls {
		t.Errorf("of %d calls %v: the split is blue=70 green=30", calls, seen)
	}
	t.Logf("of %d calls %d went to version 1 and %d to version 2", calls, seen["1"], seen["2"])

	t.Log("delete the binding: control stops, scoring goes on")
	m.unbind()
	m.refused("TrustedAccessRoleBindingNotFound", m.in("trainer", "ml", "online-endpoint", "update", "-n", "line", "--traffic", "blue=0 green=100")...)
	m.refused("TrustedAccessRoleBindingNotFound", m.in("trainer", "ml", "online-deployment", "get-logs", "-e", "line", "-n", "blue")...)
	if seen := s.count(100); seen["1"] == 0 || seen["2"] == 0 {
		t.Errorf("without a binding: %v", seen)
	}

	t.Log("clean up")
	m.bind("trainer")
	m.cli(m.in("trainer", "ml", "online-endpoint", "delete", "-n", "line", "--yes")...)
	eventually(t, "no model server is left", func(ctx context.Context) error {
		left, err := m.Cluster.Kubectl(ctx, "get", "deployments", "-n", "training", "-l", "ml.sallyport.dev/deployment", "-o", "name")
		if err == nil && left != "" {
			err = fmt.Errorf("left: %s", left)
		}
		return err
	})
}

// trains runs a job that writes a model, and registers it as that version.
func (m *ml) trains(version string) {
	m.t.Helper()
	name := "line-" + version
	text := fmt.Sprintf(`type: command
command: /train -steps 6000 -slope %g -model ${{outputs.model}} -version %s
environment: %s
compute: azureml:k8s
outputs: {model: {type: uri_folder}}
`, slopes[version], version, trainImage)
	m.cli(m.in("trainer", "ml", "job", "create", "-f", m.file(name+".yaml", text), "-n", name, "-o", "none")...)
	m.until(name, "Completed", "")
	m.cli(m.in("trainer", "ml", "model", "create", "-n", "slope", "--version", version, "--path", "azureml://jobs/"+name+"/outputs/model", "-o", "none")...)
}

// serves runs the model of a version as a deployment of the endpoint "line".
func (m *ml) serves(name, version string, args ...string) {
	m.t.Helper()
	file := m.servingFile("line", name, "azureml:slope:"+version)
	m.cli(m.in("trainer", append([]string{"ml", "online-deployment", "create", "-f", file, "-o", "none"}, args...)...)...)
}

// servingFile is the YAML of a deployment that serves a model.
func (m *ml) servingFile(endpoint, name, model string) string {
	m.t.Helper()
	return m.file(endpoint+"-"+name+".yaml", fmt.Sprintf(`name: %s
endpoint_name: %s
model: %s
environment:
  image: %s
  inference_config:
    scoring_route: {path: /score, port: 5001}
    readiness_route: {path: /ready, port: 5001}
resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {cpu: "1", memory: 128Mi}}
readiness_probe: {initial_delay: 0, period: 1}
request_settings: {request_timeout_ms: 60000, max_concurrent_requests_per_instance: 16, max_queue_wait_ms: 60000}
`, name, endpoint, model, scoreImage))
}

func (m *ml) lineTraffic(split string) {
	m.t.Helper()
	m.cli(m.in("trainer", "ml", "online-endpoint", "update", "-n", "line", "--traffic", split, "-o", "none")...)
}

// scorerOf an endpoint.
func (m *ml) scorerOf(endpoint string) *scorer {
	m.t.Helper()
	s := &scorer{http: &http.Client{Timeout: patience}}
	s.url = m.cli(m.in("trainer", "ml", "online-endpoint", "show", "-n", endpoint, "--query", "scoringUri", "-o", "tsv")...)
	s.key = m.cli(m.in("trainer", "ml", "online-endpoint", "get-credentials", "-n", endpoint, "--query", "primaryKey", "-o", "tsv")...)
	m.t.Cleanup(s.http.CloseIdleConnections)
	return s
}

// line scores the endpoint "line" and holds every answer to the data.
type line struct {
	*scorer
	m *ml
}

// once scores one point and gives the version that answered.
func (s *line) once(ctx context.Context, x float64) (string, error) {
	version, y, err := s.predict(ctx, x)
	if err != nil {
		return "", err
	}
	slope, known := slopes[version]
	if want := slope*x + 1; !known || math.Abs(y-want) > fitWithin {
		return "", fmt.Errorf("version %q predicts %g at %g, its data say %g", version, y, x, want)
	}
	return version, nil
}

// predict asks for one point.
func (s *scorer) predict(ctx context.Context, x float64) (version string, y float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, strings.NewReader(fmt.Sprintf(`{"data":[[%g]]}`, x)))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	res, err := s.http.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return "", 0, err
	}
	var a struct {
		Predictions []float64
		Version     string
	}
	if res.StatusCode != http.StatusOK || json.Unmarshal(raw, &a) != nil || len(a.Predictions) != 1 {
		return "", 0, fmt.Errorf("%d %.200s", res.StatusCode, raw)
	}
	return a.Version, a.Predictions[0], nil
}

// count scores so often and counts the versions.
func (s *line) count(n int) map[string]int {
	s.m.t.Helper()
	seen := map[string]int{}
	for i := range n {
		version, err := s.once(s.m.t.Context(), float64(i%10)/10)
		if err != nil {
			s.m.t.Fatal(err)
		}
		seen[version]++
	}
	return seen
}

func (s *line) expect(want map[string]int) {
	s.m.t.Helper()
	n := 0
	for _, v := range want {
		n += v
	}
	if seen := s.count(n); fmt.Sprint(seen) != fmt.Sprint(want) {
		s.m.t.Errorf("versions %v, want %v", seen, want)
	}
}

// load scores until ctx ends; what it returns waits, and gives what failed.
func (s *line) load(ctx context.Context) func() []string {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failures []string
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.once(context.WithoutCancel(ctx), 0.5); err != nil {
					mu.Lock()
					failures = append(failures, err.Error())
					mu.Unlock()
				}
			}
		})
	}
	return func() []string {
		wg.Wait()
		return failures
	}
}
