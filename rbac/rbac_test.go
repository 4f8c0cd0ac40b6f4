package rbac

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/trust"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	ours   trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"
	theirs trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0002"
	uidA   trust.BindingUID = "7d3a1c6e-0000-4000-8000-00000000000a"
	uidB   trust.BindingUID = "7d3a1c6e-0000-4000-8000-00000000000b"
)

func mlworkload() trust.Role { return trust.Published()[1] }
func inference() trust.Role  { return trust.Published()[2] }

func grant(r trust.Role, namespaces ...string) trust.Grant {
	return trust.Grant{Role: r.FullName(), Revision: r.Revision(), Namespaces: namespaces, Rules: r.Rules}
}

func binding(uid trust.BindingUID, grants ...trust.Grant) trust.Binding {
	return trust.Binding{ID: "/subscriptions/s/bindings/" + string(uid)[35:], UID: uid, Cluster: ours, SourceID: "/subscriptions/s/workspaces/w", Grants: grants}
}

// golden compares got with testdata/name, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; go test -update writes it):\n%s", file, diff)
	}
}

func steps(t *testing.T, p Plan) string {
	t.Helper()
	var b strings.Builder
	for _, s := range p {
		data, err := yaml.Marshal(s.Object)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("# " + string(s.Verb) + "\n" + string(data) + "---\n")
	}
	return b.String()
}

// cluster is what a Kubernetes API server would hold after steps: enough of it
// to follow acceptances and plans through several rounds.
type cluster map[string]Object

func (c cluster) apply(t *testing.T, p Plan) {
	t.Helper()
	for _, s := range p {
		key := Key(s.Object)
		_, there := c[key]
		switch {
		case s.Verb == Create && there, (s.Verb == Update || s.Verb == Delete) && !there:
			t.Fatalf("%s %s: there is %v", s.Verb, key, there)
		case s.Verb == Delete:
			delete(c, key)
		default:
			c[key] = s.Object
		}
	}
}

func (c cluster) explained(t *testing.T, list []Explained) {
	for _, e := range list {
		c.apply(t, Plan{{Apply, e}})
	}
}

func (c cluster) installed() Installed {
	var in Installed
	for _, o := range c {
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			in.ClusterRoles = append(in.ClusterRoles, *o)
		case *rbacv1.Role:
			in.Roles = append(in.Roles, *o)
		case *rbacv1.ClusterRoleBinding:
			in.ClusterRoleBindings = append(in.ClusterRoleBindings, *o)
		case *rbacv1.RoleBinding:
			in.RoleBindings = append(in.RoleBindings, *o)
		}
	}
	return in
}

func (c cluster) accepted() []Acceptance { return Acceptances(ours, c.installed().ClusterRoles) }

func (c cluster) objects() []Object {
	var all []Object
	for _, o := range c {
		all = append(all, o)
	}
	return all
}

func (c cluster) accept(t *testing.T, r trust.Role, consent Consent) Plan {
	t.Helper()
	p, err := Accept(ours, r, consent, c.installed())
	if err != nil {
		t.Fatal(err)
	}
	c.apply(t, p)
	return p
}

// reconcile runs one round and returns what it did.
func (c cluster) reconcile(t *testing.T, bindings ...trust.Binding) (string, map[trust.BindingUID]*Refusal) {
	t.Helper()
	wants, refused := Desired(ours, bindings, c.accepted())
	plan := Diff(ours, wants, c.objects())
	c.apply(t, plan)
	if again := Diff(ours, wants, c.objects()); len(again) > 0 {
		t.Errorf("a second round has something left to do:\n%s", again)
	}
	return plan.String(), refused
}

func newCluster(t *testing.T) cluster {
	c := cluster{}
	c.explained(t, AgentRights(ours))
	c.explained(t, BindList(ours))
	return c
}

