package up

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/trust"
)

// world is one whole installation on this machine: a cluster, a server, two
// agents, each a process of its own.
type world struct {
	dir     string // everything lives here
	source  string // a checkout of the product
	cluster *devcluster.Cluster
	from    string // the working directory, for what is printed
	server  string // https://host:port
	uid     string // of the cluster's registration

	kubeContext string // of the owner's kubeconfig
	adopted     bool   // the cluster is the caller's own
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

// program is the path of one of our binaries.
func (w *world) program(name string) string { return w.path("bin", name) }

// buildPrograms builds our binaries from source.
func (w *world) buildPrograms(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", w.path("bin")+string(filepath.Separator),
		"./cmd/sallyport", "./cmd/sallyportd", "./cmd/sallyport-agent")
	cmd.Dir = w.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build Sallyport: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// host is the address that the server listens on: loopback, or where pods reach
// this machine.
func (w *world) host() string {
	if w.nodes() {
		return w.cluster.HostAddress().String()
	}
	return "127.0.0.1"
}

// nodes says whether the cluster runs pods.
func (w *world) nodes() bool { return len(w.cluster.Nodes()) > 0 }

// agentImage is the agents' image where they run in pods.
const agentImage = "sallyport.test/sallyport-agent:up"

// addImage gives the nodes the agents' image, made of the binary alone.
func (w *world) addImage(ctx context.Context) error {
	return w.cluster.AddImage(ctx, devcluster.ProgramImage(agentImage, w.program("sallyport-agent")))
}

// startServer starts sallyportd on a free port and waits until it is ready.
func (w *world) startServer(ctx context.Context) error {
	// The port is part of every issuer and audience, so it must be known before
	// the server starts. Somebody may take it in between: then another one.
	var err error
	for range 3 {
		if err = w.tryServer(ctx); err == nil {
			return nil
		}
		_ = w.cluster.StopCompanion(ctx, "sallyportd")
	}
	return err
}

func (w *world) tryServer(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(w.host(), "0"))
	if err != nil {
		return err
	}
	address := l.Addr().String()
	second, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(w.host(), "0"))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	storage := second.Addr().String()
	if err := errors.Join(l.Close(), second.Close()); err != nil {
		return err
	}
	w.server = "https://" + address
	config := fmt.Sprintf("externalURL: %s\nlisten: %s\nlocation: local\ndataDir: %s\nsealKeyFile: %s\nadminFile: %s\naudit: {file: %s}\nlog: {format: text}\nstorage: {folder: %s, listen: %s}\n",
		w.server, address, quote(w.path("data")), quote(w.path("keys", "seal.key")), quote(w.adminFile()), quote(w.auditFile()), quote(w.path("storage")), quote(storage))
	if err := os.WriteFile(w.path("sallyportd.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	if err := w.cluster.StartCompanion(devcluster.Companion{Name: "sallyportd", Path: w.program("sallyportd"), Args: []string{"--config", w.path("sallyportd.yaml")}}); err != nil {
		return err
	}
	return w.wait(ctx, "the server is ready", 60*time.Second, w.serverReady)
}

func quote(s string) string { b, _ := json.Marshal(s); return string(b) } // a string always encodes

func (w *world) adminFile() string { return w.path("keys", "admin.json") }
func (w *world) auditFile() string { return w.path("audit.jsonl") }

func (w *world) serverReady(ctx context.Context) error {
	admin, err := client.ReadAdminFile(w.adminFile())
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(admin.CA))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.server+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(body))
	}
	return nil
}

// wait asks until ready says nil, the bound has passed, or a process has died.
func (w *world) wait(ctx context.Context, what string, bound time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = ready(ctx); last == nil {
			return nil
		}
		if err := w.cluster.Failure(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s until %s: %w", short(bound), what, last)
		case <-tick.C:
		}
	}
}

