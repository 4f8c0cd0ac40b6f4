package devclustertest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

var shared devclustertest.Shared

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

func TestShared(t *testing.T) {
	c := shared.Cluster(t)
	if out, err := c.Kubectl(t.Context(), "get", "namespace", "default", "-o", "name"); out != "namespace/default\n" || err != nil {
		t.Errorf("kubectl get = %q, %v", out, err)
	}
	t.Run("again", func(t *testing.T) {
		if again := shared.Cluster(t); again != c {
			t.Error("a second cluster was started")
		}
	})
}

// reason records why a test was skipped or failed, instead of doing it.
type reason struct {
	testing.TB
	skipped, failed string
}

func (r *reason) Skip(args ...any)  { r.skipped = args[0].(error).Error(); panic(r) }
func (r *reason) Fatal(args ...any) { r.failed = args[0].(error).Error(); panic(r) }

func resolve(t *testing.T) (r *reason) {
	r = &reason{TB: t}
	defer func() {
		if p := recover(); p != nil && p != any(r) {
			panic(p)
		}
	}()
	devclustertest.Binary(r)
	return r
}

func TestMode(t *testing.T) {
	t.Setenv(devcluster.EnvAssets, "")
	t.Setenv(devcluster.EnvBinary, "/nonexistent/devcluster")
	for mode, want := range map[string]struct{ skipped, failed string }{
		"":        {skipped: "/nonexistent/devcluster"},
		"off":     {skipped: "SALLYPORT_TEST_DEVCLUSTER=off"},
		"build":   {skipped: "/nonexistent/devcluster"},
		"require": {failed: "/nonexistent/devcluster"},
		"perhaps": {skipped: "want build, require, off"},
	} {
		t.Setenv(devclustertest.EnvMode, mode)
		r := resolve(t)
		if !strings.Contains(r.skipped, want.skipped) || !strings.Contains(r.failed, want.failed) ||
			(r.skipped == "") != (want.skipped == "") || (r.failed == "") != (want.failed == "") {
			t.Errorf("mode %q: skipped %q, failed %q; want %+v", mode, r.skipped, r.failed, want)
		}
	}
}