func TestNames(t *testing.T) {
	r := mlworkload()
	name := ClusterRoleName(r.FullName(), r.Revision(), false)
	if want := "sallyport:role:microsoft.machinelearningservices:workspaces:mlworkload:" + string(r.Revision()); name != want {
		t.Errorf("got %s, want %s", name, want)
	}
	for _, namespaced := range []bool{false, true} {
		role, revision, n, ok := ParseClusterRoleName(ClusterRoleName("A.B/x/y/Z", "00ff", namespaced))
		if !ok || role != "a.b/x/y/z" || revision != "00ff" || n != namespaced {
			t.Errorf("parsed %q %q %v %v", role, revision, n, ok)
		}
	}
	for _, bad := range []string{"", "cluster-admin", probeRole, "sallyport:role:a:b:c", "sallyport:role:a::b:c", "sallyport:role:A:b:c:d", "sallyport:unfencedrole:a:b:c:d", "sallyport:role:a/b:c:d:e"} {
		if _, _, _, ok := ParseClusterRoleName(bad); ok {
			t.Errorf("%q was taken for an accepted role", bad)
		}
	}
}

func TestGoldenAgents(t *testing.T) {
	var p Plan
	for _, e := range append(append(Policies(ours), AgentRights(ours)...), BindList(ours)...) {
		p = append(p, Step{Apply, e})
	}
	golden(t, "agents.yaml", steps(t, p))
}

func TestGoldenAcceptAndBind(t *testing.T) {
	c := newCluster(t)
	p := c.accept(t, mlworkload(), Consent{})
	p = append(p, c.accept(t, mlworkload(), Consent{Namespaces: []string{"blue", "green"}, Unfenced: true})...)
	wants, refused := Desired(ours, []trust.Binding{binding(uidA, grant(mlworkload())), binding(uidB, grant(mlworkload(), "blue"))}, c.accepted())
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	golden(t, "accept-and-bind.yaml", steps(t, append(p, Diff(ours, wants, c.objects())...)))
}

// An empty list of resourceNames would allow binding every role.
func TestAnEmptyBindListHasNoRule(t *testing.T) {
	for _, e := range append(BindList(ours), namespaceRights(ours, "blue", nil)...) {
		var rules []rbacv1.PolicyRule
		switch o := e.Object.(type) {
		case *rbacv1.ClusterRole:
			rules = o.Rules
		case *rbacv1.Role:
			rules = o.Rules
		}
		for _, r := range rules {
			for _, v := range r.Verbs {
				if v == "bind" {
					t.Errorf("%s: %+v", Key(e.Object), r)
				}
			}
		}
	}
}

func TestAgentsHoldNothingDangerous(t *testing.T) {
	for _, e := range AgentRights(ours) {
		var rules []rbacv1.PolicyRule
		switch o := e.Object.(type) {
		case *rbacv1.ClusterRole:
			rules = o.Rules
		case *rbacv1.Role:
			rules = o.Rules
		default:
			continue
		}
		if len(e.Rules) != len(rules) {
			t.Errorf("%s: %d rules and %d reasons", Key(e.Object), len(rules), len(e.Rules))
		}
		for _, r := range rules {
			for _, s := range append(append(append(r.Verbs, r.APIGroups...), r.Resources...), r.NonResourceURLs...) {
				if strings.Contains(s, "*") || s == "escalate" || s == "impersonate" || s == "secrets" || s == "deletecollection" {
					t.Errorf("%s holds %q", Key(e.Object), s)
				}
			}
		}
		account := ReconcilerAccount
		if strings.Contains(e.Object.GetName(), "proxy") {
			account = ProxyAccount
		}
		for _, a := range Forbidden(account) {
			if e.Object.GetNamespace() != a.Namespace {
				continue
			}
			if trust.Compile([]trust.Grant{{Rules: Rules(rules)}}).Decide(&a).Allowed {
				t.Errorf("%s allows %+v", Key(e.Object), a)
			}
		}
	}
}

