package reconcile

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
)

// fence remembers what was found out about the cluster as a whole: its version,
// its nodes, and whether the admission policies were seen to refuse.
type fence struct {
	checked time.Time
	since   time.Time // since when something is missing
	version version.Info
	nodes   int
	pools   []mandate.NodePool
	unseen  string           // why nodes cannot be seen, "" if they can
	missing *mandate.Problem // why the policies cannot be relied on; nil if they can
}

// settling is how long a policy that was just applied may take to be in force.
// Until then it is not called missing, which would fail a binding for good.
const settling = 3 * time.Second

// check fills in the report and says what forbids applying anything, or nil.
// Whose cluster it is is asked each time, the rest at each re-check, and each
// time while something is wrong.
func (f *fence) check(ctx context.Context, r *Reconciler, report *mandate.Report) *mandate.Problem {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	owner := r.owner(ctx)
	if owner != nil && owner.Code == mandate.ClusterTaken {
		report.Fence = owner.Message
		return owner // not ours to probe
	}
	now := r.c.Now()
	if f.checked.IsZero() || f.missing != nil || now.Sub(f.checked) >= r.c.Recheck {
		f.missing, f.checked = r.probe(ctx, f), now
		switch {
		case f.missing == nil:
			f.since = time.Time{}
		case f.since.IsZero():
			f.since = now
		}
	}
	report.KubernetesVersion, report.Nodes, report.Pools, report.NodesUnseen = f.version.GitVersion, f.nodes, f.pools, f.unseen
	p := f.missing
	if p == nil {
		return owner
	}
	report.Fence = p.Message
	if p.Code == mandate.FenceMissing && now.Sub(f.since) < settling {
		p = &mandate.Problem{Code: mandate.ApplyFailed, Message: p.Message}
	}
	if owner != nil {
		return owner
	}
	return p
}

// owner checks that the bindings' namespace is there and belongs to this
// registration. A second registration of the same API server is refused here.
func (r *Reconciler) owner(ctx context.Context) *mandate.Problem {
	ns, err := r.kube.core.Namespaces().Get(ctx, rbac.BindingsNamespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return &mandate.Problem{Code: mandate.NamespaceMissing, Message: "namespace " + rbac.BindingsNamespace + " was deleted: the cluster's owner has ended all access; `sallyport cluster connect` brings it back"}
	case err != nil:
		return &mandate.Problem{Code: mandate.ApplyFailed, Message: readable(fmt.Errorf("read namespace %s: %w", rbac.BindingsNamespace, err))}
	case ns.Labels[rbac.ClusterLabel] != string(r.c.Cluster):
		return &mandate.Problem{Code: mandate.ClusterTaken, Message: fmt.Sprintf("this API server belongs to registration %q (label %s of namespace %s), this is an agent of registration %s; an API server is registered once", ns.Labels[rbac.ClusterLabel], rbac.ClusterLabel, rbac.BindingsNamespace, r.c.Cluster)}
	case ns.DeletionTimestamp != nil:
		return &mandate.Problem{Code: mandate.NamespaceMissing, Message: "namespace " + rbac.BindingsNamespace + " is being deleted: the cluster's owner has ended all access"}
	}
	return nil
}

// probe finds out version and nodes, then tries what the policies must refuse.
// It returns why nothing may be applied, or nil.
func (r *Reconciler) probe(ctx context.Context, f *fence) *mandate.Problem {
	v, err := r.kube.version(ctx)
	if err != nil {
		return &mandate.Problem{Code: mandate.ApplyFailed, Message: readable(err)}
	}
	f.version = v
	// The right to list them is the owner's to take away: nothing depends on it.
	if n, pools, err := r.kube.nodes(ctx); err != nil {
		r.log.Warn("cannot list nodes", "error", err)
		f.nodes, f.pools, f.unseen = 0, nil, readable(err)
	} else {
		f.nodes, f.pools, f.unseen = n, pools, ""
	}
	if !supported(v) {
		return &mandate.Problem{Code: mandate.KubernetesTooOld, Message: fmt.Sprintf("Kubernetes %s is too old: the admission policies that fence the agents in need 1.%d", v.GitVersion, rbac.MinKubernetes)}
	}
	for _, p := range rbac.Probes(r.c.Cluster) {
		err := r.kube.do(ctx, p.Step, true)
		if err != nil && rbac.RefusedBy(p.Policy, err.Error()) {
			continue
		}
		said, code := "it was let through", mandate.FenceMissing
		if err != nil {
			said = readable(err)
			if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) {
				code = mandate.ApplyFailed // no answer says nothing about the policy
			}
		}
		return &mandate.Problem{Code: code, Message: fmt.Sprintf("admission policy %s did not refuse %s %s in a dry run (%s); `sallyport cluster connect` brings it back", p.Policy, p.Step.Verb, rbac.Key(p.Step.Object), said)}
	}
	return nil
}

// supported reads "1" and "30+" as vendors write them. What cannot be read is
// too old.
func supported(v version.Info) bool {
	major, err := strconv.Atoi(v.Major)
	if err != nil {
		return false
	}
	minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	return err == nil && (major > 1 || major == 1 && minor >= rbac.MinKubernetes)
}
