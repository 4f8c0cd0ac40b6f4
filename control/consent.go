package control

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// maxRoles is how many roles a binding may name.
const maxRoles = 100

// wantedBinding is a PUT's body, checked as far as it can be alone.
type wantedBinding struct {
	sourceID sourceID
	roles    []string // in order, without blanks around them
	extra    bag      // properties that we do not know
}

// sourceID is a source resource's id as it was sent, which is how it is given
// back, and parsed.
type sourceID struct {
	text string
	arm.ID
}

// parseWant checks the properties of a binding. Read-only ones that clients
// send back are no part of it.
func (k *call) parseWant(raw json.RawMessage) (*wantedBinding, error) {
	p, err := parseBag(raw)
	if err != nil {
		return nil, err
	}
	w := &wantedBinding{}
	if _, err := p.get("sourceResourceId", &w.sourceID.text); err != nil {
		return nil, err
	}
	if w.sourceID.text == "" {
		return nil, arm.BadParameter("properties.sourceResourceId", "it is required")
	}
	if w.sourceID.ID, err = arm.ParseID(w.sourceID.text); err != nil || !w.sourceID.IsResource() || w.sourceID.Subscription == "" {
		return nil, arm.BadParameter("properties.sourceResourceId", "'%.300s' is not the id of a resource", w.sourceID.text)
	}
	if k.SameSubscription && !is(w.sourceID.Subscription, k.id.Subscription) {
		return nil, arm.BadParameter("properties.sourceResourceId", "the source's subscription %s is not the cluster's subscription %s", w.sourceID.Subscription, k.id.Subscription)
	}
	var roles []string
	if _, err := p.get("roles", &roles); err != nil {
		return nil, err
	}
	if len(roles) == 0 {
		return nil, arm.BadParameter("properties.roles", "at least one role is required")
	}
	if len(roles) > maxRoles {
		return nil, arm.BadParameter("properties.roles", "it has %d entries, the limit is %d", len(roles), maxRoles)
	}
	seen := map[string]bool{}
	for _, r := range roles {
		r = strings.TrimSpace(r) // az splits "a, b" at the comma alone
		if seen[trust.Fold(r)] {
			return nil, arm.BadParameter("properties.roles", "role %.200s is named twice", r)
		}
		seen[trust.Fold(r)] = true
		w.roles = append(w.roles, r)
	}
	w.extra = p.drop("sourceResourceId", "roles", "provisioningState", "error", "reason")
	return w, nil
}

// consented finds the source, which must exist and have an identity, and which
// the caller must be able to see.
func (k *call) consented(id sourceID) (store.Item[store.Source], error) {
	allowed, err := k.allowed(k.ctx, &k.caller, id.Type()+"/read", id.ID)
	if err == nil && !allowed {
		err = arm.NotAuthorizedLinked(k.client(), k.caller.Object, bindingType+"/write", k.id.String(), id.Type()+"/read", id.text)
	}
	if err != nil {
		return store.Item[store.Source]{}, err
	}
	s, err := store.Get[store.Source](k.ctx, k.Store, store.ResourceKey(id.String()))
	if trust.KindOf(err) == trust.NotFound || err == nil && !(store.Source{}).Owns(s.Value.Key()) {
		return s, arm.BadParameter("properties.sourceResourceId", "the resource %s does not exist", id.text)
	}
	if err == nil && s.Value.Identity == nil && !isPeople(&s.Value) {
		return s, arm.BadParameter("properties.sourceResourceId", "the resource %s has no system-assigned identity", id.text)
	}
	return s, err
}

// wantedRoles finds the roles, in order. Each must belong to the source's type.
func (k *call) wantedRoles(want *wantedBinding) ([]trust.Role, error) {
	all, err := k.roles()
	if err != nil {
		return nil, err
	}
	var roles []trust.Role
	for _, name := range want.roles {
		i := slices.IndexFunc(all, func(r trust.Role) bool { return r.FullName().Equal(trust.RoleName(name)) })
		if i < 0 {
			return nil, arm.BadParameter("properties.roles", "non-exist role: %.200s, please refer to http://aka.ms/aks/ta/role to list available roles", name)
		}
		if !is(all[i].SourceType, want.sourceID.Type()) {
			return nil, arm.BadParameter("properties.roles", "role %s is for resources of type %s, the source is of type %s", all[i].FullName(), all[i].SourceType, want.sourceID.Type())
		}
		roles = append(roles, all[i])
	}
	return roles, nil
}

