package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

const (
	deployers = "Contoso.Deployer/deployers"
	deployer  = deployers + "/deployer" // everything that the stories do
	reader    = deployers + "/reader"   // pods only
)

const deployerYAML = `
sourceResourceType: Contoso.Deployer/deployers
name: deployer
rules:
- {apiGroups: [""], resources: [configmaps, pods, services], verbs: [get, list, watch, create, update, patch, delete]}
- {apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, create, update, patch, delete]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
- {apiGroups: [""], resources: [pods/exec, pods/attach, pods/portforward], verbs: [get, create]}
- {apiGroups: [""], resources: [services/proxy], verbs: [get, create]}
`

const readerYAML = `
sourceResourceType: Contoso.Deployer/deployers
name: reader
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list, watch]}
`

// serverDrain is how long streams go on after SIGTERM.
const serverDrain = 3 * time.Second

var (
	binaries struct {
		sync.Once
		dir string
		err error
	}
	shared struct {
		sync.Once
		w   *world
		err error
	}
	kubes = devclustertest.Shared{Config: devcluster.Config{AuditLevel: "Metadata", Controllers: true}}
)

func TestMain(m *testing.M) {
	if ok, _ := devcluster.CanRunNodes(); ok {
		kubes.Config.Nodes = 1
	}
	code := kubes.Main(m)
	if shared.w != nil {
		if err := shared.w.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		if code != 0 {
			fmt.Fprintln(os.Stderr, "everything is kept in", shared.w.Dir)
		} else {
			os.RemoveAll(shared.w.Dir)
		}
	}
	if binaries.dir != "" {
		os.RemoveAll(binaries.dir)
	}
	os.Exit(code)
}

// world is the shared installation, connected to the shared cluster, with its
// agents outside the cluster.
type world struct {
	*installation.Installation
	gateway string // URL of the gateway; "": the server's
	nodes   int
	n       int // counts services
	left    int // times that the cluster was left to another installation
}

// gatewayURL is where requests to the cluster go.
func (w *world) gatewayURL() string {
	if w.gateway != "" {
		return w.gateway
	}
	return w.URL
}

// programs are the binaries, built once.
func programs(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("SALLYPORT_E2E_BIN"); dir != "" {
		return dir
	}
	binaries.Do(func() {
		if binaries.dir, binaries.err = os.MkdirTemp("", "sallyport-e2e-bin"); binaries.err == nil {
			binaries.err = installation.Build(context.Background(), binaries.dir)
		}
	})
	if binaries.err != nil {
		t.Fatal(binaries.err)
	}
	return binaries.dir
}

// start returns the shared world, made by the first test that asks.
func start(t testing.TB) *world {
	t.Helper()
	kube, bin := kubes.Cluster(t), programs(t)
	shared.Do(func() {
		ctx := context.Background() // it outlives the test that happens to be first
		dir, err := os.MkdirTemp("", "sallyport-e2e")
		if err != nil {
			shared.err = err
			return
		}
		in, err := installation.New(installation.Config{Bin: bin, Dir: dir, Cluster: kube, Server: fmt.Sprintf("drainTimeout: %s\n", serverDrain)})
		if err != nil {
			shared.err = err
			return
		}
		shared.w = &world{Installation: in, nodes: kubes.Config.Nodes}
		shared.err = errors.Join(shared.w.workloads(ctx), in.StartServer(ctx))
		if shared.err == nil {
			shared.err = shared.w.connect(ctx, "home")
		}
	})
	if shared.err == nil && shared.w.UID == "" { // another test had the cluster
		w := shared.w
		w.left++
		if shared.err = w.register(t.Context(), fmt.Sprintf("private-%d", w.left)); shared.err == nil {
			shared.err = w.StartAgents(t.Context(), installation.Agents{})
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.w
}

// connect logs in, publishes the roles and connects the cluster.
func (w *world) connect(ctx context.Context, group string) error {
	if err := w.Login(ctx, group); err != nil {
		return err
	}
	if err := w.publish(ctx); err != nil {
		return err
	}
	if err := w.register(ctx, "private"); err != nil {
		return err
	}
	return w.StartAgents(ctx, installation.Agents{})
}

func (w *world) publish(ctx context.Context) error {
	for name, text := range map[string]string{"deployer": deployerYAML, "reader": readerYAML} {
		if err := os.WriteFile(w.Path(name+".yaml"), []byte(text), 0o600); err != nil {
			return err
		}
		if _, err := w.CLI(ctx, "aks", "trustedaccess", "role", "create", "-f", w.Path(name+".yaml"), "-o", "none"); err != nil {
			return err
		}
	}
	return nil
}

// register connects the cluster under a name, with both roles accepted.
func (w *world) register(ctx context.Context, name string, args ...string) error {
	return w.Connect(ctx, name, append([]string{"--role-file", w.Path("deployer.yaml"), "--role-file", w.Path("reader.yaml"), "--outlives-revocation"}, args...)...)
}

// workloads runs the pods that streams go to, where there is a node.
func (w *world) workloads(ctx context.Context) error {
	if w.nodes == 0 {
		return nil
	}
	var b strings.Builder
	for name, command := range map[string]string{
		talker: `["sh", "-c", "while true; do date; sleep 0.02; done"]`,
		flood:  `["sh", "-c", "while true; do seq 2000; sleep 0.02; done"]`,
		quiet:  `["sh", "-c", "serve 8080 >/dev/null"]`,
	} {
		fmt.Fprintf(&b, "{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: default, labels: {app: %s}}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: %s, imagePullPolicy: Never, command: %s}]}}\n---\n",
			name, name, devcluster.ToolImage, command)
	}
	fmt.Fprintf(&b, "{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: default}, spec: {selector: {app: %s}, ports: [{port: 80, targetPort: 8080}]}}\n", quiet, quiet)
	if err := w.Cluster.Apply(ctx, b.String()); err != nil {
		return err
	}
	_, err := w.Cluster.Kubectl(ctx, "wait", "--for=condition=Ready", "pod", "--all", "-n", "default", "--timeout=90s")
	return err
}

// service makes a service that is bound with roles, and returns it with a token.
func (w *world) service(t testing.TB, roles ...string) (*installation.Service, string, string) {
	t.Helper()
	w.n++
	name := fmt.Sprintf("svc-%d", w.n)
	s, err := w.NewService(t.Context(), deployers, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bind(t.Context(), name, roles...); err != nil {
		t.Fatal(err)
	}
	token, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, token, w.BindingID(name)
}

// eventually fails the test with what was missing.
func eventually(t testing.TB, what string, bound time.Duration, ready func(context.Context) error) {
	t.Helper()
	if err := installation.Eventually(t.Context(), what, bound, ready); err != nil {
		t.Fatal(err)
	}
}
