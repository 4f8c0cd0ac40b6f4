// Package devclustertest gives tests a real API server. It owns when one is
// built, shared, skipped and stopped; what a cluster is belongs to devcluster.
package devclustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
)

// EnvMode says what a test does when the Kubernetes binary is not built yet:
// empty skips it, "build" builds (minutes; raise go test's -timeout) and skips
// only if that fails, "require" builds and fails where "build" would skip.
// "off" skips every test that wants a cluster.
const EnvMode = "SALLYPORT_TEST_DEVCLUSTER"

// Shared is one cluster for the tests of a package, started by the first test
// that asks. Declare it as a variable of the test package, with Config if the
// default (an API server without controllers) is too little, and call Main from
// TestMain.
type Shared struct {
	Config devcluster.Config

	once    sync.Once
	cluster *devcluster.Cluster
	missing error // why there is none
	broken  error
}

// Main runs the tests and stops the cluster; it returns the exit code.
func (s *Shared) Main(m *testing.M) int {
	code := m.Run()
	if s.cluster == nil {
		return code
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.cluster.Stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// Cluster returns the shared cluster, or skips t with the reason.
func (s *Shared) Cluster(t testing.TB) *devcluster.Cluster {
	t.Helper()
	s.once.Do(func() {
		// Not t's context: the cluster outlives the test that happens to be first.
		s.cluster, s.missing, s.broken = start(context.Background(), s.Config)
	})
	return resolve(t, s.cluster, s.missing, s.broken)
}

// Start makes a cluster for one test and stops it when the test ends. It skips
// t with the reason where there cannot be one.
func Start(t testing.TB, cfg devcluster.Config) *devcluster.Cluster {
	t.Helper()
	cluster, missing, broken := start(t.Context(), cfg)
	if cluster != nil {
		t.Cleanup(func() {
			if err := cluster.Stop(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
	return resolve(t, cluster, missing, broken)
}

// Binary returns the Kubernetes binary, or skips t with the reason.
func Binary(t testing.TB) string {
	t.Helper()
	path, missing := binary(t.Context())
	if missing != nil {
		skip(t, missing)
	}
	return path
}

// start tells apart what is missing (skip) from what is broken (fail).
func start(ctx context.Context, cfg devcluster.Config) (c *devcluster.Cluster, missing, broken error) {
	if cfg.Nodes > 0 {
		if ok, reason := devcluster.CanRunNodes(); !ok {
			return nil, fmt.Errorf("no real node here: %s", reason), nil
		}
	}
	if cfg.Binary == "" {
		if cfg.Binary, missing = binary(ctx); missing != nil {
			return nil, missing, nil
		}
	}
	c, broken = devcluster.Start(ctx, cfg)
	return c, nil, broken
}

func binary(ctx context.Context) (string, error) {
	mode := os.Getenv(EnvMode)
	switch mode {
	case "off":
		return "", fmt.Errorf("%s=off", EnvMode)
	case "build", "require":
		path, err := devcluster.Build(ctx, devcluster.Options{}, reportTo(os.Stderr))
		if err != nil {
			return "", fmt.Errorf("no real API server: %w", err)
		}
		return path, nil
	case "":
		path, err := devcluster.Find(ctx, devcluster.Options{})
		if errors.Is(err, devcluster.ErrNotBuilt) {
			return "", fmt.Errorf("no real API server: %w; %s=build builds it once (about 8 minutes)", err, EnvMode)
		}
		if err != nil {
			return "", fmt.Errorf("no real API server: %w", err)
		}
		return path, nil
	}
	return "", fmt.Errorf("%s=%q: want build, require, off or nothing", EnvMode, mode)
}

// reportTo prints a line every ten seconds, for the log of a CI run.
func reportTo(f *os.File) func(devcluster.Progress) {
	var last time.Time
	return func(p devcluster.Progress) {
		if now := time.Now(); now.Sub(last) >= 10*time.Second {
			last = now
			fmt.Fprintln(f, "devcluster:", p)
		}
	}
}

func resolve(t testing.TB, c *devcluster.Cluster, missing, broken error) *devcluster.Cluster {
	t.Helper()
	if missing != nil {
		skip(t, missing)
	}
	if broken != nil {
		t.Fatal(broken)
	}
	return c
}

func skip(t testing.TB, reason error) {
	t.Helper()
	if os.Getenv(EnvMode) == "require" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
