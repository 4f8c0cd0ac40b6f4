package rbac

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

func TestDesiredAndDiff(t *testing.T) {
	c := newCluster(t)
	c.accept(t, mlworkload(), Consent{})
	cr := ClusterRoleName(mlworkload().FullName(), mlworkload().Revision(), false)
	rights := "clusterrolebinding/" + bindingName(uidA, cr)
	identity := "serviceaccount/" + Account(uidA) + " -n " + BindingsNamespace

	did, refused := c.reconcile(t, binding(uidA, grant(mlworkload())))
	if want := "create " + identity + "\ncreate " + rights + "\n"; did != want || len(refused) > 0 {
		t.Errorf("first round:\n%s%v, want:\n%s", did, refused, want)
	}

	// Asked for more than is accepted: nothing is added, what is kept works on.
	did, refused = c.reconcile(t, binding(uidA, grant(mlworkload()), grant(inference())))
	r := refused[uidA]
	if did != "" || r == nil || r.Reason != NotAccepted || r.Role != inference().FullName() {
		t.Errorf("with an unaccepted role:\n%s%+v", did, r)
	}
	if diff := cmp.Diff(Uncovered(nil, inference().Rules), r.Uncovered); diff != "" {
		t.Errorf("uncovered rules: %s", diff)
	}
	if _, refused = c.reconcile(t, binding(uidA, grant(mlworkload())), binding(uidB, grant(inference()))); refused[uidA] != nil || refused[uidB] == nil {
		t.Errorf("refused %v", refused)
	}
	if c["serviceaccount/"+Account(uidB)+" -n "+BindingsNamespace] != nil {
		t.Error("a refused binding got an identity")
	}

	// What it no longer asks for goes, though the rest is refused.
	did, _ = c.reconcile(t, binding(uidA, grant(inference())))
	if did != "delete "+rights+"\n" {
		t.Errorf("narrowed:\n%s", did)
	}
	did, _ = c.reconcile(t)
	if did != "delete "+identity+"\n" {
		t.Errorf("deleted:\n%s", did)
	}
}

func TestChangedRoleStopsTheWholeBinding(t *testing.T) {
	c := newCluster(t)
	c.accept(t, mlworkload(), Consent{})
	backup := trust.Published()[0]
	c.accept(t, backup, Consent{})
	b := binding(uidA, grant(backup), grant(mlworkload()))
	c.reconcile(t, b)
	name := ClusterRoleName(mlworkload().FullName(), mlworkload().Revision(), false)
	live := c["clusterrole/"+name].(*rbacv1.ClusterRole).DeepCopy()
	live.Rules = append(live.Rules, rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}})
	c["clusterrole/"+name] = live
	did, refused := c.reconcile(t, b)
	if r := refused[uidA]; r == nil || r.Reason != RoleChanged || strings.Count(did, "delete clusterrolebinding/") != 2 {
		t.Errorf("%v\n%s", refused, did)
	}
	live.Rules, live.AggregationRule = PolicyRules(mlworkload().Rules), &rbacv1.AggregationRule{}
	if _, refused := c.reconcile(t, b); refused[uidA] == nil {
		t.Error("a role whose rules a controller fills in counts as accepted")
	}
	live.AggregationRule = nil
	if did, refused := c.reconcile(t, b); len(refused) > 0 || strings.Count(did, "create clusterrolebinding/") != 2 {
		t.Errorf("repaired: %v\n%s", refused, did)
	}
}