// acceptedRoles is what the cluster's reconciler last found accepted; nothing if
// it was never heard.
func (c *Control) acceptedRoles(ctx context.Context, cluster trust.ClusterUID) ([]mandate.Accepted, error) {
	report, err := c.lastReport(ctx, cluster)
	return report.Accepted, err
}

// grantsFor chooses the revision of each role: the current one if the cluster
// accepted it, else one that it did accept, the binding's present one first;
// else the current one, which the reconciler will name as not accepted.
func grantsFor(roles []trust.Role, accepted []mandate.Accepted, present []trust.Grant) []trust.Grant {
	var grants []trust.Grant
	for _, r := range roles {
		g := trust.Grant{Role: r.FullName(), Revision: r.Revision(), Rules: r.Rules}
		if a := chosen(r, accepted, present); a != nil {
			g.Revision, g.Namespaces = a.Revision, a.Namespaces
			if a.Revision != r.Revision() {
				g.Rules = a.Rules
			}
		}
		grants = append(grants, g)
	}
	return grants
}

// chosen is the acceptance that a role is granted under, nil if there is none.
func chosen(r trust.Role, accepted []mandate.Accepted, present []trust.Grant) *mandate.Accepted {
	var best *mandate.Accepted
	rank := func(a *mandate.Accepted) int {
		n := 1
		if slices.ContainsFunc(present, func(g trust.Grant) bool { return g.Role.Equal(a.Role) && g.Revision == a.Revision }) {
			n = 2
		}
		if a.Revision == r.Revision() {
			n = 3
		}
		n *= 2
		if len(a.Namespaces) == 0 {
			n++ // the whole cluster before some namespaces of the same revision
		}
		return n
	}
	for i := range accepted {
		a := &accepted[i]
		if a.Role.Equal(r.FullName()) && (best == nil || rank(a) >= rank(best)) {
			best = a
		}
	}
	return best
}

// inBoth is what two lists of grants share: roles of the same revision, in the
// namespaces that both have. It is what a change leaves in force meanwhile.
func inBoth(old, wanted []trust.Grant) []trust.Grant {
	var both []trust.Grant
	for _, g := range old {
		for _, w := range wanted {
			if !g.Role.Equal(w.Role) || g.Revision != w.Revision {
				continue
			}
			if namespaces, some := shared(g.Namespaces, w.Namespaces); some {
				g.Namespaces = namespaces
				both = append(both, g)
			}
			break
		}
	}
	return both
}

// shared intersects namespaces, where none listed means all.
func shared(a, b []string) (namespaces []string, some bool) {
	switch {
	case len(a) == 0:
		return b, true
	case len(b) == 0:
		return a, true
	}
	for _, n := range a {
		if slices.Contains(b, n) {
			namespaces = append(namespaces, n)
		}
	}
	return namespaces, len(namespaces) > 0
}

// stillAccepted is what of the grants the acceptances still carry.
func stillAccepted(grants []trust.Grant, accepted []mandate.Accepted) []trust.Grant {
	var kept []trust.Grant
	for _, g := range grants {
		var union []string
		whole, found := false, false
		for _, a := range accepted {
			if !a.Role.Equal(g.Role) || a.Revision != g.Revision {
				continue
			}
			found = true
			whole = whole || len(a.Namespaces) == 0
			union = append(union, a.Namespaces...)
		}
		if !found {
			continue
		}
		if !whole {
			if len(g.Namespaces) == 0 {
				// The grant is cluster-wide and the acceptance is not: RBAC
				// knows it as another role.
				continue
			}
			var some bool
			if g.Namespaces, some = shared(g.Namespaces, union); !some {
				continue
			}
		}
		kept = append(kept, g)
	}
	return kept
}

func sameGrants(a, b []trust.Grant) bool {
	return slices.EqualFunc(a, b, func(x, y trust.Grant) bool {
		return x.Role.Equal(y.Role) && x.Revision == y.Revision && slices.Equal(x.Namespaces, y.Namespaces)
	})
}
