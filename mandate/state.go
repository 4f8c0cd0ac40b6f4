package mandate

import (
	"cmp"
	"crypto/ed25519"
	"slices"

	"github.com/sallyport/sallyport/trust"
)

// State is everything that one cluster's agents are told. Revision is the store
// revision of the cluster's mandate and grows with every change; Epoch grows
// when the store is restored from a copy. Each binding's Grants are the desired
// ones.
type State struct {
	Cluster  trust.ClusterUID
	Epoch    int64
	Revision int64
	Stopped  bool // the cluster is stopped: nobody is let through
	// Installer says that the cluster's installer has something to do, so that
	// the reconciler lets it run.
	Installer bool
	Bindings  []trust.Binding
}

// Floor is the newest (epoch, revision) that an agent knows of. Nothing older
// is accepted.
type Floor struct {
	Epoch, Revision int64
}

// Before says whether f is older than g.
func (f Floor) Before(g Floor) bool {
	return f.Epoch < g.Epoch || f.Epoch == g.Epoch && f.Revision < g.Revision
}

// Floor is the state's own (epoch, revision).
func (s State) Floor() Floor { return Floor{s.Epoch, s.Revision} }

// The payload. Rules are listed once per revision, since many bindings share a
// role. Lists are sorted: the same state gives the same bytes.
type (
	wireState struct {
		Cluster  trust.ClusterUID              `json:"cluster"`
		Epoch    int64                         `json:"epoch"`
		Revision int64                         `json:"revision"`
		Stopped  bool                          `json:"stopped"`
		Install  bool                          `json:"installer,omitempty"`
		Bindings []wireBinding                 `json:"bindings"`
		Rules    map[trust.Revision][]wireRule `json:"rules"`
	}
	wireBinding struct {
		ID       string           `json:"id"`
		UID      trust.BindingUID `json:"uid"`
		SourceID string           `json:"sourceId"`
		Issuer   string           `json:"issuer"`
		Tenant   string           `json:"tenant"`
		Object   string           `json:"object"`
		Grants   []wireGrant      `json:"grants"`
	}
	wireGrant struct {
		Role       trust.RoleName `json:"role"`
		Revision   trust.Revision `json:"revision"`
		Namespaces []string       `json:"namespaces,omitempty"`
	}
	wireRule struct {
		Verbs           []string `json:"verbs"`
		APIGroups       []string `json:"apiGroups,omitempty"`
		Resources       []string `json:"resources,omitempty"`
		ResourceNames   []string `json:"resourceNames,omitempty"`
		NonResourceURLs []string `json:"nonResourceURLs,omitempty"`
	}
)

// Sign encodes and signs a state. It fails if a grant's revision is not the
// hash of its rules, or if the state is one that Open would refuse.
func Sign(key ed25519.PrivateKey, s State) ([]byte, error) {
	w := wireState{Cluster: s.Cluster, Epoch: s.Epoch, Revision: s.Revision, Stopped: s.Stopped, Install: s.Installer,
		Bindings: make([]wireBinding, 0, len(s.Bindings)), Rules: map[trust.Revision][]wireRule{}}
	for _, b := range s.Bindings {
		if b.Cluster != s.Cluster {
			return nil, trust.Errorf(trust.Internal, "binding %s is of cluster %s, not of %s", b.ID, b.Cluster, s.Cluster)
		}
		wb := wireBinding{ID: b.ID, UID: b.UID, SourceID: b.SourceID, Issuer: b.Source.Issuer, Tenant: b.Source.Tenant, Object: b.Source.Object, Grants: make([]wireGrant, 0, len(b.Grants))}
		for _, g := range b.Grants {
			wb.Grants = append(wb.Grants, wireGrant{Role: g.Role, Revision: g.Revision, Namespaces: g.Namespaces})
			if _, known := w.Rules[g.Revision]; known {
				continue
			}
			if trust.RevisionOf(g.Rules) != g.Revision {
				return nil, trust.Errorf(trust.Internal, "binding %s: the rules of role %s do not have revision %s", b.ID, g.Role, g.Revision)
			}
			rules := make([]wireRule, 0, len(g.Rules))
			for _, r := range g.Rules {
				rules = append(rules, wireRule(r))
			}
			w.Rules[g.Revision] = rules
		}
		w.Bindings = append(w.Bindings, wb)
	}
	slices.SortFunc(w.Bindings, func(a, b wireBinding) int { return cmp.Compare(a.UID, b.UID) })
	if _, err := w.state(); err != nil {
		return nil, err
	}
	return seal(key, stateContext, w)
}