func TestAcceptNamesTheFlagThatIsMissing(t *testing.T) {
	policies := trust.Role{SourceType: "T.T/t", Name: "p", Rules: []trust.Rule{{Verbs: []string{"delete"}, APIGroups: []string{"admissionregistration.k8s.io"}, Resources: []string{"*"}}}}
	for _, tt := range []struct {
		role    trust.Role
		consent Consent
		want    string
	}{
		{inference(), Consent{}, "--outlives-revocation"},
		{policies, Consent{}, "--unfenced"},
		{mlworkload(), Consent{Namespaces: []string{"kube-system"}}, "--unfenced"},
		{mlworkload(), Consent{Namespaces: []string{BindingsNamespace}}, "belongs to Sallyport"},
		{mlworkload(), Consent{Namespaces: []string{"Blue"}}, "not a namespace's name"},
		{trust.Role{SourceType: "T.T/t", Name: "p"}, Consent{}, "no rules"},
	} {
		_, err := Accept(ours, tt.role, tt.consent, Installed{})
		if err == nil {
			t.Errorf("%s, %+v: accepted", tt.role.Name, tt.consent)
			continue
		}
		text := err.Error()
		var e *trust.Error
		if errors.As(err, &e) {
			text += " " + e.Hint
		}
		if !strings.Contains(text, tt.want) {
			t.Errorf("%s, %+v: %s, want %s", tt.role.Name, tt.consent, text, tt.want)
		}
	}
	if _, err := Accept(ours, inference(), Consent{OutlivesRevocation: true}, Installed{}); err != nil {
		t.Error(err)
	}
}

func TestWithdrawUndoesAccept(t *testing.T) {
	r := mlworkload()
	for name, rounds := range map[string][]Consent{
		"cluster":            {{}},
		"unfenced":           {{Unfenced: true}},
		"two namespaces":     {{Namespaces: []string{"blue", "green"}}},
		"one after another":  {{Namespaces: []string{"blue"}}, {Namespaces: []string{"green"}, Unfenced: true}},
		"cluster and spaces": {{Unfenced: true}, {Namespaces: []string{"blue"}, Unfenced: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			before := steps(t, Diff("", nil, nil)) + keys(c)
			var grants []trust.Grant
			for _, consent := range rounds {
				c.accept(t, r, consent)
				grants = append(grants, grant(r, consent.Namespaces...))
			}
			for i, g := range grants {
				b := []trust.BindingUID{uidA, uidB}[i]
				if _, refused := c.reconcile(t, append(c.bound(), binding(b, g))...); len(refused) > 0 {
					t.Fatalf("refused: %v", refused)
				}
			}
			for _, consent := range rounds {
				p, err := Withdraw(ours, r.FullName(), r.Revision(), consent.Namespaces, c.installed())
				if err != nil {
					t.Fatal(err)
				}
				c.apply(t, p)
			}
			if a := c.accepted(); len(a) > 0 {
				t.Errorf("still accepted: %+v", a)
			}
			c.reconcile(t) // nothing bound any more: the ServiceAccounts go
			if after := keys(c); after != before {
				t.Errorf("what is left differs (-before +after):\n%s", cmp.Diff(before, after))
			}
			if _, err := Withdraw(ours, r.FullName(), r.Revision(), rounds[0].Namespaces, c.installed()); trust.KindOf(err) != trust.NotFound {
				t.Errorf("withdrawn twice: %v", err)
			}
		})
	}
}

// bound reads back which bindings were made for the whole cluster or for
// namespaces, so that a round does not remove those of the round before.
func (c cluster) bound() []trust.Binding {
	var out []trust.Binding
	for _, o := range c {
		if o, ok := o.(*rbacv1.ClusterRoleBinding); ok && Ours(ours, o) && strings.HasPrefix(o.RoleRef.Name, rolePrefix) {
			out = append(out, binding(trust.BindingUID(o.Labels[BindingLabel]), grant(mlworkload())))
		}
		if o, ok := o.(*rbacv1.RoleBinding); ok && Ours(ours, o) && strings.HasPrefix(o.RoleRef.Name, nsRolePrefix) {
			out = append(out, binding(trust.BindingUID(o.Labels[BindingLabel]), grant(mlworkload(), o.Namespace)))
		}
	}
	return out
}

