package devcluster_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

// toolPod is a pod of the given name on a node, and its service.
func toolPod(name, node string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, labels: {app: %[1]s}}
spec:
  terminationGracePeriodSeconds: 0
  nodeName: %[2]s
  containers:
  - name: tool
    image: %[3]s
    command: [sh, -c, "echo started; serve 8080"]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{port: 80, targetPort: 8080}]
---
`, name, node, devcluster.ToolImage)
}

// runPods starts pods a, b, … one on each node and waits until they serve.
func runPods(t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	var manifest string
	args := []string{"wait", "--for=condition=Ready", "--timeout=60s"}
	for i, n := range c.Nodes() {
		name := string(rune('a' + i))
		manifest += toolPod(name, n.Name())
		args = append(args, "pod/"+name)
	}
	if err := c.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), args...); err != nil {
		state, _ := c.Kubectl(t.Context(), "get", "events,pods", "-A", "-o", "wide")
		t.Fatalf("%v\n%s", err, state)
	}
}

func TestNodes(t *testing.T) {
	began := time.Now()
	c := devclustertest.Start(t, devcluster.Config{Nodes: 2})
	t.Logf("2 nodes ready after %s", time.Since(began).Round(time.Millisecond))
	runPods(t, c)
	t.Logf("2 pods ready after %s", time.Since(began).Round(time.Millisecond))

	ctx := t.Context()
	podB, err := c.Kubectl(ctx, "get", "pod", "b", "-o", "jsonpath={.status.podIP}")
	if err != nil {
		t.Fatal(err)
	}
	services, err := c.Kubectl(ctx, "get", "service", "a", "b", "-o", "jsonpath={.items[*].spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	ips := strings.Fields(services)
	for _, tt := range []struct{ args, want string }{
		{"logs a", "started\n"},
		{"exec a -- hostname", "a\n"},
		{"exec a -- fetch http://" + podB + ":8080/other-node", "GET /other-node 0 bytes\n"},
		{"exec a -- fetch http://" + ips[0] + "/own-service", "GET /own-service 0 bytes\n"},
		{"exec a -- fetch http://" + ips[1] + "/other-service", "GET /other-service 0 bytes\n"},
		{"get --raw /api/v1/namespaces/default/pods/b:8080/proxy/via-pod", "GET /via-pod 0 bytes\n"},
		{"get --raw /api/v1/namespaces/default/services/b:80/proxy/via-service", "GET /via-service 0 bytes\n"},
		{"exec b -- cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "default"},
	} {
		out, err := c.Kubectl(ctx, strings.Fields(tt.args)...)
		if !strings.Contains(out, tt.want) || err != nil {
			t.Errorf("kubectl %s = %q, %v; want %q in it", tt.args, out, err, tt.want)
		}
	}
	t.Run("exec with stdin", func(t *testing.T) { execStdin(t, c) })
	t.Run("cp", func(t *testing.T) { copyBothWays(t, c) })
	t.Run("port-forward", func(t *testing.T) { portForward(t, c) })
	t.Run("image", func(t *testing.T) { ownImage(t, c) })
	t.Run("power", func(t *testing.T) { powerLost(t, c) })
}

// powerLost: a node that is lost comes back with what was on its disk, and its pods
// run again.
func powerLost(t *testing.T, c *devcluster.Cluster) {
	ctx := t.Context()
	name := c.Nodes()[1].Name()
	if err := c.Kill(ctx, name); err != nil {
		t.Fatal(err)
	}
	if err := c.StartNode(ctx, "node-2"); err == nil {
		t.Error("a node that the cluster does not have was started")
	}
	if err := c.StartNode(ctx, name); err != nil {
		t.Fatal(err)
	}
	if err := c.StartNode(ctx, name); err == nil || !strings.Contains(err.Error(), "it runs") {
		t.Errorf("started twice: %v", err)
	}
	service, err := c.Kubectl(ctx, "get", "service", "b", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Minute, func() error {
		out, err := c.Kubectl(ctx, "exec", "a", "--", "fetch", "http://"+service+"/again")
		if err == nil && !strings.Contains(out, "GET /again") {
			err = fmt.Errorf("a pod of the node does not serve: %q", out)
		}
		return err
	})
	if restarts, err := c.Kubectl(ctx, "get", "pod", "b", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); err != nil || restarts == "0" {
		t.Errorf("it was started %s times again, %v", restarts, err)
	}
}

func execStdin(t *testing.T, c *devcluster.Cluster) {
	cmd := c.KubectlCommand(t.Context(), "exec", "-i", "a", "--", "sh", "-c", "cat | wc -c; exit 7")
	cmd.Stdin = bytes.NewReader(make([]byte, 10<<20))
	out, err := cmd.Output()
	if string(out) != "10485760\n" || cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exec = %q, %v; want 10485760 and status 7", out, err)
	}
}

func copyBothWays(t *testing.T, c *devcluster.Cluster) {
	dir := t.TempDir()
	want := make([]byte, 5<<20)
	if _, err := rand.Read(want); err != nil {
		t.Fatal(err)
	}
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	if err := os.WriteFile(there, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"cp", there, "a:/tmp/file"}, {"cp", "a:/tmp/file", back}} {
		if _, err := c.Kubectl(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, want) {
		t.Errorf("after cp there and back: %d bytes, %v", len(got), err)
	}
}

func portForward(t *testing.T, c *devcluster.Cluster) {
	cmd := c.KubectlCommand(t.Context(), "port-forward", "pod/b", ":8080", "--address=127.0.0.1")
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
		t.Fatalf("kubectl port-forward says %q, %v", line, err)
	}
	resp, err := http.Get("http://" + fields[2] + "/fill/3000000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != 3000000 || err != nil {
		t.Errorf("through port-forward: %d bytes, %v", n, err)
	}
}

// ownImage runs an image made here, as the agents' images will be.
func ownImage(t *testing.T, c *devcluster.Cluster) {
	image := devcluster.Image{
		Name:       "dev.sallyport.test/own:1",
		Files:      []devcluster.ImageFile{{Path: "/etc/deep/motd", Data: []byte("made by hand\n"), Mode: 0o644}},
		Entrypoint: []string{"/bin/sh", "-c", "cat /etc/deep/motd; id"},
		User:       "1000",
	}
	tool, err := devcluster.BuildNodeTool(t.Context(), devcluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	image.Files = append(image.Files, devcluster.ImageFile{Path: "/bin/sh", From: tool})
	if err := c.AddImage(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "run", "own", "--image="+image.Name, "--restart=Never"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(t.Context(), "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/own", "--timeout=30s"); err != nil {
		t.Error(err)
	}
	if out, err := c.Kubectl(t.Context(), "logs", "own"); out != "made by hand\nuid=1000 gid=0\n" {
		t.Errorf("logs = %q, %v", out, err)
	}
}
