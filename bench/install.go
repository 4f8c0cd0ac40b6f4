package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/trust"
)

// The names in the installation that is measured.
const (
	group      = "bench"
	cluster    = "private"
	sourceType = "Microsoft.MachineLearningServices/workspaces"
	// The largest published role: 16 rules, get configmaps among them.
	role       = sourceType + "/inference-v1"
	configmap  = "bench"
	benchPath  = "/api/v1/namespaces/default/configmaps/" + configmap
	tokensLast = "6h"
)

// installation is Sallyport as a user runs it: the binaries as they are built,
// a real API server in the cluster, bindings made with the command line.
type installation struct {
	world   *world
	dir     string
	cluster *devcluster.Cluster
	server  string // https://127.0.0.1:port of sallyportd
	gateway int    // process ids
	agent   int
	uid     string // of the cluster's registration
}

func (i *installation) path(parts ...string) string {
	return filepath.Join(append([]string{i.dir}, parts...)...)
}

// startCluster starts a real API server with the object that is fetched, and
// an account that may read it for callers that do not come through Sallyport.
func (w *world) startCluster(ctx context.Context) error {
	binary, err := devcluster.Build(ctx, devcluster.Options{Source: w.o.source}, func(p devcluster.Progress) {
		fmt.Fprintf(os.Stderr, "\r%-70s", p.String())
	})
	if err != nil {
		return err
	}
	i := &installation{world: w, dir: w.dir}
	for _, sub := range []string{"bin", "home", "keys"} {
		if err := os.Mkdir(i.path(sub), 0o700); err != nil {
			return err
		}
	}
	if i.cluster, err = devcluster.Start(ctx, devcluster.Config{Binary: binary, Dir: i.path("cluster")}); err != nil {
		return fmt.Errorf("start an API server: %w", err)
	}
	w.install = i
	if err := i.cluster.Apply(ctx, objects()); err != nil {
		return err
	}
	token, err := i.cluster.Kubectl(ctx, "create", "token", "bench", "-n", "default", "--duration", tokensLast)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(i.path("account.token"), []byte(strings.TrimSpace(token)), 0o600),
		os.WriteFile(i.path("cluster-ca.pem"), i.cluster.CA(), 0o600))
}

// objects are the configmap and an account with the rights that a binding's
// has: the same role, so that the API server has the same to look at.
func objects() string {
	var rules []map[string]any
	for _, r := range trust.Published() {
		if r.SourceType+"/"+r.Name != role {
			continue
		}
		for _, rule := range r.Rules {
			rules = append(rules, map[string]any{"verbs": rule.Verbs, "apiGroups": rule.APIGroups, "resources": rule.Resources})
		}
	}
	named := func(name string) map[string]any { return map[string]any{"name": name, "namespace": "default"} }
	var out bytes.Buffer
	for _, o := range []map[string]any{
		{"apiVersion": "v1", "kind": "ConfigMap", "metadata": named(configmap), "data": configMapData()},
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named("bench")},
		{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": "bench"}, "rules": rules},
		{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": map[string]any{"name": "bench"},
			"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bench"},
			"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": "bench", "namespace": "default"}}},
	} {
		out.WriteString("---\n")
		_ = json.NewEncoder(&out).Encode(o) // maps and strings always encode
	}
	return out.String()
}

// startSallyport starts the server and both agents of the cluster, binds a
// service of its own to it, and returns how the service asks.
func (w *world) startSallyport(ctx context.Context) (contender, error) {
	i := w.install
	if err := w.buildPrograms(ctx); err != nil {
		return contender{}, err
	}
	if err := i.startServer(ctx); err != nil {
		return contender{}, err
	}
	if err := i.connect(ctx, w.server); err != nil {
		return contender{}, err
	}
	if err := i.bind(ctx); err != nil {
		return contender{}, err
	}
	return contender{
		url:   i.server + "/clusters/" + i.uid,
		ca:    i.path("server-ca.pem"),
		token: i.path("service.token"),
		parts: []part{{"gateway", i.gateway}, {"agent", i.agent}},
	}, nil
}

func (w *world) buildPrograms(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", w.install.path("bin")+string(filepath.Separator),
		"./cmd/sallyport", "./cmd/sallyportd", "./cmd/sallyport-agent")
	cmd.Dir = w.o.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build Sallyport: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// startServer starts sallyportd with everything in one process. Its port is a
