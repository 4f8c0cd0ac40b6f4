package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
)

// kubectl, unmodified, with the kubeconfig that get-credentials writes and our
// exec plugin, through processes of their own. What each verb does is tried in
// requestpath; here is that the whole way lets it.
func TestKubectl(t *testing.T) {
	w := start(t)
	s, _, _ := w.service(t, deployer)
	config := w.Path("kubectl.kubeconfig")
	if err := s.Kubeconfig(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	kubectl := func(ctx context.Context, env []string, args ...string) (string, error) {
		return w.Exec(ctx, append(env, "KUBECONFIG="+config), w.Cluster.Program("kubectl"), args...)
	}
	manifest := w.Path("configmap.yaml")
	if err := os.WriteFile(manifest, []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: e2e, namespace: default}, data: {a: b}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(env []string, says string, args ...string) {
		t.Helper()
		out, err := kubectl(t.Context(), env, args...)
		if err != nil || !strings.Contains(out, says) {
			t.Errorf("kubectl %s: %.300s, %v", strings.Join(args, " "), out, err)
		}
	}
	run(nil, "kube-root-ca.crt", "get", "configmaps")
	run(nil, "created", "apply", "-f", manifest)
	run(nil, "serverside-applied", "apply", "--server-side", "--force-conflicts", "-f", manifest)
	run(nil, "patched", "patch", "configmap", "e2e", "-p", `{"data":{"c":"d"}}`)
	run(nil, "KIND:", "explain", "pods.spec")
	run(nil, "deleted", "delete", "configmap", "e2e")
	if _, err := kubectl(t.Context(), nil, "get", "secrets"); err == nil || !strings.Contains(err.Error(), "Forbidden") {
		t.Errorf("secrets: %v", err)
	}
	if w.nodes == 0 {
		t.Skip("no real node: logs, exec and cp are not tried")
	}
	run(nil, "20", "logs", talker, "--tail=1")
	for _, env := range [][]string{{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true"}, {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"}} {
		run(env, "hello", "exec", quiet, "--", "echo", "hello")
	}
	size := 8 << 20
	if os.Getenv("SALLYPORT_E2E_LONG") != "" {
		size = 100 << 20
	}
	data := make([]byte, size)
	rand.Read(data)
	there, back := w.Path("there"), w.Path("back")
	if err := os.WriteFile(there, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(nil, "", "cp", there, "default/"+quiet+":/tmp/copied")
	run(nil, "", "cp", "default/"+quiet+":/tmp/copied", back)
	copied, err := os.ReadFile(back)
	if err != nil || sha256.Sum256(copied) != sha256.Sum256(data) {
		t.Errorf("cp: %d of %d bytes came back, or others, %v", len(copied), len(data), err)
	}
	if t.Failed() {
		fmt.Fprintln(os.Stderr, "see", w.Path("logs"))
	}
}
