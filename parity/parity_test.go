package parity

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/auth/rbac/validation"
	registry "k8s.io/kubernetes/pkg/registry/rbac/validation"
	kube "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

const (
	cluster trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"
	seed                     = 20260706

	worlds        = 3000 // each with two bindings
	requestsEach  = 20   // per binding
	wantPairs     = 100_000
	wantAllowed   = 30 // percent
	wantOfFeature = 1000
)

// world is two bindings with their grants, compiled as agent and gateway do,
// and the same in Kubernetes: the ClusterRoles that an owner would have
// applied, and exactly the objects that the reconciler would make.
type world struct {
	bindings []trust.Binding
	agent    []*trust.Policy
	gateway  *trust.Policy
	kube     *kube.RBACAuthorizer
	roles    map[string]*rbacv1.ClusterRole
}

func newWorld(t *testing.T, d dice) *world {
	t.Helper()
	w := &world{roles: map[string]*rbacv1.ClusterRole{}}
	var accepted []rbac.Acceptance
	var all []trust.Grant
	for i := range 2 {
		b := trust.Binding{ID: "b", UID: trust.BindingUID(fmt.Sprintf("7d3a1c6e-0000-4000-8000-%012d", i)), Cluster: cluster}
		for j := range 1 + d.IntN(2) {
			g := d.grant(2*i + j)
			b.Grants = append(b.Grants, g)
			accepted = append(accepted, rbac.Acceptance{Role: g.Role, Revision: g.Revision, Namespaces: g.Namespaces, Rules: g.Rules})
			name := rbac.ClusterRoleName(g.Role, g.Revision, len(g.Namespaces) > 0)
			w.roles[name] = &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rbac.PolicyRules(g.Rules)}
		}
		w.bindings = append(w.bindings, b)
		w.agent = append(w.agent, trust.Compile(b.Grants))
		all = append(all, b.Grants...)
	}
	w.gateway = trust.Compile(all)

	wants, refused := rbac.Desired(cluster, w.bindings, accepted)
	if len(refused) > 0 {
		t.Fatalf("refused: %v", refused)
	}
	base := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "base"}, Rules: rbac.PolicyRules(trust.BaseSet())}
	roles := append(slices.Collect(maps.Values(w.roles)), base)
	wide := []*rbacv1.ClusterRoleBinding{{RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "base"}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: user.AllAuthenticated}}}}
	var local []*rbacv1.RoleBinding
	for _, want := range wants {
		switch o := want.Object.(type) {
		case *rbacv1.ClusterRoleBinding:
			wide = append(wide, o)
		case *rbacv1.RoleBinding:
			local = append(local, o)
		}
	}
	_, static := registry.NewTestRuleResolver(nil, local, roles, wide)
	w.kube = kube.New(static, static, static, static)
	return w
}

func (w *world) account(i int) user.Info {
	return &user.DefaultInfo{Name: rbac.Username(rbac.BindingsNamespace, rbac.Account(w.bindings[i].UID)), Groups: []string{user.AllAuthenticated, "system:serviceaccounts"}}
}

func record(u user.Info, a *trust.Attributes) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{User: u, Verb: a.Verb, Namespace: a.Namespace, APIGroup: a.APIGroup, APIVersion: a.APIVersion,
		Resource: a.Resource, Subresource: a.Subresource, Name: a.Name, ResourceRequest: a.ResourceRequest, Path: a.Path}
}

func (w *world) allows(t *testing.T, i int, a *trust.Attributes) bool {
	decision, _, err := w.kube.Authorize(t.Context(), record(w.account(i), a))
	if err != nil {
		t.Fatal(err)
	}
	return decision == authorizer.DecisionAllow
}

// features names what an allowing rule of the binding has that RBAC treats
// specially. Only what lets this very request through is counted.
func (w *world) features(i int, a *trust.Attributes, count map[string]int) {
	for _, g := range w.bindings[i].Grants {
		if len(g.Namespaces) > 0 && (!a.ResourceRequest || !slices.Contains(g.Namespaces, a.Namespace)) {
			continue
		}
		for _, r := range rbac.PolicyRules(g.Rules) {
			if !kube.RuleAllows(record(nil, a), &r) {
				continue
			}
			if len(g.Namespaces) > 0 {
				count["bound in a namespace"]++
			}
			if slices.Contains(r.Verbs, "*") && !slices.Contains(r.Verbs, a.Verb) {
				count["verb *"]++
			}
			if !a.ResourceRequest {
				switch {
				case slices.Contains(r.NonResourceURLs, a.Path):
					count["non-resource path"]++
				default:
					count["non-resource glob"]++
				}
				return
			}
			if !slices.Contains(r.APIGroups, a.APIGroup) {
				count["group *"]++
			}
			if len(r.ResourceNames) > 0 {
				count["resourceNames"]++
			}
			full := strings.TrimSuffix(a.Resource+"/"+a.Subresource, "/")
			switch {
			case slices.Contains(r.Resources, full) && a.Subresource != "":
				count["subresource"]++
			case slices.Contains(r.Resources, full):
				count["resource"]++
			case slices.Contains(r.Resources, "*/"+a.Subresource):
				count["*/subresource"]++
			default:
				count["resource *"]++
			}
			return
		}
	}
	count["base set"]++
}

