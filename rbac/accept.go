package rbac

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// Consent is how an owner accepts a role.
type Consent struct {
	Namespaces         []string // where; empty means the whole cluster
	Unfenced           bool     // lift the second admission policy for bindings that hold this role
	OutlivesRevocation bool     // the owner was told that the role can leave access behind
}

// Installed is what a cluster holds of acceptances already: objects with the
// registration's label, read with the owner's rights.
type Installed struct {
	ClusterRoles        []rbacv1.ClusterRole
	Roles               []rbacv1.Role // named ReconcilerRole
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
	RoleBindings        []rbacv1.RoleBinding
}

// Accept is what an owner applies, with their own rights and in this order, to
// accept one revision of a role: the ClusterRole with exactly its rules, and
// its name in the reconciler's bind list, which for some namespaces is a Role
// in each. The errors name the flag that is missing.
func Accept(cluster trust.ClusterUID, role trust.Role, c Consent, have Installed) (Plan, error) {
	if err := accepting(role, c); err != nil {
		return nil, err
	}
	namespaced := len(c.Namespaces) > 0
	name := ClusterRoleName(role.FullName(), role.Revision(), namespaced)
	marker := clusterRoleName(unfencedPrefix, role.FullName(), role.Revision())

	cr := newClusterRole(cluster, name, PolicyRules(role.Rules))
	cr.Annotations = map[string]string{roleAnnotation: string(role.FullName())}
	if c.Unfenced {
		cr.Annotations[unfencedAnnotation] = "true"
	}
	if namespaced {
		all := slices.Clone(c.Namespaces)
		for i, old := range have.ClusterRoles {
			if old.Name == name && old.Labels[ClusterLabel] == string(cluster) {
				all = append(all, namespacesOf(&have.ClusterRoles[i])...)
			}
		}
		cr.Annotations[namespacesAnnotation] = strings.Join(sorted(all), ",")
	}
	why := fmt.Sprintf("What a binding to role %s allows, in revision %s. Nothing can be bound that is not accepted here.", role.FullName(), role.Revision())
	plan := Plan{{Apply, Explained{Object: cr, Why: why}}}
	bind := []string{name}
	if c.Unfenced {
		plan = append(plan, Step{Apply, fenceMarker(cluster, role.FullName(), marker)})
		bind = append(bind, marker)
	}
	if !namespaced {
		plan = append(plan, Step{Apply, bindList(cluster, change(have.bindList(cluster, ""), bind, without(c.Unfenced, marker)))})
		return plan, nil
	}
	for _, ns := range sorted(c.Namespaces) {
		list := change(have.bindList(cluster, ns), bind, without(c.Unfenced, marker))
		for _, e := range namespaceRights(cluster, ns, list) {
			plan = append(plan, Step{Apply, e})
		}
	}
	return plan, nil
}

// RoleConsent is one role that an owner accepts.
type RoleConsent struct {
	Role    trust.Role
	Consent Consent
}

// AcceptAll is Accept for several roles: each object once, as it is after the
// last of them, in the order in which they must be applied.
func AcceptAll(cluster trust.ClusterUID, roles []RoleConsent, have Installed) (Plan, error) {
	var all Plan
	for _, r := range roles {
		plan, err := Accept(cluster, r.Role, r.Consent, have)
		if err != nil {
			return nil, err
		}
		have = have.After(plan)
		for _, s := range plan {
			key := Key(s.Object)
			all = slices.DeleteFunc(all, func(old Step) bool { return Key(old.Object) == key })
			all = append(all, s)
		}
	}
	return all, nil
}

func (have Installed) clone() Installed {
	have.ClusterRoles, have.Roles = slices.Clone(have.ClusterRoles), slices.Clone(have.Roles)
	have.ClusterRoleBindings, have.RoleBindings = slices.Clone(have.ClusterRoleBindings), slices.Clone(have.RoleBindings)
	return have
}

// After is what a cluster holds once a plan is carried out: what the next plan
// must be made from, since plans shorten and lengthen the same lists.
func (have Installed) After(p Plan) Installed {
	have = have.clone()
	for _, s := range p {
		have.follow(s)
	}
	return have
}

// follow makes have what an API server would hold after a step. It changes no
// list that have shares with others beyond what clone copied.
func (have *Installed) follow(s Step) {
	switch o := s.Object.(type) {
	case *rbacv1.ClusterRole:
		have.ClusterRoles = replaced(have.ClusterRoles, *o, s.Verb, func(r rbacv1.ClusterRole) string { return r.Name })
	case *rbacv1.Role:
		have.Roles = replaced(have.Roles, *o, s.Verb, func(r rbacv1.Role) string { return r.Namespace + "/" + r.Name })
	case *rbacv1.ClusterRoleBinding:
		have.ClusterRoleBindings = replaced(have.ClusterRoleBindings, *o, s.Verb, func(r rbacv1.ClusterRoleBinding) string { return r.Name })
	case *rbacv1.RoleBinding:
		have.RoleBindings = replaced(have.RoleBindings, *o, s.Verb, func(r rbacv1.RoleBinding) string { return r.Namespace + "/" + r.Name })
	}
}

