package requestpath

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/store"
)

var shared = devclustertest.Shared{Config: devcluster.Config{AuditLevel: "Metadata"}}

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

// bearer is a proxy agent's own transport.
type bearer struct {
	token string
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// prepare makes in the cluster what connecting it and applying the binding
// would, and returns the way to it.
func prepare(t *testing.T, kube *devcluster.Cluster) apiServer {
	t.Helper()
	rules, err := yaml.Marshal(map[string]any{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": "deployer"}, "rules": wireRules()})
	if err != nil {
		t.Fatal(err)
	}
	manifest := strings.NewReplacer("SYSTEM", rbac.SystemNamespace, "BINDINGS", rbac.BindingsNamespace, "PROXY", rbac.ProxyAccount, "ACCOUNT", rbac.Account(bindingUID)).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: SYSTEM}
---
apiVersion: v1
kind: Namespace
metadata: {name: BINDINGS}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: PROXY, namespace: SYSTEM}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ACCOUNT, namespace: BINDINGS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: proxy, namespace: BINDINGS}
rules: [{verbs: [create], apiGroups: [""], resources: [serviceaccounts/token]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: proxy, namespace: BINDINGS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: proxy}
subjects: [{kind: ServiceAccount, name: PROXY, namespace: SYSTEM}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: ACCOUNT}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: deployer}
subjects: [{kind: ServiceAccount, name: ACCOUNT, namespace: BINDINGS}]
---
`) + string(rules)
	if err := kube.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	token, err := kube.Kubectl(t.Context(), "create", "token", rbac.ProxyAccount, "-n", rbac.SystemNamespace)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(kube.CA())
	next := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(next.CloseIdleConnections)
	return apiServer{url: kube.URL(), roots: roots, agent: bearer{strings.TrimSpace(token), next}}
}

func wireRules() []map[string][]string {
	var all []map[string][]string
	for _, r := range rules() {
		all = append(all, map[string][]string{"verbs": r.Verbs, "apiGroups": r.APIGroups, "resources": r.Resources})
	}
	return all
}

// told runs kubectl as the bound source and returns all that it prints.
func (w *world) told(kube *devcluster.Cluster, stdin string, args ...string) (string, error) {
	w.t.Helper()
	cmd := w.kubectl(kube.Program("kubectl"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nothing}]}
`

func TestKubectl(t *testing.T) {
	kube := shared.Cluster(t)
	w := newWorld(t, prepare(t, kube))
	for _, c := range []struct {
		args  string
		stdin string
		want  string
		fails bool
	}{
		{args: "version -o yaml", want: "serverVersion"},
		{args: "api-resources --api-group=apps", want: "deployments"},
		{args: "api-versions", want: "apps/v1"},
		{args: "explain deployment.spec.replicas", want: "Number of desired pods"},
		{args: "auth whoami", want: "system:serviceaccount:" + rbac.BindingsNamespace + ":" + rbac.Account(bindingUID)},
		{args: "auth can-i create deployments", want: "yes"},
		{args: "auth can-i get secrets", want: "no", fails: true},
		{args: "get configmaps -n kube-system", want: ""},
		{args: "create configmap one --from-literal=a=1", want: "configmap/one created"},
		{args: "get configmap one -o jsonpath={.data.a}", want: "1"},
		{args: `patch configmap one --type=merge -p {"data":{"a":"2"}}`, want: "patched"},
		{args: "label configmap one x=y", want: "labeled"},
		{args: "apply -f -", stdin: deployment, want: "deployment.apps/web created"},
		{args: "apply -f -", stdin: strings.Replace(deployment, "nothing", "other", 1), want: "deployment.apps/web configured"},
		{args: "apply --server-side --force-conflicts -f -", stdin: strings.Replace(deployment, "nothing", "third", 1), want: "serverside-applied"},
		{args: "diff -f -", stdin: strings.Replace(deployment, "nothing", "fourth", 1), want: "fourth", fails: true}, // diff exits 1 when there is one
		{args: "get deployments,configmaps", want: "deployment.apps/web"},
		{args: "get deployment web -o yaml --show-managed-fields", want: "kubectl"},
		{args: "describe deployment web", want: "third"},
		{args: "delete configmap one", want: `configmap "one" deleted`},
		{args: "get secrets", want: `Error from server (Forbidden): source "` + sourceID + `" cannot list resource "secrets" in API group "" in the namespace "default"; its role binding ci here gives ` + string(role), fails: true},
		{args: "get nodes", want: "at the cluster scope", fails: true},
		{args: "get pods --as=system:admin", want: "impersonation", fails: true},
		{args: "get pods --as=system:admin --as-group=system:masters", want: "impersonation", fails: true},
		{args: "exec nopod -- id", want: `pods "nopod" not found`, fails: true},
		{args: "get --raw /metrics", want: `cannot get path "/metrics"`, fails: true},
		{args: "get configmap gone", want: `Error from server (NotFound): configmaps "gone" not found`, fails: true},
	} {
		out, err := w.told(kube, c.stdin, strings.Fields(c.args)...)
		if (err != nil) != c.fails || !strings.Contains(out, c.want) {
			t.Errorf("kubectl %s: %v\n%s\nwant %q", c.args, err, out, c.want)
		}
	}
	w.noSecrets()
	t.Run("the cluster's own audit log", func(t *testing.T) { sameIDs(t, w, kube) })
	t.Run("watch, then delete the binding", func(t *testing.T) { watchIsCut(t, w, kube) })
}

// sameIDs holds the gateway's records against the API server's own.
func sameIDs(t *testing.T, w *world, kube *devcluster.Cluster) {
	theirs := map[string]auditv1.Event{}
	data, err := os.ReadFile(kube.AuditLogPath())
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var e auditv1.Event
		if json.Unmarshal(line, &e) == nil {
			theirs[string(e.AuditID)] = e
		}
	}
	ours := w.audit.find(t, func(e *auditv1.Event) bool {
		return e.Annotations["authorization.k8s.io/decision"] == "allow" && e.Stage == auditv1.StageResponseComplete
	})
	if len(ours) < 20 {
		t.Fatalf("%d records", len(ours))
	}
	user := rbac.Username(rbac.BindingsNamespace, rbac.Account(bindingUID))
	for _, e := range ours {
		there, ok := theirs[string(e.AuditID)]
		if !ok {
			t.Errorf("%s %s is not in the cluster's log", e.Verb, e.RequestURI)
			continue
		}
		same := there.User.Username == user && there.ImpersonatedUser == nil && there.ResponseStatus.Code == e.ResponseStatus.Code && there.UserAgent == e.UserAgent
		if same && e.ObjectRef != nil && there.ObjectRef != nil && e.ObjectRef.Subresource != "exec" {
			o := there.ObjectRef
			same = there.Verb == e.Verb && o.Resource == e.ObjectRef.Resource && o.Subresource == e.ObjectRef.Subresource && o.Namespace == e.ObjectRef.Namespace && o.APIGroup == e.ObjectRef.APIGroup && there.RequestURI == e.RequestURI
		}
		if !same {
			t.Errorf("ours   %+v\ntheirs %+v", e, there)
		}
	}
}

