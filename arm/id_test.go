package arm

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/trust"
)

const (
	sub     = "/subscriptions/0B1f6471-1bf0-4dda-aec3-111122223333"
	cluster = sub + "/resourceGroups/rg-1/providers/Microsoft.ContainerService/managedClusters/Blue"
)

func mustID(t testing.TB, s string) ID {
	t.Helper()
	id, err := ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestParseID(t *testing.T) {
	tests := []struct{ in, out, typ, name, full, parent string }{
		{"/", "/", "", "", "/", "/"},
		{sub, sub, "Microsoft.Resources/subscriptions", "0B1f6471-1bf0-4dda-aec3-111122223333", sub, "/"},
		{sub + "/resourcegroups/rg-1", sub + "/resourceGroups/rg-1", "Microsoft.Resources/resourceGroups", "rg-1", sub + "/resourceGroups/rg-1", sub},
		{cluster, cluster, "Microsoft.ContainerService/managedClusters", "Blue", "Microsoft.ContainerService/managedClusters/Blue", sub + "/resourceGroups/rg-1"},
		{cluster + "/trustedAccessRoleBindings/b", cluster + "/trustedAccessRoleBindings/b", "Microsoft.ContainerService/managedClusters/trustedAccessRoleBindings", "b",
			"Microsoft.ContainerService/managedClusters/Blue/trustedAccessRoleBindings/b", cluster},
		{cluster + "/PROVIDERS/Microsoft.Authorization/roleAssignments/x", cluster + "/providers/Microsoft.Authorization/roleAssignments/x",
			"Microsoft.Authorization/roleAssignments", "x", "Microsoft.Authorization/roleAssignments/x", cluster},
		{"/providers/Microsoft.Authorization/roleAssignments/x", "/providers/Microsoft.Authorization/roleAssignments/x", "Microsoft.Authorization/roleAssignments", "x",
			"Microsoft.Authorization/roleAssignments/x", "/"},
		{sub + "/providers/Microsoft.Security/pricings/Containers", sub + "/providers/Microsoft.Security/pricings/Containers", "Microsoft.Security/pricings", "Containers",
			"Microsoft.Security/pricings/Containers", sub},
	}
	for _, tt := range tests {
		id := mustID(t, tt.in)
		got := []string{id.String(), id.Type(), id.Name(), id.FullName(), id.Parent().String()}
		if diff := cmp.Diff([]string{tt.out, tt.typ, tt.name, tt.full, tt.parent}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.in, diff)
		}
	}
}

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "x", "//", "/subscriptions", "/subscriptions/", "/subscriptions/x", sub + "/", sub + "/resourceGroups", sub + "/resourceGroups/a.",
		sub + "/resourceGroups/" + strings.Repeat("a", 91), sub + "/groups/x", sub + "/providers", sub + "/providers/N", sub + "/providers/N/t",
		sub + "/providers/N/t/n/t2", sub + "/providers/N/providers/x/y", sub + "/providers/N/t/..", sub + "/providers/N/t/a b", sub + "/providers/N/t/a?b",
		sub + "/providers/N/t/a%2fb", sub + `/providers/N/t/a\b`, sub + "/providers/\u212Aube/t/n", sub + "/providers/N/t/\u0131", sub + "/providers/N/t/n\x00",
		"/" + strings.Repeat("a", 3000), "/subscriptions/" + strings.Repeat("0", 36),
	} {
		if id, err := ParseID(s); err == nil || trust.KindOf(err) != trust.Invalid {
			t.Errorf("ParseID(%q) = %v, %v; want a refusal", s, id, err)
		}
	}
}

func TestIDsCompareWithoutRegardToASCIICase(t *testing.T) {
	a, b := mustID(t, cluster), mustID(t, strings.ToUpper(cluster))
	if !a.Equal(b) || a.String() == b.String() {
		t.Errorf("%v and %v: want equal, casing kept", a, b)
	}
	if SameID("/k", "/\u212a") || SameID("/i", "/\u0131") || SameID("/s", "/\u017f") {
		t.Error("a look-alike outside ASCII compares equal")
	}
}

func TestScopesAndChildren(t *testing.T) {
	id := mustID(t, cluster).Child("trustedAccessRoleBindings", "b")
	var got []string
	for _, s := range id.Scopes() {
		got = append(got, s.String())
	}
	want := []string{"/", sub, sub + "/resourceGroups/rg-1", cluster, cluster + "/trustedAccessRoleBindings/b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("scopes (-want +got):\n%s", diff)
	}
	a := mustID(t, cluster).Child("x", "1")
	b := mustID(t, cluster).Child("x", "2")
	if a.Name() != "1" || b.Name() != "2" || id.GroupID().String() != sub+"/resourceGroups/rg-1" || id.SubscriptionID().String() != sub {
		t.Error("children share memory, or the scopes are wrong")
	}
	if e := mustID(t, cluster).Extend("N", "t", "n").String(); e != cluster+"/providers/N/t/n" {
		t.Error(e)
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("a", 63)
	tests := []struct {
		valid func(string) bool
		yes   []string
		no    []string
	}{
		{ValidGroupName, []string{"a", "A_b-c.(d)", strings.Repeat("a", 90)}, []string{"", ".", "a.", "a b", strings.Repeat("a", 91), "\u212a"}},
		{ValidClusterName, []string{"a", "a-_b", long}, []string{"", "-", "a-", "_a", long + "a", "a.b"}},
		{ValidBindingName, []string{"a", "-", strings.Repeat("a", 24)}, []string{"", "a_b", "a.b", strings.Repeat("a", 25)}},
		{ValidGUID, []string{"0B1f6471-1bf0-4dda-aec3-111122223333"}, []string{"", "0B1f64711bf04ddaaec3111122223333", "{0B1f6471-1bf0-4dda-aec3-111122223333}", "0B1f6471-1bf0-4dda-aec3-11112222333g"}},
	}
	for i, tt := range tests {
		for _, s := range tt.yes {
			if !tt.valid(s) {
				t.Errorf("%d: %q is refused", i, s)
			}
		}
		for _, s := range tt.no {
			if tt.valid(s) {
				t.Errorf("%d: %q is accepted", i, s)
			}
		}
	}
	if !SameLocation("East US", "eastus") || SameLocation("east-us", "eastus") {
		t.Error("locations")
	}
}

// What parses comes back the same when written and read again, and never holds
// anything but printable ASCII.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{"/", sub, cluster, cluster + "/trustedAccessRoleBindings/b", cluster + "/providers/A/b/c/d/e", "/providers/A/b/c", "/subscriptions//x", "//", "/\u212a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		if !SameID(id.String(), s) {
			t.Fatalf("%q became %q", s, id)
		}
		again, err := ParseID(id.String())
		if err != nil || again.String() != id.String() {
			t.Fatalf("%q: read again: %v, %v", s, again, err)
		}
		for _, c := range []byte(id.String()) {
			if c <= ' ' || c > '~' {
				t.Fatalf("%q holds byte %#x", s, c)
			}
		}
		for i, scope := range id.Scopes() {
			if i == 0 && !scope.IsRoot() {
				t.Fatalf("%q: scopes begin at %s", s, scope)
			}
		}
	})
}
