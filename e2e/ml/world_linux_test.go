package ml

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

const (
	mlVersion  = "2024-04-01"
	mlImage    = "dev.sallyport.test/sallyport-ml:1"
	trainImage = "dev.sallyport.test/train:1"

	installerImage = "dev.sallyport.test/sallyport-installer:1"
	agentImage     = "dev.sallyport.test/sallyport-agent:1" // the probe's
	workspaces     = "Microsoft.MachineLearningServices/workspaces"
	mlworkload     = workspaces + "/mlworkload"
	prober         = "Contoso.Prober/probers/prober" // what a workspace has in the cluster, and no more

	// patience is how long something may take on a slow machine. How long it should
	// take is no matter, but where a test says so.
	patience = 5 * time.Minute
)

const proberYAML = `
sourceResourceType: Contoso.Prober/probers
name: prober
rules:
- {apiGroups: [""], resources: [services/proxy], verbs: [get, create, update, delete]}
`

var (
	shared struct {
		sync.Once
		w      *world
		failed error
	}
	kubes = devclustertest.Shared{Config: devcluster.Config{AuditLevel: "Metadata", Controllers: true, Nodes: nodes()}}
)

// nodes of the cluster: one of three is lost where long faults are played.
func nodes() int {
	if long() {
		return 3
	}
	return 1
}

func TestMain(m *testing.M) {
	code := kubes.Main(m)
	if w := shared.w; w != nil {
		if err := w.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		if code != 0 {
			fmt.Fprintln(os.Stderr, "everything is kept in", w.Dir)
		} else {
			os.RemoveAll(w.Dir)
		}
	}
	os.Exit(code)
}

// world is the shared installation, connected to the shared cluster: the
// workspace "trainer" is bound there, and namespace "training" is its compute
// "k8s".
type world struct {
	*installation.Installation
	StorageURL string          // of the workspaces' store
	images     map[string]bool // that the nodes have
}

// ml is the world in one test.
type ml struct {
	*world
	t *testing.T
}

// start returns the world, made by the first test that asks; see attach for what
// that checks on the way. Later ones find it whole, or fail at once. What a test
// that fails leaves running is ended.
func start(t *testing.T) *ml {
	t.Helper()
	kube := kubes.Cluster(t)
	first := false
	shared.Do(func() {
		first = true
		shared.failed = errors.New("it was not to be had in an earlier test")
		dir, err := os.MkdirTemp("", "sallyport-e2e-ml")
		if err != nil {
			t.Fatal(err)
		}
		bin := os.Getenv("SALLYPORT_E2E_BIN")
		if bin == "" {
			bin = filepath.Join(dir, "bin")
			if err := errors.Join(os.Mkdir(bin, 0o700), installation.Build(t.Context(), bin), installation.BuildInstaller(t.Context(), bin)); err != nil {
				t.Fatal(err)
			}
		}
		host := kube.HostAddress().String() // pods reach the store there
		storage, err := installation.FreePort(host)
		if err != nil {
			t.Fatal(err)
		}
		in, err := installation.New(installation.Config{Bin: bin, Dir: dir, Cluster: kube, Host: host,
			Server: fmt.Sprintf("storage: {folder: %s, listen: '%s'}\n", filepath.Join(dir, "storage"), storage)})
		if err != nil {
			t.Fatal(err)
		}
		shared.w = &world{in, "https://" + storage, map[string]bool{}}
		m := &ml{shared.w, t}
		m.connect()
		m.attach()
		shared.failed = nil
	})
	if shared.failed != nil && !first {
		t.Fatal(shared.failed)
	}
	m := &ml{shared.w, t}
	if !first {
		m.whole()
	}
	m.afterwards("what a failed test left running", func(ctx context.Context) error {
		if !t.Failed() {
			return nil
		}
		return m.sweep(ctx)
	})
	return m
}

