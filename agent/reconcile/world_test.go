package reconcile

import (
	"context"
	"crypto/ed25519"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// The namespace controller deletes what the kill switch deletes.
var shared = devclustertest.Shared{Config: devcluster.Config{Controllers: true}}

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

const (
	ours   trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"
	theirs trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0002"
	uidA   trust.BindingUID = "7d3a1c6e-0000-4000-8000-00000000000a"
	uidB   trust.BindingUID = "7d3a1c6e-0000-4000-8000-00000000000b"
)

var (
	mandateKey = ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", ed25519.SeedSize)))
	mandatePub = mandateKey.Public().(ed25519.PublicKey)
)

// control is a control plane that says what the test says and keeps what the
// reconciler reports.
type control struct {
	cluster trust.ClusterUID
	states  chan []byte
	taken   chan error
	newest  mandate.Floor

	mu      sync.Mutex // guards what follows
	reports []mandate.Report
}

func newControl(cluster trust.ClusterUID) *control {
	return &control{cluster: cluster, states: make(chan []byte), taken: make(chan error), newest: mandate.Floor{Epoch: 1, Revision: 1}}
}

func (c *control) States(ctx context.Context, _ func() mandate.Floor, take func([]byte) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s := <-c.states:
			c.taken <- take(s)
		}
	}
}

func (c *control) Ask(_ context.Context, nonce string, _ mandate.Floor) ([]byte, error) {
	return mandate.SignAnswer(mandateKey, mandate.Answer{Cluster: c.cluster, Epoch: c.newest.Epoch, Revision: c.newest.Revision, Nonce: nonce})
}

func (c *control) Report(_ context.Context, r mandate.Report) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reports = append(c.reports, r)
	return nil
}

func (c *control) last() mandate.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.reports) == 0 {
		return mandate.Report{}
	}
	return c.reports[len(c.reports)-1]
}

// world is a connected cluster with a running reconciler.
type world struct {
	kube     *devcluster.Cluster
	admin    *kubernetes.Clientset
	control  *control
	revision int64
}

func client(t *testing.T, c *rest.Config) *kubernetes.Clientset {
	t.Helper()
	set, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (w *world) config(token string) *rest.Config {
	return &rest.Config{Host: w.kube.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: w.kube.CA()}, QPS: -1}
}

func (w *world) token(t *testing.T, namespace, account string) string {
	t.Helper()
	seconds := int64(900)
	r, err := w.admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

// as is a client with a binding's own token.
func (w *world) as(t *testing.T, uid trust.BindingUID) *kubernetes.Clientset {
	return client(t, w.config(w.token(t, rbac.BindingsNamespace, rbac.Account(uid))))
}

func (w *world) apply(t *testing.T, objects ...rbac.Object) {
	t.Helper()
	var docs []string
	for _, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, string(data))
	}
	if err := w.kube.Apply(t.Context(), strings.Join(docs, "---\n")); err != nil {
		t.Fatal(err)
	}
}

func (w *world) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := w.kube.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// connect applies what the owner applies.
func (w *world) connect(t *testing.T) {
	t.Helper()
	var all []rbac.Object
	for _, e := range slices.Concat(rbac.Namespaces(ours), rbac.Policies(ours), rbac.AgentRights(ours)) {
		all = append(all, e.Object)
	}
	w.apply(t, all...)
}

