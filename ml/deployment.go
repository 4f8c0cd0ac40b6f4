package ml

import (
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Azure's limits.
const (
	maxDeployments = 20  // of an endpoint
	maxInstances   = 300 // of a deployment
	maxTimeout     = 300 * time.Second
)

// deploymentBody are the properties of a deployment that mean something here.
type deploymentBody struct {
	EndpointComputeType string
	Model               string
	ModelMountPath      string
	CodeConfiguration   *struct{ CodeID, ScoringScript string }
	EnvironmentID       string

	EnvironmentVariables          map[string]*string
	InstanceType                  string
	AppInsightsEnabled            bool
	ContainerResourceRequirements *struct{ ContainerResourceRequests, ContainerResourceLimits *containerResources }
	ScaleSettings                 *struct {
		ScaleType                                               string
		MinInstances, MaxInstances, TargetUtilizationPercentage *int
		PollingInterval                                         string
	}
	LivenessProbe, ReadinessProbe *probeBody
	RequestSettings               *struct {
		MaxConcurrentRequestsPerInstance *int
		MaxQueueWait, RequestTimeout     string
	}
	DataCollector json.RawMessage
	Properties    map[string]*string
}

type containerResources struct{ CPU, Memory, GPU *string }

type probeBody struct {
	FailureThreshold, SuccessThreshold *int
	InitialDelay, Period, Timeout      string
}

// deploymentPrivate is what ml keeps with a deployment.
type deploymentPrivate struct {
	Kind       string
	EndpointID string // resource id
	Cluster    string // resource id
	Deployment wire.Deployment
	Reads      map[string]place `json:",omitempty"` // by a mount's name
	Told       bool             // the extension has had it
	Status     wire.DeploymentStatus
}

func readDeployment(r *store.Provided) (deploymentPrivate, error) {
	var p deploymentPrivate
	if err := json.Unmarshal(r.Private, &p); err != nil {
		return p, trust.Errorf(trust.Internal, "a stored deployment cannot be read").Because(err)
	}
	return p, nil
}

// putDeployment makes or changes a deployment.
func (k *call) putDeployment() (*arm.Answer, error) {
	endpoint, err := k.at(k.ID.Parent())
	if trust.KindOf(err) == trust.NotFound {
		return nil, arm.NoParent(k.ID.Parent())
	}
	if err != nil {
		return nil, err
	}
	old, write, err := k.old()
	if err != nil {
		return nil, err
	}
	b, err := k.changes(old)
	if err != nil {
		return nil, err
	}
	p, err := k.deploymentNow(&endpoint.Value, old, b)
	if err != nil {
		return nil, err
	}
	r := k.record(old, b)
	p.Deployment.UID, p.Deployment.Name = r.UID, k.ID.Name()
	if old.Revision != 0 {
		was, err := readDeployment(&old.Value)
		if err != nil {
			return nil, err
		}
		p.Told, p.Status = was.Told, was.Status
	}
	if r.Properties, err = overlay(r.Properties, []string{"provisioningState", "endpointComputeType"}, nil); err != nil {
		return nil, err
	}
	if r.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	return k.provide(opDeployment, old, write, r, store.Guard(endpoint.Value.Key(), endpoint.Revision))
}

// deploymentNow is what ml keeps of a deployment after a request: everything
// that can be checked before the cluster sees it is.
func (k *call) deploymentNow(endpoint *store.Provided, old store.Item[store.Provided], b *body) (p deploymentPrivate, err error) {
	if old.Revision == 0 {
		if err := k.admitDeployment(endpoint); err != nil {
			return p, err
		}
	} else if err := k.free(&old.Value); err != nil {
		return p, err
	}
	if endpoint.State == arm.Deleting || endpoint.State == creating {
		return p, pending(endpoint.State)
	}
	e, err := readEndpoint(endpoint)
	if err != nil {
		return p, err
	}
	if _, err := k.bound(k.ctx, &k.workspace.Value, e.Cluster); err != nil {
		return p, err
	}
	var d deploymentBody
	if err := json.Unmarshal(b.Properties, &d); err != nil {
		return p, arm.BadParameter("properties", "a member has the wrong type")
	}
	if err := refuseDeployment(b, &d); err != nil {
		return p, err
	}
	p.Kind, p.EndpointID, p.Cluster, p.Deployment.Endpoint = b.Kind, endpoint.ID, e.Cluster, endpoint.UID
	if err := k.describe(b, &d, &p.Deployment); err != nil {
		return p, err
	}
	return p, k.mountModel(&d, &p)
}

// modelPath is where models are mounted, as in Azure.
const modelPath = "/var/azureml-app/azureml-models"

var mountPath = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)

