package rbac

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// Diff is the plan that leads from observed to wants. Rights are taken away
// before any are given, identities go after their rights and come before them.
// Of what is observed only what is ours is ever removed.
func Diff(cluster trust.ClusterUID, wants []Want, observed []Object) Plan {
	seen := make(map[string]Object, len(observed))
	for _, o := range observed {
		seen[Key(o)] = o
	}
	var removals, identities, rights Plan
	wanted := make(map[string]bool, len(wants))
	for _, w := range wants {
		key := Key(w.Object)
		wanted[key] = true
		steps := converge(w, seen[key])
		if _, identity := w.Object.(*corev1.ServiceAccount); identity {
			identities = append(identities, steps...)
		} else {
			rights = append(rights, steps...)
		}
	}
	for key, o := range seen {
		if !wanted[key] && Ours(cluster, o) {
			removals = append(removals, step(Delete, o))
		}
	}
	// Bindings before the ServiceAccounts that they name.
	slices.SortFunc(removals, func(a, b Step) int {
		_, ai := a.Object.(*corev1.ServiceAccount)
		_, bi := b.Object.(*corev1.ServiceAccount)
		if ai != bi {
			if ai {
				return 1
			}
			return -1
		}
		return cmp.Compare(Key(a.Object), Key(b.Object))
	})
	return slices.Concat(removals, identities, rights)
}

func step(v Verb, o Object) Step { return Step{Verb: v, Explained: Explained{Object: o}} }

// converge makes observed into what is wanted. observed is nil if it is not
// there.
func converge(w Want, observed Object) Plan {
	if observed == nil {
		if w.Keep {
			return nil
		}
		return Plan{step(Create, w.Object)}
	}
	next, recreate, same := repaired(w.Object, observed)
	switch {
	case same:
		return nil
	case recreate && w.Keep:
		return Plan{step(Delete, observed)}
	case recreate:
		return Plan{step(Delete, observed), step(Create, w.Object)}
	}
	return Plan{step(Update, next)}
}

// repaired is observed with everything that is ours made right, and the rest
// (others' labels, finalizers) left alone. recreate is true if that cannot be
// done in place.
func repaired(want, observed Object) (next Object, recreate, same bool) {
	switch o := observed.(type) {
	case *corev1.ServiceAccount:
		w := want.(*corev1.ServiceAccount)
		same = o.AutomountServiceAccountToken != nil && *o.AutomountServiceAccountToken == *w.AutomountServiceAccountToken
		c := o.DeepCopy()
		c.AutomountServiceAccountToken = w.AutomountServiceAccountToken
		next = c
	case *rbacv1.ClusterRoleBinding:
		w := want.(*rbacv1.ClusterRoleBinding)
		if o.RoleRef != w.RoleRef {
			return nil, true, false
		}
		same = slices.Equal(o.Subjects, w.Subjects)
		c := o.DeepCopy()
		c.Subjects = w.Subjects
		next = c
	case *rbacv1.RoleBinding:
		w := want.(*rbacv1.RoleBinding)
		if o.RoleRef != w.RoleRef {
			return nil, true, false
		}
		same = slices.Equal(o.Subjects, w.Subjects)
		c := o.DeepCopy()
		c.Subjects = w.Subjects
		next = c
	}
	labels, l := merged(observed.GetLabels(), want.GetLabels())
	annotations, a := merged(observed.GetAnnotations(), want.GetAnnotations())
	next.SetLabels(labels)
	next.SetAnnotations(annotations)
	return next, false, same && l && a
}

func merged(have, want map[string]string) (all map[string]string, same bool) {
	all = maps.Clone(have)
	if all == nil {
		all = map[string]string{}
	}
	same = true
	for k, v := range want {
		if all[k] != v {
			all[k], same = v, false
		}
	}
	return all, same
}