// installed is what the CLI would read before it accepts or withdraws.
func (w *world) installed(t *testing.T) rbac.Installed {
	t.Helper()
	ours := metav1.ListOptions{LabelSelector: rbac.ClusterLabel + "=" + string(ours)}
	roles, err := w.admin.RbacV1().ClusterRoles().List(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	local, err := w.admin.RbacV1().Roles("").List(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	wide, err := w.admin.RbacV1().ClusterRoleBindings().List(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	bindings, err := w.admin.RbacV1().RoleBindings("").List(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	return rbac.Installed{ClusterRoles: roles.Items, Roles: local.Items, ClusterRoleBindings: wide.Items, RoleBindings: bindings.Items}
}

func (w *world) accept(t *testing.T, roles ...rbac.RoleConsent) {
	t.Helper()
	plan, err := rbac.AcceptAll(ours, roles, w.installed(t))
	if err != nil {
		t.Fatal(err)
	}
	var all []rbac.Object
	for _, s := range plan {
		all = append(all, s.Object)
	}
	w.apply(t, all...)
}

func (w *world) withdraw(t *testing.T, r trust.Role, namespaces ...string) {
	t.Helper()
	plan, err := rbac.Withdraw(ours, r.FullName(), r.Revision(), namespaces, w.installed(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range plan {
		if s.Verb == rbac.Delete {
			kind, _, _ := strings.Cut(rbac.Key(s.Object), "/")
			args := []string{"delete", kind, s.Object.GetName(), "--ignore-not-found"}
			if s.Object.GetNamespace() != "" {
				args = append(args, "-n", s.Object.GetNamespace())
			}
			w.kubectl(t, args...)
			continue
		}
		w.apply(t, s.Object)
	}
}

// newWorld connects the cluster and starts a reconciler that stops with the
// test.
func newWorld(t *testing.T) *world {
	t.Helper()
	c := shared.Cluster(t)
	w := &world{kube: c, control: newControl(ours), revision: 1}
	w.admin = client(t, w.config(c.AdminToken()))
	w.connect(t)
	lists := rbac.BindList(ours)
	w.apply(t, lists[0].Object, lists[1].Object)
	w.kubectl(t, "create", "namespace", "blue")
	w.accept(t, rbac.RoleConsent{Role: mlworkload()}, rbac.RoleConsent{Role: mlworkload(), Consent: rbac.Consent{Namespaces: []string{"blue"}}})
	w.start(t, w.control)
	return w
}

func (w *world) start(t *testing.T, c *control) {
	t.Helper()
	r, err := New(Config{Cluster: c.cluster, MandateKey: mandatePub, Control: c, Kube: w.config(w.token(t, rbac.SystemNamespace, rbac.ReconcilerAccount)),
		Recheck: 500 * time.Millisecond, Retry: 50 * time.Millisecond, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the reconciler ended with %v", err)
		}
	})
}

// say sends a state with these bindings and the next revision.
func (w *world) say(t *testing.T, bindings ...trust.Binding) {
	t.Helper()
	w.sayState(t, mandate.State{Bindings: bindings})
}

// sayWork says whether the installer has something to do, of no bindings.
func (w *world) sayWork(t *testing.T, work bool) {
	t.Helper()
	w.sayState(t, mandate.State{Installer: work})
}

func (w *world) sayState(t *testing.T, s mandate.State) {
	t.Helper()
	w.revision++
	s.Cluster, s.Epoch, s.Revision = ours, 1, w.revision
	signed, err := mandate.Sign(mandateKey, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.send(t, signed); err != nil {
		t.Fatal(err)
	}
}

func (w *world) send(t *testing.T, signed []byte) error {
	t.Helper()
	select {
	case w.control.states <- signed:
	case <-time.After(20 * time.Second):
		t.Fatal("the reconciler takes no state")
	}
	return <-w.control.taken
}

// reported waits for a report of the newest revision that satisfies f.
func (w *world) reported(t *testing.T, what string, f func(mandate.Report) bool) mandate.Report {
	t.Helper()
	var r mandate.Report
	eventually(t, what, func() bool {
		r = w.control.last()
		return r.Revision == w.revision && f(r)
	})
	return r
}

func applied(uid trust.BindingUID) func(mandate.Report) bool {
	return func(r mandate.Report) bool {
		return slices.ContainsFunc(r.Bindings, func(b mandate.BindingReport) bool { return b.UID == uid && b.Applied })
	}
}

func refused(uid trust.BindingUID, code string) func(mandate.Report) bool {
	return func(r mandate.Report) bool {
		return slices.ContainsFunc(r.Bindings, func(b mandate.BindingReport) bool {
			return b.UID == uid && !b.Applied && b.Problem != nil && b.Problem.Code == code
		})
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		select {
		case <-t.Context().Done():
			t.FailNow()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func mlworkload() trust.Role { return trust.Published()[1] }
func backup() trust.Role     { return trust.Published()[0] }

func grant(r trust.Role, namespaces ...string) trust.Grant {
	return trust.Grant{Role: r.FullName(), Revision: r.Revision(), Namespaces: namespaces, Rules: r.Rules}
}

func binding(uid trust.BindingUID, grants ...trust.Grant) trust.Binding {
	return trust.Binding{ID: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/c1/trustedAccessRoleBindings/b",
		UID: uid, Cluster: ours, SourceID: "/subscriptions/s/workspaces/w", Grants: grants}
}