func keys(c cluster) string {
	var p Plan
	for _, o := range c {
		p = append(p, step(Apply, o))
	}
	lines := strings.Split(strings.TrimSpace(p.String()), "\n")
	return strings.Join(sorted(lines), "\n")
}

func TestAcceptAll(t *testing.T) {
	c := newCluster(t)
	backup := trust.Published()[0]
	p, err := AcceptAll(ours, []RoleConsent{{mlworkload(), Consent{}}, {backup, Consent{}}, {mlworkload(), Consent{Namespaces: []string{"blue"}}}, {backup, Consent{Namespaces: []string{"blue", "green"}}}}, c.installed())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range p {
		if seen[Key(s.Object)] {
			t.Errorf("%s is applied twice", Key(s.Object))
		}
		seen[Key(s.Object)] = true
	}
	c.apply(t, p)
	if a := c.accepted(); len(a) != 4 {
		t.Errorf("accepted %+v", a)
	}
	_, refused := c.reconcile(t, binding(uidA, grant(mlworkload()), grant(backup)), binding(uidB, grant(backup, "green"), grant(mlworkload(), "blue")))
	if len(refused) > 0 {
		t.Error(refused)
	}
	have := c.installed()
	if diff := cmp.Diff(2, len(have.bindList(ours, "blue"))); diff != "" || len(have.bindList(ours, "green")) != 1 || len(have.bindList(ours, "")) != 2 {
		t.Errorf("bind lists: %v %v %v", have.bindList(ours, ""), have.bindList(ours, "blue"), have.bindList(ours, "green"))
	}
	if _, err := AcceptAll(ours, []RoleConsent{{mlworkload(), Consent{}}, {inference(), Consent{}}}, Installed{}); err == nil {
		t.Error("a role that outlives revocation slipped through")
	}
}

// Two revisions of a role are accepted; withdrawing the role takes both, and
// neither's plan writes the other back.
func TestWithdrawAll(t *testing.T) {
	second := mlworkload()
	second.Rules = append(second.Rules, trust.Rule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"events"}})
	for name, scope := range map[string][]string{"cluster": nil, "namespaces": {"blue", "green"}} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			before := keys(c)
			c.accept(t, mlworkload(), Consent{Namespaces: scope})
			c.accept(t, second, Consent{Namespaces: scope, Unfenced: true})
			c.reconcile(t, binding(uidA, grant(mlworkload(), scope...)), binding(uidB, grant(second, scope...)))
			p, err := WithdrawAll(ours, mlworkload().FullName(), scope, c.installed())
			if err != nil {
				t.Fatal(err)
			}
			c.apply(t, p)
			have := c.installed()
			if left := append(have.bindList(ours, ""), have.bindList(ours, "blue")...); len(left) > 0 {
				t.Errorf("still in the bind list: %v", left)
			}
			c.reconcile(t)
			if diff := cmp.Diff(before, keys(c)); diff != "" {
				t.Error(diff)
			}
			if _, err := WithdrawAll(ours, mlworkload().FullName(), scope, c.installed()); trust.KindOf(err) != trust.NotFound {
				t.Errorf("withdrawn twice: %v", err)
			}
		})
	}
	c := newCluster(t)
	c.accept(t, mlworkload(), Consent{Namespaces: []string{"blue", "green"}})
	if _, err := WithdrawAll(ours, mlworkload().FullName(), []string{"red"}, c.installed()); trust.KindOf(err) != trust.NotFound {
		t.Errorf("withdrawn where it was not accepted: %v", err)
	}
	p, err := WithdrawAll(ours, mlworkload().FullName(), []string{"blue"}, c.installed())
	if err != nil {
		t.Fatal(err)
	}
	c.apply(t, p)
	if a := c.accepted(); len(a) != 1 || len(a[0].Namespaces) != 1 || a[0].Namespaces[0] != "green" {
		t.Errorf("accepted: %+v", a)
	}
}