// Open checks and decodes a signed state. It refuses what the key did not sign,
// what is for another cluster, what is older than floor, and what does not hold
// together; the same (epoch, revision) again is accepted. Errors have kind
// Invalid, Forbidden, Conflict (older than floor), TooLarge or Unsupported.
func Open(pub ed25519.PublicKey, cluster trust.ClusterUID, floor Floor, data []byte) (State, error) {
	var w wireState
	if err := unseal(pub, stateContext, data, &w); err != nil {
		return State{}, err
	}
	if w.Cluster != cluster {
		return State{}, trust.Errorf(trust.Forbidden, "the state is for cluster %s, this is an agent of cluster %s", w.Cluster, cluster)
	}
	s, err := w.state()
	if err != nil {
		return State{}, err
	}
	if s.Floor().Before(floor) {
		return State{}, trust.Errorf(trust.Conflict, "the state is of epoch %d, revision %d; this agent already knows of epoch %d, revision %d", s.Epoch, s.Revision, floor.Epoch, floor.Revision)
	}
	return s, nil
}

// state checks what the signature does not: that the state holds together.
func (w *wireState) state() (State, error) {
	bad := func(format string, args ...any) (State, error) {
		return State{}, trust.Errorf(trust.Invalid, "the state does not hold together: "+format, args...)
	}
	if !isUUID(string(w.Cluster)) || w.Epoch < 0 || w.Revision <= 0 {
		return bad("cluster %q, epoch %d, revision %d", w.Cluster, w.Epoch, w.Revision)
	}
	rules := make(map[trust.Revision][]trust.Rule, len(w.Rules))
	for revision, list := range w.Rules {
		for _, r := range list {
			rules[revision] = append(rules[revision], trust.Rule(r))
		}
		if trust.RevisionOf(rules[revision]) != revision {
			return bad("rules listed as revision %.40q have another hash", revision)
		}
	}
	s := State{Cluster: w.Cluster, Epoch: w.Epoch, Revision: w.Revision, Stopped: w.Stopped, Installer: w.Install}
	seen := make(map[trust.BindingUID]bool, len(w.Bindings))
	for _, wb := range w.Bindings {
		if !isUUID(string(wb.UID)) || seen[wb.UID] {
			return bad("binding %q has uid %q", wb.ID, wb.UID)
		}
		seen[wb.UID] = true
		b := trust.Binding{ID: wb.ID, UID: wb.UID, Cluster: w.Cluster, SourceID: wb.SourceID, Source: trust.Principal{Issuer: wb.Issuer, Tenant: wb.Tenant, Object: wb.Object}}
		for _, g := range wb.Grants {
			list, ok := rules[g.Revision]
			if !ok || len(list) == 0 {
				return bad("binding %q has role %q in revision %.40q without rules", wb.ID, g.Role, g.Revision)
			}
			b.Grants = append(b.Grants, trust.Grant{Role: g.Role, Revision: g.Revision, Namespaces: g.Namespaces, Rules: list})
		}
		s.Bindings = append(s.Bindings, b)
	}
	return s, nil
}

// isUUID reports whether s is a lower-case RFC 9562 UUID. Uids become parts of
// Kubernetes object names.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