// mountModel has a deployment's model in its replicas, in a folder of its name
// and version, which AZUREML_MODEL_DIR names.
func (k *call) mountModel(d *deploymentBody, p *deploymentPrivate) error {
	if d.Model == "" {
		if d.ModelMountPath != "" {
			return arm.BadParameter("properties.modelMountPath", "there is no model to be mounted")
		}
		return nil
	}
	if k.Storage == nil {
		return noStore("properties.model")
	}
	id, err := arm.ParseID(d.Model)
	if err != nil || !arm.SameID(id.Type(), Namespace+"/"+Tracked+"/"+models+"/"+versions) {
		return arm.BadParameter("properties.model", "'%.300s' is not the id of a model's version", d.Model)
	}
	at, err := k.asset("properties.model", d.Model)
	if err != nil {
		return err
	}
	root := modelPath
	if d.ModelMountPath != "" {
		if root = path.Clean(d.ModelMountPath); !mountPath.MatchString(root) || root != d.ModelMountPath {
			return arm.BadParameter("properties.modelMountPath", "'%.200s' is not an absolute path of plain folders", d.ModelMountPath)
		}
	}
	mount := wire.Mount{Name: "model", Way: wire.Read, Path: path.Join(root, id.Parent().Name(), id.Name())}
	p.Deployment.Mounts, p.Reads = []wire.Mount{mount}, map[string]place{mount.Name: at}
	if _, given := p.Deployment.Environment["AZUREML_MODEL_DIR"]; !given {
		p.Deployment.Environment["AZUREML_MODEL_DIR"] = mount.Path
	}
	return nil
}

// admitDeployment checks name and number of a new one.
func (k *call) admitDeployment(endpoint *store.Provided) error {
	if err := checkServed("deploymentName", k.ID.Name()); err != nil {
		return err
	}
	if n := len(k.ID.Name()) + len(nameOf(endpoint.ID)); n > 62 {
		return arm.BadParameter("deploymentName", "the names of endpoint and deployment have %d characters together; at most 62 are allowed", n)
	}
	all, err := k.deploymentsOf(endpoint.ID)
	if err != nil {
		return err
	}
	if len(all) >= maxDeployments {
		return arm.Errorf(trust.Conflict, arm.QuotaExceeded, "The endpoint '%s' has %d deployments, and no more are taken. Delete one first.", nameOf(endpoint.ID), len(all))
	}
	return nil
}

// refuseDeployment names what is not done.
func refuseDeployment(b *body, d *deploymentBody) error {
	if t := trust.Fold(d.EndpointComputeType); t != "kubernetes" {
		return arm.BadParameter("properties.endpointComputeType", "'%.40s' is not supported; Kubernetes is", d.EndpointComputeType)
	}
	if b.Identity != nil && b.Identity.Type != "" && trust.Fold(b.Identity.Type) != "none" {
		return arm.BadParameter("identity.type", "deployments have no identity of their own here: leave identity out, or set it to None")
	}
	if c := d.CodeConfiguration; c != nil && (c.CodeID != "" || c.ScoringScript != "") {
		return arm.BadParameter("properties.codeConfiguration", "scoring scripts are not run: put a model server into an image, and name it as environment")
	}
	if d.AppInsightsEnabled {
		return arm.BadParameter("properties.appInsightsEnabled", "there is no Application Insights here: leave it out")
	}
	if len(d.DataCollector) > 0 && string(d.DataCollector) != "null" {
		return arm.BadParameter("properties.dataCollector", "requests are not collected: leave it out")
	}
	return nil
}

// describe is the deployment as the cluster is told of it.
func (k *call) describe(b *body, d *deploymentBody, out *wire.Deployment) error {
	env, err := k.environment(d.EnvironmentID)
	if err != nil {
		return err
	}
	out.Image, out.InstanceType = env.Image, d.InstanceType
	if out.Environment, err = environmentVariables(d.EnvironmentVariables); err != nil {
		return err
	}
	if out.Resources, err = d.resources(); err != nil {
		return err
	}
	if size := d.Properties["shmSize"]; size != nil {
		if q, err := resource.ParseQuantity(*size); err != nil || q.Sign() <= 0 {
			return arm.BadParameter("properties.properties.shmSize", "'%.40s' is no size like 2Gi", *size)
		}
		out.ShmSize = *size
	}
	routes := env.InferenceConfig
	if routes == nil {
		routes = &inferenceConfig{}
	}
	out.Scoring = wire.Route{Path: "/score", Port: 5001}
	if r := routes.ScoringRoute; r != nil {
		out.Scoring = wire.Route{Path: r.Path, Port: r.Port}
	}
	if out.Liveness, err = d.LivenessProbe.at("livenessProbe", routes.LivenessRoute, out.Scoring.Port); err != nil {
		return err
	}
	if out.Readiness, err = d.ReadinessProbe.at("readinessProbe", routes.ReadinessRoute, out.Scoring.Port); err != nil {
		return err
	}
	if out.Request, err = d.requests(); err != nil {
		return err
	}
	return d.scale(b.SKU, out)
}

