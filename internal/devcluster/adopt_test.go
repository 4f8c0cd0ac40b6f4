package devcluster_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

func TestAdoptTouchesNothingOfTheCluster(t *testing.T) {
	owner := devclustertest.Start(t, devcluster.Config{})
	dir := filepath.Join(t.TempDir(), "adopted")
	c, err := devcluster.Adopt(t.Context(), devcluster.Adoption{Binary: devclustertest.Binary(t), Dir: dir, Kubeconfig: owner.Kubeconfig(), Context: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	if c.URL() != owner.URL() || string(c.CA()) != string(owner.CA()) {
		t.Errorf("adopted %s, want %s and its CA", c.URL(), owner.URL())
	}
	if out, err := c.Kubectl(t.Context(), "get", "namespaces", "-o", "name"); err != nil || !strings.Contains(out, "namespace/default") {
		t.Errorf("kubectl: %v %s", err, out)
	}
	if err := c.StartCompanion(devcluster.Companion{Name: "beside", Path: "/bin/sleep", Args: []string{"3600"}}); err != nil {
		t.Fatal(err)
	}
	pid := c.PID("beside")
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/proc", "self")); err == nil && pid > 0 {
		if cmd, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline")); err == nil && strings.Contains(string(cmd), "3600") {
			t.Error("the companion goes on")
		}
	}
	if out, err := owner.Kubectl(t.Context(), "get", "--raw", "/readyz"); err != nil || out != "ok" {
		t.Errorf("the adopted cluster was touched: %v %s", err, out)
	}
}

func TestAdoptNamesWhatIsWrong(t *testing.T) {
	binary := devclustertest.Binary(t)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte("apiVersion: v1\nkind: Config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := devcluster.Adopt(t.Context(), devcluster.Adoption{Binary: binary, Dir: filepath.Join(t.TempDir(), "d"), Kubeconfig: file, Context: "nowhere"})
	if err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("%v, want the context's name", err)
	}
}
