package devcluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// KubernetesVersion is the version of every component in the binary.
	KubernetesVersion = "v1.36.3"

	// EnvBinary names a prebuilt binary, like [Options.Path].
	EnvBinary = "SALLYPORT_DEVCLUSTER"
	// EnvAssets names a folder with etcd, kube-apiserver and kubectl, as
	// controller-runtime's setup-envtest writes it.
	EnvAssets = "KUBEBUILDER_ASSETS"

	productModule = "github.com/sallyport/sallyport"
)

// ErrNotBuilt is returned by [Find] when no binary is in the cache.
var ErrNotBuilt = errors.New("the Kubernetes binary is not built yet")

// Options say where the Kubernetes binary comes from.
type Options struct {
	// Path is a prebuilt binary (or a folder of separate ones); it wins over
	// the environment and nothing is built. Empty: EnvBinary, then EnvAssets,
	// then the cache.
	Path string
	// Source is any folder inside a checkout of the product; empty means the
	// working directory.
	Source string
	// CacheDir is where built binaries live; empty means
	// os.UserCacheDir()/sallyport/devcluster.
	CacheDir string
}

// Find returns the binary (or folder of separate binaries) that [Build] would
// return, without building: ErrNotBuilt if it is not in the cache.
func Find(ctx context.Context, o Options) (string, error) {
	path, err := o.prebuilt()
	if path != "" || err != nil {
		return path, err
	}
	t, err := o.target(ctx)
	if err != nil {
		return "", err
	}
	if err := executable(t.binary); err != nil {
		return "", ErrNotBuilt
	}
	return t.binary, nil
}

// Build returns the path of the Kubernetes binary, building it first if the
// cache has none for this source and Go version. A cold build takes about eight
// minutes on two cores and 3 GB of disk; it may be interrupted at any time and
// resumes where it stopped, because Go's build cache keeps each package. Two
// processes that build at once take turns. progress may be nil; it is called
// from one goroutine, a few times per second.
//
// If EnvAssets is in force the path is that folder: [Config.Binary] takes both.
func Build(ctx context.Context, o Options, progress func(Progress)) (string, error) {
	path, err := o.prebuilt()
	if path != "" || err != nil {
		return path, err
	}
	t, err := o.target(ctx)
	if err != nil {
		return "", err
	}
	return t.cached(ctx, progress)
}

// BuildNodeTool is Build for the small program that nodes and their first
// images are made of; a cold build takes seconds. Beside a prebuilt binary a
// file "nodetool" is taken.
func BuildNodeTool(ctx context.Context, o Options) (string, error) {
	path, err := o.prebuilt()
	if err != nil {
		return "", err
	}
	if beside := filepath.Join(filepath.Dir(path), "nodetool"); path != "" && executable(beside) == nil {
		return beside, nil
	}
	root, err := o.moduleRoot()
	if err != nil {
		return "", fmt.Errorf("build the nodes' tool: %w", err)
	}
	t := target{source: root, flags: []string{"-ldflags", "-s -w"}, pkg: "./internal/devcluster/nodetool"}
	version, err := goVersion(ctx, root)
	if err != nil {
		return "", err
	}
	files := []string{"go.sum"}
	for _, dir := range []string{"nodetool", "nodeinit"} {
		found, err := filepath.Glob(filepath.Join(root, "internal", "devcluster", dir, "*.go"))
		if err != nil {
			return "", err
		}
		for _, f := range found {
			if !strings.HasSuffix(f, "_test.go") {
				files = append(files, strings.TrimPrefix(f, root+string(filepath.Separator)))
			}
		}
	}
	if err := t.locate(o, "nodetool", version, files...); err != nil {
		return "", err
	}
	return t.cached(ctx, nil)
}

// cached builds the target unless the cache has it.
func (t target) cached(ctx context.Context, progress func(Progress)) (string, error) {
	if executable(t.binary) == nil {
		return t.binary, nil
	}
	if progress == nil {
		progress = func(Progress) {}
	}
	started := time.Now()
	unlock, err := lockFile(ctx, t.binary+".lock", func() {
		progress(Progress{Phase: PhaseWait, Elapsed: time.Since(started)})
	})
	if err != nil {
		return "", fmt.Errorf("lock the build of devcluster: %w", err)
	}
	defer unlock()
	if executable(t.binary) == nil { // another process built it meanwhile
		return t.binary, nil
	}
	if err := t.build(ctx, started, progress); err != nil {
		return "", err
	}
	return t.binary, nil
}

