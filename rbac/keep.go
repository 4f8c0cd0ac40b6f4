package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// Keep is an object of a manifest as it must be applied to a cluster that has
// accepted more since the manifest was made: its bind lists name, and its
// acceptances hold, what the manifest says and what the cluster has already.
// kept says what the manifest did not. Any other object is returned as it is: a
// manifest takes no consent away, only withdrawing does.
func (have Installed) Keep(cluster trust.ClusterUID, o Object) (merged Object, kept []string) {
	switch o := o.(type) {
	case *rbacv1.ClusterRole:
		if o.Name == BindListRole {
			list, kept := added(have.bindList(cluster, ""), o.Rules)
			if len(kept) == 0 {
				return o, nil
			}
			return bindList(cluster, list).Object, kept
		}
		return have.keepAcceptance(cluster, o)
	case *rbacv1.Role:
		if o.Name != ReconcilerRole {
			return o, nil
		}
		list, kept := added(have.bindList(cluster, o.Namespace), o.Rules)
		if len(kept) == 0 {
			return o, nil
		}
		for i := range kept {
			kept[i] += " in namespace " + o.Namespace
		}
		return namespaceRights(cluster, o.Namespace, list)[0].Object, kept
	}
	return o, nil
}

// added is a list with the names that rules bind, and those that they do not.
func added(has []string, rules []rbacv1.PolicyRule) (all, missing []string) {
	named := boundNames(rules)
	for _, n := range sorted(has) {
		if !slices.Contains(named, n) {
			missing = append(missing, n)
		}
	}
	return change(has, named, nil), missing
}

// keepAcceptance keeps for how many namespaces, and whether unfenced, a role was
// accepted.
func (have Installed) keepAcceptance(cluster trust.ClusterUID, o *rbacv1.ClusterRole) (Object, []string) {
	i := slices.IndexFunc(have.ClusterRoles, func(r rbacv1.ClusterRole) bool {
		return r.Name == o.Name && r.Labels[ClusterLabel] == string(cluster)
	})
	if _, _, _, ours := ParseClusterRoleName(o.Name); !ours || i < 0 {
		return o, nil
	}
	there := &have.ClusterRoles[i]
	merged := o.DeepCopy()
	var kept []string
	wants := namespacesOf(o)
	for _, ns := range namespacesOf(there) {
		if !slices.Contains(wants, ns) {
			wants, kept = append(wants, ns), append(kept, o.Name+" for namespace "+ns)
		}
	}
	if len(kept) > 0 {
		merged.Annotations[namespacesAnnotation] = strings.Join(sorted(wants), ",")
	}
	if there.Annotations[unfencedAnnotation] == "true" && o.Annotations[unfencedAnnotation] != "true" {
		kept = append(kept, o.Name+", unfenced")
		merged.Annotations[unfencedAnnotation] = "true"
	}
	if len(kept) == 0 {
		return o, nil
	}
	return merged, kept
}
