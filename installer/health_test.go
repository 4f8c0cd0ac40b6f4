package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/mlext"
)

// ward is a real API server with what controllers make of Deployments; no node
// runs any of it, so that the test says what becomes of pods.
type ward struct {
	*releases
	t    *testing.T
	kube *devcluster.Cluster
}

func newWard(t *testing.T) *ward {
	t.Helper()
	c := shared.Cluster(t)
	k, err := newKube(&rest.Config{Host: c.URL(), BearerToken: c.AdminToken(), TLSClientConfig: rest.TLSClientConfig{CAData: c.CA()}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &ward{&releases{kube: k, timeout: time.Minute, log: slog.New(slog.DiscardHandler)}, t, c}
}

const named = "azureml"

// deployment and service are of the release.
func deployment(name string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, annotations: {meta.helm.sh/release-name: %[2]s}}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: c, image: example.com/i:1}]}
---
`, name, named)
}

func service(typ, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, annotations: {meta.helm.sh/release-name: %s%s}}
spec: {type: %s, ports: [{port: 80}]}
---
`, mlext.RouterService, named, more, typ)
}

// in makes a namespace that holds these.
func (w *ward) in(namespace string, objects ...string) {
	w.t.Helper()
	ctx := w.t.Context()
	if _, err := w.kube.Kubectl(ctx, "create", "namespace", namespace); err != nil {
		w.t.Fatal(err)
	}
	if len(objects) > 0 {
		w.object(namespace, "apply", strings.Join(objects, ""))
	}
}

// object applies or deletes objects of a namespace.
func (w *ward) object(namespace, verb, objects string) {
	w.t.Helper()
	cmd := w.kube.KubectlCommand(w.t.Context(), verb, "-n", namespace, "-f", "-")
	cmd.Stdin = strings.NewReader(objects)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
}

// finds waits until the release has exactly these findings, each of which says
// something.
func (w *ward) finds(namespace string, want ...[2]string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	for {
		found, err := w.unhealthy(ctx, namespace, named)
		right := err == nil && len(found) == len(want)
		for i := range want {
			right = right && found[i].code == want[i][0] && strings.Contains(found[i].message, want[i][1])
		}
		if right {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Errorf("%s: found %v, %v, want %v", namespace, found, err, want)
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// says writes the status of the one pod of a namespace.
func (w *ward) says(namespace string, status corev1.PodStatus) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	pods := w.releases.kube.typed.CoreV1().Pods(namespace)
	for {
		all, err := pods.List(ctx, metav1.ListOptions{})
		if err == nil && len(all.Items) == 1 {
			p := &all.Items[0]
			p.Status = status
			if _, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err == nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("%s: pods %v, %v", namespace, all, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestHealth(t *testing.T) {
	w := newWard(t)
	t.Run("codes", func(t *testing.T) { w.t = t; w.codes() })
	t.Run("others' objects", func(t *testing.T) { w.t = t; w.othersObjects() })
}

// codes: what an installed extension can suffer has the code that Azure's health
// check gives it, and the cluster's own words.
func (w *ward) codes() {
	t := w.t
	waits := func(reason, message string) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}}
	}
	router, gateway := deployment(mlext.RouterAccount), deployment(mlext.GatewayAccount)

	w.in("balancer", service("LoadBalancer", ""), router)
	w.says("balancer", corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}})
	w.finds("balancer", [2]string{"E40001", "set inferenceRouterServiceType to nodePort or clusterIP"})
	w.in("internal", service("LoadBalancer", ", "+deploy.AzureInternal+`: "true"`))
	w.finds("internal", [2]string{"E40003", "or leave internalLoadBalancerProvider out"}, [2]string{"E40004", "its Deployment " + mlext.RouterAccount + " is not"})
	w.in("gone", service("ClusterIP", ""))
	w.finds("gone", [2]string{"E40004", "An update of the extension makes it again"})
	w.in("router", service("ClusterIP", ""), router)
	w.says("router", waits("CrashLoopBackOff", "back-off restarting"))
	w.finds("router", [2]string{"E40005", "CrashLoopBackOff back-off restarting"})
	quota := "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: none}\nspec: {hard: {pods: \"0\"}}\n---\n"
	w.in("quota", quota, service("ClusterIP", ""), router, gateway)
	w.finds("quota", [2]string{"E45001", "exceeded quota"}, [2]string{"E40006", "exceeded quota"})
	w.in("agent", gateway)
	w.says("agent", waits("ImagePullBackOff", "no such image"))
	w.finds("agent", [2]string{"E45001", "ImagePullBackOff no such image"})

	// While the installer runs nothing else is known of what is there than how it
	// does, and it may do well again.
	x := mandate.Extension{Name: named, Release: "agent"}
	state := w.health(t.Context(), x, mandate.ExtensionState{Present: true})
	if state.Problem == nil || state.Problem.Code != "E45001" || len(state.Statuses) != 1 {
		t.Errorf("unwell: %+v", state)
	}
	w.says("agent", corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}})
	w.finds("agent")
	if state = w.health(t.Context(), x, state); state.Problem != nil || len(state.Statuses) != 0 {
		t.Errorf("well again: %+v", state)
	}
}

