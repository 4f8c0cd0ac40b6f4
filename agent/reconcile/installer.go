package reconcile

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
)

// scaleInstaller lets the installer run while it has something to do, and ends it
// when it has not: its rights, held by nobody most of the time, are the largest
// that an agent has. The right to scale this one Deployment comes with the owner's
// consent to extensions; without it there is no installer, and nil is returned.
func (r *Reconciler) scaleInstaller(ctx context.Context, work bool) *mandate.Installer {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	deployments := r.kube.apps.Deployments(rbac.SystemNamespace)
	scale, err := deployments.GetScale(ctx, rbac.InstallerAccount, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil
	}
	if err != nil {
		return &mandate.Installer{Problem: readable(fmt.Errorf("read its scale: %w", err))}
	}
	want := int32(0)
	if work {
		want = 1
	}
	told := &mandate.Installer{Replicas: int(want), Running: int(scale.Status.Replicas)}
	if scale.Spec.Replicas == want {
		return told
	}
	_, err = deployments.UpdateScale(ctx, rbac.InstallerAccount, &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Namespace: rbac.SystemNamespace, Name: rbac.InstallerAccount, ResourceVersion: scale.ResourceVersion},
		Spec:       autoscalingv1.ScaleSpec{Replicas: want},
	}, metav1.UpdateOptions{})
	if err != nil {
		told.Replicas, told.Problem = int(scale.Spec.Replicas), readable(fmt.Errorf("scale it: %w", err))
		return told
	}
	r.log.Info("installer scaled", "replicas", want)
	return told
}
