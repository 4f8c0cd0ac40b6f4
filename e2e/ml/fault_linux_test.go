package ml

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// long says whether faults are played whose bounds are minutes.
func long() bool { return os.Getenv("SALLYPORT_E2E_LONG") != "" }

// Whatever goes wrong while jobs run is said truly and has an end; canceling and
// deleting work throughout.
func TestFaultsOfTraining(t *testing.T) {
	m := start(t)
	m.part("pods", (*ml).podFaults)
	m.part("killed parts", (*ml).killedParts)
	m.part("no agent", (*ml).withoutAgent)
	if !long() {
		t.Log("SALLYPORT_E2E_LONG=1 plays silence, a namespace's deletion, an API server's death and a lost node too")
		return
	}
	m.part("silent operator", (*ml).silentOperator)
	m.part("silent agent", (*ml).silentAgent)
	m.part("no training", (*ml).withoutTraining)
	m.part("deleted namespace", (*ml).deletedNamespace)
	m.part("dead API server", (*ml).deadAPIServer)
	m.part("lost node", (*ml).lostNode)
}

// An endpoint that nobody could score says what is missing, and is there when it
// is not missing any more.
func TestEndpointsNeedARouter(t *testing.T) {
	m := start(t)
	ctx := t.Context()
	m.kubectl("annotate", "service", "-n", wire.Namespace, mlext.RouterService, mlext.ScoringURL+"-")
	m.afterwards("the router", func(ctx context.Context) error {
		if m.route(ctx) == nil {
			return nil
		}
		_, err := m.CLI(ctx, m.updateExtension(settings...)...)
		return errors.Join(err, m.route(ctx))
	})
	endpoint := m.workspaceID("trainer") + "/onlineEndpoints/nowhere"
	op, err := m.Do(ctx, http.MethodPut, endpoint, mlVersion, map[string]any{"location": "local", "properties": map[string]any{
		"authMode": "Key", "compute": m.workspaceID("trainer") + "/computes/k8s"}})
	m.must(err)
	said := ""
	_, err = op.Wait(ctx, func(op *client.Operation) {
		if said == "" && strings.Contains(op.Reason, "Nothing can be scored") {
			said = op.Reason
			m.must(m.route(ctx))
		}
	})
	if err != nil || !strings.Contains(said, "say where callers reach it, by its annotation "+mlext.ScoringURL) {
		t.Errorf("it said %q, and ended with %v", said, err)
	}

	m.kubectl("delete", "service", "-n", wire.Namespace, mlext.RouterService)
	m.refused("ScoringFeUnhealthy", m.in("trainer", "ml", "online-endpoint", "create", "-f", m.file("unrouted.yaml", "name: unrouted\ncompute: azureml:k8s\n"))...)
	if s := m.cli(m.in("trainer", "ml", "online-endpoint", "show", "-n", "unrouted", "--query", "[provisioningState,properties.statusCode] | join(' ', @)", "-o", "tsv")...); s != "Failed ScoringFeUnhealthy" {
		t.Errorf("the endpoint is %q", s)
	}
	for _, name := range []string{"nowhere", "unrouted"} {
		m.cli(m.in("trainer", "ml", "online-endpoint", "delete", "-n", name, "--yes")...)
	}
}

// says waits for a code of a job, and checks that its cause and what to type are
// there.
func (m *ml) says(name, status, code, reason, command string) {
	m.t.Helper()
	eventually(m.t, "job "+name+" says "+code, func(ctx context.Context) error {
		s, err := m.job(ctx, name)
		if err == nil && (s.status != status || s.code != code || !strings.Contains(s.reason, reason) || !strings.Contains(s.more["statusCommand"], command)) {
			if err = fmt.Errorf("it is %+v", s); ended(s.status) && s.status != status {
				err = errors.Join(err, errOver)
			}
		}
		return err
	})
}

// podFaults: an image that is not there, and memory that is not enough.
func (m *ml) podFaults() {
	m.must(m.Cluster.Apply(m.t.Context(), `{apiVersion: amlarc.azureml.com/v1alpha1, kind: InstanceType, metadata: {name: small},
		spec: {resources: {requests: {cpu: 50m, memory: 24Mi}, limits: {cpu: "1", memory: 24Mi}}}}`))
	m.submitIn("dev.sallyport.test/none:1", "no-image", "env", "")
	m.submitIn(toolImage, "big", "'fill 100000000 > /dev/shm/big'", "resources: {instance_type: small, shm_size: 200m}\n")
	m.says("no-image", "Preparing", "ImagePullLoopBackOff", "dev.sallyport.test/none:1", "kubectl describe pod -n training no-image-")
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "no-image")...)
	m.says("big", "Failed", "PodOutOfMemory", "more memory", "kubectl get instancetypes")
	m.kubectl("create", "quota", "none", "-n", "training", "--hard=pods=0")
	m.afterwards("the quota", m.mendNamespace)
	m.submit("over-quota", "/train -steps 10", "")
	m.says("over-quota", "Queued", "OutOfQuota", "exceeded quota", "kubectl describe resourcequota -n training")
	m.kubectl("delete", "quota", "none", "-n", "training")
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "over-quota")...)
}