// prebuilt returns a binary that is named by hand, or "".
func (o Options) prebuilt() (string, error) {
	for _, c := range []struct{ path, from string }{
		{o.Path, "the given path"},
		{os.Getenv(EnvBinary), EnvBinary},
		{os.Getenv(EnvAssets), EnvAssets},
	} {
		if c.path == "" {
			continue
		}
		path, err := filepath.Abs(c.path)
		if err != nil {
			return "", err
		}
		if _, err := newBinaries(path); err != nil {
			return "", fmt.Errorf("%s: %w", c.from, err)
		}
		return path, nil
	}
	return "", nil
}

// target is one buildable binary: where its source is and where it goes.
type target struct {
	source string // folder of the module
	binary string // absolute path in the cache
	flags  []string
	pkg    string
}

// target computes the cache key of the multi-call binary.
func (o Options) target(ctx context.Context) (target, error) {
	root, err := o.moduleRoot()
	if err != nil {
		return target{}, err
	}
	t := target{
		source: filepath.Join(root, "devcluster"),
		flags:  []string{"-ldflags", linkFlags()},
		pkg:    ".",
	}
	version, err := goVersion(ctx, t.source)
	if err != nil {
		return target{}, err
	}
	return t, t.locate(o, "devcluster", version, "go.sum", "go.mod", "main.go")
}

// locate sets the place in the cache from the Go version and the named files.
func (t *target) locate(o Options, name, version string, files ...string) error {
	h := sha256.New()
	fmt.Fprintln(h, version, t.flags)
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(t.source, f))
		if err != nil {
			return fmt.Errorf("read devcluster's source: %w", err)
		}
		fmt.Fprintln(h, f, len(data))
		h.Write(data)
	}
	cache := o.CacheDir
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find the cache folder: %w", err)
		}
		cache = filepath.Join(dir, "sallyport", "devcluster")
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return err
	}
	t.binary = filepath.Join(cache, hex.EncodeToString(h.Sum(nil))[:16], name)
	if err := os.MkdirAll(filepath.Dir(t.binary), 0o755); err != nil {
		return fmt.Errorf("make the cache folder: %w", err)
	}
	return nil
}

// moduleRoot walks up from Source to the product's go.mod.
func (o Options) moduleRoot() (string, error) {
	start := o.Source
	if start == "" {
		start = "."
	}
	dir, err := filepath.Abs(start)
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		data, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module "+productModule+"\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no source of %s in %s or above, so Kubernetes cannot be built: "+
				"run from a checkout, or name a prebuilt binary with --devcluster PATH (or %s), "+
				"or use a cluster that exists with --kubeconfig FILE --context NAME",
				productModule, dir, EnvBinary)
		}
	}
}

func goVersion(ctx context.Context, dir string) (string, error) {
	cmd := goCommand(ctx, dir, "env", "GOVERSION")
	out, err := cmd.Output()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("building Kubernetes needs the go command: install Go 1.26, "+
				"or name a prebuilt binary with --devcluster PATH (or %s)", EnvBinary)
		}
		return "", fmt.Errorf("go env GOVERSION: %w", commandError(err))
	}
	return strings.TrimSpace(string(out)), nil
}

// goCommand keeps the user's toolchain and proxies, but not settings that would
// change what is built. Modules are verified against the committed go.sum.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off", "GOOS=", "GOARCH=")
	// go itself stops its compilers on an interrupt; killing it would orphan them.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// linkFlags strips the binary and states its version: without one the server
// says v0.0.0-master, which clients that parse versions refuse.
func linkFlags() string {
	parts := strings.SplitN(strings.TrimPrefix(KubernetesVersion, "v"), ".", 3)
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", pkg+".gitVersion="+KubernetesVersion,
			"-X", pkg+".gitMajor="+parts[0],
			"-X", pkg+".gitMinor="+parts[1])
	}
	return strings.Join(flags, " ")
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s is not an executable file", path)
	}
	return nil
}

// commandError adds the first lines a command wrote to stderr.
func commandError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || len(exit.Stderr) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
}

// drain reads r to its end so that its writer never blocks.
func drain(r io.Reader) { _, _ = io.Copy(io.Discard, r) }
