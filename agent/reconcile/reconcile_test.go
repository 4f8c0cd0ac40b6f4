package reconcile

import (
	"context"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// may asks the API server with a binding's own token.
func may(t *testing.T, c *kubernetes.Clientset, namespace string) bool {
	t.Helper()
	_, err := c.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsUnauthorized(err) {
		t.Fatal(err)
	}
	return err == nil
}

func (w *world) bindings(t *testing.T, uid trust.BindingUID) []rbacv1.ClusterRoleBinding {
	t.Helper()
	list, err := w.admin.RbacV1().ClusterRoleBindings().List(t.Context(), metav1.ListOptions{LabelSelector: rbac.BindingLabel + "=" + string(uid)})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// The whole life of a cluster's bindings, on one API server.
func TestLife(t *testing.T) {
	w := newWorld(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"a binding in force", inForce},
		{"a role that is not accepted", notAccepted},
		{"drift", drift},
		{"what is not ours", notOurs},
		{"one namespace", oneNamespace},
		{"a role changed under it", roleChanged},
		{"a role withdrawn", withdrawn},
		{"states that are refused", statesRefused},
		{"an installer", installerScaled},
		{"a policy that is missing", fenceMissing},
		{"a second registration", secondRegistration},
		{"the kill switch", killSwitch},
		{"pruned", pruned},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, w) }) {
			t.FailNow() // later steps build on it
		}
	}
}

func inForce(t *testing.T, w *world) {
	began := time.Now()
	w.say(t, binding(uidA, grant(mlworkload())))
	r := w.reported(t, "applied", applied(uidA))
	t.Logf("reported as applied %v after the state", time.Since(began).Round(time.Millisecond))
	if r.Epoch != 1 || !strings.HasPrefix(r.KubernetesVersion, "v1.") || r.Fence != "" {
		t.Errorf("report: %+v", r)
	}
	if len(r.Accepted) != 2 || r.Accepted[0].Revision != mlworkload().Revision() || r.Accepted[0].Role != "microsoft.machinelearningservices/workspaces/mlworkload" || !slices.Equal(r.Accepted[1].Namespaces, []string{"blue"}) {
		t.Errorf("accepted: %+v", r.Accepted)
	}
	source := w.as(t, uidA)
	began = time.Now()
	eventually(t, "the source may list services", func() bool { return may(t, source, "default") })
	t.Logf("in force %v after its token was there", time.Since(began).Round(time.Millisecond))
	if _, err := source.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("Secrets: %v", err)
	}
}

func notAccepted(t *testing.T, w *world) {
	w.say(t, binding(uidA, grant(mlworkload())), binding(uidB, grant(mlworkload()), grant(backup())))
	r := w.reported(t, "refused", refused(uidB, mandate.RoleNotAccepted))
	if !applied(uidA)(r) {
		t.Error("another binding suffers from it")
	}
	i := slices.IndexFunc(r.Bindings, func(b mandate.BindingReport) bool { return b.UID == uidB })
	p := r.Bindings[i].Problem
	if want := "sallyport cluster accept-roles -g rg -n c1 --roles Microsoft.DataProtection/backupVaults/backup-operator --kube-context CONTEXT --apply"; p.Command != want {
		t.Errorf("command %q, want %q", p.Command, want)
	}
	if len(p.Uncovered) == 0 || !strings.Contains(p.Message, "backup-operator") {
		t.Errorf("problem: %+v", p)
	}
	if n := len(w.bindings(t, uidB)); n > 0 {
		t.Errorf("%d of its roles were bound", n)
	}
	// Once it is accepted the binding comes into force by itself.
	w.accept(t, rbac.RoleConsent{Role: backup()})
	w.reported(t, "applied after the acceptance", applied(uidB))
	w.say(t, binding(uidA, grant(mlworkload())))
	eventually(t, "the other is gone", func() bool { return len(w.bindings(t, uidB)) == 0 })
	w.withdraw(t, backup())
}

