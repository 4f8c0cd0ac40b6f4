package deploy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// Whoever takes consent back need not know whom the extension believes, and
// removes what accepting brought.
func TestConsentIsTakenBackByNamesAlone(t *testing.T) {
	o := options()
	o.NoAgents = true
	known := mlOptions(nil)
	bare := MLOptions{Namespaces: known.Namespaces, Image: known.Image}
	if _, err := Accept(o, bare); trust.KindOf(err) != trust.Invalid {
		t.Errorf("accepted without anybody to believe: %v", err)
	}
	names := func(all []rbac.Explained) (names []string) {
		for _, e := range all {
			names = append(names, e.Object.GetObjectKind().GroupVersionKind().Kind+" "+e.Object.GetNamespace()+"/"+e.Object.GetName())
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	brought, err := Accept(o, known)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := Withdraw(o, bare)
	if err != nil {
		t.Fatal(err)
	}
	installers := names(rbac.InstallerRights(o.Cluster)) // they stay, for other types
	want := slices.DeleteFunc(names(brought), func(n string) bool { return slices.Contains(installers, n) })
	if diff := cmp.Diff(want, names(taken)); diff != "" {
		t.Error(diff)
	}
}