// What the agent decides for one binding, what the gateway decides for a source
// with both, and what the real authorizer decides for the ServiceAccounts with
// the objects that the reconciler makes.
func TestDecisionsAgreeWithRBAC(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(seed, 1))}
	pairs, allowed, differ := 0, 0, 0
	count := map[string]int{"base set": 0}
	for range worlds {
		w := newWorld(t, d)
		for i := range w.bindings {
			for range requestsEach {
				a := d.request(w.bindings[i].Grants)
				if d.chance(3) {
					a = baseRequest(d)
				}
				want := [2]bool{w.allows(t, 0, &a), w.allows(t, 1, &a)}
				pairs++
				if want[i] {
					allowed++
					w.features(i, &a, count)
				}
				for j, p := range w.agent {
					if got := p.Decide(&a).Allowed; got != want[j] {
						differ++
						t.Errorf("agent says %v, RBAC %v:\n%+v\n%+v", got, want[j], a, w.bindings[j].Grants)
					}
				}
				if got := w.gateway.Decide(&a).Allowed; got != (want[0] || want[1]) {
					differ++
					t.Errorf("gateway says %v, RBAC %v:\n%+v\n%+v", got, want, a, w.bindings)
				}
				if differ > 5 {
					t.FailNow()
				}
			}
		}
	}
	t.Logf("seed %d: %d (rules, request) pairs, %d allowed (%d %%), %d differ", seed, pairs, allowed, 100*allowed/pairs, differ)
	for _, f := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%6d allowed by %s", count[f], f)
		if count[f] < wantOfFeature {
			t.Errorf("%s: only %d, want %d", f, count[f], wantOfFeature)
		}
	}
	if pairs < wantPairs || 100*allowed < wantAllowed*pairs || len(count) < 10 {
		t.Errorf("too little was tried: %d pairs, %d allowed, %d features", pairs, allowed, len(count))
	}
}

func baseRequest(d dice) trust.Attributes {
	if d.chance(50) {
		return trust.Attributes{Verb: "get", Path: d.one([]string{"/api", "/apis/apps/v1", "/openapi/v3", "/version", "/healthz", "/livez", "/readyz"})}
	}
	return trust.Attributes{Verb: "create", APIGroup: "authorization.k8s.io", APIVersion: "v1", Resource: "selfsubjectaccessreviews", ResourceRequest: true}
}

// The base set is a part of what Kubernetes gives every authenticated identity;
// it must not allow what the API server would refuse.
func TestBaseSetIsWithinKubernetesDefaults(t *testing.T) {
	var defaults []rbacv1.PolicyRule
	for _, r := range bootstrappolicy.ClusterRoles() {
		switch r.Name {
		case "system:discovery", "system:public-info-viewer", "system:basic-user":
			defaults = append(defaults, r.Rules...)
		}
	}
	if len(defaults) < 3 {
		t.Fatal("the default roles were not found")
	}
	if ok, uncovered := validation.Covers(defaults, rbac.PolicyRules(trust.BaseSet())); !ok {
		t.Errorf("the base set allows more than Kubernetes does by default: %+v", uncovered)
	}
}

// Rules that have the same revision allow the same, and the difference between
// two revisions that an owner is shown is exact: what it adds allows only what
// the new revision allows, and all that the old one did not.
func TestDifferencesAreExact(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(seed, 2))}
	more, fewer := 0, 0
	for range 4000 {
		before := d.rules(3)
		after := slices.Clone(before)
		if d.chance(70) {
			after = append(after, d.rule())
		}
		if d.chance(50) {
			after = slices.Delete(after, 0, 1)
		}
		if len(after) == 0 {
			after = d.rules(1)
		}
		shuffled := slices.Clone(after)
		d.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		shuffled = append(shuffled, after[0])
		if trust.RevisionOf(shuffled) != trust.RevisionOf(after) {
			t.Fatalf("order or repetition changes the revision of %+v", after)
		}
		change := rbac.Compare(before, after)
		if trust.RevisionOf(before) == trust.RevisionOf(after) && len(change.Added)+len(change.Removed) > 0 {
			t.Fatalf("the same revision differs: %+v", change)
		}
		for range 10 {
			a := d.request([]trust.Grant{{Rules: append(slices.Clone(before), after...)}})
			was, is := allowedBy(before, &a), allowedBy(after, &a)
			added, removed := allowedBy(change.Added, &a), allowedBy(change.Removed, &a)
			if is && !was {
				more++
			}
			if was && !is {
				fewer++
			}
			if is && !was && !added || added && !is || was && !is && !removed || removed && !was {
				t.Fatalf("%+v: before %v, after %v, added %v, removed %v\n%+v\n%+v\n%+v", a, was, is, added, removed, before, after, change)
			}
		}
	}
	t.Logf("%d requests gained, %d lost", more, fewer)
	if more < 1000 || fewer < 1000 {
		t.Error("too few to say anything")
	}
}

func allowedBy(rules []trust.Rule, a *trust.Attributes) bool {
	return kube.RulesAllow(record(nil, a), rbac.PolicyRules(rules)...)
}
