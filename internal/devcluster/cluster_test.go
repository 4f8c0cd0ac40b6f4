package devcluster_test

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

func TestStartStop(t *testing.T) {
	binary := devclustertest.Binary(t)
	dir := t.TempDir()
	began := time.Now()
	c, err := devcluster.Start(t.Context(), devcluster.Config{Binary: binary, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ready := time.Since(began)
	t.Logf("ready after %s", ready.Round(time.Millisecond))

	out, err := c.Kubectl(t.Context(), "version")
	if err != nil {
		t.Error(err)
	}
	if want := "Server Version: " + devcluster.KubernetesVersion; !strings.Contains(out, want) {
		t.Errorf("kubectl version = %q, want %q in it", out, want)
	}
	who, err := c.Kubectl(t.Context(), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	if err != nil || who != "kubernetes-admin" {
		t.Errorf("whoami = %q, %v", who, err)
	}

	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stays", "goes"} {
		if err := c.StartCompanion(devcluster.Companion{Name: name, Path: sleep, Args: []string{"600"}}); err != nil {
			t.Fatal(err)
		}
	}
	pids := []int{c.PID("etcd"), c.PID("kube-apiserver"), c.PID("stays")}
	goes := c.PID("goes")
	if err := c.StopCompanion(t.Context(), "goes"); err != nil {
		t.Error(err)
	}
	eventually(t, 5*time.Second, func() error { return gone([]int{goes}) })
	if err := gone(pids); err == nil {
		t.Error("the others are gone with one companion")
	}
	began = time.Now()
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped after %s", time.Since(began).Round(time.Millisecond))
	wantGone(t, pids...)
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	if err := c.StartCompanion(devcluster.Companion{Name: "late", Path: sleep}); err == nil {
		t.Error("a companion started in a stopped cluster")
	}
	if _, err := os.Stat(dir + "/state.json"); !os.IsNotExist(err) {
		t.Errorf("state.json after Stop: %v", err)
	}
}

func TestSideBySide(t *testing.T) {
	binary := devclustertest.Binary(t)
	configs := []devcluster.Config{
		{Binary: binary, Controllers: true, AuditLevel: "Metadata"},
		{Binary: binary, NoAnonymous: true, NoClientCerts: true},
	}
	clusters := make([]*devcluster.Cluster, len(configs))
	var wg sync.WaitGroup
	for i, cfg := range configs {
		wg.Go(func() {
			c, err := devcluster.Start(t.Context(), cfg)
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() {
				if err := c.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			})
			clusters[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	a, b := clusters[0], clusters[1]
	if a.URL() == b.URL() || a.AdminToken() == b.AdminToken() || a.ServiceAccountIssuer() == b.ServiceAccountIssuer() {
		t.Error("two clusters share a URL, token or issuer")
	}
	if _, err := a.Kubectl(t.Context(), "create", "namespace", "only-in-a"); err != nil {
		t.Error(err)
	}
	if out, err := b.Kubectl(t.Context(), "get", "namespace", "only-in-a"); err == nil {
		t.Errorf("b has a's namespace: %s", out)
	}
	// Controllers: a deleted namespace goes. kubectl waits for it.
	if _, err := a.Kubectl(t.Context(), "delete", "namespace", "only-in-a", "--timeout=60s"); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(a.AuditLogPath())
	if err != nil || !strings.Contains(string(log), `"name":"only-in-a"`) {
		t.Errorf("audit log does not hold the namespace: %d bytes, %v", len(log), err)
	}
	for c, want := range map[*devcluster.Cluster]int{a: 200, b: 401} {
		resp, err := c.Client().Get(c.URL() + "/version")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("anonymous GET /version of %s = %s, want %d", c.URL(), resp.Status, want)
		}
	}
	config, err := os.ReadFile(b.Kubeconfig())
	if err != nil || strings.Contains(string(config), "client-certificate") {
		t.Errorf("kubeconfig without client certificates holds one: %v", err)
	}
}

// wantGone fails unless none of the processes is left.
func wantGone(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if pid == 0 {
			t.Error("a process was never recorded")
			continue
		}
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); !os.IsNotExist(err) {
			t.Errorf("process %d is still there (%v)", pid, err)
		}
	}
}
