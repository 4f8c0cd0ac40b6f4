package main

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/trust"
)

// endpointFile is an online endpoint as az's YAML has it. What is not done here
// is read, so that the server can refuse it by name.
type endpointFile struct {
	Schema              string             `json:"$schema"`
	Name                string             `json:"name"`
	Kind                string             `json:"kind"`
	Description         string             `json:"description"`
	Location            string             `json:"location"`
	Compute             string             `json:"compute"`
	AuthMode            string             `json:"auth_mode"`
	Traffic             map[string]percent `json:"traffic"`
	MirrorTraffic       map[string]percent `json:"mirror_traffic"`
	PublicNetworkAccess string             `json:"public_network_access"`
	Identity            map[string]any     `json:"identity"`
	Properties          map[string]scalar  `json:"properties"`
	Tags                map[string]string  `json:"tags"`
}

// percent is a number that YAML, or --set, may have written as text.
type percent int

// UnmarshalJSON takes 90, "90" and "90%".
func (p *percent) UnmarshalJSON(raw []byte) error {
	text := strings.TrimSuffix(strings.Trim(string(raw), `"`), "%")
	var n int
	if _, err := fmt.Sscanf(text+"\n", "%d\n", &n); err != nil {
		return fmt.Errorf("%s is no percent", raw)
	}
	*p = percent(n)
	return nil
}

// deploymentFile is a Kubernetes online deployment as az's YAML has it.
type deploymentFile struct {
	Schema               string            `json:"$schema"`
	Name                 string            `json:"name"`
	EndpointName         string            `json:"endpoint_name"`
	Type                 string            `json:"type"`
	Description          string            `json:"description"`
	Model                json.RawMessage   `json:"model"`
	ModelMountPath       string            `json:"model_mount_path"`
	CodeConfiguration    map[string]string `json:"code_configuration"`
	Environment          json.RawMessage   `json:"environment"`
	EnvironmentVariables map[string]scalar `json:"environment_variables"`
	InstanceType         string            `json:"instance_type"`
	InstanceCount        *int              `json:"instance_count"`
	Resources            *struct {
		Requests map[string]scalar `json:"requests"`
		Limits   map[string]scalar `json:"limits"`
	} `json:"resources"`
	LivenessProbe   *probeFile `json:"liveness_probe"`
	ReadinessProbe  *probeFile `json:"readiness_probe"`
	RequestSettings *struct {
		RequestTimeoutMS int  `json:"request_timeout_ms"`
		MaxConcurrent    *int `json:"max_concurrent_requests_per_instance"`
		MaxQueueWaitMS   *int `json:"max_queue_wait_ms"`
	} `json:"request_settings"`
	ScaleSettings *struct {
		Type                        string `json:"type"`
		MinInstances                *int   `json:"min_instances"`
		MaxInstances                *int   `json:"max_instances"`
		TargetUtilizationPercentage *int   `json:"target_utilization_percentage"`
		PollingInterval             int    `json:"polling_interval"` // seconds
	} `json:"scale_settings"`
	AppInsightsEnabled bool              `json:"app_insights_enabled"`
	DataCollector      map[string]any    `json:"data_collector"`
	Properties         map[string]scalar `json:"properties"`
	Tags               map[string]string `json:"tags"`
}

type probeFile struct {
	InitialDelay     *int `json:"initial_delay"` // seconds, as the next two
	Period           *int `json:"period"`
	Timeout          *int `json:"timeout"`
	SuccessThreshold *int `json:"success_threshold"`
	FailureThreshold *int `json:"failure_threshold"`
}

// readServed reads a YAML file, if there is one, with what --set changes in it.
func readServed(path string, sets []string, into any, what string) error {
	doc := map[string]any{}
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return trust.Errorf(trust.Invalid, "%s cannot be read", path).Because(err)
		}
		alone := reflect.New(reflect.TypeOf(into).Elem()).Interface()
		if err := readYAML(data, alone, path, what); err != nil {
			return err
		}
		if err := yaml.Unmarshal(data, &doc); err != nil {
			return trust.Errorf(trust.Invalid, "%s is not YAML", path).Because(err)
		}
	}
	for _, s := range sets {
		if err := assign(doc, s); err != nil {
			return err
		}
	}
	raw, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	if err := readYAML(raw, into, "argument --set", what); err != nil {
		return usageError{err}
	}
	return nil
}

// assign does what "--set a.b=value" says; the value is YAML.
func assign(doc map[string]any, set string) error {
	path, text, ok := strings.Cut(set, "=")
	if !ok || path == "" {
		return usagef("argument --set: %q is not PATH=VALUE", set)
	}
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		value = text
	}
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		inner, ok := doc[p].(map[string]any)
		if !ok {
			if doc[p] != nil {
				return usagef("argument --set: %q goes into %q, which holds a value", set, p)
			}
			inner = map[string]any{}
			doc[p] = inner
		}
		doc = inner
	}
	doc[parts[len(parts)-1]] = value
	return nil
}

// parseTraffic reads "blue=90 green=10", also in several words.
func parseTraffic(words []string) (map[string]percent, error) {
	if len(words) == 0 {
		return nil, nil
	}
	out := map[string]percent{}
	for _, w := range strings.FieldsFunc(strings.Join(words, " "), func(r rune) bool { return r == ' ' || r == ',' }) {
		name, text, ok := strings.Cut(w, "=")
		var p percent
		if !ok || name == "" || p.UnmarshalJSON([]byte(text)) != nil {
			return nil, usagef("argument --traffic: %q is not DEPLOYMENT=PERCENT", w)
		}
		out[name] = p
	}
	return out, nil
}

