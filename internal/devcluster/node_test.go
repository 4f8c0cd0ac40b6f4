package devcluster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

const toolPod = `
apiVersion: v1
kind: Pod
metadata: {name: tool, labels: {app: tool}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: tool
    image: ` + devcluster.ToolImage + `
    command: [sh, -c, "echo started; serve 8080"]
    ports: [{containerPort: 8080}]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: tool}
spec:
  selector: {app: tool}
  ports: [{port: 80, targetPort: 8080}]
`

func TestNode(t *testing.T) {
	began := time.Now()
	c := devclustertest.Start(t, devcluster.Config{Nodes: 1})
	t.Logf("ready after %s", time.Since(began).Round(time.Millisecond))
	ctx := t.Context()
	if err := c.Apply(ctx, toolPod); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/tool", "--timeout=60s"); err != nil {
		events, _ := c.Kubectl(ctx, "get", "events,pods", "-A", "-o", "wide")
		t.Fatalf("%v %s\n%s", err, out, events)
	}
	t.Logf("pod ready after %s", time.Since(began).Round(time.Millisecond))
	for _, tt := range []struct{ args, want string }{
		{"logs tool", "started\n"},
		{"exec tool -- hostname", "tool\n"},
		{"exec tool -- fetch http://localhost:8080/here", "GET /here 0 bytes\n"},
		{"exec tool -- fetch http://tool.default/here", ""},
		{"get --raw /api/v1/namespaces/default/pods/tool:8080/proxy/via-pod", "GET /via-pod 0 bytes\n"},
		{"get --raw /api/v1/namespaces/default/services/tool:80/proxy/via-service", "GET /via-service 0 bytes\n"},
		{"exec tool -- sh -c fetch${IFS}x", ""},
	} {
		out, err := c.Kubectl(ctx, strings.Fields(tt.args)...)
		if !strings.Contains(out, tt.want) || err != nil && tt.want != "" {
			t.Errorf("kubectl %s = %q, %v; want %q in it", tt.args, out, err, tt.want)
		}
	}
}
