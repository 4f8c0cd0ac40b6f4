package rbac

import (
	"cmp"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// Acceptance is one role revision that a cluster's owner has accepted, as the
// cluster's own objects say it.
type Acceptance struct {
	Role       trust.RoleName // lower case
	Revision   trust.Revision
	Namespaces []string // where; nil means the whole cluster
	Unfenced   bool
	Rules      []trust.Rule // live
	Changed    bool         // the live rules are not those of Revision any more
}

// Acceptances reads what is accepted from the ClusterRoles of a cluster. A role
// for the whole cluster counts only if the reconciler's bind list names it:
// that, and not a label, is what the owner's consent consists of.
func Acceptances(cluster trust.ClusterUID, roles []rbacv1.ClusterRole) []Acceptance {
	var bindList []string
	for _, r := range roles {
		if r.Name == BindListRole {
			bindList = boundNames(r.Rules)
		}
	}
	var out []Acceptance
	for _, r := range roles {
		role, revision, namespaced, ok := ParseClusterRoleName(r.Name)
		if !ok || r.Labels[ClusterLabel] != string(cluster) {
			continue
		}
		a := Acceptance{Role: role, Revision: revision, Unfenced: r.Annotations[unfencedAnnotation] == "true", Rules: Rules(r.Rules)}
		if namespaced {
			a.Namespaces = namespacesOf(&r)
			if len(a.Namespaces) == 0 {
				continue // accepted nowhere; never to be read as everywhere
			}
		} else if !slices.Contains(bindList, r.Name) {
			continue
		}
		// An aggregated role's rules are somebody else's to change at any time.
		a.Changed = r.AggregationRule != nil || trust.RevisionOf(a.Rules) != revision
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Acceptance) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Revision, b.Revision), cmp.Compare(len(a.Namespaces), len(b.Namespaces)))
	})
	return out
}

// boundNames reads the names that a bind list allows.
func boundNames(rules []rbacv1.PolicyRule) []string {
	var names []string
	for _, r := range rules {
		if slices.Contains(r.Verbs, "bind") {
			names = append(names, r.ResourceNames...)
		}
	}
	return names
}

func namespacesOf(r *rbacv1.ClusterRole) []string {
	return sorted(strings.FieldsFunc(r.Annotations[namespacesAnnotation], func(c rune) bool { return c == ',' || c == ' ' }))
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// names are the ClusterRoles that a binding of the role binds.
func (a Acceptance) names() []string {
	names := []string{ClusterRoleName(a.Role, a.Revision, a.Namespaces != nil)}
	if a.Unfenced {
		names = append(names, clusterRoleName(unfencedPrefix, a.Role, a.Revision))
	}
	return names
}