func watchIsCut(t *testing.T, w *world, kube *devcluster.Cluster) {
	if out, err := w.told(kube, "", "create", "configmap", "watched"); err != nil {
		t.Fatal(out)
	}
	cmd := w.kubectl(kube.Program("kubectl"), "get", "configmaps", "--watch", "-o", "name")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("nothing watched: %s", &stderr)
	}
	start := time.Now()
	w.commit(store.Delete(w.binding().Key(), 0))
	for lines.Scan() {
	}
	_ = cmd.Wait()
	if took := time.Since(start); took > inTouch {
		t.Errorf("kubectl's watch ended after %v: %s", took, &stderr)
	}
	for _, args := range []string{"get configmaps", "get configmaps --cache-dir=" + t.TempDir(), "version", "get --raw /api"} {
		if out, err := w.told(kube, "", strings.Fields(args)...); err == nil || !strings.Contains(out, "has no role binding on cluster") && args != "version" {
			t.Errorf("kubectl %s afterwards: %v %s", args, err, out)
		}
	}
	w.commit(store.Put(w.binding()))
}

// A write of 100 MB is refused by the API server itself, and its answer passes.
func TestTooLargeForTheAPIServer(t *testing.T) {
	kube := shared.Cluster(t)
	w := newWorld(t, prepare(t, kube))
	resp, body := w.do("POST", "/api/v1/namespaces/default/configmaps", io.LimitReader(zeros{}, 100<<20), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// TestNode does what needs a real container.
func TestNode(t *testing.T) {
	if testing.Short() {
		t.Skip("a node takes 20 s")
	}
	kube := devclustertest.Start(t, devcluster.Config{Nodes: 1, AuditLevel: "Metadata"})
	w := newWorld(t, prepare(t, kube))
	if err := kube.Apply(t.Context(), fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: tool, image: %s, command: [sh, -c, "echo started; serve 8080"], readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}
`, devcluster.ToolImage)); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.Kubectl(t.Context(), "wait", "--for=condition=Ready", "--timeout=60s", "pod/a"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"logs a", "started\n"},
		{"exec a -- hostname", "a\n"},
		{"get --raw /api/v1/namespaces/default/services/a:80/proxy/via-service", "GET /via-service 0 bytes\n"},
		{"get --raw /api/v1/namespaces/default/pods/a:8080/proxy/via%2Fpod", "GET /via/pod 0 bytes\n"}, // the API server decodes it once, as without us,
	} {
		if out, err := w.told(kube, "", strings.Fields(c.args)...); !strings.Contains(out, c.want) || err != nil {
			t.Errorf("kubectl %s = %q, %v; want %q", c.args, out, err, c.want)
		}
	}
	for name, env := range map[string]string{"WebSocket": "true", "SPDY": "false"} {
		t.Run("exec over "+name, func(t *testing.T) {
			cmd := w.kubectl(kube.Program("kubectl"), "exec", "-i", "a", "--", "sh", "-c", "cat | wc -c; exit 7")
			cmd.Env = append(cmd.Env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+env)
			cmd.Stdin = bytes.NewReader(make([]byte, 10<<20))
			out, err := cmd.Output()
			if string(out) != "10485760\n" || cmd.ProcessState.ExitCode() != 7 {
				t.Errorf("%q, %v", out, err)
			}
		})
		t.Run("port-forward over "+name, func(t *testing.T) { w.portForward(t, kube, "KUBECTL_PORT_FORWARD_WEBSOCKETS="+env) })
	}
	t.Run("cp there and back", func(t *testing.T) { w.copyBothWays(t, kube) })
	protocols := map[string]bool{}
	for _, e := range w.audit.find(t, func(e *auditv1.Event) bool { return e.Annotations["sallyport.dev/upgrade"] != "" }) {
		protocols[e.Annotations["sallyport.dev/upgrade"]] = true
	}
	if !protocols["websocket"] || !protocols["SPDY/3.1"] {
		t.Errorf("only %v was spoken", protocols)
	}
	for kind, args := range map[string][]string{
		"silent exec":  {"exec", "-i", "a", "--", "cat"},
		"followed log": {"logs", "-f", "a"},
	} {
		t.Run(kind+" is cut", func(t *testing.T) { w.isCut(t, kube, args) })
	}
}

func (w *world) portForward(t *testing.T, kube *devcluster.Cluster, env string) {
	cmd := w.kubectl(kube.Program("kubectl"), "port-forward", "pod/a", ":8080", "--address=127.0.0.1")
	cmd.Env = append(cmd.Env, env)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n') // Forwarding from 127.0.0.1:PORT -> 8080
	fields := strings.Fields(line)
	if err != nil || len(fields) < 3 {
		t.Fatalf("%q, %v", line, err)
	}
	resp, err := http.Get("http://" + fields[2] + "/fill/3000000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != 3000000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func (w *world) copyBothWays(t *testing.T, kube *devcluster.Cluster) {
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	if err := os.WriteFile(there, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"cp", there, "a:/tmp/file"}, {"cp", "a:/tmp/file", back}} {
		if out, err := w.told(kube, "", args...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if got, err := os.ReadFile(back); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
}

// isCut starts kubectl, deletes the binding, and wants it ended within a second.
func (w *world) isCut(t *testing.T, kube *devcluster.Cluster, args []string) {
	defer func() {
		w.commit(store.Put(w.binding()))
		w.eventually("the binding is back", func() bool { r, _ := w.do("GET", "/version", nil, nil); return r.StatusCode == 200 })
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	base := w.kubectl(kube.Program("kubectl"), args...)
	cmd := exec.CommandContext(ctx, base.Path, args...)
	cmd.Env = base.Env
	stdin, err := cmd.StdinPipe() // stays open: nothing is said
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	before := w.gw.Running()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	seen := func() int {
		return len(w.audit.find(t, func(e *auditv1.Event) bool {
			return e.Stage == auditv1.StageResponseStarted && e.ObjectRef != nil && e.ObjectRef.Subresource != "" && time.Since(e.StageTimestamp.Time) < 10*time.Second
		}))
	}
	w.eventually("it runs", func() bool { return w.gw.Running() > before && seen() > 0 })
	start := time.Now()
	w.commit(store.Delete(w.binding().Key(), 0))
	w.eventually("the gateway has ended it", func() bool { return w.gw.Running() == 0 })
	if took := time.Since(start); took > inTouch {
		t.Errorf("ended after %v", took)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second): // kubectl's own way out: a followed log is tried again
		t.Log("kubectl still runs; it tries again and is refused")
	}
	cancel()
	<-ended
}
