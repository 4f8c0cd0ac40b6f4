package rbac

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
	"github.com/sallyport/sallyport/trust"
)

var shared devclustertest.Shared

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

// scanner is a role that an owner might accept, with rights on all that the
// fence keeps bindings from.
func scanner() trust.Role {
	return trust.Role{SourceType: "Contoso.Scanner/scanners", Name: "wide", Rules: []trust.Rule{
		{Verbs: []string{"get", "list", "create", "update", "patch", "delete"}, APIGroups: []string{""}, Resources: []string{"configmaps", "secrets", "namespaces"}},
		{Verbs: []string{"create", "get"}, APIGroups: []string{""}, Resources: []string{"services/proxy", "pods/exec"}},
		{Verbs: []string{"get", "create", "update", "delete"}, APIGroups: []string{rbacGroup}, Resources: []string{"roles", "rolebindings", "clusterrolebindings"}},
		{Verbs: []string{"create", "delete"}, APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"validatingwebhookconfigurations"}},
	}}
}

// lifted is the same role under another name and with one rule more.
func lifted() trust.Role {
	r := scanner()
	r.Name = "lifted"
	r.Rules = append(r.Rules, trust.Rule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"events"}})
	return r
}

// thief is a stolen token in the hands of somebody who knows Kubernetes.
type thief struct {
	*kubernetes.Clientset
}

type world struct {
	kube  *devcluster.Cluster
	admin *kubernetes.Clientset
}