// part of every audience, so it must be known before.
func (i *installation) startServer(ctx context.Context) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	i.server = "https://" + address
	config := fmt.Sprintf("externalURL: %s\nlisten: %s\nlocation: local\ndataDir: %s\nsealKeyFile: %s\nadminFile: %s\naudit: {file: %s}\nlog: {format: text}\n",
		i.server, address, i.path("data"), i.path("keys", "seal.key"), i.path("keys", "admin.json"), i.path("audit.jsonl"))
	if err := os.WriteFile(i.path("sallyportd.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	if i.gateway, err = i.start(ctx, "sallyportd", "sallyportd", "--config", i.path("sallyportd.yaml")); err != nil {
		return err
	}
	return i.wait(ctx, "sallyportd serves", func(ctx context.Context) error {
		admin, err := client.ReadAdminFile(i.path("keys", "admin.json"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(i.path("server-ca.pem"), []byte(admin.CA), 0o600); err != nil {
			return err
		}
		_, err = i.cli(ctx, "login", "--admin-file", i.path("keys", "admin.json"), "--name", "bench", "-o", "none")
		return err
	})
}

// start starts one of Sallyport's programs as a sibling of all that is measured:
// Linux shares CPU time between sessions first (sched_autogroup_enabled), so a
// session of its own would have another share than the bare relay.
func (i *installation) start(ctx context.Context, log, program string, args ...string) (pid int, err error) {
	r, _, err := i.world.spawn(ctx, append([]string{"keep", i.path(log + ".log"), i.path("bin", program)}, args...)...)
	return r.PID, err
}

// wait asks until ready says nil. Half a minute is more than any step takes.
func (i *installation) wait(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		last := ready(ctx)
		if last == nil {
			return nil
		}
		if err := i.cluster.Failure(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited until %s: %w", what, last)
		case <-tick.C:
		}
	}
}

// cli runs sallyport as the platform team.
func (i *installation) cli(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, i.path("bin", "sallyport"), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + i.path("home"), "SALLYPORT_CONFIG=" + i.path("config.yaml")}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("sallyport %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// connect registers the cluster and starts its agents outside of it. The proxy
// agent reaches the API server at the address that all contenders reach.
func (i *installation) connect(ctx context.Context, server contender) error {
	for _, args := range [][]string{
		{"group", "create", "-n", group, "-l", "local", "-o", "none"},
		{"cluster", "connect", "-g", group, "-n", cluster, "--kubeconfig", i.cluster.Kubeconfig(), "--kube-context", "dev",
			"--roles", role, "--outlives-revocation", "--apply", "--yes", "--no-wait", "-o", "none"},
	} {
		if _, err := i.cli(ctx, args...); err != nil {
			return err
		}
	}
	var err error
	if i.uid, err = i.cli(ctx, "aks", "show", "-g", group, "-n", cluster, "--query", "resourceUID || resourceUid", "-o", "tsv"); err != nil {
		return err
	}
	key, err := i.cluster.Kubectl(ctx, "get", "configmap", "-n", "sallyport-system", "sallyport-agents", "-o", `jsonpath={.data.mandate-key\.pem}`)
	if err != nil {
		return err
	}
	if err := os.WriteFile(i.path("mandate.pem"), []byte(key), 0o600); err != nil {
		return err
	}
	if _, err := i.startAgent(ctx, "sallyport-reconciler", "reconcile", i.cluster.URL(), i.path("cluster-ca.pem")); err != nil {
		return err
	}
	if i.agent, err = i.startAgent(ctx, "sallyport-proxy", "proxy", server.url, server.ca); err != nil {
		return err
	}
	return i.wait(ctx, "both agents have connected", func(ctx context.Context) error {
		out, err := i.cli(ctx, "cluster", "status", "-g", group, "-n", cluster, "-o", "tsv", "--query", "agents[].connected")
		if err == nil && strings.Count(strings.ToLower(out), "true") < 2 {
			err = fmt.Errorf("agents: %s", out)
		}
		return err
	})
}

func (i *installation) startAgent(ctx context.Context, account, command, server, ca string) (pid int, err error) {
	var tokens [2]string
	for n, more := range [][]string{nil, {"--audience", client.EnrolAudience(trust.ClusterUID(i.uid))}} {
		token, err := i.cluster.Kubectl(ctx, append([]string{"create", "token", account, "-n", "sallyport-system", "--duration", tokensLast}, more...)...)
		if err != nil {
			return 0, err
		}
		tokens[n] = strings.TrimSpace(token)
	}
	conf, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": server, "certificate-authority": ca}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": tokens[0]}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	})
	if err != nil {
		return 0, err
	}
	kubeconfig, enrol := i.path(account+".kubeconfig"), i.path(account+".token")
	if err := errors.Join(os.WriteFile(kubeconfig, conf, 0o600), os.WriteFile(enrol, []byte(tokens[1]), 0o600)); err != nil {
		return 0, err
	}
	return i.start(ctx, account, "sallyport-agent",
		command, "--server", i.server, "--server-ca", i.path("server-ca.pem"), "--cluster", i.uid,
		"--mandate-key", i.path("mandate.pem"), "--enrol-token", enrol, "--kubeconfig", kubeconfig, "--log-format", "text")
}

// bind makes a service with an identity, binds it, and gets its token.
func (i *installation) bind(ctx context.Context) error {
	named := []string{"-g", group, "--type", sourceType, "-n", "service"}
	if _, err := i.cli(ctx, append([]string{"identity", "create", "-o", "none"}, named...)...); err != nil {
		return err
	}
	out, err := i.cli(ctx, append([]string{"identity", "show", "--query", "[id,identity.clientId]", "-o", "tsv"}, named...)...)
	if err != nil {
		return err
	}
	fields := strings.Fields(out)
	if len(fields) != 2 {
		return fmt.Errorf("identity show answered %q", out)
	}
	for _, args := range [][]string{
		{"identity", "secret", "create", "-g", group, "--type", sourceType, "--identity-name", "service", "--file", i.path("service.secret"), "-o", "none"},
		{"aks", "trustedaccess", "rolebinding", "create", "-g", group, "--cluster-name", cluster, "-n", "bench",
			"--source-resource-id", fields[0], "--roles", role, "-o", "none"},
	} {
		if _, err := i.cli(ctx, args...); err != nil {
			return err
		}
	}
	token, err := i.cli(ctx, "identity", "token", "--client-id", fields[1], "--client-secret-file", i.path("service.secret"),
		"--location", "local", "--query", "accessToken", "-o", "tsv")
	if err != nil {
		return err
	}
	return os.WriteFile(i.path("service.token"), []byte(token), 0o600)
}
