package mandate

import (
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"slices"

	"github.com/sallyport/sallyport/trust"
)

const extensionsContext = "sallyport mandate extensions v1\x00"

// Extensions is everything that a cluster's installer is told. It carries the
// protected settings: it is signed for the installer alone, sent to nobody else,
// and kept nowhere.
type Extensions struct {
	Cluster    trust.ClusterUID `json:"cluster"`
	Epoch      int64            `json:"epoch"`
	Revision   int64            `json:"revision"`
	Nodes      int              `json:"nodes,omitempty"` // ready ones, as the reconciler last counted; 0 if nobody knows
	Extensions []Extension      `json:"extensions"`
}

// Extension is one extension as it shall be in the cluster, or shall no longer
// be.
type Extension struct {
	UID        string            `json:"uid"` // new at each creation of the resource
	Name       string            `json:"name"`
	Generation int64             `json:"generation"` // grows with every change of what follows
	Type       string            `json:"type"`
	Train      string            `json:"train"`
	Version    string            `json:"version,omitempty"` // pinned, or "" for the newest
	Release    string            `json:"release,omitempty"` // namespace of an extension of the cluster
	Namespace  string            `json:"namespace,omitempty"`
	Settings   map[string]string `json:"settings"`
	Protected  map[string]string `json:"protected,omitempty"`
	Remove     bool              `json:"remove,omitempty"`
	// Refused says that this generation was tried in vain and left nothing: it is
	// not tried again before somebody asks.
	Refused bool `json:"refused,omitempty"`
}

// SignExtensions encodes and signs what an installer is told.
func SignExtensions(key ed25519.PrivateKey, e Extensions) ([]byte, error) {
	if !isUUID(string(e.Cluster)) || e.Epoch < 0 || e.Revision <= 0 {
		return nil, trust.Errorf(trust.Internal, "extensions of cluster %q, epoch %d, revision %d", e.Cluster, e.Epoch, e.Revision)
	}
	slices.SortFunc(e.Extensions, func(a, b Extension) int { return cmp.Compare(a.UID, b.UID) })
	return seal(key, extensionsContext, e)
}

// OpenExtensions checks and decodes what an installer was told, as Open does a
// state.
func OpenExtensions(pub ed25519.PublicKey, cluster trust.ClusterUID, floor Floor, data []byte) (Extensions, error) {
	var e Extensions
	if err := unseal(pub, extensionsContext, data, &e); err != nil {
		return Extensions{}, err
	}
	if e.Cluster != cluster {
		return Extensions{}, trust.Errorf(trust.Forbidden, "the extensions are for cluster %s, this is an agent of cluster %s", e.Cluster, cluster)
	}
	if told := (Floor{e.Epoch, e.Revision}); told.Before(floor) {
		return Extensions{}, trust.Errorf(trust.Conflict, "the extensions are of epoch %d, revision %d; this agent already knows of epoch %d, revision %d", e.Epoch, e.Revision, floor.Epoch, floor.Revision)
	}
	seen := map[string]bool{}
	for _, x := range e.Extensions {
		if !isUUID(x.UID) || seen[x.UID] || x.Generation <= 0 || x.Type == "" {
			return Extensions{}, trust.Errorf(trust.Invalid, "the extensions do not hold together: %q of generation %d", x.UID, x.Generation)
		}
		seen[x.UID] = true
	}
	return e, nil
}

// ExtensionReport is what the installer did: about each extension that it was
// told of, in any order.
type ExtensionReport struct {
	Instance   string           `json:"instance"` // of the process
	Version    string           `json:"version"`  // of the agent
	Extensions []ExtensionState `json:"extensions"`
	// Begun names, by uid, the extensions of which something may be in the cluster
	// from now on. It is said before anything is put there, so that of what was
	// never begun nothing is there.
	Begun []string `json:"begun,omitempty"`
}

// ExtensionState says what is in the cluster of an extension. Generation is the
// one that it speaks of: done, or not possible if Problem is set.
type ExtensionState struct {
	UID        string            `json:"uid"`
	Generation int64             `json:"generation"`
	Present    bool              `json:"present"`          // something of it is in the cluster
	Unseen     bool              `json:"unseen,omitempty"` // nobody could look: Present and Version say nothing
	Version    string            `json:"version,omitempty"`
	Problem    *ExtensionProblem `json:"problem,omitempty"`
	Statuses   []ExtensionStatus `json:"statuses,omitempty"`
}

// Codes of an ExtensionProblem that are not those of Azure's health check.
const (
	ExtensionNotAccepted   = "ExtensionNotAccepted"   // the cluster's owner has not accepted the type, or not for that namespace
	ExtensionDigestRefused = "ExtensionDigestRefused" // they accepted another chart than the installer has
)

// ExtensionProblem is why an extension is not as it shall be.
type ExtensionProblem struct {
	Code    string `json:"code"`    // "E40007", …
	Message string `json:"message"` // one sentence for people, without secrets
}

// ExtensionStatus is one finding of a health check.
type ExtensionStatus struct {
	Code    string `json:"code"`
	Level   string `json:"level"` // Error, Warning, Information
	Message string `json:"message"`
}

// MaxExtensionReport is the largest such report that is looked at, in bytes.
const MaxExtensionReport = 1 << 20

// ParseExtensionReport decodes a report. Unknown fields are let pass.
func ParseExtensionReport(data []byte) (ExtensionReport, error) {
	var r ExtensionReport
	if len(data) > MaxExtensionReport {
		return r, trust.Errorf(trust.TooLarge, "a report of %d bytes is over the limit of %d", len(data), MaxExtensionReport)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, trust.Errorf(trust.Invalid, "this is not an installer's report").Because(err)
	}
	if r.Instance == "" || len(r.Instance) > 128 || len(r.Version) > 128 {
		return r, trust.Errorf(trust.Invalid, "the report does not say which process it is of")
	}
	for _, uid := range r.Begun {
		if !isUUID(uid) {
			return r, trust.Errorf(trust.Invalid, "the report does not hold together: %q is begun", uid)
		}
	}
	for _, e := range r.Extensions {
		if !isUUID(e.UID) || e.Generation <= 0 || e.Problem != nil && (e.Problem.Code == "" || e.Problem.Message == "") {
			return r, trust.Errorf(trust.Invalid, "the report does not hold together: %q of generation %d", e.UID, e.Generation)
		}
	}
	return r, nil
}