func TestScopes(t *testing.T) {
	c := newCluster(t)
	c.accept(t, mlworkload(), Consent{Namespaces: []string{"blue"}})
	for _, tt := range []struct {
		grant trust.Grant
		want  Reason
	}{
		{grant(mlworkload(), "blue"), ""},
		{grant(mlworkload()), NotAcceptedThere},
		{grant(mlworkload(), "blue", "green"), NotAcceptedThere},
		{grant(mlworkload(), "../green"), BadBinding},
		{trust.Grant{Role: "x:y/z/a", Revision: "00"}, BadBinding},
		{trust.Grant{Role: "x.y/z/$(reboot)", Revision: "00"}, BadBinding},
		{trust.Grant{Role: "x.y/z/a", Revision: "00"}, NotAccepted},
		{trust.Grant{Role: "a/b", Revision: "00"}, BadBinding},
		{trust.Grant{Role: mlworkload().FullName(), Revision: "0/../0", Rules: mlworkload().Rules}, BadBinding},
		{trust.Grant{Role: mlworkload().FullName(), Revision: "00", Namespaces: []string{"blue"}, Rules: mlworkload().Rules}, NotAccepted},
	} {
		wants, refused := Desired(ours, []trust.Binding{binding(uidA, tt.grant)}, c.accepted())
		var got Reason
		if r := refused[uidA]; r != nil {
			got = r.Reason
		}
		if got != tt.want {
			t.Errorf("%s in %v: %q, want %q", tt.grant.Role, tt.grant.Namespaces, got, tt.want)
		}
		for _, w := range wants {
			if _, wide := w.Object.(*rbacv1.ClusterRoleBinding); wide {
				t.Errorf("%v is bound in the whole cluster", tt.grant.Namespaces)
			}
			if got != "" && !w.Keep {
				t.Errorf("a refused binding makes %s", Key(w.Object))
			}
		}
	}
	// A ClusterRole alone is no consent: its name must be in the bind list.
	wide := newClusterRole(ours, ClusterRoleName(mlworkload().FullName(), mlworkload().Revision(), false), PolicyRules(mlworkload().Rules))
	c.apply(t, Plan{step(Apply, wide)})
	foreign := newClusterRole(theirs, ClusterRoleName(inference().FullName(), inference().Revision(), true), PolicyRules(inference().Rules))
	foreign.Annotations = map[string]string{namespacesAnnotation: "blue"}
	nowhere := newClusterRole(ours, ClusterRoleName("a.b/c/d", trust.RevisionOf(inference().Rules), true), PolicyRules(inference().Rules))
	c.apply(t, Plan{step(Apply, foreign), step(Apply, nowhere)})
	if a := c.accepted(); len(a) != 1 || a[0].Namespaces == nil {
		t.Errorf("accepted: %+v", a)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	b := binding(uidA, grant(mlworkload()))
	cr := ClusterRoleName(mlworkload().FullName(), mlworkload().Revision(), false)
	rights, identity := "clusterrolebinding/"+bindingName(uidA, cr), "serviceaccount/"+Account(uidA)+" -n "+BindingsNamespace
	for name, tt := range map[string]struct {
		key   string
		drift func(Object)
		want  string
	}{
		"subject added":   {rights, func(o Object) { addSubject(o, "system:anonymous") }, "update " + rights},
		"subject removed": {rights, func(o Object) { o.(*rbacv1.ClusterRoleBinding).Subjects = nil }, "update " + rights},
		"other role": {rights, func(o Object) { o.(*rbacv1.ClusterRoleBinding).RoleRef.Name = "cluster-admin" },
			"delete " + rights + "\ncreate " + rights},
		"label removed":  {rights, func(o Object) { delete(o.GetLabels(), BindingLabel) }, "update " + rights},
		"token mounting": {identity, func(o Object) { o.(*corev1.ServiceAccount).AutomountServiceAccountToken = nil }, "update " + identity},
		"foreign label":  {identity, func(o Object) { o.GetLabels()["example.com/x"] = "y" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.accept(t, mlworkload(), Consent{})
			c.reconcile(t, b)
			o := c[tt.key].DeepCopyObject().(Object)
			tt.drift(o)
			c[tt.key] = o
			did, _ := c.reconcile(t, b)
			if strings.TrimSpace(did) != tt.want {
				t.Errorf("did:\n%swant:\n%s", did, tt.want)
			}
		})
	}
}

func addSubject(o Object, user string) {
	b := o.(*rbacv1.ClusterRoleBinding)
	b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "User", APIGroup: rbacGroup, Name: user})
}

func TestOnlyOursIsPruned(t *testing.T) {
	b := binding(uidA, grant(mlworkload()))
	made := func(label trust.ClusterUID, change func(Object)) []Object {
		wants, _ := Desired(label, []trust.Binding{b}, []Acceptance{{Role: mlworkload().FullName(), Revision: mlworkload().Revision(), Rules: mlworkload().Rules}})
		var all []Object
		for _, w := range wants {
			change(w.Object)
			all = append(all, w.Object)
		}
		return all
	}
	if p := Diff(ours, nil, made(ours, func(Object) {})); len(p) != 2 || Key(p[1].Object)[:7] != "service" {
		t.Errorf("ours: bindings go first, then identities:\n%s", p)
	}
	for name, observed := range map[string][]Object{
		"another registration's":      made(theirs, func(Object) {}),
		"without the label":           made(ours, func(o Object) { o.SetLabels(nil) }),
		"somebody's, with our label":  made(ours, func(o Object) { o.SetName("mine") }),
		"ServiceAccount elsewhere":    {newServiceAccount(ours, "default", Account(uidA))},
		"the agents' own":             {newClusterRoleBinding(ours, ReconcilerRole, ReconcilerRole, account(SystemNamespace, ReconcilerAccount))},
		"kinds it does not deal with": {newClusterRole(ours, "sallyport:binding:x", nil)},
	} {
		if p := Diff(ours, nil, observed); len(p) > 0 {
			t.Errorf("%s:\n%s", name, p)
		}
	}
}