// replaced is list in a new array, without what bears o's name, and with o
// unless the verb removes it.
func replaced[T any](list []T, o T, verb Verb, name func(T) string) []T {
	out := make([]T, 0, len(list)+1)
	for _, old := range list {
		if name(old) != name(o) {
			out = append(out, old)
		}
	}
	if verb != Delete {
		out = append(out, o)
	}
	return out
}

// without names the marker that must not stay in a bind list when a role is
// accepted again, now with the fence.
func without(unfenced bool, marker string) []string {
	if unfenced {
		return nil
	}
	return []string{marker}
}

// accepting says why a role may not be accepted like this.
func accepting(role trust.Role, c Consent) error {
	if err := trust.ValidateRole(role); err != nil {
		return err
	}
	for _, ns := range c.Namespaces {
		if !validNamespace(ns) {
			return trust.Errorf(trust.Invalid, "%q is not a namespace's name", ns)
		}
		if strings.HasPrefix(ns, "sallyport-") {
			return trust.Errorf(trust.Invalid, "no role can be accepted for namespace %s: it belongs to Sallyport", ns)
		}
		if ns == "kube-system" && !c.Unfenced {
			e := trust.Errorf(trust.Precondition, "role %s would be fenced out of namespace kube-system, so accepting it there has no use", role.FullName())
			e.Hint = "add --unfenced to accept it with the fence lifted"
			return e
		}
	}
	if why := trust.OutlivesRevocation(role.Rules); len(why) > 0 && !c.OutlivesRevocation {
		e := trust.Errorf(trust.Precondition, "role %s outlives revocation: it can leave access behind that deleting a binding does not take away (%s)", role.FullName(), strings.Join(why, "; "))
		e.Hint = "add --outlives-revocation to accept it all the same"
		return e
	}
	if why := writesPolicies(role.Rules); why != "" && !c.Unfenced {
		e := trust.Errorf(trust.Precondition, "role %s may %s, and no admission policy can keep it from that: it could remove the fence itself", role.FullName(), why)
		e.Hint = "add --unfenced to accept it all the same"
		return e
	}
	return nil
}

// writesPolicies names a write on admission policies that the rules hold. The
// API server excludes these resources from admission policies (to keep a
// cluster repairable), so that the fence cannot stop it.
func writesPolicies(rules []trust.Rule) string {
	p := trust.Compile([]trust.Grant{{Rules: unnamed(rules)}})
	for _, resource := range []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"} {
		for _, verb := range []string{"create", "update", "patch", "delete", "deletecollection"} {
			if p.Decide(&trust.Attributes{Verb: verb, APIGroup: "admissionregistration.k8s.io", Resource: resource, ResourceRequest: true}).Allowed {
				return verb + " " + resource
			}
		}
	}
	return ""
}

// unnamed drops resource names: a right on one name is a right on some.
func unnamed(rules []trust.Rule) []trust.Rule {
	out := slices.Clone(rules)
	for i := range out {
		out[i].ResourceNames = nil
	}
	return out
}

// WithdrawAll undoes Accept for every accepted revision of a role in one scope:
// the given namespaces, or the whole cluster. What is bound to it goes with it.
// Kind NotFound says that nothing of it was accepted there.
func WithdrawAll(cluster trust.ClusterUID, role trust.RoleName, namespaces []string, have Installed) (Plan, error) {
	var all Plan
	found := false
	for _, old := range have.ClusterRoles {
		name, revision, namespaced, ok := ParseClusterRoleName(old.Name)
		if !ok || !name.Equal(role) || namespaced != (len(namespaces) > 0) || old.Labels[ClusterLabel] != string(cluster) {
			continue
		}
		plan, err := Withdraw(cluster, role, revision, namespaces, have)
		if trust.KindOf(err) == trust.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = true
		for _, s := range plan {
			// A list that a later step shortens again is written once, shortened;
			// a removal stands.
			key := Key(s.Object)
			all = slices.DeleteFunc(all, func(old Step) bool { return Key(old.Object) == key })
			all = append(all, s)
		}
		have = have.After(plan)
	}
	if !found {
		return nil, trust.Errorf(trust.NotFound, "role %s is not accepted in this scope", role)
	}
	return all, nil
}

