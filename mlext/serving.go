package mlext

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sallyport/sallyport/mlext/wire"
)

// The kinds of serving, in namespace azureml. The gateway writes their specs,
// the operator their status; the router reads them, and writes Scaled.
var (
	OnlineEndpoints   = schema.GroupVersionResource{Group: "ml.sallyport.dev", Version: "v1alpha1", Resource: "onlineendpoints"}
	OnlineDeployments = schema.GroupVersionResource{Group: "ml.sallyport.dev", Version: "v1alpha1", Resource: "onlinedeployments"}
)

const (
	DeploymentLabel     = "ml.sallyport.dev/deployment" // on what runs for an OnlineDeployment, pods among it: its uid
	DeploymentFinalizer = "ml.sallyport.dev/deployment" // the operator removes what runs first
	Server              = "server"                      // the container of a model server
	RouterAccount       = "sallyport-ml-router"
	RouterLease         = "sallyport-ml-router"  // who hands slots out among routers, and scales
	RoutersConfigMap    = "sallyport-ml-routers" // which routers there are
	// RouterService is where endpoints are scored, under Azure's name for it.
	RouterService = "azureml-fe"
)

// OnlineEndpoint is what the router serves under /api/v1/endpoint/<name>/score.
// Names are unique per workspace and cluster; the router tells two workspaces'
// endpoints of one name apart by the key.
type OnlineEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              OnlineEndpointSpec `json:"spec"`
}

// OnlineEndpointSpec is what was asked for, by whom, and in which namespace.
type OnlineEndpointSpec struct {
	Owner     Owner         `json:"owner"`
	Endpoint  wire.Endpoint `json:"endpoint"`
	Namespace string        `json:"namespace"` // the compute's
}

// OnlineDeployment is replicas of a model server.
type OnlineDeployment struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              OnlineDeploymentSpec  `json:"spec"`
	Status            wire.DeploymentStatus `json:"status,omitzero"`
}

// OnlineDeploymentSpec is what was asked for, by whom.
type OnlineDeploymentSpec struct {
	Owner      Owner           `json:"owner"`
	Deployment wire.Deployment `json:"deployment"`
	Namespace  string          `json:"namespace"` // the compute's
	// InstanceTypes and the default are the compute's, at submission.
	InstanceTypes map[string]wire.InstanceType `json:"instanceTypes,omitempty"`
	// Scaled is how many replicas the router's autoscaler wants. It counts where
	// Deployment.Scale is set, within its bounds; whoever writes the rest of the
	// spec keeps it.
	Scaled     int    `json:"scaled,omitempty"`
	PullSecret string `json:"pullSecret,omitempty"` // in Namespace
	Compute    string `json:"compute,omitempty"`    // its name
}

// NewOnlineEndpoint makes the object of an endpoint.
func NewOnlineEndpoint(s OnlineEndpointSpec) *OnlineEndpoint {
	return &OnlineEndpoint{TypeMeta: typeMeta(OnlineEndpoints, "OnlineEndpoint"),
		ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: EndpointName(s.Endpoint.UID)}, Spec: s}
}

// NewOnlineDeployment makes the object of a deployment.
func NewOnlineDeployment(s OnlineDeploymentSpec) *OnlineDeployment {
	return &OnlineDeployment{TypeMeta: typeMeta(OnlineDeployments, "OnlineDeployment"),
		ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: DeploymentName(s.Deployment.UID), Finalizers: []string{DeploymentFinalizer}}, Spec: s}
}

// EndpointName and DeploymentName are names of objects.
func EndpointName(uid string) string   { return wire.EndpointName(uid) }
func DeploymentName(uid string) string { return wire.DeploymentName(uid) }
