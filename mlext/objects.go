package mlext

import (
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sallyport/sallyport/mlext/wire"
)

// The kinds, all but InstanceType in namespace azureml.
var (
	Computes      = schema.GroupVersionResource{Group: "ml.sallyport.dev", Version: "v1alpha1", Resource: "computes"}
	TrainingJobs  = schema.GroupVersionResource{Group: "ml.sallyport.dev", Version: "v1alpha1", Resource: "trainingjobs"}
	InstanceTypes = schema.GroupVersionResource{Group: "amlarc.azureml.com", Version: "v1alpha1", Resource: "instancetypes"}
)

// Labels and names.
const (
	JobLabel   = "ml.sallyport.dev/job"     // on what runs for a TrainingJob: its uid
	IndexLabel = "ml.sallyport.dev/attempt" // on a pod's template, for people
	Finalizer  = "ml.sallyport.dev/job"     // the operator removes what runs first
	Container  = "main"                     // of a job's pods

	GatewayAccount  = "sallyport-ml-gateway"
	OperatorAccount = "sallyport-ml-operator"
	OperatorLease   = "sallyport-ml-operator"
	KeysConfigMap   = "sallyport-ml-keys"

	// Who signs the gateway's certificate: its key in a Secret of this name,
	// which the gateway alone may read, and the certificate in a ConfigMap.
	TrustSecret    = "sallyport-ml-ca"
	TrustConfigMap = "sallyport-ml-ca"
	TrustEntry     = "ca.pem"

	// Of the containers that move a pod's bytes.
	MountsVariable = "SALLYPORT_ML_MOUNTS" // JSON, []wire.Mount
	TrustVariable  = "SALLYPORT_ML_TRUST"  // PEM
)

// PullSecrets begin the names of the Secrets with computes' registry credentials,
// the only ones that the gateway may write.
const PullSecrets = "sallyport-ml-pull-"

// PullSecretName is the name of a compute's, in its namespace.
func PullSecretName(computeUID string) string { return PullSecrets + computeUID }

// Owner is the workspace that something was made by: both must match.
type Owner struct {
	Workspace string `json:"workspace"` // resource id, folded
	Object    string `json:"object"`    // oid
}

// Compute is an attached compute.
type Compute struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ComputeSpec `json:"spec"`
}

// ComputeSpec is what was asked for, and by whom.
type ComputeSpec struct {
	Owner        Owner `json:"owner"`
	wire.Compute `json:",inline"`
	// PullSecret says that the namespace has registry credentials of the compute.
	PullSecret bool `json:"pullSecret,omitempty"`
}

// PullSecret is the name of the Secret with the compute's registry credentials;
// "" if it has none.
func (c *Compute) PullSecret() string {
	if !c.Spec.PullSecret {
		return ""
	}
	return PullSecretName(c.Spec.UID)
}

// TrainingJob is a command job.
type TrainingJob struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              TrainingJobSpec `json:"spec"`
	Status            wire.Status     `json:"status,omitzero"`
}

// TrainingJobSpec is what was asked for, by whom, and whether it is still wanted.
type TrainingJobSpec struct {
	Owner     Owner    `json:"owner"`
	Job       wire.Job `json:"job"`
	Namespace string   `json:"namespace"` // the compute's
	// InstanceTypes and the default are the compute's, at submission.
	InstanceTypes map[string]wire.InstanceType `json:"instanceTypes,omitempty"`
	PullSecret    string                       `json:"pullSecret,omitempty"` // in Namespace
	Compute       string                       `json:"compute,omitempty"`    // its name
	Cancel        bool                         `json:"cancel,omitempty"`
}

// InstanceType is Azure's.
type InstanceType struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              wire.InstanceType `json:"spec"`
}

// DefaultInstanceType exists without being made; one of this name replaces it.
const DefaultInstanceType = "defaultinstancetype"

// Default is what it gives (Azure's reference, 2025).
var Default = wire.InstanceType{Resources: wire.Resources{
	Requests: map[string]string{"cpu": "100m", "memory": "2Gi"}, Limits: map[string]string{"cpu": "2", "memory": "2Gi"}}}

// NewCompute makes the object of a compute.
func NewCompute(owner Owner, c wire.Compute) *Compute {
	return &Compute{TypeMeta: typeMeta(Computes, "Compute"), ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: wire.ComputeName(c.UID)},
		Spec: ComputeSpec{Owner: owner, Compute: c}}
}

// NewTrainingJob makes the object of a job.
func NewTrainingJob(s TrainingJobSpec) *TrainingJob {
	return &TrainingJob{TypeMeta: typeMeta(TrainingJobs, "TrainingJob"),
		ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: JobName(s.Job.UID), Finalizers: []string{Finalizer}}, Spec: s}
}

// JobName is the name of a job's TrainingJob.
func JobName(uid string) string { return wire.JobName(uid) }

func typeMeta(r schema.GroupVersionResource, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: r.GroupVersion().String(), Kind: kind}
}

// ToObject makes what the dynamic client sends.
func ToObject(v any) (*unstructured.Unstructured, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(raw); err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	return u, nil
}

// FromObject reads what the dynamic client got.
func FromObject[T any](u *unstructured.Unstructured) (*T, error) {
	raw, err := u.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return v, nil
}