// startAgents starts both agents outside the cluster, each with the kubeconfig
// of its own ServiceAccount and a token to enrol with, as docs/connect.md says.
func (w *world) startAgents(ctx context.Context) error {
	for _, a := range []struct{ account, command string }{{"sallyport-reconciler", "reconcile"}, {"sallyport-proxy", "proxy"}} {
		kubeconfig, enrol, err := w.agentCredentials(ctx, a.account)
		if err != nil {
			return err
		}
		args := []string{a.command, "--server", w.server, "--server-ca", w.path("server-ca.pem"), "--cluster", w.uid,
			"--mandate-key", w.path("mandate.pem"), "--enrol-token", enrol, "--kubeconfig", kubeconfig, "--log-format", "text"}
		if err := w.cluster.StartCompanion(devcluster.Companion{Name: a.account, Path: w.program("sallyport-agent"), Args: args}); err != nil {
			return err
		}
	}
	return nil
}

// agentLife is how long an agent outside the cluster can live on its token;
// in a pod the kubelet renews it.
const agentLife = "24h"

func (w *world) agentCredentials(ctx context.Context, account string) (kubeconfig, enrol string, err error) {
	token, err := w.cluster.Kubectl(ctx, "create", "token", account, "-n", "sallyport-system", "--duration", agentLife)
	if err != nil {
		return "", "", err
	}
	proof, err := w.cluster.Kubectl(ctx, "create", "token", account, "-n", "sallyport-system", "--duration", agentLife, "--audience", client.EnrolAudience(trust.ClusterUID(w.uid)))
	if err != nil {
		return "", "", err
	}
	kubeconfig, enrol = w.path("agents", account+".kubeconfig"), w.path("agents", account+".token")
	reach := map[string]any{"server": w.cluster.URL()}
	if ca := w.cluster.CA(); len(ca) > 0 {
		reach["certificate-authority-data"] = ca
	}
	conf := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": reach}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": strings.TrimSpace(token)}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	}
	data, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		return "", "", err
	}
	return kubeconfig, enrol, errors.Join(os.MkdirAll(w.path("agents"), 0o700),
		os.WriteFile(kubeconfig, data, 0o600), os.WriteFile(enrol, []byte(strings.TrimSpace(proof)), 0o600))
}

// result is what a command came to.
type result struct {
	stdout, stderr string
	code           int
}

// run runs one program with an environment of its own and returns what it said;
// a non-zero exit is no error.
func (w *world) run(ctx context.Context, env []string, name string, args ...string) (result, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = w.dir, &stdout, &stderr
	cmd.Env = w.env(env...)
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		err = nil
	}
	r := result{strings.TrimSpace(stdout.String()), strings.TrimSpace(stderr.String()), -1}
	if cmd.ProcessState != nil {
		r.code = cmd.ProcessState.ExitCode()
	}
	return r, err
}

// env is the environment of every command: nothing of the user's but PATH.
func (w *world) env(more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.path("home")}, more...)
}

// cli runs sallyport as the platform team.
func (w *world) cli(ctx context.Context, args ...string) (result, error) {
	return w.run(ctx, []string{"SALLYPORT_CONFIG=" + w.path("config.yaml")}, w.program("sallyport"), args...)
}

// must is cli where anything but success is an error.
func (w *world) must(ctx context.Context, args ...string) (string, error) {
	r, err := w.cli(ctx, args...)
	if err == nil && r.code != 0 {
		err = fmt.Errorf("sallyport %s: exit %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r.stdout, err
}

// service runs kubectl as the service, through the gateway.
func (w *world) service(ctx context.Context, args ...string) (result, error) {
	return w.run(ctx, []string{"KUBECONFIG=" + w.path("service.kubeconfig")}, w.cluster.Program("kubectl"), args...)
}

// agentFiles writes what agents outside the cluster are given: the server's CA
// and the key that signs what they are told.
func (w *world) agentFiles(ctx context.Context) error {
	admin, err := client.ReadAdminFile(w.adminFile())
	if err != nil {
		return err
	}
	key, err := w.cluster.Kubectl(ctx, "get", "configmap", "-n", "sallyport-system", "sallyport-agents", "-o", `jsonpath={.data.mandate-key\.pem}`)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(w.path("server-ca.pem"), []byte(admin.CA), 0o600), os.WriteFile(w.path("mandate.pem"), []byte(key), 0o600))
}