func clientWith(t *testing.T, c *devcluster.Cluster, token string) *kubernetes.Clientset {
	t.Helper()
	set, err := kubernetes.NewForConfig(&rest.Config{Host: c.URL(), BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.CA()}, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return set
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

func (w *world) steal(t *testing.T, namespace, account string) thief {
	return thief{clientWith(t, w.kube, w.token(t, namespace, account))}
}

func (w *world) apply(t *testing.T, objects ...Object) {
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

// newWorld is a cluster with everything applied, two roles accepted (one of
// them unfenced) and three bindings in force. The tests share it.
func newWorld(t *testing.T) *world {
	t.Helper()
	c := shared.Cluster(t)
	w := &world{kube: c, admin: clientWith(t, c, c.AdminToken())}
	if made {
		return w
	}
	in := newCluster(t)
	plan, err := AcceptAll(ours, []RoleConsent{
		{scanner(), Consent{OutlivesRevocation: true}},
		{lifted(), Consent{OutlivesRevocation: true, Unfenced: true}},
		{scanner(), Consent{OutlivesRevocation: true, Namespaces: []string{"blue"}}},
	}, in.installed())
	if err != nil {
		t.Fatal(err)
	}
	in.apply(t, plan)
	wants, refused := Desired(ours, []trust.Binding{binding(uidA, grant(scanner())), binding(uidB, grant(lifted())), binding(uidC, grant(scanner(), "blue"))}, in.accepted())
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	all := []Object{&corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: "blue"}}}
	for _, e := range slices.Concat(Namespaces(ours), Policies(ours), AgentRights(ours), BindList(ours)) {
		all = append(all, e.Object)
	}
	for _, s := range plan {
		all = append(all, s.Object)
	}
	for _, want := range wants {
		all = append(all, want.Object)
	}
	w.apply(t, all...)
	w.waitForPolicies(t)
	made = true
	return w
}

// made says that the shared cluster is set up; tests here run one by one.
var made bool

const uidC trust.BindingUID = "7d3a1c6e-0000-4000-8000-00000000000c"

// waitForPolicies polls with the reconciler's own probes until both policies
// are in force: the API server reads new ones after a moment.
func (w *world) waitForPolicies(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stolen := w.steal(t, SystemNamespace, ReconcilerAccount)
	for _, p := range Probes(ours) {
		for {
			err := stolen.dryRun(ctx, p.Step)
			if err != nil && RefusedBy(p.Policy, err.Error()) {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s does not refuse %s %s: %v", p.Policy, p.Step.Verb, Key(p.Step.Object), err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

func (x thief) dryRun(ctx context.Context, s Step) error {
	all := []string{metav1.DryRunAll}
	if s.Verb == Delete {
		return x.RbacV1().ClusterRoleBindings().Delete(ctx, s.Object.GetName(), metav1.DeleteOptions{DryRun: all})
	}
	_, err := x.RbacV1().ClusterRoleBindings().Create(ctx, s.Object.(*rbacv1.ClusterRoleBinding), metav1.CreateOptions{DryRun: all})
	return err
}

type attempt struct {
	what string
	try  func(context.Context) error
	want string // part of the refusal; "" means it must work
}

func run(t *testing.T, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		err := a.try(t.Context())
		switch {
		case a.want == "" && err != nil:
			t.Errorf("%s: %v", a.what, err)
		case a.want != "" && err == nil:
			t.Errorf("%s: it worked", a.what)
		case a.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), a.want)):
			t.Errorf("%s: refused with %v, want %q", a.what, err, a.want)
		}
	}
}

const (
	byRBAC       = "cannot "
	byEscalation = "is attempting to grant RBAC permissions not currently held"
)

func denied(policy string) string { return "ValidatingAdmissionPolicy '" + policy + "'" }

func TestAThiefOfTheReconcilersToken(t *testing.T) {
	w := newWorld(t)
	x := w.steal(t, SystemNamespace, ReconcilerAccount)
	inside := account(BindingsNamespace, Account(uidA))
	role := ClusterRoleName(scanner().FullName(), scanner().Revision(), false)
	nsRole := ClusterRoleName(scanner().FullName(), scanner().Revision(), true)
	ours1 := bindingName(uidA, role)
	w.apply(t, newClusterRoleBinding("", "somebodys", "view", account("default", "default")))
	w.apply(t, newClusterRoleBinding(ours, "owners-own", role, rbacv1.Subject{Kind: "User", APIGroup: rbacGroup, Name: "owner"}))

	create := func(b *rbacv1.ClusterRoleBinding) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := x.RbacV1().ClusterRoleBindings().Create(ctx, b, metav1.CreateOptions{})
			return err
		}
	}
	change := func(name string, f func(*rbacv1.ClusterRoleBinding)) func(context.Context) error {
		return func(ctx context.Context) error {
			b, err := x.RbacV1().ClusterRoleBindings().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			f(b)
			_, err = x.RbacV1().ClusterRoleBindings().Update(ctx, b, metav1.UpdateOptions{})
			return err
		}
	}
	remove := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			return x.RbacV1().ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{})
		}
	}
	bind := func(name, role string, s rbacv1.Subject) *rbacv1.ClusterRoleBinding {
		return newClusterRoleBinding(ours, name, role, s)
	}
	own := account(SystemNamespace, ReconcilerAccount)
	unlabelled := bind(bindingPrefix+"x", role, inside)
	unlabelled.Labels = nil
	two := bind(bindingPrefix+"x", role, inside)
	two.Subjects = append(two.Subjects, own)
	run(t, []attempt{
		{"bind an accepted role to a binding's ServiceAccount", create(bind(bindingPrefix+"x", role, inside)), ""},
		{"remove it again", remove(bindingPrefix + "x"), ""},

		{"bind view", create(bind(bindingPrefix+"x", "system:aggregate-to-view", inside)), byEscalation},
		{"bind cluster-admin", create(bind(bindingPrefix+"x", "cluster-admin", inside)), byEscalation},
		{"bind a namespaces' role in the cluster", create(bind(bindingPrefix+"x", nsRole, inside)), byEscalation},
		{"bind itself", create(bind(bindingPrefix+"x", role, own)), denied(AgentsPolicy)},
		{"bind itself beside a binding", create(two), denied(AgentsPolicy)},
		{"bind system:anonymous", create(bind(bindingPrefix+"x", role, rbacv1.Subject{Kind: "User", APIGroup: rbacGroup, Name: "system:anonymous"})), denied(AgentsPolicy)},
		{"bind a group", create(bind(bindingPrefix+"x", role, rbacv1.Subject{Kind: "Group", APIGroup: rbacGroup, Name: "system:serviceaccounts:" + BindingsNamespace})), denied(AgentsPolicy)},
		{"bind another ServiceAccount there", create(bind(bindingPrefix+"x", role, account(BindingsNamespace, "default"))), denied(AgentsPolicy)},
		{"bind a role that gives nothing", create(bind(bindingPrefix+"x", outsideRole, inside)), denied(AgentsPolicy)},
		{"bind under a name that is not a binding's", create(bind("x", role, inside)), denied(AgentsPolicy)},
		{"bind without the label", create(unlabelled), denied(AgentsPolicy)},
		{"bind with another registration's label", create(newClusterRoleBinding(theirs, bindingPrefix+"x", role, inside)), denied(AgentsPolicy)},

		{"delete somebody's binding", remove("somebodys"), denied(AgentsPolicy)},
		{"delete the owner's binding to an accepted role", remove("owners-own"), denied(AgentsPolicy)},
		{"delete cluster-admin's binding", remove("cluster-admin"), denied(AgentsPolicy)},
		{"delete its own fetters", remove(ReconcilerRole), denied(AgentsPolicy)},
		{"take over somebody's binding", change("somebodys", func(b *rbacv1.ClusterRoleBinding) {
			b.Labels, b.Subjects = meta(ours, "", "").Labels, []rbacv1.Subject{inside}
		}), denied(AgentsPolicy)},
		{"widen a binding of ours", change(ours1, func(b *rbacv1.ClusterRoleBinding) { b.Subjects = append(b.Subjects, own) }), denied(AgentsPolicy)},
		{"patch a binding of ours", func(ctx context.Context) error {
			_, err := x.RbacV1().ClusterRoleBindings().Patch(ctx, ours1, types.MergePatchType, []byte(`{"subjects":[]}`), metav1.PatchOptions{})
			return err
		}, byRBAC},
		{"delete all bindings at once", func(ctx context.Context) error {
			return x.RbacV1().ClusterRoleBindings().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		}, byRBAC},

		{"lengthen its own list", func(ctx context.Context) error {
			r, err := x.RbacV1().ClusterRoles().Get(ctx, BindListRole, metav1.GetOptions{})
			if err != nil {
				return err
			}
			r.Rules[0].ResourceNames = append(r.Rules[0].ResourceNames, "cluster-admin")
			_, err = x.RbacV1().ClusterRoles().Update(ctx, r, metav1.UpdateOptions{})
			return err
		}, byRBAC},
		{"make a role of its own", func(ctx context.Context) error {
			_, err := x.RbacV1().ClusterRoles().Create(ctx, newClusterRole(ours, rolePrefix+"a:b:c:d", nil), metav1.CreateOptions{})
			return err
		}, byRBAC},
		{"bind in a namespace that nothing was accepted for", x.bindIn("default", nsRole, inside), byRBAC},
		{"bind the namespaces' role where it was accepted", x.bindIn("blue", nsRole, inside), ""},
		{"bind edit there", x.bindIn("blue", "system:aggregate-to-edit", inside), byEscalation},
		{"bind itself there", x.bindIn("blue", nsRole, own), denied(AgentsPolicy)},
		{"take a binding's token", x.token(BindingsNamespace, Account(uidA), 600), byRBAC},
		{"take its own token", x.token(SystemNamespace, ReconcilerAccount, 600), byRBAC},
		{"make a ServiceAccount that is no binding's", x.account(BindingsNamespace, "mine"), denied(AgentsPolicy)},
		{"make one elsewhere", x.account("default", Account(uidA)), byRBAC},
		{"delete the default ServiceAccount there", func(ctx context.Context) error {
			w.apply(t, newServiceAccount("", BindingsNamespace, "default"))
			return x.CoreV1().ServiceAccounts(BindingsNamespace).Delete(ctx, "default", metav1.DeleteOptions{})
		}, denied(AgentsPolicy)},
		{"read a Secret", func(ctx context.Context) error {
			_, err := x.CoreV1().Secrets(BindingsNamespace).List(ctx, metav1.ListOptions{})
			return err
		}, byRBAC},
		{"drop the policy", func(ctx context.Context) error {
			return x.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, AgentsPolicy, metav1.DeleteOptions{})
		}, byRBAC},
		{"kill the namespace", func(ctx context.Context) error {
			return x.CoreV1().Namespaces().Delete(ctx, BindingsNamespace, metav1.DeleteOptions{})
		}, byRBAC},
	})
	// What it is for: repairing a binding that somebody widened.
	wide := bind(ours1, role, inside)
	wide.Subjects = append(wide.Subjects, rbacv1.Subject{Kind: "User", APIGroup: rbacGroup, Name: "system:anonymous"})
	wide.Labels = nil
	w.apply(t, wide)
	run(t, []attempt{{"repair", change(ours1, func(b *rbacv1.ClusterRoleBinding) {
		b.Subjects, b.Labels = []rbacv1.Subject{inside}, meta(ours, "", "").Labels
	}), ""}})
}