// put adds members that are not empty.
func put[T comparable](m map[string]any, name string, v *T) {
	if v != nil {
		m[name] = *v
	}
}

// body is the endpoint as ARM takes it.
func (e *endpointFile) body(workspace string) map[string]any {
	p := texts("description", e.Description, "publicNetworkAccess", e.PublicNetworkAccess)
	if e.AuthMode != "" {
		mode := map[string]string{"key": "Key", "aml_token": "AMLToken", "aad_token": "AADToken"}[strings.ToLower(e.AuthMode)]
		if mode == "" {
			mode = e.AuthMode
		}
		p["authMode"] = mode
	}
	if e.Compute != "" {
		p["compute"] = childID(workspace, "computes", e.Compute)
	}
	if e.Traffic != nil {
		p["traffic"] = e.Traffic
	}
	if e.MirrorTraffic != nil {
		p["mirrorTraffic"] = e.MirrorTraffic
	}
	if e.Properties != nil {
		p["properties"] = e.Properties
	}
	b := map[string]any{"properties": p}
	withTags(b, e.Tags)
	withIdentity(b, e.Identity)
	if e.Kind != "" {
		b["kind"] = e.Kind
	}
	if e.Location != "" {
		b["location"] = e.Location
	}
	return b
}

func withTags(b map[string]any, tags map[string]string) {
	if len(tags) > 0 {
		b["tags"] = tags
	}
}

func withIdentity(b map[string]any, identity map[string]any) {
	if kind, ok := identity["type"].(string); ok {
		name := map[string]string{"system_assigned": "SystemAssigned", "user_assigned": "UserAssigned", "none": "None"}[strings.ToLower(kind)]
		if name == "" {
			name = kind
		}
		b["identity"] = map[string]any{"type": name}
	}
}

// childID is the id of a workspace's child that YAML names "azureml:NAME", NAME
// or by its id.
func childID(workspace, typ, name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return workspace + "/" + typ + "/" + strings.TrimPrefix(name, "azureml:")
}

// body is the deployment as ARM takes it, without what has to be looked up:
// environment and model.
func (d *deploymentFile) body() map[string]any {
	p := texts("description", d.Description, "instanceType", d.InstanceType, "modelMountPath", d.ModelMountPath)
	if len(d.EnvironmentVariables) > 0 {
		p["environmentVariables"] = d.EnvironmentVariables
	}
	if c := d.CodeConfiguration; len(c) > 0 {
		p["codeConfiguration"] = texts("codeId", c["code"], "scoringScript", c["scoring_script"]) // refused by the server
	}
	if r := d.Resources; r != nil {
		p["containerResourceRequirements"] = map[string]any{"containerResourceRequests": resourcesBody(r.Requests), "containerResourceLimits": resourcesBody(r.Limits)}
	}
	for name, probe := range map[string]*probeFile{"livenessProbe": d.LivenessProbe, "readinessProbe": d.ReadinessProbe} {
		if probe != nil {
			p[name] = probe.body()
		}
	}
	if r := d.RequestSettings; r != nil {
		m := map[string]any{}
		put(m, "maxConcurrentRequestsPerInstance", r.MaxConcurrent)
		if r.RequestTimeoutMS != 0 {
			m["requestTimeout"] = milliseconds(r.RequestTimeoutMS)
		}
		if r.MaxQueueWaitMS != nil {
			m["maxQueueWait"] = milliseconds(*r.MaxQueueWaitMS)
		}
		p["requestSettings"] = m
	}
	if s := d.ScaleSettings; s != nil {
		m := map[string]any{"scaleType": "Default"}
		if strings.EqualFold(s.Type, "target_utilization") || s.Type == "" {
			m["scaleType"] = "TargetUtilization"
		} else if !strings.EqualFold(s.Type, "default") {
			m["scaleType"] = s.Type
		}
		put(m, "minInstances", s.MinInstances)
		put(m, "maxInstances", s.MaxInstances)
		put(m, "targetUtilizationPercentage", s.TargetUtilizationPercentage)
		if s.PollingInterval != 0 {
			m["pollingInterval"] = fmt.Sprintf("PT%dS", s.PollingInterval)
		}
		p["scaleSettings"] = m
	}
	if d.AppInsightsEnabled {
		p["appInsightsEnabled"] = true
	}
	if len(d.DataCollector) > 0 {
		p["dataCollector"] = d.DataCollector
	}
	if d.Properties != nil {
		p["properties"] = d.Properties
	}
	b := map[string]any{"properties": p}
	withTags(b, d.Tags)
	if d.InstanceCount != nil {
		b["sku"] = map[string]any{"name": "Default", "capacity": *d.InstanceCount}
	}
	return b
}

func resourcesBody(from map[string]scalar) map[string]any {
	m := map[string]any{}
	for name, v := range from {
		if name == "nvidia.com/gpu" {
			name = "gpu"
		}
		m[name] = v
	}
	return m
}

func (p *probeFile) body() map[string]any {
	m := map[string]any{}
	for name, n := range map[string]*int{"initialDelay": p.InitialDelay, "period": p.Period, "timeout": p.Timeout} {
		if n != nil {
			m[name] = fmt.Sprintf("PT%dS", *n)
		}
	}
	put(m, "successThreshold", p.SuccessThreshold)
	put(m, "failureThreshold", p.FailureThreshold)
	return m
}

// milliseconds is a duration as ISO 8601 has it.
func milliseconds(n int) string { return fmt.Sprintf("PT%d.%03dS", n/1000, n%1000) }
