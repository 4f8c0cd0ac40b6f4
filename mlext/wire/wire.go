// Package wire is what the ML service and its extension in a cluster say to each
// other, through the API server's service proxy: paths, headers, documents.
//
// It owns shapes and names only: no I/O, and nothing about who may ask for what.
package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Where the extension's gateway is in its cluster.
const (
	Namespace = "azureml"
	Service   = "sallyport-ml"
	// Through the API server, which does not check the certificate of what it
	// proxies to: TLS keeps tokens off the pod network, nothing more.
	ProxyPath = "/api/v1/namespaces/" + Namespace + "/services/https:" + Service + ":443/proxy"
	Prefix    = "/ml/v1"
)

// TokenHeader carries the workspace's token for the extension. The caller's
// token for the gateway never leaves the gateway.
const TokenHeader = "X-Ms-Workspace-Token"

// Audience of that token: good for one cluster's extension only.
func Audience(base, clusterUID string) string { return base + "/extensions/" + clusterUID }

// WorkspaceType is whose tokens are taken.
const WorkspaceType = "Microsoft.MachineLearningServices/workspaces"

// MaxWait bounds a long poll, in seconds.
const MaxWait = 25

// Error is the body of every answer that is one.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Codes of errors.
const (
	Unauthenticated   = "Unauthenticated"   // 401: no token, or not a good one
	Forbidden         = "Forbidden"         // 403
	ComputeNotFound   = "ComputeNotFound"   // 404: and also when it is another workspace's
	JobNotFound       = "JobNotFound"       // 404: the same
	NamespaceNotFound = "NamespaceNotFound" // 409: it does not exist
	NamespaceRefused  = "NamespaceRefused"  // 409: the owner has not let the extension into it
	NameTaken         = "NameTaken"         // 409
	Newer             = "NewerKeys"         // 409: a newer key set is there
	Invalid           = "Invalid"           // 400
	Unavailable       = "Unavailable"       // 503
	// TrainingNotEnabled, 409: the owner has the extension serve only.
	TrainingNotEnabled = "TrainingNotEnabled"
	// OperatorSilent, 503: what becomes of jobs is not known now.
	OperatorSilent = "ExtensionUnhealthy"
)

// Health is the extension's state. An answer means that its gateway runs.
type Health struct {
	Version    string   `json:"version"`
	Operator   bool     `json:"operator"` // alive within the last seconds
	Message    string   `json:"message,omitempty"`
	Namespaces []string `json:"namespaces"` // that may be attached
	Keys       int64    `json:"keys"`       // number of the last key set that was handed over
	// Scoring is the URL that scoring paths (ScorePath) follow, without a slash at
	// its end; "": there is none. ScoringMessage says why, unless it is that there is
	// no router.
	Scoring        string `json:"scoring,omitempty"`
	ScoringMessage string `json:"scoringMessage,omitempty"`
}

// ComputeName and JobName are the names of objects in namespace azureml, by uid.
func ComputeName(uid string) string { return "c-" + uid }

// JobName is the name of a TrainingJob.
func JobName(uid string) string { return "j-" + uid }

// Keys is the authority's key set, handed over: the payload of a JWS signed by
// the ML service's key, whose audience is the extension's.
type Keys struct {
	Audience string          `json:"aud"`
	Number   int64           `json:"number"` // milliseconds since 1970 before the set was read; an older set is refused
	Keys     json.RawMessage `json:"keys"`   // RFC 7517
}

// Compute is a compute target that a workspace attached.
type Compute struct {
	UID                 string                  `json:"uid"`
	Name                string                  `json:"name"`
	Namespace           string                  `json:"namespace"`
	DefaultInstanceType string                  `json:"defaultInstanceType,omitempty"`
	InstanceTypes       map[string]InstanceType `json:"instanceTypes,omitempty"`
}

// Registry is a container registry with credentials for a compute's pods. They
// are written into a Secret and never told again.
type Registry struct {
	Server   string `json:"server"`
	Username string `json:"username"`
	Password string `json:"password"`
}

// InstanceType is what a pod gets. Quantities are Kubernetes'.
type InstanceType struct {
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	Resources    Resources         `json:"resources"`
}

