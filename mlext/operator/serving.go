package operator

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic/dynamicinformer"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// serving is the loop over deployments.
func (o *operator) serving() (*loop, error) {
	l := newLoop("deployment", o.Log)
	l.reconcile = o.serve
	o.deployments = dynamicinformer.NewFilteredDynamicSharedInformerFactory(o.Dynamic, 0, wire.Namespace, nil).ForResource(mlext.OnlineDeployments).Informer()
	if err := l.follow(o.deployments, named("d-")); err != nil {
		return nil, err
	}
	for _, ns := range o.Namespaces {
		factory := o.labelled(ns, mlext.DeploymentLabel)
		o.apps[ns], o.servers[ns] = factory.Apps().V1().Deployments().Informer(), factory.Core().V1().Pods().Informer()
		if err := followBoth(l, mlext.DeploymentLabel, o.apps[ns], o.servers[ns]); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// serve makes one deployment what its OnlineDeployment says.
func (o *operator) serve(ctx context.Context, uid string) (again time.Duration, err error) {
	v, there, err := o.deployments.GetStore().GetByKey(wire.Namespace + "/" + mlext.DeploymentName(uid))
	if err != nil || !there {
		return 0, err
	}
	d, err := mlext.FromObject[mlext.OnlineDeployment](v.(*unstructured.Unstructured))
	if err != nil {
		return 0, err
	}
	switch {
	case d.DeletionTimestamp != nil:
		return 0, o.withdraw(ctx, d)
	case !slices.Contains(o.Namespaces, d.Spec.Namespace):
		return 0, o.report(ctx, d, failed(d, codeNamespace, fmt.Sprintf("the cluster's owner does not let the ML extension into namespace %s", d.Spec.Namespace)))
	}
	why, again, err := o.gone(ctx, d.Spec.Namespace)
	switch {
	case err != nil:
		return 0, err
	case why != "":
		return lookAgain, o.report(ctx, d, failed(d, codeNamespace, why))
	case again > 0:
		return again, nil
	}
	made, err := o.deploy(ctx, d)
	if err != nil {
		return 0, err
	}
	if made == nil {
		return lookAgain, nil
	}
	if !o.apps[d.Spec.Namespace].HasSynced() || !o.servers[d.Spec.Namespace].HasSynced() {
		return time.Second, nil
	}
	found, err := o.servers[d.Spec.Namespace].GetIndexer().ByIndex(byOwner, uid)
	if err != nil {
		return 0, err
	}
	var pods []*corev1.Pod
	for _, p := range found {
		if pod, ok := p.(*corev1.Pod); ok && pod.Labels[formLabel] == made.Labels[formLabel] && pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return lookAgain, o.report(ctx, d, deploymentStatus(d.Status, made, replicas(&d.Spec), pods))
}

func failed(d *mlext.OnlineDeployment, code, reason string) wire.DeploymentStatus {
	return wire.DeploymentStatus{State: wire.Failed, Code: code, Reason: reason, Wanted: replicas(&d.Spec)}
}

// deploy finds the Deployment as it should be, or makes it so. nil without an
// error: it cannot be, and the status says so.
func (o *operator) deploy(ctx context.Context, d *mlext.OnlineDeployment) (*appsv1.Deployment, error) {
	ns := d.Spec.Namespace
	kind, err := o.instanceType(ctx, d.Spec.Deployment.InstanceType, d.Spec.InstanceTypes)
	var want *appsv1.Deployment
	if err == nil {
		var c carrier
		if len(d.Spec.Deployment.Mounts) > 0 {
			if c, err = o.carrier(ctx); err != nil {
				return nil, err
			}
		}
		want, err = renderDeployment(&d.Spec, kind, c)
	}
	if trust.KindOf(err) == trust.Invalid {
		return nil, o.report(ctx, d, failed(d, codeInvalidDeployment, err.Error()))
	}
	if err != nil {
		return nil, err
	}
	kube := o.Kube.AppsV1().Deployments(ns)
	var have *appsv1.Deployment
	if v, there, err := o.apps[ns].GetStore().GetByKey(ns + "/" + want.Name); err == nil && there {
		have = v.(*appsv1.Deployment)
	} else if have, err = kube.Get(ctx, want.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) { // the informer may be behind
		have = nil
	} else if err != nil {
		return nil, fmt.Errorf("read Deployment: %w", err)
	}
	var made *appsv1.Deployment
	switch {
	case have == nil:
		made, err = kube.Create(ctx, want, metav1.CreateOptions{})
	case have.Labels[formLabel] == want.Labels[formLabel] && have.Spec.Replicas != nil && *have.Spec.Replicas == *want.Spec.Replicas:
		return have, nil
	default:
		changed := have.DeepCopy()
		changed.Labels, changed.Spec = want.Labels, want.Spec
		made, err = kube.Update(ctx, changed, metav1.UpdateOptions{})
	}
	switch {
	case apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, o.report(ctx, d, failed(d, codeNamespace, "namespace "+ns+" does not exist, or is being deleted"))
	case apierrors.IsInvalid(err) || apierrors.IsBadRequest(err):
		return nil, o.report(ctx, d, failed(d, codeInvalidDeployment, "Kubernetes refuses the Deployment: "+err.Error()))
	case err != nil:
		return nil, fmt.Errorf("write Deployment: %w", err)
	}
	o.Log.InfoContext(ctx, "deployment written", "deployment", d.Spec.Deployment.UID, "namespace", ns, "name", made.Name, "replicas", *made.Spec.Replicas)
	return made, nil
}

// withdraw removes what runs and lets the OnlineDeployment go.
func (o *operator) withdraw(ctx context.Context, d *mlext.OnlineDeployment) error {
	if !slices.Contains(d.Finalizers, mlext.DeploymentFinalizer) {
		return nil
	}
	if slices.Contains(o.Namespaces, d.Spec.Namespace) { // else nothing may be done there; nor where the right went with the namespace
		how := metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}
		if err := o.Kube.AppsV1().Deployments(d.Spec.Namespace).Delete(ctx, deploymentName(&d.Spec.Deployment), how); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
			return fmt.Errorf("delete Deployment: %w", err)
		}
	}
	_, err := o.Dynamic.Resource(mlext.OnlineDeployments).Namespace(wire.Namespace).Patch(ctx, d.Name, "application/merge-patch+json",
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// report writes the status, if it is another.
func (o *operator) report(ctx context.Context, d *mlext.OnlineDeployment, s wire.DeploymentStatus) error {
	s.Observed, s.Since = d.Generation, d.Status.Since
	if s.State != d.Status.State {
		s.Since = o.Now().UTC().Truncate(time.Second)
	}
	if reflect.DeepEqual(s, d.Status) {
		return nil
	}
	d.Status = s
	u, err := mlext.ToObject(d)
	if err != nil {
		return err
	}
	_, err = o.Dynamic.Resource(mlext.OnlineDeployments).Namespace(wire.Namespace).UpdateStatus(ctx, u, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// atMost compares quantities; what is none is not at most anything.
func atMost(a, b string) bool {
	x, err := resource.ParseQuantity(a)
	if err != nil || x.Sign() < 0 {
		return false
	}
	y, err := resource.ParseQuantity(b)
	return err == nil && x.Cmp(y) <= 0
}
