package ml

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const (
	gpuImage  = "dev.sallyport.test/deviceplugin:1"
	toolImage = "dev.sallyport.test/tool:1"
)

// devicePlugin is deployed as a real one is; it offers two GPUs. Nodes with GPUs
// keep others away by a taint.
const devicePlugin = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: kube-system, name: gpus}
spec:
  selector: {matchLabels: {app: gpus}}
  template:
    metadata: {labels: {app: gpus}}
    spec:
      tolerations: [{operator: Exists}]
      containers:
      - {name: plugin, image: ` + gpuImage + `, imagePullPolicy: IfNotPresent, volumeMounts: [{name: sockets, mountPath: /var/lib/kubelet/device-plugins}]}
      volumes: [{name: sockets, hostPath: {path: /var/lib/kubelet/device-plugins}}]
---
apiVersion: amlarc.azureml.com/v1alpha1
kind: InstanceType
metadata: {name: gpu}
spec: {resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: "1", memory: 64Mi, nvidia.com/gpu: 1}}}
---
apiVersion: amlarc.azureml.com/v1alpha1
kind: InstanceType
metadata: {name: gpus}
spec: {resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: "1", memory: 64Mi, nvidia.com/gpu: "3"}}}
---
apiVersion: amlarc.azureml.com/v1alpha1
kind: InstanceType
metadata: {name: requested}
spec: {resources: {requests: {cpu: 50m, memory: 32Mi, nvidia.com/gpu: "1"}, limits: {cpu: "1", memory: 64Mi, nvidia.com/gpu: "1"}}}
`

// A job that wants a GPU gets one, on a node that is kept for such jobs; one that
// wants more than a node has waits and says why.
func TestJobsGetGPUs(t *testing.T) {
	m := start(t)
	m.image(gpuImage, m.buildIn("../../devcluster/deviceplugin"))
	m.must(m.Cluster.Apply(t.Context(), devicePlugin))
	node := m.Cluster.Nodes()[0].Name()
	eventually(t, "the node offers its GPUs", func(context.Context) error {
		out, err := m.Cluster.Kubectl(t.Context(), "get", "node", node, "-o", `jsonpath={.status.allocatable.nvidia\.com/gpu}`)
		if err == nil && out != "2" {
			err = fmt.Errorf("it offers %q", out)
		}
		return err
	})
	m.kubectl("taint", "nodes", "--all", "nvidia.com/gpu=present:NoSchedule")
	m.afterwards("the nodes", m.mendCluster)

	m.submitIn(toolImage, "one-gpu", "env", "resources: {instance_type: gpu}\n")
	m.until("one-gpu", "Completed", "")
	m.logHas("one-gpu", "node-0/attempt-0", "NVIDIA_VISIBLE_DEVICES=GPU-")
	m.submitIn(toolImage, "three-gpus", "env", "resources: {instance_type: gpus}\n")
	if s := m.until("three-gpus", "Queued", "Insufficient nvidia.com/gpu"); s.code != "PodUnschedulable" || !strings.Contains(s.more["statusCommand"], "kubectl") {
		t.Errorf("job %+v", s)
	}
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "three-gpus")...)
	m.submitIn(toolImage, "requested", "env", "resources: {instance_type: requested}\n")
	m.until("requested", "Failed", "belongs to its limits only")
}

// buildIn makes a static binary of a module of its own.
func (m *ml) buildIn(dir string) string {
	m.t.Helper()
	file := m.Path(dir[strings.LastIndexByte(dir, '/')+1:])
	cmd := exec.CommandContext(m.t.Context(), "go", "build", "-o", file, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// submitIn is submit with an image of one's own choice.
func (m *ml) submitIn(image, name, command, more string) {
	m.t.Helper()
	m.submitTo("k8s", image, name, command, more)
}

func (m *ml) submitTo(compute, image, name, command, more string) {
	m.t.Helper()
	file := m.Path(name + ".yaml")
	text := fmt.Sprintf("type: command\ncommand: %s\nenvironment: %s\ncompute: azureml:%s\n%s", command, image, compute, more)
	m.must(os.WriteFile(file, []byte(text), 0o600))
	m.cli(m.in("trainer", "ml", "job", "create", "-f", file, "-n", name, "-o", "none")...)
}

func (m *ml) logHas(job, file, text string) {
	m.t.Helper()
	eventually(m.t, "the log of "+job+" has "+text, func(ctx context.Context) error {
		log, err := m.log(ctx, job, file)
		if err == nil && !strings.Contains(log, text) {
			err = fmt.Errorf("it is %.2000s", log)
		}
		return err
	})
}
