package wire

import "time"

// ScorePath is where an endpoint is scored, below Health.Scoring.
func ScorePath(endpoint string) string { return "/api/v1/endpoint/" + endpoint + "/score" }

// Issuer of what the ML service signs with its own key; base is the server's URL.
func Issuer(base string) string { return base + "/ml" }

// ScoringAudience is whom a token for one endpoint is for: extension is the
// audience of its cluster's extension. An endpoint made anew has another uid.
func ScoringAudience(extension, endpointUID string) string {
	return extension + "/endpoints/" + endpointUID
}

// ScoringToken is the claims of a token that scores one endpoint: a JWT that the
// ML service signs (ES256, kid the key's SHA-256 thumbprint). Times are Unix
// seconds.
type ScoringToken struct {
	Issuer   string `json:"iss"` // see Issuer
	Audience string `json:"aud"` // see ScoringAudience
	Subject  string `json:"sub"` // oid of the workspace that the endpoint belongs to
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti,omitempty"`
}

// EndpointName and DeploymentName are names of objects, of kinds OnlineEndpoint
// and OnlineDeployment in the extension's namespace.
func EndpointName(uid string) string   { return "e-" + uid }
func DeploymentName(uid string) string { return "d-" + uid }

// Codes of errors on what is served.
const (
	EndpointNotFound      = "EndpointNotFound"      // 404: and also when it is another workspace's
	DeploymentNotFound    = "DeploymentNotFound"    // 404: the same
	EndpointAlreadyExists = "EndpointAlreadyExists" // 409: the workspace has one of this name in the cluster
	QuotaExceeded         = "QuotaExceeded"         // 409: of a cluster's endpoints or deployments
)

// How many a cluster has at most, as in Azure.
const (
	MaxEndpoints   = 60
	MaxDeployments = 100
)

// Endpoint is an online endpoint: a name that is scored, on one compute.
type Endpoint struct {
	UID     string `json:"uid"`
	Name    string `json:"name"`
	Compute string `json:"compute"` // uid
	// Keys are SHA-256 digests, hex, of the keys that may score: the cluster
	// never has the keys. Empty: tokens may (ScoringToken), and keys may not; else
	// the other way round.
	Keys []string `json:"keys,omitempty"`
	// Traffic is percent by name of deployment; the sum is 0 or 100.
	Traffic map[string]int `json:"traffic,omitempty"`
}

// Deployment is an online deployment: replicas of one model server.
type Deployment struct {
	UID          string            `json:"uid"`
	Name         string            `json:"name"`
	Endpoint     string            `json:"endpoint"` // uid
	Image        string            `json:"image"`
	Environment  map[string]string `json:"environment,omitempty"`
	InstanceType string            `json:"instanceType,omitempty"` // "": the compute's default
	Resources    Resources         `json:"resources,omitzero"`     // within the instance type's limits
	ShmSize      string            `json:"shmSize,omitempty"`      // a quantity
	Instances    int               `json:"instances"`              // replicas; with Scale, where it begins
	Scale        *Scale            `json:"scale,omitempty"`
	Scoring      Route             `json:"scoring"`
	Liveness     *Probe            `json:"liveness,omitempty"`
	Readiness    *Probe            `json:"readiness,omitempty"`
	Request      RequestSettings   `json:"request"`
	Mounts       []Mount           `json:"mounts,omitempty"` // to read: the model
}

// Scale is Azure's target utilization: busy replicas and queued requests, per
// replica (Azure: routing of azureml-fe).
type Scale struct {
	Min         int `json:"min"`
	Max         int `json:"max"`
	Target      int `json:"target"`                 // percent
	PollingSecs int `json:"pollingIntervalSeconds"` // between decisions
}

// Route is where a model server answers.
type Route struct {
	Path string `json:"path"`
	Port int    `json:"port"`
}

// Probe is Kubernetes', with Azure's defaults filled in. Times are in seconds.
type Probe struct {
	Route
	InitialDelay int `json:"initialDelaySeconds"`
	Period       int `json:"periodSeconds"`
	Timeout      int `json:"timeoutSeconds"`
	Success      int `json:"successThreshold"`
	Failure      int `json:"failureThreshold"`
}

// RequestSettings bound what a replica is asked. Times are in milliseconds.
type RequestSettings struct {
	Timeout       int `json:"timeoutMs"`
	MaxConcurrent int `json:"maxConcurrentPerInstance"`
	MaxQueueWait  int `json:"maxQueueWaitMs"`
}

// States of a deployment. Failed is no last one: the cluster goes on trying.
const (
	Updating  = "Updating"
	Scaling   = "Scaling" // as it should be, but for the number of replicas
	Succeeded = "Succeeded"
)

// ServerLog is what the replicas of a deployment have written lately.
type ServerLog struct {
	Content string `json:"content"`
}

// DeploymentStatus is how a deployment is. Version is for the next long poll.
type DeploymentStatus struct {
	Version  string    `json:"version,omitempty"`
	Observed int64     `json:"observedGeneration,omitempty"` // of the object that this is about
	State    string    `json:"state"`                        // Updating, Scaling, Succeeded, Failed
	Code     string    `json:"code,omitempty"`               // ImagePullLoopBackOff, PodUnschedulable, …
	Reason   string    `json:"reason,omitempty"`
	Wanted   int       `json:"wanted"`
	Ready    int       `json:"ready"` // replicas of the newest form that take requests
	Since    time.Time `json:"since,omitzero"`
}
