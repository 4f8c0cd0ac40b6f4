package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// kubectl, unmodified, with the kubeconfig that get-credentials writes and our
// exec plugin, through processes of their own. What each verb does is tried in
// requestpath; here is that the whole way lets it, and that streams live on which
// nothing is said meanwhile.
func TestKubectl(t *testing.T) {
	w := start(t)
	s, token, _ := w.service(t, deployer)
	meanwhile := w.keepSilent(t, token)
	defer meanwhile.end(t)
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
		t.Skip("no real node: logs and exec are not tried")
	}
	run(nil, "20", "logs", talker, "--tail=1")
	for _, env := range [][]string{{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true"}, {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"}} {
		run(env, "hello", "exec", quiet, "--", "echo", "hello")
	}
	if t.Failed() {
		fmt.Fprintln(os.Stderr, "see", w.Path("logs"))
	}
}