// Withdraw undoes Accept in reverse, for one revision of a role and one scope:
// the given namespaces, or the whole cluster. Plans for several revisions must
// not be made from one Installed, since each shortens the same lists: that is
// WithdrawAll.
func Withdraw(cluster trust.ClusterUID, role trust.RoleName, revision trust.Revision, namespaces []string, have Installed) (Plan, error) {
	namespaced := len(namespaces) > 0
	name := ClusterRoleName(role, revision, namespaced)
	marker := clusterRoleName(unfencedPrefix, role, revision)
	i := slices.IndexFunc(have.ClusterRoles, func(r rbacv1.ClusterRole) bool {
		return r.Name == name && r.Labels[ClusterLabel] == string(cluster)
	})
	if i < 0 {
		return nil, trust.Errorf(trust.NotFound, "role %s, revision %s, is not accepted in this scope", role, revision)
	}
	cr := have.ClusterRoles[i].DeepCopy()
	cr.TypeMeta = rbacType("ClusterRole")
	var plan Plan
	if !namespaced {
		plan = append(plan, Step{Apply, bindList(cluster, change(have.bindList(cluster, ""), nil, []string{name, marker}))})
		plan = append(plan, have.unbind(cluster, "", name, marker)...)
	}
	left := namespacesOf(cr)
	for _, ns := range sorted(namespaces) {
		at := slices.Index(left, ns)
		if at < 0 {
			continue
		}
		left = slices.Delete(left, at, at+1)
		plan = append(plan, have.withdrawIn(cluster, ns, name, marker)...)
	}
	if namespaced && len(plan) == 0 {
		return nil, trust.Errorf(trust.NotFound, "role %s, revision %s, is not accepted for namespace %s", role, revision, strings.Join(namespaces, ", "))
	}
	if namespaced && len(left) > 0 {
		cr.Annotations[namespacesAnnotation] = strings.Join(left, ",")
		cr.ManagedFields = nil
		return append(plan, step(Apply, cr)), nil
	}
	plan = append(plan, step(Delete, cr))
	other := ClusterRoleName(role, revision, !namespaced)
	for i, r := range have.ClusterRoles {
		// The marker serves both scopes of a revision.
		if r.Name == marker && !slices.ContainsFunc(have.ClusterRoles, func(r rbacv1.ClusterRole) bool { return r.Name == other }) {
			plan = append(plan, step(Delete, &have.ClusterRoles[i]))
		}
	}
	return plan, nil
}

// withdrawIn takes names off a namespace's bind list, or the reconciler out of
// the namespace when nothing is left on it, and what is bound there with them.
func (have Installed) withdrawIn(cluster trust.ClusterUID, namespace string, names ...string) Plan {
	var plan Plan
	list := change(have.bindList(cluster, namespace), nil, names)
	rights := namespaceRights(cluster, namespace, list)
	if len(list) > 0 {
		for _, e := range rights {
			plan = append(plan, Step{Apply, e})
		}
	} else {
		for _, e := range slices.Backward(rights) {
			plan = append(plan, Step{Delete, e})
		}
	}
	return append(plan, have.unbind(cluster, namespace, names...)...)
}

// unbind removes what is bound to roles in a namespace, or in the cluster.
func (have Installed) unbind(cluster trust.ClusterUID, namespace string, roles ...string) Plan {
	var plan Plan
	for i := range have.ClusterRoleBindings {
		if b := &have.ClusterRoleBindings[i]; namespace == "" && Ours(cluster, b) && slices.Contains(roles, b.RoleRef.Name) {
			plan = append(plan, step(Delete, b))
		}
	}
	for i := range have.RoleBindings {
		if b := &have.RoleBindings[i]; namespace != "" && b.Namespace == namespace && Ours(cluster, b) && slices.Contains(roles, b.RoleRef.Name) {
			plan = append(plan, step(Delete, b))
		}
	}
	return plan
}

// bindList reads the names that the reconciler may bind now: in the cluster
// (namespace ""), or in a namespace. Names that are not Sallyport's are dropped
// rather than written again.
func (have Installed) bindList(cluster trust.ClusterUID, namespace string) []string {
	var names []string
	for _, r := range have.ClusterRoles {
		if namespace == "" && r.Name == BindListRole && r.Labels[ClusterLabel] == string(cluster) {
			names = append(names, boundNames(r.Rules)...)
		}
	}
	for _, r := range have.Roles {
		if namespace != "" && r.Namespace == namespace && r.Name == ReconcilerRole && r.Labels[ClusterLabel] == string(cluster) {
			names = append(names, boundNames(r.Rules)...)
		}
	}
	return slices.DeleteFunc(names, func(n string) bool {
		_, _, namespaced, ok := ParseClusterRoleName(n)
		return !(ok && namespaced == (namespace != "")) && !strings.HasPrefix(n, unfencedPrefix)
	})
}

// change adds names to a bind list and drops others.
func change(list, add, drop []string) []string {
	list = slices.DeleteFunc(slices.Clone(list), func(n string) bool { return slices.Contains(drop, n) })
	return sorted(append(list, add...))
}
