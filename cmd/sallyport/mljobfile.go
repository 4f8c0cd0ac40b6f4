package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// jobFile is a command job as az's YAML has it. What is not done here is read,
// so that it can be refused by name.
type jobFile struct {
	Schema               string            `json:"$schema"`
	Type                 string            `json:"type"`
	Name                 string            `json:"name"`
	DisplayName          string            `json:"display_name"`
	ExperimentName       string            `json:"experiment_name"`
	Description          string            `json:"description"`
	Command              string            `json:"command"`
	Code                 string            `json:"code"`
	Environment          json.RawMessage   `json:"environment"`
	EnvironmentVariables map[string]scalar `json:"environment_variables"`
	Compute              string            `json:"compute"`
	Resources            *struct {
		InstanceType  string         `json:"instance_type"`
		InstanceCount *int           `json:"instance_count"`
		ShmSize       string         `json:"shm_size"`
		DockerArgs    string         `json:"docker_args"`
		Properties    map[string]any `json:"properties"`
	} `json:"resources"`
	Limits *struct {
		Timeout int64 `json:"timeout"` // seconds
	} `json:"limits"`
	RetrySettings *struct {
		MaxRetries int `json:"max_retries"`
	} `json:"retry_settings"`
	Distribution *struct {
		Type                    string `json:"type"`
		ProcessCountPerInstance *int   `json:"process_count_per_instance"`
		WorkerCount             *int   `json:"worker_count"`
		ParameterServerCount    *int   `json:"parameter_server_count"`
	} `json:"distribution"`
	Inputs        map[string]any    `json:"inputs"`
	Outputs       map[string]any    `json:"outputs"`
	Identity      map[string]any    `json:"identity"`
	QueueSettings map[string]any    `json:"queue_settings"`
	Services      map[string]any    `json:"services"`
	Tags          map[string]string `json:"tags"`
}

// scalar is a YAML value that is meant as text.
type scalar string

// UnmarshalJSON takes text, numbers and booleans.
func (s *scalar) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		*s = scalar(text)
		return nil
	}
	if len(raw) > 0 && (raw[0] == '{' || raw[0] == '[') {
		return fmt.Errorf("a value must be text, a number or a boolean")
	}
	*s = scalar(raw)
	return nil
}

func readJobFile(path string) (*jobFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s cannot be read", path).Because(err)
	}
	var kind struct{ Type string }
	if err := yaml.Unmarshal(data, &kind); err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s is not YAML", path).Because(err)
	}
	if kind.Type != "" && kind.Type != "command" {
		return nil, trust.Errorf(trust.Unsupported, "%s: a job of type %s is not supported; command jobs are run", path, kind.Type)
	}
	j := new(jobFile)
	if err := readYAML(data, j, path, "a command job"); err != nil {
		return nil, err
	}
	if j.Command == "" || len(j.Environment) == 0 || j.Compute == "" {
		return nil, trust.Errorf(trust.Invalid, "%s: a command job needs command, environment and compute", path)
	}
	return j, nil
}

