package mandate

import (
	"encoding/json"

	"github.com/sallyport/sallyport/trust"
)

// Report is what the reconciler found and did: sent after each apply and each
// re-check. (Epoch, Revision) is the state that it speaks of.
type Report struct {
	Epoch             int64           `json:"epoch"`
	Revision          int64           `json:"revision"`
	KubernetesVersion string          `json:"kubernetesVersion"` // "v1.36.3"
	Nodes             int             `json:"nodes"`
	Pools             []NodePool      `json:"pools,omitempty"`
	NodesUnseen       string          `json:"nodesUnseen,omitempty"` // why nodes cannot be listed
	Accepted          []Accepted      `json:"accepted"`
	Unseen            bool            `json:"unseen,omitempty"` // the cluster could not be looked at: Accepted says nothing
	Bindings          []BindingReport `json:"bindings"`
	Leftovers         []string        `json:"leftovers,omitempty"` // objects of ours that should be gone and are not: "clusterrolebinding/…"
	Fence             string          `json:"fence,omitempty"`     // "" if the admission policies were seen to refuse; else why nothing is applied
	Installer         *Installer      `json:"installer,omitempty"` // nil: the cluster's owner has accepted no extension, so there is none
}

// Installer is the installer's Deployment, as the reconciler scales it.
type Installer struct {
	Replicas int    `json:"replicas"`          // wanted: 0 while there is nothing to do
	Running  int    `json:"running"`           // pods that there are
	Problem  string `json:"problem,omitempty"` // why it could not be scaled
}

// NodePool is the nodes of a cluster that belong together.
type NodePool struct {
	Name         string   `json:"name"`
	InstanceType string   `json:"instanceType,omitempty"`
	OS           string   `json:"os,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
	ControlPlane bool     `json:"controlPlane,omitempty"`
	Versions     []string `json:"versions"` // of the kubelets, sorted
	Count        int      `json:"count"`
	Ready        int      `json:"ready"`
	MilliCPU     int64    `json:"milliCpu"` // allocatable, of all of them
	Memory       int64    `json:"memory"`   // bytes
}

// Accepted is a role revision that the cluster's owner has accepted.
type Accepted struct {
	Role       trust.RoleName `json:"role"` // lower case, as the ClusterRole's name has it
	Revision   trust.Revision `json:"revision"`
	Namespaces []string       `json:"namespaces,omitempty"` // empty: the whole cluster
	Unfenced   bool           `json:"unfenced,omitempty"`
	Rules      []trust.Rule   `json:"rules"`
}

// BindingReport says what became of one binding of the state. Applied means
// that exactly its grants are in force in the cluster.
type BindingReport struct {
	UID     trust.BindingUID `json:"uid"`
	Applied bool             `json:"applied"`
	Problem *Problem         `json:"problem,omitempty"` // set if and only if not applied
}

// Problem is why a binding could not be applied.
type Problem struct {
	Code      string       `json:"code"`
	Message   string       `json:"message"`             // one sentence for people
	Uncovered []trust.Rule `json:"uncovered,omitempty"` // the rules asked for that no accepted role covers
	Command   string       `json:"command,omitempty"`   // what the cluster's owner types to let it pass
}

// Codes of a Problem.
const (
	RoleNotAccepted      = "RoleNotAccepted"      // no acceptance of this role revision
	RoleNotAcceptedThere = "RoleNotAcceptedThere" // accepted, but not for this scope or namespace
	RoleChanged          = "RoleChanged"          // the accepted ClusterRole has other rules than its name says
	NamespaceMissing     = "NamespaceMissing"     // a namespace of the grant, or sallyport-bindings itself, does not exist
	FenceMissing         = "FenceMissing"         // an admission policy does not refuse what it must: nothing is applied
	ClusterTaken         = "ClusterTaken"         // another registration owns this API server
	KubernetesTooOld     = "KubernetesTooOld"     // older than 1.30
	ApplyFailed          = "ApplyFailed"          // the API server refused or did not answer; tried again
)

// MaxReport is the largest report that is looked at, in bytes.
const MaxReport = 8 << 20

// ParseReport decodes a report. Unknown fields are let pass: an agent may be
// newer than its control plane, and nothing in a report gives anybody a right.
func ParseReport(data []byte) (Report, error) {
	if len(data) > MaxReport {
		return Report{}, trust.Errorf(trust.TooLarge, "a report of %d bytes is over the limit of %d", len(data), MaxReport)
	}
	var r Report
	if err := json.Unmarshal(data, &r); err != nil {
		return Report{}, trust.Errorf(trust.Invalid, "this is not a reconciler's report").Because(err)
	}
	if r.Epoch < 0 || r.Revision < 0 || r.Nodes < 0 {
		return Report{}, trust.Errorf(trust.Invalid, "the report does not hold together: epoch %d, revision %d, %d nodes", r.Epoch, r.Revision, r.Nodes)
	}
	for _, a := range r.Accepted {
		if trust.RevisionOf(a.Rules) != a.Revision {
			return Report{}, trust.Errorf(trust.Invalid, "the report lists role %q with rules of another revision than %.40q", a.Role, a.Revision)
		}
	}
	for _, b := range r.Bindings {
		if b.Applied == (b.Problem != nil) {
			return Report{}, trust.Errorf(trust.Invalid, "the report does not say whether binding %q is applied", b.UID)
		}
	}
	return r, nil
}
