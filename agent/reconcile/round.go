package reconcile

import (
	"cmp"
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// round looks at the cluster once, applies what is missing, and says what it
// found. ok is false if it should be tried again before the next re-check.
func (r *Reconciler) round(ctx context.Context, s mandate.State) (report mandate.Report, ok bool) {
	report = mandate.Report{Epoch: s.Epoch, Revision: s.Revision}
	blocked := r.fence.check(ctx, r, &report)
	if blocked == nil || blocked.Code != mandate.ClusterTaken {
		report.Installer = r.scaleInstaller(ctx, s.Installer)
	}

	seen, err := r.kube.observe(ctx, r.c.Cluster)
	if err != nil {
		r.log.Warn("cannot see what the cluster holds", "error", err)
		if blocked == nil {
			blocked = &mandate.Problem{Code: mandate.ApplyFailed, Message: readable(err)}
		}
		report.Unseen, report.Bindings = true, blockedBindings(s.Bindings, blocked)
		return report, false
	}
	for _, a := range seen.accepted {
		if !a.Changed {
			report.Accepted = append(report.Accepted, mandate.Accepted{Role: a.Role, Revision: a.Revision, Namespaces: a.Namespaces, Unfenced: a.Unfenced, Rules: a.Rules})
		}
	}
	wants, refused := rbac.Desired(r.c.Cluster, s.Bindings, seen.accepted)
	if blocked != nil {
		// Nothing is given while a fence is missing; what is not wanted any more
		// is taken away all the same, unless this cluster is another's.
		for i := range wants {
			wants[i].Keep = true
		}
		if blocked.Code == mandate.ClusterTaken {
			report.Bindings = blockedBindings(s.Bindings, blocked)
			return report, false
		}
	}
	failed := r.apply(ctx, rbac.Diff(r.c.Cluster, wants, seen.objects), wants, &report)
	if blocked != nil {
		report.Bindings = blockedBindings(s.Bindings, blocked)
		return report, false
	}
	for _, b := range s.Bindings {
		br := mandate.BindingReport{UID: b.UID}
		switch {
		case refused[b.UID] != nil:
			br.Problem = problem(b, refused[b.UID])
		case failed[b.UID] != nil:
			br.Problem = failure(failed[b.UID])
		default:
			br.Applied = true
		}
		report.Bindings = append(report.Bindings, br)
	}
	sortBindings(report.Bindings)
	return report, len(failed) == 0 && len(report.Leftovers) == 0
}

// apply runs a plan. A step that fails does not stop the others, but those of
// its binding; removals that fail are leftovers.
func (r *Reconciler) apply(ctx context.Context, plan rbac.Plan, wants []rbac.Want, report *mandate.Report) map[trust.BindingUID]error {
	wanted := make(map[string]bool, len(wants))
	for _, w := range wants {
		wanted[rbac.Key(w.Object)] = true
	}
	failed := map[trust.BindingUID]error{}
	for _, s := range plan {
		if ctx.Err() != nil {
			return failed
		}
		uid := trust.BindingUID(s.Object.GetLabels()[rbac.BindingLabel])
		if failed[uid] != nil && s.Verb != rbac.Delete {
			continue
		}
		err := r.kube.do(ctx, s, false)
		if s.Verb == rbac.Create && apierrors.IsAlreadyExists(err) || s.Verb == rbac.Update && apierrors.IsConflict(err) {
			err = r.adopt(ctx, s.Object)
		}
		if err == nil {
			r.log.Info("applied", "verb", string(s.Verb), "object", rbac.Key(s.Object), "binding", string(uid))
			continue
		}
		r.log.Warn("apply failed", "verb", string(s.Verb), "object", rbac.Key(s.Object), "binding", string(uid), "error", err)
		if s.Verb == rbac.Delete && !wanted[rbac.Key(s.Object)] {
			report.Leftovers = append(report.Leftovers, rbac.Key(s.Object))
		}
		failed[uid] = errors.Join(failed[uid], err)
	}
	return failed
}

// adopt makes an object that bears one of our names into what it should be,
// though it is not as it was seen: somebody changed it since, or took its label
// away.
func (r *Reconciler) adopt(ctx context.Context, want rbac.Object) error {
	live, err := r.kube.get(ctx, want)
	if err != nil {
		return err
	}
	for _, s := range rbac.Diff(r.c.Cluster, []rbac.Want{{Object: want}}, []rbac.Object{live}) {
		if err := r.kube.do(ctx, s, false); err != nil {
			return err
		}
	}
	return nil
}

func blockedBindings(bindings []trust.Binding, why *mandate.Problem) []mandate.BindingReport {
	var all []mandate.BindingReport
	for _, b := range bindings {
		all = append(all, mandate.BindingReport{UID: b.UID, Problem: why})
	}
	sortBindings(all)
	return all
}

func sortBindings(list []mandate.BindingReport) {
	slices.SortFunc(list, func(a, b mandate.BindingReport) int { return cmp.Compare(a.UID, b.UID) })
}

var codes = map[rbac.Reason]string{
	rbac.NotAccepted:      mandate.RoleNotAccepted,
	rbac.NotAcceptedThere: mandate.RoleNotAcceptedThere,
	rbac.RoleChanged:      mandate.RoleChanged,
	rbac.BadBinding:       mandate.ApplyFailed,
}

// problem is a refusal with the command that lifts it.
func problem(b trust.Binding, refusal *rbac.Refusal) *mandate.Problem {
	p := &mandate.Problem{Code: codes[refusal.Reason], Message: refusal.Error(), Uncovered: refusal.Uncovered}
	if refusal.Reason != rbac.BadBinding {
		var rules []trust.Rule
		for _, g := range b.Grants {
			if g.Role.Equal(refusal.Role) {
				rules = g.Rules
			}
		}
		p.Command = acceptCommand(b.ID, refusal, rules)
	}
	return p
}

// failure tells people what the API server said.
func failure(err error) *mandate.Problem {
	code := mandate.ApplyFailed
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		s := status.Status()
		if apierrors.IsNotFound(err) && s.Details != nil && s.Details.Kind == "namespaces" || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			code = mandate.NamespaceMissing
		}
	}
	return &mandate.Problem{Code: code, Message: readable(err)}
}

// readable cuts what an API server says to a length that fits a message.
func readable(err error) string {
	const limit = 600
	s := err.Error()
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return s
}