// kill ends a part of the extension with SIGKILL.
func (m *ml) kill(part string) {
	m.t.Helper()
	m.killPod(m.kubectl("get", "pods", "-n", wire.Namespace, "-l", "app.kubernetes.io/name=sallyport-ml-"+part, "-o", "jsonpath={.items[0].metadata.name}"))
}

// killPod ends the process of a pod of the extension with SIGKILL, and waits until
// it is there again.
func (m *ml) killPod(pod string) {
	m.t.Helper()
	ctx := m.t.Context()
	at := m.kubectl("get", "pod", "-n", wire.Namespace, pod, "-o", "jsonpath={.spec.nodeName} {.status.containerStatuses[0].containerID}")
	node, container, ok := strings.Cut(at, " containerd://")
	if !ok {
		m.t.Fatalf("%s runs nowhere: %q", pod, at)
	}
	socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", m.Cluster.PID(node))
	if out, err := exec.CommandContext(ctx, "ctr", "--address", socket, "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", container).CombinedOutput(); err != nil {
		m.t.Fatalf("kill %s: %v %s", pod, err, out)
	}
	eventually(m.t, pod+" is started again", func(ctx context.Context) error {
		now, err := m.Cluster.Kubectl(ctx, "get", "pod", "-n", wire.Namespace, pod, "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].ready}")
		if err == nil && (strings.Contains(now, container) || !strings.HasSuffix(now, " true")) {
			err = fmt.Errorf("it is %q", now)
		}
		return err
	})
}

// killedParts: operator and gateway are killed while a job runs. It runs on, its
// log goes on, another job gets its turn.
func (m *ml) killedParts() {
	m.submit("survivor", "/train -steps 0 -pace 20ms", "")
	m.until("survivor", "Running", "")
	m.kill("operator")
	m.submit("after-operator", "/train -steps 100", "")
	m.until("after-operator", "Completed", "")
	m.kill("gateway")
	m.submit("after-gateway", "/train -steps 100", "")
	m.until("after-gateway", "Completed", "")
	m.logHas("survivor", "node-0/attempt-0", "step 10 ")
	if s := m.until("survivor", "Running", ""); s.more["node-0.attempt"] != "0" {
		m.t.Errorf("job %+v", s)
	}
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "survivor")...)
}

// trainingJobs are those in the cluster, by name.
func (m *ml) trainingJobs() string {
	m.t.Helper()
	return " " + m.kubectl("get", "trainingjobs", "-n", wire.Namespace, "-o", "jsonpath={.items[*].spec.job.name}") + " "
}

// killAgent kills the one that holds the tunnels.
func (m *ml) killAgent() {
	m.t.Helper()
	m.must(m.Process(installation.Proxy).Kill())
	m.afterwards("the agent", func(ctx context.Context) error {
		if m.Process(installation.Proxy).Failed() == nil {
			return nil
		}
		return m.restartAgents(ctx)
	})
}

// withoutAgent: nobody reaches the cluster. A job that is deleted is gone at once,
// one that is canceled says why it is not yet; both are carried out when the
// cluster is back, and what was submitted meanwhile runs.
func (m *ml) withoutAgent() {
	ctx := m.t.Context()
	m.submit("to-cancel", "/train -steps 0 -pace 20ms", "")
	m.submit("to-delete", "/train -steps 0 -pace 20ms", "")
	m.until("to-cancel", "Running", "")
	m.until("to-delete", "Running", "")
	m.killAgent()

	arm, err := m.ARM()
	m.must(err)
	op, err := arm.Begin(ctx, client.Request{Method: http.MethodDelete, Path: m.workspaceID("trainer") + "/jobs/to-delete", Version: mlVersion})
	m.must(err)
	if _, err := op.Wait(ctx, nil); err != nil || !strings.Contains(op.Reason, "is removed then") {
		m.t.Errorf("deletion says %q, %v", op.Reason, err)
	}
	if _, err := m.job(ctx, "to-delete"); err == nil {
		m.t.Error("the deleted job is still shown")
	}
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "to-cancel", "--no-wait")...)
	m.submit("meanwhile", "/train -steps 100", "")
	m.says("meanwhile", "NotStarted", "ClusterNotReachable", "not reachable", "sallyport cluster status")
	m.says("to-cancel", "CancelRequested", "ClusterNotReachable", "not reachable", "sallyport cluster status")
	if there := m.trainingJobs(); !strings.Contains(there, " to-delete ") {
		m.t.Errorf("in the cluster: %s", there)
	}
	m.must(m.restartAgents(ctx))
	m.until("to-cancel", "Canceled", "")
	m.until("meanwhile", "Completed", "")
	eventually(m.t, "the deleted job is gone from the cluster", func(context.Context) error {
		if there := m.trainingJobs(); strings.Contains(there, " to-delete ") {
			return fmt.Errorf("there are %s", there)
		}
		return nil
	})
}