func drift(t *testing.T, w *world) {
	ctx := t.Context()
	source := w.as(t, uidA)
	name := w.bindings(t, uidA)[0].Name
	api := w.admin.RbacV1().ClusterRoleBindings()
	repaired := func(what string) {
		t.Helper()
		began := time.Now()
		eventually(t, what, func() bool {
			b, err := api.Get(ctx, name, metav1.GetOptions{})
			return err == nil && len(b.Subjects) == 1 && b.Subjects[0].Name == rbac.Account(uidA) && b.Labels[rbac.ClusterLabel] == string(ours) && strings.HasPrefix(b.RoleRef.Name, "sallyport:role:")
		})
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s: took %v", what, took)
		}
	}
	if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	repaired("deleted")
	for what, patch := range map[string]string{
		"subject added": `{"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"system:anonymous"}]}`,
		"no subjects":   `{"subjects":null}`,
		"label removed": `{"metadata":{"labels":null}}`,
	} {
		if _, err := api.Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		repaired(what)
	}
	b, err := api.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	other := b.DeepCopy()
	other.RoleRef.Name, other.ResourceVersion, other.UID = "sallyport:role:probe", "", ""
	if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Create(ctx, other, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	repaired("bound to another role")
	if err := w.admin.CoreV1().ServiceAccounts(rbac.BindingsNamespace).Delete(ctx, rbac.Account(uidA), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the identity is back", func() bool {
		_, err := w.admin.CoreV1().ServiceAccounts(rbac.BindingsNamespace).Get(ctx, rbac.Account(uidA), metav1.GetOptions{})
		return err == nil
	})
	// The old identity's tokens are not the new one's. The API server may keep a
	// successful authentication for 10 s.
	eventually(t, "a token of the deleted identity is refused", func() bool { return !may(t, source, "default") })
}

func notOurs(t *testing.T, w *world) {
	w.kubectl(t, "create", "clusterrolebinding", "owners-own", "--clusterrole=view", "--user=owner")
	w.kubectl(t, "label", "clusterrolebinding", "owners-own", rbac.ClusterLabel+"="+string(ours))
	w.kubectl(t, "create", "serviceaccount", "mine", "-n", rbac.BindingsNamespace)
	w.say(t, binding(uidA, grant(mlworkload())))
	w.reported(t, "applied", applied(uidA))
	w.kubectl(t, "get", "clusterrolebinding", "owners-own")
	w.kubectl(t, "get", "serviceaccount", "mine", "-n", rbac.BindingsNamespace)
}

func oneNamespace(t *testing.T, w *world) {
	w.say(t, binding(uidA, grant(mlworkload())), binding(uidB, grant(mlworkload(), "blue")))
	w.reported(t, "applied", applied(uidB))
	source := w.as(t, uidB)
	eventually(t, "it may in blue", func() bool { return may(t, source, "blue") })
	if may(t, source, "default") {
		t.Error("it may in default")
	}
	if n := len(w.bindings(t, uidB)); n > 0 {
		t.Errorf("%d bindings for the whole cluster", n)
	}
	// Drift there is seen too.
	w.kubectl(t, "delete", "rolebinding", "-n", "blue", "-l", rbac.BindingLabel+"="+string(uidB))
	eventually(t, "repaired", func() bool {
		list, err := w.admin.RbacV1().RoleBindings("blue").List(t.Context(), metav1.ListOptions{LabelSelector: rbac.BindingLabel + "=" + string(uidB)})
		return err == nil && len(list.Items) == 1
	})
	w.say(t, binding(uidA, grant(mlworkload())), binding(uidB, grant(mlworkload(), "blue", "default")))
	w.reported(t, "more namespaces than accepted", refused(uidB, mandate.RoleNotAcceptedThere))
	if !may(t, source, "blue") {
		t.Error("what it keeps does not work on")
	}
	w.say(t, binding(uidA, grant(mlworkload())))
	eventually(t, "refused in blue", func() bool { return !may(t, source, "blue") })
}