// body is the job as ARM takes it.
func (j *jobFile) body(workspace, environment string) map[string]any {
	p := texts("displayName", j.DisplayName, "experimentName", j.ExperimentName, "description", j.Description)
	p["jobType"], p["command"], p["environmentId"] = "Command", j.Command, environment
	p["computeId"] = j.Compute
	if !strings.HasPrefix(j.Compute, "/") {
		p["computeId"] = workspace + "/computes/" + strings.TrimPrefix(j.Compute, "azureml:")
	}
	if len(j.EnvironmentVariables) > 0 {
		p["environmentVariables"] = j.EnvironmentVariables
	}
	r := map[string]any{}
	if j.Resources != nil {
		r = texts("instanceType", j.Resources.InstanceType, "shmSize", j.Resources.ShmSize, "dockerArgs", j.Resources.DockerArgs)
		if j.Resources.InstanceCount != nil {
			r["instanceCount"] = *j.Resources.InstanceCount
		}
	}
	more := map[string]any{}
	if j.Resources != nil {
		maps.Copy(more, j.Resources.Properties)
	}
	if j.RetrySettings != nil {
		more["maxRetries"] = j.RetrySettings.MaxRetries
	}
	if len(more) > 0 {
		r["properties"] = more
	}
	if len(r) > 0 {
		p["resources"] = r
	}
	if j.Limits != nil {
		p["limits"] = map[string]any{"jobLimitsType": "Command", "timeout": fmt.Sprintf("PT%dS", j.Limits.Timeout)}
	}
	if d := j.Distribution; d != nil {
		kind := map[string]string{"pytorch": "PyTorch", "tensorflow": "TensorFlow", "mpi": "Mpi"}[strings.ToLower(d.Type)]
		if kind == "" {
			kind = d.Type
		}
		m := map[string]any{"distributionType": kind}
		for name, n := range map[string]*int{"processCountPerInstance": d.ProcessCountPerInstance, "workerCount": d.WorkerCount, "parameterServerCount": d.ParameterServerCount} {
			if n != nil {
				m[name] = *n
			}
		}
		p["distribution"] = m
	}
	for name, m := range map[string]map[string]any{"services": j.Services, "queueSettings": j.QueueSettings} {
		if len(m) > 0 {
			p[name] = m // the server says why it does not take them
		}
	}
	if kind, ok := j.Identity["type"].(string); ok {
		p["identity"] = map[string]any{"identityType": kind}
	}
	if len(j.Tags) > 0 {
		p["tags"] = j.Tags
	}
	return map[string]any{"properties": p}
}

// environmentID finds or makes the environment that a job names.
func (a *app) environmentID(ctx context.Context, workspace string, raw json.RawMessage) (string, error) {
	var name string
	if json.Unmarshal(raw, &name) != nil {
		var inline struct {
			Image string          `json:"image"`
			Build json.RawMessage `json:"build"`
			Conda json.RawMessage `json:"conda_file"`
			// Inference is where a model server answers.
			Inference *inferenceFile `json:"inference_config"`
		}
		if err := json.Unmarshal(raw, &inline); err != nil || inline.Image == "" || len(inline.Build) > 0 || len(inline.Conda) > 0 {
			return "", trust.Errorf(trust.Invalid, "environment: name an image; images are not built here")
		}
		return a.anonymous(ctx, workspace, inline.Image, inline.Inference)
	}
	if strings.HasPrefix(name, "/") {
		return name, nil
	}
	name, prefixed := strings.CutPrefix(name, "azureml:")
	if !prefixed {
		return a.anonymous(ctx, workspace, name, nil)
	}
	return a.versionNamed(ctx, "environment", workspace, "environments", name)
}

// inferenceFile is where a model server answers, as az's YAML has it.
type inferenceFile struct {
	Scoring   *routeFile `json:"scoring_route"`
	Liveness  *routeFile `json:"liveness_route"`
	Readiness *routeFile `json:"readiness_route"`
}

type routeFile struct {
	Path string `json:"path"`
	Port int    `json:"port"`
}

func (i *inferenceFile) body() map[string]any {
	m := map[string]any{}
	for name, r := range map[string]*routeFile{"scoringRoute": i.Scoring, "livenessRoute": i.Liveness, "readinessRoute": i.Readiness} {
		if r != nil {
			m[name] = r
		}
	}
	return m
}

// anonymous is an image without a name of its own, as az has it: one version
// per image and routes.
func (a *app) anonymous(ctx context.Context, workspace, image string, inference *inferenceFile) (string, error) {
	p, named := map[string]any{"image": image, "isAnonymous": true}, []byte(image)
	if inference != nil {
		p["inferenceConfig"] = inference.body()
		raw, err := json.Marshal(p)
		if err != nil {
			return "", err
		}
		named = raw
	}
	sum := sha256.Sum256(named)
	id := workspace + "/environments/CliV2AnonymousEnvironment/versions/" + hex.EncodeToString(sum[:16])
	_, err := a.begin(ctx, "Naming the image", client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: map[string]any{"properties": p}})
	return id, err
}