// silentOperator: what it said last is not taken for true.
func (m *ml) silentOperator() {
	m.submit("unwatched", "/train -steps 0 -pace 20ms", "")
	m.until("unwatched", "Running", "")
	m.kubectl("scale", "deployment", "-n", wire.Namespace, "sallyport-ml-operator", "--replicas=0")
	m.afterwards("the operator", func(ctx context.Context) error {
		_, err := m.Cluster.Kubectl(ctx, "scale", "deployment", "-n", wire.Namespace, "sallyport-ml-operator", "--replicas=1")
		return err
	})
	m.says("unwatched", "NotResponding", wire.OperatorSilent, "operator", "kubectl get pods -n azureml")
	m.refused(wire.OperatorSilent, m.attachment("k8s", "training")...)
	m.kubectl("scale", "deployment", "-n", wire.Namespace, "sallyport-ml-operator", "--replicas=2")
	m.until("unwatched", "Running", "")
	holder := func() string {
		return m.kubectl("get", "lease", "-n", wire.Namespace, "sallyport-ml-operator", "-o", "jsonpath={.spec.holderIdentity}")
	}
	first := holder()
	pod := first[:strings.LastIndexByte(first, '-')]
	m.kubectl("delete", "pod", "-n", wire.Namespace, pod, "--grace-period=0", "--force")
	eventually(m.t, "another operator has taken over", func(context.Context) error {
		if now := holder(); now == first || now == "" {
			return fmt.Errorf("it is %q", now)
		}
		return nil
	})
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "unwatched")...)
	m.kubectl("scale", "deployment", "-n", wire.Namespace, "sallyport-ml-operator", "--replicas=1")
	m.cli(m.attachment("k8s", "training")...)
}

// silentAgent: after a while nothing is known of what runs, and it is known again
// when the agent is back. A cancel that cannot be told ends with that reason and
// is carried out later.
func (m *ml) silentAgent() {
	ctx := m.t.Context()
	m.submit("unheard", "/train -steps 0 -pace 20ms", "")
	m.submit("unheard-too", "/train -steps 0 -pace 20ms", "")
	m.until("unheard", "Running", "")
	m.until("unheard-too", "Running", "")
	m.killAgent()
	m.says("unheard", "NotResponding", "ClusterNotReachable", "not reachable", "sallyport cluster status")
	m.says("unheard-too", "NotResponding", "ClusterNotReachable", "not reachable", "sallyport cluster status")
	m.refused("is canceled as soon as", m.in("trainer", "ml", "job", "cancel", "-n", "unheard")...)
	m.must(m.restartAgents(ctx))
	m.until("unheard", "Canceled", "")
	m.until("unheard-too", "Running", "")
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "unheard-too")...)
}

// withoutTraining: the owner has the extension serve only.
func (m *ml) withoutTraining() {
	m.cli(m.updateExtension("enableTraining=False", "enableInference=True", "inferenceRouterServiceType=clusterIP", "allowInsecureConnections=True")...)
	m.afterwards("training", func(ctx context.Context) error {
		_, err := m.CLI(ctx, m.updateExtension(settings...)...)
		return errors.Join(err, m.route(ctx))
	})
	m.submit("refused", "/train", "")
	m.says("refused", "Failed", wire.TrainingNotEnabled, "not enabled", "enableTraining=True")
}

// reinstall has the extension use these namespaces.
func (m *ml) reinstall(namespaces ...string) {
	m.t.Helper()
	m.accept(mlExtension, append([]string{"--image", mlImage, "--namespace"}, namespaces...)...)
	m.cli(m.updateExtension(settings...)...)
	m.kubectl("rollout", "status", "-n", wire.Namespace, "deployment/sallyport-ml-gateway", "deployment/sallyport-ml-operator", "--timeout="+patience.String())
}

