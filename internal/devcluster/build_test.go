package devcluster

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFindWithoutSource(t *testing.T) {
	for _, env := range []string{EnvBinary, EnvAssets} {
		t.Setenv(env, "")
	}
	_, err := Find(t.Context(), Options{Source: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "--devcluster PATH") || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("Find without source: %v, want the flags that help", err)
	}
	_, err = Find(t.Context(), Options{CacheDir: t.TempDir()})
	if !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Find in an empty cache: %v, want ErrNotBuilt", err)
	}
}

func TestFindPrebuilt(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(EnvBinary, "")
	t.Setenv(EnvAssets, dir)
	if _, err := Find(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "etcd") {
		t.Errorf("an empty %s: %v, want what is missing", EnvAssets, err)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kubectl"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Find(t.Context(), Options{}); got != dir || err != nil {
		t.Errorf("Find with %s = %q, %v", EnvAssets, got, err)
	}
	one := filepath.Join(dir, "kubectl")
	if got, err := Build(t.Context(), Options{Path: one}, nil); got != one || err != nil {
		t.Errorf("Build with a path = %q, %v", got, err)
	}
	if _, err := Start(t.Context(), Config{Binary: dir, Controllers: true}); err == nil || !strings.Contains(err.Error(), "kube-controller-manager") {
		t.Errorf("controllers from a folder without them: %v", err)
	}
}

func TestProgress(t *testing.T) {
	m := &meter{started: time.Now(), phase: PhaseDownload}
	m.read(bufio.NewScanner(strings.NewReader("go: downloading k8s.io/kubernetes v1.36.3\n")))
	if p := m.progress(); p.Phase != PhaseDownload || p.Package != "k8s.io/kubernetes v1.36.3" {
		t.Errorf("progress = %+v", p)
	}
	m.compile(101)
	m.compiling = time.Now().Add(-time.Minute)
	said := m.read(bufio.NewScanner(strings.NewReader(strings.Repeat("k8s.io/api\n", 50) + "# k8s.io/api\nx.go:1: no\n")))
	if p := m.progress(); p.Done != 50 || p.Total != 101 || p.Remaining < 60*time.Second || p.Remaining > 65*time.Second {
		t.Errorf("progress = %+v, want 50 of 101 and about 61 s left", p)
	}
	if len(said) != 2 {
		t.Errorf("compiler errors = %q", said)
	}
	m.read(bufio.NewScanner(strings.NewReader(productModule + "/devcluster\n")))
	if p := m.progress(); p.Phase != PhaseLink || p.Remaining != 0 {
		t.Errorf("progress = %+v, want linking", p)
	}
}

// TestBuildTarget builds a small module through the same code: a cold build of
// Kubernetes is not for a unit test.
func TestBuildTarget(t *testing.T) {
	source := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":  "module example.test/tiny\n\ngo 1.26\n",
		"go.sum":  "",
		"main.go": "package main\n\nfunc main() { println(\"built\") }\n",
	} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tiny := target{source: source, pkg: "."}
	if err := tiny.locate(Options{CacheDir: t.TempDir()}, "tiny", "go1", "go.sum", "main.go"); err != nil {
		t.Fatal(err)
	}
	if err := tiny.build(t.Context(), time.Now(), func(Progress) {}); err != nil {
		t.Fatal(err)
	}
	if err := executable(tiny.binary); err != nil {
		t.Error(err)
	}
	first := tiny.binary
	if err := os.WriteFile(filepath.Join(source, "main.go"), []byte("package main\n\nfunc main() { undefined() }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tiny.locate(Options{CacheDir: filepath.Dir(filepath.Dir(first))}, "tiny", "go1", "go.sum", "main.go"); err != nil {
		t.Fatal(err)
	}
	if tiny.binary == first {
		t.Error("another source has the same key")
	}
	err := tiny.build(t.Context(), time.Now(), func(Progress) {})
	if err == nil || !strings.Contains(err.Error(), "undefined") {
		t.Errorf("build of broken source: %v, want the compiler's words", err)
	}
	left, err := os.ReadDir(filepath.Dir(tiny.binary))
	if err != nil || len(left) != 0 {
		t.Errorf("a failed build left %v, %v", left, err)
	}
}