func roleChanged(t *testing.T, w *world) {
	source := w.as(t, uidA)
	eventually(t, "allowed", func() bool { return may(t, source, "default") })
	name := rbac.ClusterRoleName(mlworkload().FullName(), mlworkload().Revision(), false)
	if _, err := w.admin.RbacV1().ClusterRoles().Patch(t.Context(), name, types.JSONPatchType, []byte(`[{"op":"add","path":"/rules/-","value":{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.reported(t, "stopped", refused(uidA, mandate.RoleChanged))
	if n := len(w.bindings(t, uidA)); n > 0 {
		t.Errorf("%d bindings are left", n)
	}
	eventually(t, "refused", func() bool { return !may(t, source, "default") })
	w.accept(t, rbac.RoleConsent{Role: mlworkload()})
	w.reported(t, "back", applied(uidA))
}

func withdrawn(t *testing.T, w *world) {
	source := w.as(t, uidA)
	w.withdraw(t, mlworkload())
	r := w.reported(t, "withdrawn", func(r mandate.Report) bool {
		return refused(uidA, mandate.RoleNotAcceptedThere)(r) && len(r.Accepted) == 1
	})
	if len(r.Bindings[0].Problem.Uncovered) == 0 {
		t.Error("uncovered rules are not named")
	}
	eventually(t, "refused", func() bool { return !may(t, source, "default") })
	if n := len(w.bindings(t, uidA)); n > 0 {
		t.Errorf("%d bindings are left", n)
	}
	w.accept(t, rbac.RoleConsent{Role: mlworkload()})
	w.reported(t, "back", applied(uidA))
}

func statesRefused(t *testing.T, w *world) {
	state := func(key ed25519.PrivateKey, cluster trust.ClusterUID, epoch, revision int64) []byte {
		signed, err := mandate.Sign(key, mandate.State{Cluster: cluster, Epoch: epoch, Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	thief := ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", ed25519.SeedSize)))
	for name, tt := range map[string]struct {
		signed []byte
		kind   trust.Kind
	}{
		"old":     {state(mandateKey, ours, 1, w.revision-1), trust.Conflict},
		"foreign": {state(mandateKey, theirs, 1, w.revision+10), trust.Forbidden},
		"forged":  {state(thief, ours, 1, w.revision+10), trust.Forbidden},
	} {
		if err := w.send(t, tt.signed); trust.KindOf(err) != tt.kind || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(w.bindings(t, uidA)) == 0 {
		t.Error("a refused state took effect")
	}
}

func fenceMissing(t *testing.T, w *world) {
	for _, policy := range []string{rbac.AgentsPolicy, rbac.FencePolicy} {
		w.say(t, binding(uidA, grant(mlworkload())), binding(uidB, grant(mlworkload())))
		w.reported(t, "applied", applied(uidB))
		w.kubectl(t, "delete", "validatingadmissionpolicybinding", policy)
		r := w.reported(t, "noticed", func(r mandate.Report) bool { return r.Fence != "" && refused(uidA, mandate.FenceMissing)(r) })
		if !strings.Contains(r.Fence, policy) {
			t.Errorf("says %q", r.Fence)
		}
		// Nothing is given, but what is deleted still goes.
		w.kubectl(t, "delete", "clusterrolebinding", w.bindings(t, uidA)[0].Name)
		w.say(t, binding(uidA, grant(mlworkload())))
		eventually(t, "the deleted binding is gone", func() bool { return len(w.bindings(t, uidB)) == 0 })
		if n := len(w.bindings(t, uidA)); n > 0 {
			t.Errorf("%d bindings were made without policy %s", n, policy)
		}
		w.connect(t)
		w.reported(t, "back", applied(uidA))
	}
}

func secondRegistration(t *testing.T, w *world) {
	second := newControl(theirs)
	w.start(t, second)
	b := binding(uidB, grant(mlworkload()))
	b.Cluster = theirs
	signed, err := mandate.Sign(mandateKey, mandate.State{Cluster: theirs, Epoch: 1, Revision: 7, Bindings: []trust.Binding{b}})
	if err != nil {
		t.Fatal(err)
	}
	second.states <- signed
	if err := <-second.taken; err != nil {
		t.Fatal(err)
	}
	eventually(t, "refused", func() bool { return refused(uidB, mandate.ClusterTaken)(second.last()) })
	if !strings.Contains(second.last().Bindings[0].Problem.Message, string(ours)) {
		t.Errorf("says %q", second.last().Bindings[0].Problem.Message)
	}
	if len(w.bindings(t, uidA)) != 1 || len(w.bindings(t, uidB)) > 0 {
		t.Error("the second registration changed something")
	}
}

func killSwitch(t *testing.T, w *world) {
	source := w.as(t, uidA)
	eventually(t, "allowed", func() bool { return may(t, source, "default") })
	w.kubectl(t, "delete", "namespace", rbac.BindingsNamespace)
	w.reported(t, "noticed", refused(uidA, mandate.NamespaceMissing))
	eventually(t, "its token is refused", func() bool { return !may(t, source, "default") })
	if _, err := w.admin.CoreV1().Namespaces().Get(t.Context(), rbac.BindingsNamespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace came back: %v", err)
	}
	// What is deleted meanwhile still goes.
	w.say(t)
	eventually(t, "its rights are gone", func() bool { return len(w.bindings(t, uidA)) == 0 })
	w.say(t, binding(uidA, grant(mlworkload())))
	w.connect(t)
	w.reported(t, "back", applied(uidA))
}

func pruned(t *testing.T, w *world) {
	w.say(t)
	w.reported(t, "nothing", func(r mandate.Report) bool { return len(r.Bindings) == 0 })
	eventually(t, "everything is gone", func() bool {
		out := w.kubectl(t, "get", "clusterrolebindings,rolebindings,serviceaccounts", "-A", "-o", "name", "-l", rbac.BindingLabel)
		return strings.TrimSpace(out) == ""
	})
}

func TestRefusesToRunWithMoreThanItNeeds(t *testing.T) {
	c := shared.Cluster(t)
	w := &world{kube: c}
	w.admin = client(t, w.config(c.AdminToken()))
	w.connect(t)
	w.kubectl(t, "create", "clusterrolebinding", "too-much", "--clusterrole=cluster-admin", "--serviceaccount="+rbac.SystemNamespace+":"+rbac.ReconcilerAccount)
	defer w.kubectl(t, "delete", "clusterrolebinding", "too-much")
	r, err := New(Config{Cluster: ours, MandateKey: mandatePub, Control: newControl(ours), Kube: w.config(w.token(t, rbac.SystemNamespace, rbac.ReconcilerAccount))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.Run(ctx); trust.KindOf(err) != trust.Forbidden || !strings.Contains(err.Error(), "does not need") {
		t.Errorf("Run: %v", err)
	}
}

// pretend is an API server that answers what the test says; writes are dry runs
// or nothing.
func pretend(t *testing.T, version string, write http.HandlerFunc) *Reconciler {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer := `{"items":[]}`
		switch {
		case req.Method != http.MethodGet:
			if req.URL.Query().Get("dryRun") != "All" && !strings.Contains(req.URL.Path, "/sallyport:probe") {
				t.Errorf("%s %s", req.Method, req.URL)
			}
			write(w, req)
			return
		case req.URL.Path == "/version":
			answer = version
		case req.URL.Path == "/api/v1/namespaces/"+rbac.BindingsNamespace:
			answer = `{"metadata":{"name":"x","labels":{"` + rbac.ClusterLabel + `":"` + string(ours) + `"}}}`
		}
		if _, err := w.Write([]byte(answer)); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	r, err := New(Config{Cluster: ours, MandateKey: mandatePub, Control: newControl(ours), Kube: &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var oneBinding = mandate.State{Cluster: ours, Epoch: 1, Revision: 1, Bindings: []trust.Binding{binding(uidA, grant(mlworkload()))}}

// The role is not accepted either, but first things first.
func TestOldKubernetesIsRefused(t *testing.T) {
	r := pretend(t, `{"major":"1","minor":"29+","gitVersion":"v1.29.4-eks-1"}`, func(_ http.ResponseWriter, req *http.Request) {
		t.Errorf("%s %s", req.Method, req.URL)
	})
	report, ok := r.round(t.Context(), oneBinding)
	if ok || report.KubernetesVersion != "v1.29.4-eks-1" || !strings.Contains(report.Fence, "need 1.30") {
		t.Errorf("report: %+v", report)
	}
	if p := report.Bindings[0].Problem; p == nil || p.Code != mandate.KubernetesTooOld {
		t.Errorf("problem: %+v", p)
	}
}

func TestAPolicyThatIsNotInForceYet(t *testing.T) {
	status := http.StatusServiceUnavailable
	r := pretend(t, `{"major":"1","minor":"36","gitVersion":"v1.36.3"}`, func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(status)
		if status == http.StatusOK { // let through: what was sent comes back
			io.Copy(w, req.Body) // the client sees an empty answer
			return
		}
		w.Write([]byte(`{"kind":"Status","apiVersion":"v1"}`))
	})
	now := time.Now()
	r.c.Now = func() time.Time { return now }
	for _, tt := range []struct {
		status int
		after  time.Duration
		want   string
	}{
		{http.StatusOK, 0, mandate.ApplyFailed}, // just applied, perhaps
		{http.StatusOK, settling - time.Second, mandate.ApplyFailed},
		{http.StatusOK, time.Second, mandate.FenceMissing},
		{http.StatusOK, time.Hour, mandate.FenceMissing},
		{http.StatusForbidden, 0, mandate.FenceMissing},         // refused, but not by the policy
		{http.StatusServiceUnavailable, 0, mandate.ApplyFailed}, // no answer
	} {
		status, now = tt.status, now.Add(tt.after)
		report, ok := r.round(t.Context(), oneBinding)
		if p := report.Bindings[0].Problem; ok || p == nil || p.Code != tt.want || report.Fence == "" {
			t.Errorf("HTTP %d after %v: %+v, want %s", tt.status, tt.after, p, tt.want)
		}
	}
}

func TestSupported(t *testing.T) {
	for v, want := range map[[2]string]bool{{"1", "30"}: true, {"1", "36+"}: true, {"2", "0"}: true, {"1", "29"}: false, {"1", ""}: false, {"", ""}: false, {"1", "x"}: false} {
		if got := supported(version.Info{Major: v[0], Minor: v[1]}); got != want {
			t.Errorf("%v: %v", v, got)
		}
	}
}

func TestAcceptCommand(t *testing.T) {
	own := &rbac.Refusal{Role: "Contoso.Scanner/scanners/reader"}
	if got, want := acceptCommand("", own, nil), "sallyport cluster accept-roles --role-file reader.yaml --kube-context CONTEXT --apply"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	inference := trust.Published()[2]
	r := &rbac.Refusal{Role: inference.FullName(), Namespaces: []string{"blue", "green"}}
	for id, want := range map[string]string{
		binding(uidA).ID: "sallyport cluster accept-roles -g rg -n c1 --roles Microsoft.MachineLearningServices/workspaces/inference-v1 --namespace blue,green --outlives-revocation --kube-context CONTEXT --apply",
		"/x":             "sallyport cluster accept-roles --roles Microsoft.MachineLearningServices/workspaces/inference-v1 --namespace blue,green --outlives-revocation --kube-context CONTEXT --apply",
		"/subscriptions/s/resourceGroups/$(rm)/providers/p/managedClusters/c": "sallyport cluster accept-roles --roles Microsoft.MachineLearningServices/workspaces/inference-v1 --namespace blue,green --outlives-revocation --kube-context CONTEXT --apply",
	} {
		if got := acceptCommand(id, r, inference.Rules); got != want {
			t.Errorf("%s:\n%s, want\n%s", id, got, want)
		}
	}
}