// deletedNamespace: jobs in it have failed for that reason, and those elsewhere
// go on, also with an operator that starts meanwhile. It can be made again.
func (m *ml) deletedNamespace() {
	const ns = "doomed"
	attach := m.attachment(ns, ns)
	m.kubectl("create", "namespace", ns)
	m.reinstall("training", ns)
	m.cli(attach...)
	m.submitTo(ns, trainImage, "in-doomed", "/train -steps 0 -pace 20ms", "")
	m.until("in-doomed", "Running", "")
	m.kubectl("delete", "namespace", ns, "--wait=false")
	m.says("in-doomed", "Failed", "NamespaceNotFound", "namespace "+ns, "kubectl create namespace "+ns)
	m.kubectl("wait", "--for=delete", "namespace/"+ns, "--timeout="+patience.String())
	m.submitTo(ns, trainImage, "too-late", "/train", "")
	m.says("too-late", "Failed", "NamespaceNotFound", ns, "kubectl create namespace")
	m.refused("NamespaceNotFound", attach...)
	m.kill("operator")
	m.submit("elsewhere", "/train -steps 100", "")
	m.until("elsewhere", "Completed", "")
	m.kubectl("create", "namespace", ns)
	m.reinstall("training", ns)
	m.cli(attach...)
	m.submitTo(ns, trainImage, "reborn", "/train -steps 100", "")
	m.until("reborn", "Completed", "")
	m.cli(m.in("trainer", "ml", "compute", "detach", "-n", ns, "--yes")...)
	m.reinstall("training")
}

// deadAPIServer: the API server is killed and comes back.
func (m *ml) deadAPIServer() {
	ctx := m.t.Context()
	m.submit("through", "/train -steps 0 -pace 20ms", "")
	m.until("through", "Running", "")
	m.must(m.Cluster.Kill(ctx, "kube-apiserver"))
	m.afterwards("the API server", func(ctx context.Context) error {
		if m.Cluster.PID("kube-apiserver") != 0 {
			return nil
		}
		return m.Cluster.StartAPIServer(ctx)
	})
	m.says("through", "NotResponding", "ClusterNotReachable", "not reachable", "sallyport cluster status")
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "through", "--no-wait")...)
	m.must(m.Cluster.StartAPIServer(ctx))
	m.until("through", "Canceled", "")
	m.submit("afterwards", "/train -steps 100", "")
	m.until("afterwards", "Completed", "")
}

// lostNode: a node is cut off while a job runs there, and nobody knows whether it
// runs on; it did, and that is known again when the node is back. Then the node
// loses its power: what ran there is started elsewhere once the node is removed,
// and no retry of its own is used up.
func (m *ml) lostNode() {
	ctx := m.t.Context()
	nodes := m.Cluster.Nodes()
	if len(nodes) < 2 {
		m.t.Log("one node only: none can be lost")
		return
	}
	node := nodes[len(nodes)-1].Name()
	m.must(m.Cluster.Apply(ctx, `{apiVersion: amlarc.azureml.com/v1alpha1, kind: InstanceType, metadata: {name: doomed},
		spec: {nodeSelector: {doomed: "yes"}, resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: "1", memory: 64Mi}}}}`))
	m.kubectl("label", "node", node, "doomed=yes")
	m.submit("lost", "/train -steps 0 -pace 20ms", "resources: {instance_type: doomed}\n")
	m.submit("given-up", "/train -steps 0 -pace 20ms", "resources: {instance_type: doomed}\n")
	m.until("lost", "Running", "")
	m.until("given-up", "Running", "")
	m.must(m.Cluster.Cut(ctx, node))
	m.afterwards("the node's link", func(ctx context.Context) error {
		if slices.ContainsFunc(m.Cluster.Nodes(), func(n *devcluster.Node) bool { return n.Name() == node }) {
			return m.Cluster.Join(ctx, node)
		}
		return nil // it lost its power since
	})
	m.says("lost", "NotResponding", "NodeLost", node, "kubectl delete node "+node)
	m.must(m.Cluster.Join(ctx, node))
	if s := m.until("lost", "Running", ""); s.code != "" || s.more["node-0.host"] != node || s.more["node-0.attempt"] != "0" {
		m.t.Errorf("the node is back, and the job %+v", s)
	}
	m.until("given-up", "Running", "")

	m.must(m.Cluster.Kill(ctx, node))
	m.afterwards("the nodes", m.mendCluster)
	m.says("lost", "NotResponding", "NodeLost", node, "kubectl delete node "+node)
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "given-up")...)
	m.until("given-up", "Canceled", "")
	m.kubectl("label", "node", nodes[0].Name(), "doomed=yes")
	m.kubectl("delete", "node", node)
	eventually(m.t, "the job runs elsewhere", func(ctx context.Context) error {
		s, err := m.job(ctx, "lost")
		if err == nil && (s.status != "Running" || s.more["node-0.host"] == node) {
			err = fmt.Errorf("it is %+v", s)
		}
		return err
	})
	m.cli(m.in("trainer", "ml", "job", "cancel", "-n", "lost")...)
	m.until("lost", "Canceled", "")
}
