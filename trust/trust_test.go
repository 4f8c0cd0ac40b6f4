package trust

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestPublishedRolesArePublishableAndNamed(t *testing.T) {
	want := []string{
		"Microsoft.DataProtection/backupVaults/backup-operator",
		"Microsoft.MachineLearningServices/workspaces/mlworkload",
		"Microsoft.MachineLearningServices/workspaces/inference-v1",
		"Microsoft.Security/pricings/microsoft-defender-operator",
		"Microsoft.Security/pricings/microsoft-defender-policy-operator",
		"Microsoft.Security/pricings/microsoft-defender-network-policy-operator",
		"Microsoft.Security/pricings/mdc-response-operator",
	}
	var got []string
	for _, r := range Published() {
		got = append(got, string(r.FullName()))
		if err := ValidateRole(r); err != nil {
			t.Errorf("ValidateRole(%s) = %v, want nil", r.FullName(), err)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("published roles:\n got %q\nwant %q", got, want)
	}
}

func TestOutlivesRevocation(t *testing.T) {
	for _, r := range Published() {
		marked := len(OutlivesRevocation(r.Rules)) > 0
		want := map[string]bool{"inference-v1": true, "microsoft-defender-operator": true, "microsoft-defender-policy-operator": true,
			"microsoft-defender-network-policy-operator": true, "mdc-response-operator": true}[r.Name]
		if marked != want {
			t.Errorf("%s: marked %v (%q), want %v", r.Name, marked, OutlivesRevocation(r.Rules), want)
		}
	}
	if why := OutlivesRevocation([]Rule{on("*", "*", "list")}); len(why) != 1 || !strings.Contains(why[0], "secrets") {
		t.Errorf("list on everything: %q, want Secrets only", why)
	}
	named := on("", "secrets", "get")
	named.ResourceNames = []string{"one"}
	if why := OutlivesRevocation([]Rule{named}); len(why) != 1 {
		t.Errorf("get on one named Secret: %q, want it marked", why)
	}
}

func TestRevisionIgnoresOrderAndNothingElse(t *testing.T) {
	a := []Rule{on("", "pods services", "get list"), on("apps", "deployments", "get")}
	b := []Rule{on("apps", "deployments", "get get"), on("", "services pods", "list get"), on("apps", "deployments", "get")}
	if RevisionOf(a) != RevisionOf(b) {
		t.Error("the same rules in another order have another revision")
	}
	if len(RevisionOf(a)) != 32 {
		t.Errorf("revision %q, want 32 digits", RevisionOf(a))
	}
	different := [][]Rule{
		a, nil, a[:1],
		{{Verbs: []string{"get"}, APIGroups: []string{"", "apps"}}},
		{{Verbs: []string{"get", ""}, APIGroups: []string{"apps"}}},
		{{Verbs: []string{"get"}, Resources: []string{"x"}}},
		{{Verbs: []string{"get"}, ResourceNames: []string{"x"}}},
		{{Verbs: []string{"get"}, NonResourceURLs: []string{"x"}}},
	}
	seen := map[Revision]int{}
	for i, r := range different {
		if j, ok := seen[RevisionOf(r)]; ok {
			t.Errorf("rule sets %d and %d have one revision", i, j)
		}
		seen[RevisionOf(r)] = i
	}
}

func TestValidateRoleRefuses(t *testing.T) {
	role := func(r ...Rule) Role { return Role{SourceType: "Contoso.Scanner/scanners", Name: "reader", Rules: r} }
	tests := []struct {
		name string
		role Role
		kind Kind
	}{
		{"no rules", role(), Invalid},
		{"no type", Role{SourceType: "Contoso", Name: "x", Rules: []Rule{on("", "pods", "get")}}, Invalid},
		{"Kelvin sign", Role{SourceType: "Contoso.\u212Aube/x", Name: "x", Rules: []Rule{on("", "pods", "get")}}, Invalid},
		{"empty name", Role{SourceType: "Contoso.A/x", Rules: []Rule{on("", "pods", "get")}}, Invalid},
		{"no verbs", role(Rule{APIGroups: []string{""}, Resources: []string{"pods"}}), Invalid},
		{"no groups", role(Rule{Verbs: []string{"get"}, Resources: []string{"pods"}}), Invalid},
		{"mixed", role(Rule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}, NonResourceURLs: []string{"/x"}}), Invalid},
		{"relative URL", role(Rule{Verbs: []string{"get"}, NonResourceURLs: []string{"metrics"}}), Invalid},
		{"control byte", role(on("", "po\x00ds", "get")), Invalid},
		{"all verbs", role(on("", "pods", "*")), Forbidden},
		{"impersonate", role(on("", "users", "impersonate")), Forbidden},
		{"constrained impersonation", role(on("authentication.k8s.io", "users", "impersonate:user-info")), Forbidden},
		{"escalate", role(on("rbac.authorization.k8s.io", "clusterroles", "escalate")), Forbidden},
		{"bind", role(on("rbac.authorization.k8s.io", "clusterroles", "bind")), Forbidden},
		{"approve", role(on("certificates.k8s.io", "signers", "approve")), Forbidden},
		{"token", role(on("", "serviceaccounts/token", "create")), Forbidden},
		{"token by wildcard", role(on("", "*", "create")), Forbidden},
		{"token by subresource wildcard", role(on("*", "*/token", "create")), Forbidden},
	}
	for _, tt := range tests {
		if got := KindOf(ValidateRole(tt.role)); ValidateRole(tt.role) == nil || got != tt.kind {
			t.Errorf("%s: kind %v (%v), want %v", tt.name, got, ValidateRole(tt.role), tt.kind)
		}
	}
}