func (x thief) bindIn(namespace, role string, s rbacv1.Subject) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := x.RbacV1().RoleBindings(namespace).Create(ctx, newRoleBinding(ours, namespace, bindingPrefix+"x", roleRef("ClusterRole", role), s), metav1.CreateOptions{})
		return err
	}
}

func (x thief) token(namespace, account string, seconds int64) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := x.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
		return err
	}
}

func (x thief) account(namespace, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := x.CoreV1().ServiceAccounts(namespace).Create(ctx, newServiceAccount(ours, namespace, name), metav1.CreateOptions{})
		return err
	}
}

func TestAThiefOfTheProxysToken(t *testing.T) {
	w := newWorld(t)
	x := w.steal(t, SystemNamespace, ProxyAccount)
	admin := thief{w.admin}
	run(t, []attempt{
		{"a token of 10 minutes", x.token(BindingsNamespace, Account(uidA), 600), ""},
		{"a token of 15 minutes", x.token(BindingsNamespace, Account(uidA), 900), ""},
		{"a token of 15 minutes and a second", x.token(BindingsNamespace, Account(uidA), 901), denied(AgentsPolicy)},
		{"a token of the default life", func(ctx context.Context) error {
			_, err := x.CoreV1().ServiceAccounts(BindingsNamespace).CreateToken(ctx, Account(uidA), &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		}, denied(AgentsPolicy)},
		{"a long token, as the cluster's administrator", admin.token(BindingsNamespace, Account(uidA), 3600), denied(AgentsPolicy)},
		{"a long token elsewhere, as the cluster's administrator", admin.token(SystemNamespace, ProxyAccount, 3600), ""},
		{"the reconciler's token", x.token(SystemNamespace, ReconcilerAccount, 600), byRBAC},
		{"a token in kube-system", x.token("kube-system", "default", 600), byRBAC},
		{"a binding", func(ctx context.Context) error {
			_, err := x.RbacV1().ClusterRoleBindings().Create(ctx, newClusterRoleBinding(ours, bindingPrefix+"y", probeRole, account(BindingsNamespace, Account(uidA))), metav1.CreateOptions{})
			return err
		}, byRBAC},
		{"a ServiceAccount", x.account(BindingsNamespace, Account("7d3a1c6e-0000-4000-8000-00000000000f")), byRBAC},
		{"Secrets", func(ctx context.Context) error {
			_, err := x.CoreV1().Secrets(BindingsNamespace).List(ctx, metav1.ListOptions{})
			return err
		}, byRBAC},
	})
	// If somebody gives the proxy agent more, the policy still holds it.
	w.apply(t, newClusterRoleBinding("", "too-much", "cluster-admin", account(SystemNamespace, ProxyAccount)))
	run(t, []attempt{
		{"the reconciler's token, with cluster-admin", x.token(SystemNamespace, ReconcilerAccount, 600), denied(AgentsPolicy)},
		{"somebody's binding, with cluster-admin", func(ctx context.Context) error {
			return x.RbacV1().ClusterRoleBindings().Delete(ctx, "cluster-admin", metav1.DeleteOptions{})
		}, denied(AgentsPolicy)},
	})
	if err := w.admin.RbacV1().ClusterRoleBindings().Delete(t.Context(), "too-much", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestTheFenceAroundBindings(t *testing.T) {
	w := newWorld(t)
	fenced := w.steal(t, BindingsNamespace, Account(uidA))
	free := w.steal(t, BindingsNamespace, Account(uidB))
	inBlue := w.steal(t, BindingsNamespace, Account(uidC))
	n := 0
	configMap := func(x thief, namespace string) func(context.Context) error {
		return func(ctx context.Context) error {
			n++
			_, err := x.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", n)}}, metav1.CreateOptions{})
			return err
		}
	}
	secret := func(x thief, kind corev1.SecretType) func(context.Context) error {
		return func(ctx context.Context) error {
			n++
			_, err := x.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{Type: kind, ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", n), Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}}}, metav1.CreateOptions{})
			return err
		}
	}
	namespace := func(x thief, name, generate string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := x.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, GenerateName: generate}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return err
		}
	}
	role := func(x thief) func(context.Context) error {
		return func(ctx context.Context) error {
			n++
			_, err := x.RbacV1().Roles("default").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("r%d", n)}}, metav1.CreateOptions{})
			return err
		}
	}
	connect := func(x thief, namespace string) func(context.Context) error {
		return func(ctx context.Context) error {
			err := x.CoreV1().RESTClient().Get().Namespace(namespace).Resource("services").Name("none").SubResource("proxy").Do(ctx).Error()
			if apierrors.IsNotFound(err) {
				return nil // let through to a Service that is not there
			}
			return err
		}
	}
	webhook := func(x thief) func(context.Context) error {
		return func(ctx context.Context) error {
			return x.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(ctx, "some", metav1.DeleteOptions{})
		}
	}
	w.kube.Apply(t.Context(), "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: some}}") // its absence fails the attempt below
	w.apply(t, newServiceAccount("", "default", "default"))
	run(t, []attempt{
		{"what the role allows", configMap(fenced, "default"), ""},
		{"an ordinary Secret", secret(fenced, corev1.SecretTypeOpaque), ""},
		{"the proxy of a Service", connect(fenced, "default"), ""},
		{"a namespace", namespace(fenced, "red", ""), ""},
		{"a generated namespace", namespace(fenced, "", "red-"), ""},
		{"kube-system", configMap(fenced, "kube-system"), denied(FencePolicy)},
		{"the proxy of a Service in kube-system", connect(fenced, "kube-system"), denied(FencePolicy)},
		{SystemNamespace, configMap(fenced, SystemNamespace), denied(FencePolicy)},
		{"a new sallyport- namespace", namespace(fenced, "sallyport-mine", ""), denied(FencePolicy)},
		{"a generated sallyport- namespace", namespace(fenced, "", "sallyport-"), denied(FencePolicy)},
		{"deleting the bindings' namespace", func(ctx context.Context) error {
			return fenced.CoreV1().Namespaces().Delete(ctx, BindingsNamespace, metav1.DeleteOptions{})
		}, denied(FencePolicy)},
		{"labelling kube-system", func(ctx context.Context) error {
			_, err := fenced.CoreV1().Namespaces().Patch(ctx, "kube-system", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{})
			return err
		}, denied(FencePolicy)},
		{"a ServiceAccount token in a Secret", secret(fenced, corev1.SecretTypeServiceAccountToken), denied(FencePolicy)},
		{"RBAC", role(fenced), denied(FencePolicy)},
		{"a webhook", webhook(fenced), denied(FencePolicy)},

		{"kube-system, unfenced", configMap(free, "kube-system"), ""},
		{"a token in a Secret, unfenced", secret(free, corev1.SecretTypeServiceAccountToken), ""},
		{"RBAC, unfenced", role(free), ""},
		{"a webhook, unfenced", webhook(free), ""},
		{"sallyport-system, even unfenced", configMap(free, SystemNamespace), denied(FencePolicy)},

		{"blue, accepted there", configMap(inBlue, "blue"), ""},
		{"default, accepted for blue only", configMap(inBlue, "default"), byRBAC},
		{"RBAC in blue", func(ctx context.Context) error {
			_, err := inBlue.RbacV1().Roles("blue").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}}, metav1.CreateOptions{})
			return err
		}, denied(FencePolicy)},
	})
	// The probes must not be a way around it, nor a way to lift it.
	x := w.steal(t, SystemNamespace, ReconcilerAccount)
	marker := clusterRoleName(unfencedPrefix, scanner().FullName(), scanner().Revision())
	w.apply(t, fenceMarker(ours, scanner().FullName(), marker).Object)
	run(t, []attempt{{"lifting the fence of a role that was not accepted so", func(ctx context.Context) error {
		_, err := x.RbacV1().ClusterRoleBindings().Create(ctx, newClusterRoleBinding(ours, bindingPrefix+"z", marker, account(BindingsNamespace, Account(uidA))), metav1.CreateOptions{})
		return err
	}, byEscalation}})
}