func (m *ml) connect() {
	m.t.Helper()
	ctx := m.t.Context()
	m.must(m.StartServer(ctx))
	m.must(m.Login(ctx, "home"))
	m.must(os.WriteFile(m.Path("prober.yaml"), []byte(proberYAML), 0o600))
	m.cli("aks", "trustedaccess", "role", "create", "-f", m.Path("prober.yaml"), "-o", "none")
	m.must(m.Connect(ctx, "private", "--role-file", m.Path("prober.yaml"), "--outlives-revocation"))
	m.must(m.StartAgents(ctx, installation.Agents{}))
	m.image(mlImage, m.Program("sallyport-ml"))
	m.image(installerImage, m.Program("sallyport-installer"))
	m.image(trainImage, m.build("../../examples/train"))
}

func (m *ml) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// build makes a static binary of a program and returns its path.
func (m *ml) build(program string) string {
	m.t.Helper()
	file := m.Path(filepath.Base(program))
	cmd := exec.CommandContext(m.t.Context(), "go", "build", "-o", file, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// image gives the nodes an image that holds one program, as /<its name>.
func (m *ml) image(name, program string) {
	m.t.Helper()
	at := "/" + filepath.Base(program)
	m.must(m.Cluster.AddImage(m.t.Context(), devcluster.Image{Name: name, Files: []devcluster.ImageFile{{Path: at, From: program}}, Entrypoint: []string{at}}))
	m.images[name] = true
}

func (m *ml) cli(args ...string) string {
	m.t.Helper()
	out, err := m.CLI(m.t.Context(), args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// refused is a command that must fail and say so.
func (m *ml) refused(says string, args ...string) {
	m.t.Helper()
	if out, err := m.CLI(m.t.Context(), args...); err == nil || !strings.Contains(err.Error(), says) {
		m.t.Fatalf("%v: want a failure that says %q, got %v\n%s", args, says, err, out)
	}
}

func (m *ml) kubectl(args ...string) string {
	m.t.Helper()
	out, err := m.Cluster.Kubectl(m.t.Context(), args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// in adds where a workspace's things are.
func (m *ml) in(workspace string, args ...string) []string {
	return append(args, "-g", m.GroupName(), "-w", workspace)
}

func (m *ml) workspaceID(name string) string {
	return m.Group + "/providers/Microsoft.MachineLearningServices/workspaces/" + name
}

func (m *ml) bind(workspace string) {
	m.t.Helper()
	m.cli(m.binding(workspace)...)
}

// binding is the command that binds a workspace.
func (m *ml) binding(workspace string) []string {
	return []string{"aks", "trustedaccess", "rolebinding", "create", "-g", m.GroupName(), "--cluster-name", m.Name, "-n", "ml-" + workspace,
		"--source-resource-id", m.workspaceID(workspace), "--roles", mlworkload, "-o", "none"}
}

// unbind takes the workspace's access away until the test ends, or binds it again.
func (m *ml) unbind() {
	m.t.Helper()
	m.cli("aks", "trustedaccess", "rolebinding", "delete", "-g", m.GroupName(), "--cluster-name", m.Name, "-n", "ml-trainer", "--yes")
	m.afterwards("the binding", func(ctx context.Context) error {
		if m.bindingWrong(ctx) == nil {
			return nil
		}
		return m.rebind(ctx)
	})
}

// attachment is the command that attaches a namespace to the workspace.
func (m *ml) attachment(name, namespace string) []string {
	return m.in("trainer", "ml", "compute", "attach", "--type", "Kubernetes", "-n", name, "--resource-id", m.ClusterID(), "--namespace", namespace, "-o", "none")
}

// errOver: what is waited for cannot come any more.
var errOver = errors.New("it ends so")

// eventually fails the test with what was missing, at once where nobody can bring
// it any more.
func eventually(t testing.TB, what string, ready func(context.Context) error) {
	t.Helper()
	var over error
	err := installation.Eventually(t.Context(), what, patience, func(ctx context.Context) error {
		if over = shared.w.dead(); over != nil {
			return nil
		}
		err := ready(ctx)
		if errors.Is(err, errOver) {
			over = fmt.Errorf("waited until %s: %w", what, err)
			return nil
		}
		return err
	})
	if err := errors.Join(err, over); err != nil {
		t.Fatal(err)
	}
}

// dead is why nothing comes any more: the server, or a part of the cluster, has
// ended by itself.
func (w *world) dead() error {
	return errors.Join(w.Process("sallyportd").Failed(), w.Cluster.Failure())
}
