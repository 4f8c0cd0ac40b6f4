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
	version version.Info
	nodes   int
	missing string // why the policies cannot be relied on; "" if they can
}

// check fills in the report and says what forbids applying anything, or nil.
// Whose cluster it is is asked each time, the rest at each re-check, and each
// time while something is wrong.
func (f *fence) check(ctx context.Context, r *Reconciler, report *mandate.Report) *mandate.Problem {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	owner := r.owner(ctx)
	if now := r.c.Now(); f.checked.IsZero() || f.missing != "" || now.Sub(f.checked) >= r.c.Recheck {
		f.missing = r.probe(ctx, f, owner)
		f.checked = now
	}
	report.KubernetesVersion, report.Nodes, report.Fence = f.version.GitVersion, f.nodes, f.missing
	switch {
	case owner != nil:
		return owner
	case f.missing != "" && !supported(f.version):
		return &mandate.Problem{Code: mandate.KubernetesTooOld, Message: f.missing}
	case f.missing != "":
		return &mandate.Problem{Code: mandate.FenceMissing, Message: f.missing}
	}
	return nil
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
// It returns why nothing may be applied, or "".
func (r *Reconciler) probe(ctx context.Context, f *fence, owner *mandate.Problem) string {
	var err error
	if f.version, err = r.kube.version(ctx); err != nil {
		return readable(err)
	}
	if f.nodes, err = r.kube.nodes(ctx); err != nil {
		r.log.Warn("cannot count nodes", "error", err)
	}
	if !supported(f.version) {
		return fmt.Sprintf("Kubernetes %s is too old: the admission policies that fence the agents in need 1.%d", f.version.GitVersion, rbac.MinKubernetes)
	}
	if owner != nil && owner.Code == mandate.ClusterTaken {
		return "" // not ours to probe; nothing is applied anyway
	}
	for _, p := range rbac.Probes(r.c.Cluster) {
		err := r.kube.do(ctx, p.Step, true)
		if err != nil && rbac.RefusedBy(p.Policy, err.Error()) {
			continue
		}
		said := "it was let through"
		if err != nil {
			said = readable(err)
		}
		return fmt.Sprintf("admission policy %s did not refuse %s %s in a dry run (%s); `sallyport cluster connect` brings it back", p.Policy, p.Step.Verb, rbac.Key(p.Step.Object), said)
	}
	return ""
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