func TestUncoveredAndWords(t *testing.T) {
	before := []trust.Rule{{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"pods", "secrets"}}}
	after := []trust.Rule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/log"}},
		{Verbs: []string{"patch"}, APIGroups: []string{"apps"}, Resources: []string{"deployments/scale"}, ResourceNames: []string{"a", "b"}},
		{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics", "/logs/*"}},
	}
	c := Compare(before, after)
	var got []string
	for _, r := range c.Added {
		got = append(got, "+ "+Describe(r))
	}
	for _, r := range c.Removed {
		got = append(got, "- "+Describe(r))
	}
	want := []string{
		"+ get on /logs/*, /metrics",
		"+ get, list, watch on pods/log",
		"+ patch on deployments.apps/scale named a",
		"+ patch on deployments.apps/scale named b",
		"+ watch on pods",
		"- get, list on secrets",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// Same rights, written otherwise.
	split := []trust.Rule{
		{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"secrets", "pods"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"*"}},
	}
	if c := Compare(before, split); len(c.Added) != 1 || len(c.Removed) != 0 {
		t.Errorf("%+v", c)
	}
	if d := Describe(trust.Rule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}); d != "everything on * of every API group" {
		t.Error(d)
	}
	if diff := cmp.Diff(inference().Rules, Rules(PolicyRules(inference().Rules))); diff != "" {
		t.Error(diff)
	}
}

func TestRefusalsSayWhatIsWrong(t *testing.T) {
	for reason, want := range map[Reason]string{
		NotAccepted: "has not accepted role r, revision v", NotAcceptedThere: "for namespace blue",
		RoleChanged: "no longer has the rules", BadBinding: "no name that Kubernetes takes",
	} {
		if got := (&Refusal{Reason: reason, Role: "r", Revision: "v", Namespaces: []string{"blue"}}).Error(); !strings.Contains(got, want) {
			t.Errorf("%s: %s", reason, got)
		}
	}
}

func TestRefusedBy(t *testing.T) {
	const real = `clusterrolebindings.rbac.authorization.k8s.io "x" is forbidden: ValidatingAdmissionPolicy 'sallyport-agents' with binding 'sallyport-agents' denied request: no`
	if !RefusedBy(AgentsPolicy, real) || RefusedBy(FencePolicy, real) || RefusedBy(AgentsPolicy, `user "x" (groups=[]) is attempting to grant RBAC permissions`) {
		t.Error("a refusal is taken for another")
	}
}

// An older manifest over a cluster that accepted more since takes nothing away:
// what it names is added to what is there, and what it did not name is said.
func TestAManifestTakesNoConsentAway(t *testing.T) {
	role := func(name string) trust.Role {
		return trust.Role{SourceType: "Contoso.Scanner/scanners", Name: name, Rules: []trust.Rule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}, ResourceNames: []string{name}}}}
	}
	accept := func(have Installed, all ...RoleConsent) Plan {
		t.Helper()
		plan, err := AcceptAll(ours, all, have)
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	old := accept(Installed{}, RoleConsent{Role: role("first")}, RoleConsent{role("local"), Consent{Namespaces: []string{"a"}}})
	have := Installed{}.After(old)
	have = have.After(accept(have, RoleConsent{Role: role("second")}, RoleConsent{role("local"), Consent{Namespaces: []string{"b"}, Unfenced: true}}, RoleConsent{role("other"), Consent{Namespaces: []string{"a"}}}))
	before := Acceptances(ours, have.ClusterRoles)

	now := have
	var kept []string
	for _, s := range old {
		merged, more := have.Keep(ours, s.Object)
		kept = append(kept, more...)
		now = now.After(Plan{{Apply, Explained{Object: merged}}})
	}
	if diff := cmp.Diff(before, Acceptances(ours, now.ClusterRoles)); diff != "" {
		t.Errorf("acceptances changed (-before +after):\n%s", diff)
	}
	for _, ns := range []string{"", "a", "b"} {
		if diff := cmp.Diff(have.bindList(ours, ns), now.bindList(ours, ns)); diff != "" {
			t.Errorf("bind list of %q changed (-before +after):\n%s", ns, diff)
		}
	}
	text := strings.Join(kept, "\n")
	for _, want := range []string{"scanners:second:", "scanners:other:", " in namespace a", "for namespace b", ", unfenced"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not among what was kept:\n%s", want, text)
		}
	}

	// Over a cluster that has what it has, a manifest is applied as it is read; and
	// another registration's consents are none of its business.
	for name, have := range map[string]Installed{"itself": Installed{}.After(old), "nothing": {}} {
		for _, s := range old {
			if merged, kept := have.Keep(ours, s.Object); len(kept) != 0 || merged != s.Object {
				t.Errorf("over %s, %s was changed: %v", name, Key(s.Object), kept)
			}
		}
	}
	for _, s := range old {
		if merged, kept := have.Keep("ffffffff-ffff-4fff-8fff-ffffffffffff", s.Object); len(kept) != 0 || merged != s.Object {
			t.Errorf("another registration kept %v", kept)
		}
	}
}
