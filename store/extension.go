package store

import (
	"encoding/json"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Extension is an extension of a cluster (Microsoft.KubernetesConfiguration):
// what is wanted of it, and what the cluster's installer last said.
type Extension struct {
	ClusterID  string // the managed cluster, in the casing of its creation
	ClusterUID trust.ClusterUID
	Name       string
	UID        string // new at each creation

	Type               string // in its own spelling
	Train              string
	Version            string // pinned, or ""
	AutoUpgrade        bool
	Release, Namespace string            // scope: of the cluster, or of one namespace
	Settings           map[string]string // by canonical keys
	ProtectedKeys      []string
	Sealed             []byte          `json:",omitempty"` // the protected settings, JSON, sealed for Key and Generation
	Extra              json.RawMessage `json:",omitempty"` // properties as sent that we do not know
	Identity           *SystemIdentity `json:",omitempty"`

	// Generation grows with everything that the installer has to follow.
	Generation int64
	Warnings   []ExtensionStatus // of the request that was last taken
	State      string            // Creating, Updating, Deleting, Succeeded, Failed
	Problem    *Failure          `json:",omitempty"`
	Operation  string            // id of the operation in charge
	Deleting   bool              // the installer has to remove it

	Begun     bool // something of it may have been put into the cluster
	Installed ExtensionInstalled
	Asked     time.Time // when the installer was last asked to look at what is there
	Stamp     Stamp
}

// ExtensionInstalled is what the installer last said; the zero value if it never
// spoke of it.
type ExtensionInstalled struct {
	Generation int64 // that it speaks of
	Time       time.Time
	Present    bool // something of it is in the cluster
	Unseen     bool // it could not look, and Present is what it saw before
	Version    string
	Problem    *Failure `json:",omitempty"`
	Statuses   []ExtensionStatus
}

// ExtensionStatus is an entry of an extension's statuses.
type ExtensionStatus struct {
	Code, Level, Message string // Level: Error, Warning, Information
	Time                 time.Time
}

const extensionType = "microsoft.kubernetesconfiguration/extensions"

// ID is the extension's id.
func (r Extension) ID() string {
	return r.ClusterID + "/providers/Microsoft.KubernetesConfiguration/extensions/" + r.Name
}

// Key places an extension below its cluster.
func (r Extension) Key() string { return ResourceKey(r.ID()) }

// Owns tells whether key is an extension's.
func (Extension) Owns(key string) bool {
	t, ok := typeOf(key)
	return ok && t == extensionType
}
