package up

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

func TestUpOnAClusterThatExistsAsksFirstAndDownRemovesExactlyWhatItMade(t *testing.T) {
	owner := devclustertest.Start(t, devcluster.Config{Controllers: true})
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	all := func() string {
		t.Helper()
		out, err := owner.Kubectl(t.Context(), "get", "namespaces,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "-o", "name")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := all()
	var out bytes.Buffer
	o := Options{Dir: filepath.Join(t.TempDir(), "up"), Source: root, Devcluster: devclustertest.Binary(t), Kubeconfig: owner.Kubeconfig(), Context: "dev", Out: &out}
	down := func() {
		t.Helper()
		if err := Down(t.Context(), o); err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
		if after := all(); after != before {
			t.Errorf("after down the cluster holds\n%s\nbefore it held\n%s", after, before)
		}
	}

	o.In = strings.NewReader("another\n")
	if err := Up(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nothing was made") || all() != before {
		t.Fatalf("a wrong name: %v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "clusterrole.rbac.authorization.k8s.io/sallyport:reconciler") {
		t.Errorf("the objects were not shown:\n%s", &out)
	}
	down()

	out.Reset()
	o.In = strings.NewReader("dev\n")
	if err := Up(t.Context(), o); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if !strings.Contains(out.String(), "the watch was cut") {
		t.Errorf("the story was not told:\n%s", &out)
	}
	down()
}
