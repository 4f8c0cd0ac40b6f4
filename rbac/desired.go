package rbac

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// Want is an object that should be in the cluster. With Keep it is left alone
// where it is and made nowhere: a binding that is refused gains nothing, and
// loses only what it no longer asks for.
type Want struct {
	Object Object
	Keep   bool
}

// Reason says why a binding is refused.
type Reason string

// The reasons.
const (
	NotAccepted      Reason = "not accepted"       // nothing of this revision is accepted
	NotAcceptedThere Reason = "not accepted there" // accepted, but not for this scope or these namespaces
	RoleChanged      Reason = "changed"            // the accepted ClusterRole was changed under the binding
	BadBinding       Reason = "bad"                // it cannot be expressed: a name that is no Kubernetes name
)

// Refusal is why one binding cannot be in force as asked.
type Refusal struct {
	Reason     Reason
	Role       trust.RoleName
	Revision   trust.Revision
	Namespaces []string     // that the grant names
	Uncovered  []trust.Rule // rules of the grant that no acceptance of this role and scope covers
}

// Error says it in one sentence.
func (r *Refusal) Error() string {
	switch r.Reason {
	case RoleChanged:
		return fmt.Sprintf("the ClusterRole of role %s, revision %s, no longer has the rules that were accepted", r.Role, r.Revision)
	case NotAcceptedThere:
		where := "the whole cluster"
		if len(r.Namespaces) > 0 {
			where = "namespace " + strings.Join(r.Namespaces, ", ")
		}
		return fmt.Sprintf("the cluster's owner has not accepted role %s, revision %s, for %s", r.Role, r.Revision, where)
	case BadBinding:
		return fmt.Sprintf("role %q, revision %q, or one of its namespaces is no name that Kubernetes takes", r.Role, r.Revision)
	default:
		return fmt.Sprintf("the cluster's owner has not accepted role %s, revision %s", r.Role, r.Revision)
	}
}

// Desired is what the cluster should hold for bindings, given what its owner
// accepted: one ServiceAccount each, and a (cluster) role binding per grant. A
// binding of which any grant is refused gets nothing new; if a role was changed
// under it, all of it stops.
func Desired(cluster trust.ClusterUID, bindings []trust.Binding, accepted []Acceptance) ([]Want, map[trust.BindingUID]*Refusal) {
	var wants []Want
	refused := map[trust.BindingUID]*Refusal{}
	for _, b := range bindings {
		sa := newServiceAccount(cluster, BindingsNamespace, Account(b.UID))
		mark(sa, b)
		var made []Object
		var refusal *Refusal
		for _, g := range b.Grants {
			objects, r := grantObjects(cluster, b, g, accepted)
			if r != nil && (refusal == nil || r.Reason == RoleChanged) {
				refusal = r
			}
			made = append(made, objects...)
		}
		if refusal != nil {
			refused[b.UID] = refusal
			if refusal.Reason == RoleChanged {
				made = nil
			}
		}
		wants = append(wants, Want{Object: sa, Keep: refusal != nil})
		for _, o := range made {
			wants = append(wants, Want{Object: o, Keep: refusal != nil})
		}
	}
	return wants, refused
}

// grantObjects makes the bindings of one grant, as far as it is accepted.
func grantObjects(cluster trust.ClusterUID, b trust.Binding, g trust.Grant, accepted []Acceptance) ([]Object, *Refusal) {
	refusal := &Refusal{Reason: NotAccepted, Role: g.Role, Revision: g.Revision, Namespaces: g.Namespaces}
	if !validGrant(g) {
		refusal.Reason = BadBinding
		return nil, refusal
	}
	namespaced := len(g.Namespaces) > 0
	var found *Acceptance
	var covered []trust.Rule
	for i, a := range accepted {
		if !a.Role.Equal(g.Role) {
			continue
		}
		if sameScope := (a.Namespaces != nil) == namespaced; sameScope {
			if a.Revision == g.Revision {
				found = &accepted[i]
			}
			covered = append(covered, a.Rules...)
		} else if a.Revision == g.Revision {
			refusal.Reason = NotAcceptedThere
		}
	}
	if found == nil {
		refusal.Uncovered = Uncovered(covered, g.Rules)
		return nil, refusal
	}
	if found.Changed {
		refusal.Reason = RoleChanged
		return nil, refusal
	}
	if !namespaced {
		return bindAll(cluster, b, "", *found), nil
	}
	var made []Object
	var missing []string
	for _, ns := range sorted(g.Namespaces) {
		if slices.Contains(found.Namespaces, ns) {
			made = append(made, bindAll(cluster, b, ns, *found)...)
		} else {
			missing = append(missing, ns)
		}
	}
	if missing != nil {
		refusal.Reason, refusal.Namespaces, refusal.Uncovered = NotAcceptedThere, missing, fold(PolicyRules(g.Rules))
		return made, refusal
	}
	return made, nil
}

func bindAll(cluster trust.ClusterUID, b trust.Binding, namespace string, a Acceptance) []Object {
	subject := account(BindingsNamespace, Account(b.UID))
	var made []Object
	for _, name := range a.names() {
		var o Object = newClusterRoleBinding(cluster, bindingName(b.UID, name), name, subject)
		if namespace != "" {
			o = newRoleBinding(cluster, namespace, bindingName(b.UID, name), roleRef("ClusterRole", name), subject)
		}
		mark(o, b)
		made = append(made, o)
	}
	return made
}

// mark says on an object which trusted binding it is made for.
func mark(o Object, b trust.Binding) {
	o.GetLabels()[BindingLabel] = string(b.UID)
	o.SetAnnotations(map[string]string{bindingAnnotation: b.ID, sourceAnnotation: b.SourceID})
}

// validGrant keeps names that a control plane sends from becoming names that
// mean something else.
func validGrant(g trust.Grant) bool {
	role, revision, _, ok := ParseClusterRoleName(ClusterRoleName(g.Role, g.Revision, false))
	if !ok || !role.Equal(g.Role) || revision != g.Revision {
		return false // "a:b/c/d" would be bound as "a/b/c/d"
	}
	for _, ns := range g.Namespaces {
		if !validNamespace(ns) {
			return false
		}
	}
	return true
}

// validNamespace is RFC 1123's label, as namespaces are named.
func validNamespace(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Ours reports whether an object is one that Desired makes for this
// registration: by label and by name, so that a label that somebody put on an
// object of their own does not get it pruned.
func Ours(cluster trust.ClusterUID, o Object) bool {
	if o.GetLabels()[ClusterLabel] != string(cluster) {
		return false
	}
	switch o.(type) {
	case *corev1.ServiceAccount:
		return o.GetNamespace() == BindingsNamespace && strings.HasPrefix(o.GetName(), accountPrefix)
	case *rbacv1.ClusterRoleBinding, *rbacv1.RoleBinding:
		return strings.HasPrefix(o.GetName(), bindingPrefix)
	}
	return false
}
