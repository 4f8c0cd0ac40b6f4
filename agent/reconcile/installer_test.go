package reconcile

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
)

// installerScaled: without the owner's consent there is none, and it is said so.
// With it the installer runs while there is work, and the reconciler can do nothing
// else to its Deployment, nor anything to another.
func installerScaled(t *testing.T, w *world) {
	w.sayWork(t, true)
	w.reported(t, "no installer", func(r mandate.Report) bool { return r.Installer == nil })
	for _, e := range rbac.InstallerRights(ours) {
		w.apply(t, e.Object)
	}
	for _, name := range []string{rbac.InstallerAccount, "other"} {
		w.kubectl(t, "create", "deployment", name, "-n", rbac.SystemNamespace, "--image=none", "--replicas=0")
	}
	deployments := w.admin.AppsV1().Deployments(rbac.SystemNamespace)
	replicas := func(name string) int32 {
		t.Helper()
		d, err := deployments.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return *d.Spec.Replicas
	}
	w.sayWork(t, true)
	w.reported(t, "started", func(r mandate.Report) bool {
		return r.Installer != nil && r.Installer.Replicas == 1 && r.Installer.Problem == ""
	})
	if n := replicas(rbac.InstallerAccount); n != 1 {
		t.Errorf("%d replicas", n)
	}
	w.sayWork(t, false)
	w.reported(t, "stopped", func(r mandate.Report) bool { return r.Installer != nil && r.Installer.Replicas == 0 })
	if n, m := replicas(rbac.InstallerAccount), replicas("other"); n != 0 || m != 0 {
		t.Errorf("%d and %d replicas", n, m)
	}
	as := client(t, w.config(w.token(t, rbac.SystemNamespace, rbac.ReconcilerAccount))).AppsV1().Deployments(rbac.SystemNamespace)
	for what, try := range map[string]func() error{
		"read it":       func() error { _, err := as.Get(t.Context(), rbac.InstallerAccount, metav1.GetOptions{}); return err },
		"scale another": func() error { _, err := as.GetScale(t.Context(), "other", metav1.GetOptions{}); return err },
		"change it": func() error {
			_, err := as.Patch(t.Context(), rbac.InstallerAccount, types.MergePatchType, []byte(`{"spec":{"paused":true}}`), metav1.PatchOptions{})
			return err
		},
	} {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.kubectl(t, "delete", "deployment", rbac.InstallerAccount, "other", "-n", rbac.SystemNamespace)
}