func TestDecide(t *testing.T) {
	names := on("", "configmaps", "get")
	names.ResourceNames = []string{"one"}
	p := Compile([]Grant{
		{Role: "T/t/wide", Rules: []Rule{on("", "pods pods/log", "get list"), on("apps", "*/scale", "patch"), names,
			{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics", "/logs/*"}}}},
		{Role: "T/t/narrow", Namespaces: []string{"blue"}, Rules: []Rule{on("", "services", "create"),
			{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}}},
	})
	res := func(verb, group, ns, resource, sub, name string) Attributes {
		return Attributes{Verb: verb, APIGroup: group, Namespace: ns, Resource: resource, Subresource: sub, Name: name, ResourceRequest: true}
	}
	tests := []struct {
		a    Attributes
		want RoleName // "-" means refused, "" the base set
	}{
		{res("get", "", "blue", "pods", "", "x"), "T/t/wide"},
		{res("list", "", "", "pods", "", ""), "T/t/wide"},
		{res("watch", "", "", "pods", "", ""), "-"},
		{res("get", "", "blue", "pods", "log", "x"), "T/t/wide"},
		{res("get", "", "blue", "pods", "exec", "x"), "-"},
		{res("get", "metrics.k8s.io", "blue", "pods", "", "x"), "-"},
		{res("patch", "apps", "blue", "deployments", "scale", "x"), "T/t/wide"},
		{res("patch", "apps", "blue", "deployments", "", "x"), "-"},
		{res("get", "", "blue", "configmaps", "", "one"), "T/t/wide"},
		{res("get", "", "blue", "configmaps", "", "two"), "-"},
		{res("create", "", "blue", "services", "", ""), "T/t/narrow"},
		{res("create", "", "green", "services", "", ""), "-"},
		{res("create", "", "", "services", "", ""), "-"},
		{Attributes{Verb: "get", Path: "/metrics"}, "T/t/wide"},
		{Attributes{Verb: "get", Path: "/logs/kubelet.log"}, "T/t/wide"},
		{Attributes{Verb: "get", Path: "/debug/pprof"}, "-"},
		{Attributes{Verb: "get", Path: "/debug/pprof", Namespace: "blue"}, "-"},
		{Attributes{Verb: "get", Path: "/api"}, ""},
		{Attributes{Verb: "get", Path: "/apis/apps/v1"}, ""},
		{Attributes{Verb: "post", Path: "/api"}, "-"},
		{res("create", "authorization.k8s.io", "", "selfsubjectaccessreviews", "", ""), ""},
		{res("create", "authorization.k8s.io", "", "subjectaccessreviews", "", ""), "-"},
	}
	for _, tt := range tests {
		d := p.Decide(&tt.a)
		if d.Allowed != (tt.want != "-") || (d.Allowed && d.Role != tt.want) {
			t.Errorf("Decide(%+v) = %+v, want role %q", tt.a, d, tt.want)
		}
	}
	var none *Policy
	if none.Decide(&Attributes{Verb: "get", Path: "/metrics"}).Allowed {
		t.Error("no policy allowed a request outside the base set")
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p := Compile([]Grant{{Role: "T/t/wide", Rules: Published()[2].Rules}})
	a := Attributes{Verb: "get", Namespace: "blue", Resource: "pods", Name: "x", ResourceRequest: true}
	if n := testing.AllocsPerRun(100, func() { p.Decide(&a) }); n > 0 {
		t.Errorf("Decide allocates %v times, want 0", n)
	}
}

func TestErrorKeepsTheCauseOutOfTheMessage(t *testing.T) {
	err := Errorf(Unavailable, "cluster %s is not connected", "c").Because(io.ErrUnexpectedEOF)
	if err.Message != "cluster c is not connected" || KindOf(err) != Unavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %+v", err)
	}
	if KindOf(io.EOF) != Internal || KindOf(nil) != Internal {
		t.Error("an unknown error must be Internal")
	}
}

func TestFoldIsASCIIOnly(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "ABC/Def": "abc/def", "\u212Aelvin": "\u212Aelvin", "I\u0131\u0130": "i\u0131\u0130"} {
		if got := Fold(in); got != want {
			t.Errorf("Fold(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSameFold(t *testing.T) {
	words := []string{"", "a", "A", "K", "k", "\u212a", "ab", "aB", "[", "{", "@", "`", "a/B-c", "A/b-C", "\xc1", "\xe1"}
	for _, a := range words {
		for _, b := range words {
			if got, want := SameFold(a, b), Fold(a) == Fold(b); got != want {
				t.Errorf("SameFold(%q, %q) = %v", a, b, got)
			}
		}
	}
}