func (k *call) showDeployment(r *store.Provided, s *shape, set map[string]any) error {
	p, err := readDeployment(r)
	if err != nil {
		return err
	}
	k.tracked(s, p.Kind)
	n := p.Deployment.Instances
	s.SKU = &sku{Name: "Default", Capacity: &n}
	set["provisioningState"], set["endpointComputeType"] = r.State, "Kubernetes"
	more := map[string]string{}
	if st := p.Status; st.Wanted > 0 {
		more["readyInstances"], more["wantedInstances"] = strconv.Itoa(st.Ready), strconv.Itoa(st.Wanted)
		if st.Reason != "" {
			more["statusCode"], more["statusReason"] = st.Code, st.Reason
		}
	}
	return explain(r, set, more)
}

// deleteDeployment removes a deployment that has no traffic.
func (k *call) deleteDeployment() (*arm.Answer, error) {
	endpoint, err := k.at(k.ID.Parent())
	if trust.KindOf(err) == trust.NotFound {
		return &arm.Answer{Status: http.StatusNoContent}, nil
	}
	if err != nil {
		return nil, err
	}
	e, err := readEndpoint(&endpoint.Value)
	if err != nil {
		return nil, err
	}
	for name, percent := range e.Endpoint.Traffic {
		if trust.SameFold(name, k.ID.Name()) && percent > 0 {
			refused := arm.Errorf(trust.Conflict, arm.Conflict, "The deployment '%s' gets %d %% of the traffic of the endpoint '%s'. Give it to others first.", name, percent, nameOf(endpoint.Value.ID))
			refused.Hint = k.says("ml online-endpoint update") + " -n " + nameOf(endpoint.Value.ID) + " --traffic \"" + name + "=0 …\""
			return nil, refused
		}
	}
	return k.withdraw(opDeploymentDelete, store.Guard(endpoint.Value.Key(), endpoint.Revision))
}

// serverBody asks for what a deployment's replicas have written.
type serverBody struct {
	ContainerType string // InferenceServer or StorageInitializer
	Tail          *int
}

// deploymentLogs hands a question about logs on to the cluster.
func (k *call) deploymentLogs() (*arm.Answer, error) {
	item, err := k.find()
	if err != nil {
		return nil, err
	}
	var b serverBody
	if len(k.Body) > 0 {
		if err := arm.Decode(k.Body, &b); err != nil {
			return nil, err
		}
	}
	container, known := map[string]string{"": "server", "inferenceserver": "server", "storageinitializer": "fetch"}[trust.Fold(b.ContainerType)]
	if !known {
		return nil, arm.BadParameter("containerType", "'%.40s' is neither InferenceServer nor StorageInitializer", b.ContainerType)
	}
	p, err := readDeployment(&item.Value)
	if err != nil {
		return nil, err
	}
	if !p.Told {
		return &arm.Answer{Status: http.StatusOK, Body: wire.ServerLog{}}, nil
	}
	e, err := k.reach(k.ctx, &k.workspace, p.Cluster)
	if err != nil {
		return nil, err
	}
	ask := url.Values{"container": {container}}
	if b.Tail != nil {
		ask.Set("tail", strconv.Itoa(max(*b.Tail, 1)))
	}
	var log wire.ServerLog
	if err := e.call(k.ctx, http.MethodGet, "/deployments/"+p.Deployment.UID+"/logs?"+ask.Encode(), nil, &log); err != nil {
		return nil, err
	}
	return &arm.Answer{Status: http.StatusOK, Body: log}, nil
}

// listSKUs is what a deployment may be scaled to.
func (k *call) listSKUs() (*arm.Answer, error) {
	item, err := k.at(k.ID)
	if err != nil {
		return nil, err
	}
	p, err := readDeployment(&item.Value)
	if err != nil {
		return nil, err
	}
	capacity := map[string]any{"minimum": 1, "maximum": maxInstances, "default": 1, "scaleType": "Manual"}
	if s := p.Deployment.Scale; s != nil {
		capacity["minimum"], capacity["maximum"], capacity["scaleType"] = s.Min, s.Max, "Automatic"
	}
	one := map[string]any{"resourceType": Namespace + "/" + Tracked + "/" + deployments, "sku": sku{Name: "Default"}, "capacity": capacity}
	return &arm.Answer{Status: http.StatusOK, Body: arm.NewList([]map[string]any{one}, "")}, nil
}

// environmentVariables checks names; null values are left out.
func environmentVariables(from map[string]*string) (map[string]string, error) {
	out := map[string]string{}
	for name, value := range from {
		if !envVariable.MatchString(name) {
			return nil, arm.BadParameter("properties.environmentVariables", "'%.100s' is not an environment variable's name", name)
		}
		if value != nil {
			out[name] = *value
		}
	}
	return out, nil
}