// othersObjects: what Azure's old router, or anybody, left under the router's names
// is said to be theirs: Helm takes nothing over.
func (w *ward) othersObjects() {
	t := w.t
	const namespace = "azureml"
	w.in(namespace)
	a := w.accepted(namespace)
	h, err := w.releases.kube.helm(namespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ code, object string }{
		{"E45004", "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: " + mlext.RouterAccount + "}\n"},
		{"E45005", strings.ReplaceAll(deployment(mlext.RouterAccount), "annotations: {meta.helm.sh/release-name: azureml}", "")},
		{"E40000", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: " + mlext.GatewayAccount + "}\n"},
	} {
		w.object(namespace, "apply", c.object)
		_, err = w.helmInstall(t.Context(), h, a)
		if err == nil {
			t.Fatalf("it was installed over %s", c.object)
		}
		found := w.diagnose(t.Context(), a, err)
		if len(found) != 1 || found[0].code != c.code || !strings.Contains(found[0].message, "belongs to somebody else") {
			t.Errorf("%v, want %s", found, c.code)
		}
		w.object(namespace, "delete", c.object)
	}
}

// accepted is the ML extension as its owner has accepted it for a namespace.
func (w *ward) accepted(namespace string) *accepted {
	w.t.Helper()
	typ, err := extension.Find(mlType)
	if err != nil {
		w.t.Fatal(err)
	}
	x := mandate.Extension{UID: uidA, Name: named, Type: mlType, Release: namespace, Generation: 1, Settings: map[string]string{
		"enableInference": "True", "enableTraining": "True", "inferenceRouterServiceType": "clusterIP", "allowInsecureConnections": "True", "inferenceRouterHA": "False"}}
	v, _, err := typ.Resolve(extension.Values{Plain: x.Settings}, extension.Cluster{ID: clusterID, Name: "blue", Location: "local"})
	if err != nil {
		w.t.Fatal(err)
	}
	return &accepted{Extension: x, typ: typ, settings: v, chart: load(w.t, mlType), digest: "sha256:" + strings.Repeat("0", 64), place: namespace,
		consent: deploy.Consent{Owner: map[string]any{"image": "i", "namespaces": []any{namespace}, "issuer": "https://i", "tenant": tenant, "audience": "https://a"}}}
}

// A check that itself fails says so, and is no reason for silence about the rest.
func TestAChecksOwnFailure(t *testing.T) {
	r := &releases{log: slog.New(slog.DiscardHandler)} // whoever asks the cluster panics
	a := &accepted{Extension: mandate.Extension{Name: named}, place: "azureml"}
	a.typ = extension.Type{} // no chart's values are made of it
	if found := r.diagnose(t.Context(), a, errors.New("timed out waiting")); len(found) != 1 || found[0].code != "E49999" || !strings.Contains(found[0].message, "timed out waiting") {
		t.Errorf("diagnosis %v", found)
	}
	typ, err := extension.Find(mlType)
	if err != nil {
		t.Fatal(err)
	}
	a.typ, a.settings = typ, extension.Values{Plain: map[string]string{"enableInference": "True", "sslSecret": "tls", "sslCname": "ml.example.com"}}
	if found := r.checks(t.Context(), a, 3); len(found) != 1 || found[0].code != "E49999" {
		t.Errorf("checks %v", found)
	}
}