// Resources are requests and limits by resource name. Those of GPUs are limits
// only, as in Azure.
type Resources struct {
	Requests Quantities `json:"requests,omitempty"`
	Limits   Quantities `json:"limits,omitempty"`
}

// QueueLabel is Kueue's, on what is to be queued.
const QueueLabel = "kueue.x-k8s.io/queue-name"

// GPU is the resource that device plugins of NVIDIA's offer.
const GPU = "nvidia.com/gpu"

// Quantities are Kubernetes' quantities by resource name.
type Quantities map[string]string

// UnmarshalJSON takes text and numbers; null is absent.
func (q *Quantities) UnmarshalJSON(raw []byte) error {
	var all map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&all); err != nil {
		return err
	}
	*q = nil
	for name, value := range all {
		var text string
		switch v := value.(type) {
		case nil:
			continue
		case string:
			text = v
		case json.Number:
			text = v.String()
		default:
			return fmt.Errorf("the quantity of %.64q is neither text nor a number", name)
		}
		if *q == nil {
			*q = Quantities{}
		}
		(*q)[name] = text
	}
	return nil
}

// Job is a command job.
type Job struct {
	UID          string            `json:"uid"`
	Name         string            `json:"name"`
	Compute      string            `json:"compute"` // uid
	Image        string            `json:"image"`
	Command      string            `json:"command"`
	Environment  map[string]string `json:"environment,omitempty"`
	Nodes        int               `json:"nodes"`
	InstanceType string            `json:"instanceType,omitempty"` // "": the compute's default
	ShmSize      string            `json:"shmSize,omitempty"`      // a quantity
	Distribution string            `json:"distribution,omitempty"` // "", PyTorch, TensorFlow
	Timeout      int64             `json:"timeoutSeconds,omitempty"`
	Retries      int               `json:"retries,omitempty"`
	// Queue is a LocalQueue of Kueue's in the compute's namespace, which decides when
	// the job starts; "": none does.
	Queue  string  `json:"queue,omitempty"`
	Mounts []Mount `json:"mounts,omitempty"`
	// WorkDir is where the command runs; "": where the image says.
	WorkDir string `json:"workDir,omitempty"`
}

// States of a job, a part of Azure's.
const (
	Queued    = "Queued"    // no node has taken it
	Preparing = "Preparing" // nodes have, the image comes
	Running   = "Running"
	Completed = "Completed"
	Failed    = "Failed"
	Canceled  = "Canceled"
	// NotResponding: a host that it ran on has not been heard of, and whether it
	// runs on there is not known.
	NotResponding = "NotResponding"
)

// Done tells whether a state is a last one.
func Done(state string) bool { return state == Completed || state == Failed || state == Canceled }

// Status is a job's state. Version is for the next long poll.
type Status struct {
	Version string    `json:"version,omitempty"`
	State   string    `json:"state"`
	Code    string    `json:"code,omitempty"`    // PodUnschedulable, ImagePullLoopBackOff, …
	Reason  string    `json:"reason,omitempty"`  // why it is in the state; readable
	Command string    `json:"command,omitempty"` // what to type next, if there is something
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Nodes   []Node    `json:"nodes,omitempty"`
	// Metrics are what the program wrote as its last ones, of its first node.
	Metrics map[string]float64 `json:"metrics,omitempty"`
}

// Node is one of a job's replicas, in its last attempt.
type Node struct {
	Index    int    `json:"index"`
	Attempt  int    `json:"attempt"`
	Pod      string `json:"pod"`
	Host     string `json:"host,omitempty"` // name of the Kubernetes node
	Phase    string `json:"phase"`
	ExitCode *int32 `json:"exitCode,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// LogFile is the log of one attempt of one node: "node-0/attempt-0".
type LogFile struct {
	Name string `json:"name"`
	Size int64  `json:"size"` // bytes so far
	Host string `json:"host,omitempty"`
	Done bool   `json:"done"` // nothing more will come
	// Kept tells that it is in the workspace's store, or never will be; URL, where
	// the ML service says so, is signed to read it there.
	Kept bool   `json:"kept,omitempty"`
	URL  string `json:"url,omitempty"`
}

// LogPart is a piece of a log file.
type LogPart struct {
	Content string `json:"content"`
	Next    int64  `json:"next"` // offset of what follows
	Done    bool   `json:"done"` // and nothing will
}
