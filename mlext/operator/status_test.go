package operator

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

var began = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

func pod(index, name string, after time.Duration, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(began.Add(after)),
		Annotations: map[string]string{batchv1.JobCompletionIndexAnnotation: index}}}
	if change != nil {
		change(p)
	}
	return p
}

func state(s corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.NodeName = "host"
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: mlext.Container, State: s}}
	}
}

func TestStatusSaysWhy(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(began)}}
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "no such image"}}
	}
	ended := func(code int32, reason string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: metav1.NewTime(began), FinishedAt: metav1.NewTime(began)}}
	}
	condition := func(c batchv1.JobConditionType, reason string) *batchv1.Job {
		return &batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: c, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.NewTime(began.Add(time.Minute))}}}}
	}
	unscheduled := func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available: 3 Insufficient cpu."}}
	}
	// As Kubernetes leaves the pods of a node that it does not hear of.
	silent := func(p *corev1.Pod) {
		state(running)(p)
		p.Status.Phase, p.Status.Conditions = corev1.PodRunning, []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	}
	notReady := func(p *corev1.Pod) { // says the kubelet
		silent(p)
		p.Status.Conditions[0].Reason = "ContainersNotReady"
	}
	evicted := func(p *corev1.Pod) {
		state(waiting("ContainerCreating"))(p)
		p.Status.Phase, p.Status.Conditions = corev1.PodPending, []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager"}}
	}
	warning := func(message string) []corev1.Event {
		return []corev1.Event{{Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: message}}
	}
	tests := []struct {
		name                string
		job                 *batchv1.Job
		pods                []*corev1.Pod
		events              []corev1.Event
		state, code, reason string
	}{
		{"new", &batchv1.Job{}, nil, nil, wire.Queued, "", "no pod"},
		{"quota", &batchv1.Job{}, nil, warning(`pods "x" is forbidden: exceeded quota: team`), wire.Queued, codeQuota, "exceeded quota: team"},
		{"admission", &batchv1.Job{}, nil, warning("violates PodSecurity"), wire.Queued, "FailedCreate", "violates PodSecurity"},
		{"unschedulable", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, unscheduled)}, nil, wire.Queued, codeUnschedulable, "Insufficient cpu"},
		{"image", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, state(waiting("ImagePullBackOff")))}, nil, wire.Preparing, codeImage, "no such image"},
		{"creating", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, state(waiting("ContainerCreating")))}, nil, wire.Preparing, "", ""},
		{"bad config", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, state(waiting("CreateContainerConfigError")))}, nil, wire.Preparing, codeStart, "CreateContainerConfigError"},
		{"one of two runs", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, state(running)), pod("1", "b", 0, unscheduled)}, nil, wire.Running, codeUnschedulable, "Insufficient"},
		{"lost node", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, silent)}, nil, wire.NotResponding, codeNodeLost, "node host has not been heard of"},
		{"one of two lost", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, state(running)), pod("1", "b", 0, silent)}, nil, wire.NotResponding, codeNodeLost, "whether node 1 of the job"},
		{"lost before it started", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, evicted)}, nil, wire.NotResponding, codeNodeLost, "node host"},
		{"started again elsewhere", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, silent), pod("0", "b", time.Second, state(running))}, nil, wire.Running, "", ""},
		{"not ready", &batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, notReady)}, nil, wire.Running, "", ""},
		{"completed", condition(batchv1.JobComplete, ""), []*corev1.Pod{pod("0", "a", 0, state(ended(0, "Completed")))}, nil, wire.Completed, "", ""},
		{"exit code", condition(batchv1.JobFailed, "BackoffLimitExceeded"), []*corev1.Pod{pod("1", "a", 0, state(ended(3, "Error")))}, nil, wire.Failed, codeExit, "node 1 (pod a, host host): it ended with exit code 3"},
		{"memory", condition(batchv1.JobFailed, "BackoffLimitExceeded"), []*corev1.Pod{pod("0", "a", 0, state(ended(137, "OOMKilled")))}, nil, wire.Failed, codeMemory, "more memory"},
		{"queue", &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{wire.QueueLabel: "team-a"}}, Spec: batchv1.JobSpec{Suspend: ptr(true)}}, nil, nil, wire.Queued, codeQueue, "queue team-a"},
		{"let go by its queue", &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{wire.QueueLabel: "team-a"}}, Spec: batchv1.JobSpec{Suspend: ptr(false)}}, nil, nil, wire.Queued, "", "no pod"},
		{"timeout", condition(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded), nil, nil, wire.Failed, codeTimeout, "limits.timeout"},
	}
	for _, tt := range tests {
		s := statusOf(tt.job, tt.pods, tt.events)
		if s.State != tt.state || s.Code != tt.code || tt.reason == "" != (s.Reason == "") || !strings.Contains(s.Reason, tt.reason) {
			t.Errorf("%s: %+v", tt.name, s)
		}
		if wire.Done(s.State) != !s.Ended.IsZero() {
			t.Errorf("%s: ended %v", tt.name, s.Ended)
		}
	}
}

func TestTheLastAttemptOfEachNodeCounts(t *testing.T) {
	s := statusOf(&batchv1.Job{}, []*corev1.Pod{pod("1", "c", 0, nil), pod("0", "b", time.Second, nil), pod("0", "a", 0, nil), pod("x", "odd", 0, nil)}, nil)
	if len(s.Nodes) != 2 || s.Nodes[0].Pod != "b" || s.Nodes[0].Attempt != 1 || s.Nodes[1].Pod != "c" || s.Nodes[1].Attempt != 0 {
		t.Errorf("nodes %+v", s.Nodes)
	}
}

func TestRender(t *testing.T) {
	job := func(change func(*wire.Job)) *mlext.TrainingJob {
		j := wire.Job{UID: "0b1f6471-1bf0-4dda-aec3-111122223333", Name: "Fit_it", Image: "i", Command: "/train -x $(A)", Nodes: 1, Environment: map[string]string{"A": "$(B)"}}
		if change != nil {
			change(&j)
		}
		return mlext.NewTrainingJob(mlext.TrainingJobSpec{Namespace: "training", Job: j})
	}
	claim := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Annotations: map[string]string{claimPath: "/data"}}}
	made, err := render(job(func(j *wire.Job) {
		j.Nodes, j.Distribution, j.ShmSize, j.Timeout, j.Retries, j.Queue = 3, "TensorFlow", "1Gi", 60, 2, "team-a"
	}), mlext.Default, []corev1.PersistentVolumeClaim{claim, {}}, []string{"10.0.0.1", "10.0.0.2", "fd00::3"}, carrier{})
	if err != nil {
		t.Fatal(err)
	}
	c := made.Spec.Template.Spec.Containers[0]
	env := map[string]string{}
	for _, e := range c.Env {
		env[e.Name] = e.Value
	}
	var tf struct{ Cluster map[string][]string }
	if err := json.Unmarshal([]byte(strings.ReplaceAll(env["TF_CONFIG"], "$(NODE_RANK)", "1")), &tf); err != nil || len(tf.Cluster["worker"]) != 3 || tf.Cluster["worker"][2] != "[fd00::3]:2222" {
		t.Errorf("TF_CONFIG %s %v", env["TF_CONFIG"], err)
	}
	if env["A"] != "$$(B)" || made.Name != "fit-it-0b1f6471" || *made.Spec.BackoffLimit != 2 || *made.Spec.ActiveDeadlineSeconds != 60 || *made.Spec.Completions != 3 {
		t.Errorf("job %+v, env %v", made.Spec, env)
	}
	if _, inPods := made.Spec.Template.Labels[wire.QueueLabel]; made.Labels[wire.QueueLabel] != "team-a" || inPods || made.Spec.Suspend != nil {
		t.Errorf("labels %v, %v", made.Labels, made.Spec.Template.Labels)
	}
	pod := made.Spec.Template.Spec
	if *pod.AutomountServiceAccountToken || len(pod.Volumes) != 2 || c.VolumeMounts[1].MountPath != "/data" || *c.SecurityContext.AllowPrivilegeEscalation || pod.HostNetwork {
		t.Errorf("pod %+v", pod)
	}
	for name, change := range map[string]func(*wire.Job){
		"shm":          func(j *wire.Job) { j.ShmSize = "much" },
		"distribution": func(j *wire.Job) { j.Distribution = "Mpi" },
		"env":          func(j *wire.Job) { j.Environment = map[string]string{"a b": ""} },
	} {
		if _, err := render(job(change), mlext.Default, nil, nil, carrier{}); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := render(job(nil), wire.InstanceType{Resources: wire.Resources{Limits: map[string]string{"cpu": "x"}}}, nil, nil, carrier{}); trust.KindOf(err) != trust.Invalid {
		t.Errorf("instance type: %v", err)
	}
	made, err = render(job(nil), wire.InstanceType{Resources: wire.Resources{Limits: map[string]string{wire.GPU: "1"}}}, nil, nil, carrier{})
	if err != nil || !slices.Contains(made.Spec.Template.Spec.Tolerations, corev1.Toleration{Key: wire.GPU, Operator: corev1.TolerationOpExists}) {
		t.Errorf("gpu %+v %v", made, err)
	}
}

// Nodes that are kept for machine learning, for a group, a workspace or a compute
// take its pods, and no others.
func TestTolerations(t *testing.T) {
	tolerated := func(group, compute string) string {
		var all []string
		for _, t := range tolerations(mlext.Owner{Workspace: "/subscriptions/s/resourcegroups/" + group + "/providers/microsoft.machinelearningservices/workspaces/w"}, compute) {
			if t.Operator != corev1.TolerationOpEqual || t.Effect != "" {
				all = append(all, string(t.Operator), string(t.Effect))
			}
			all = append(all, strings.TrimPrefix(t.Key, "ml.azure.com/")+"="+t.Value)
		}
		return strings.Join(all, " ")
	}
	if got, want := tolerated("g", "K8s"), "amlarc=true amlarc-workload=true resource-group=g workspace=w compute=k8s"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	// Kubernetes refuses a pod that tolerates what no taint can be.
	if got, want := tolerated("g(1)", ""), "amlarc=true amlarc-workload=true workspace=w"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := tolerations(mlext.Owner{}, ""); len(got) != 2 {
		t.Errorf("of nobody: %v", got)
	}
}

// Whatever keeps a job, or ended it, comes with what to type.
func TestEveryReasonHasItsCommand(t *testing.T) {
	job := mlext.NewTrainingJob(mlext.TrainingJobSpec{Namespace: "training", Job: wire.Job{Name: "fit"},
		Owner: mlext.Owner{Workspace: "/subscriptions/s/resourcegroups/g/providers/microsoft.machinelearningservices/workspaces/w"}})
	for code, want := range map[string]string{
		codeUnschedulable: "kubectl get instancetypes", codeImage: "kubectl describe pod -n training fit-1", codeMemory: "kubectl get instancetypes",
		codeQuota: "kubectl describe resourcequota -n training", codeTimeout: "limits.timeout", codeExit: "sallyport ml job download -g g -w w -n fit",
		codeVanished: "kubectl get events -n training", codeInvalid: "kubectl get instancetypes", codeNamespace: "kubectl create namespace training",
		codeStart: "kubectl describe pod -n training fit-1", codeTransfer: "kubectl describe pod -n training fit-1", codeNodeLost: "kubectl delete node host-1",
		codeQueue: "kubectl describe workloads.kueue.x-k8s.io -n training", codeRefused: "kubectl describe resourcequota -n training", "FailedCreate": "kubectl get events -n training",
	} {
		s := wire.Status{State: wire.Queued, Code: code, Nodes: []wire.Node{{Pod: "fit-0", Host: "host-0", Phase: "Running"}, {Index: 1, Pod: "fit-1", Host: "host-1", Reason: "it is this one"}}}
		if got := next(job, &s); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q in it", code, got, want)
		}
	}
	if got := next(job, &wire.Status{State: wire.Running}); got != "" {
		t.Errorf("where nothing is wrong: %q", got)
	}
}

func TestQuantitiesAreTextOrNumbers(t *testing.T) {
	var kind mlext.InstanceType
	if err := json.Unmarshal([]byte(`{"spec":{"resources":{"requests":{"cpu":1,"memory":"1Gi"},"limits":{"cpu":"2","nvidia.com/gpu":1,"other":null}}}}`), &kind); err != nil {
		t.Fatal(err)
	}
	r := kind.Spec.Resources
	if r.Requests["cpu"] != "1" || r.Limits[wire.GPU] != "1" || len(r.Limits) != 2 {
		t.Errorf("resources %+v", r)
	}
	for _, wrong := range []string{`{"limits":{"cpu":{}}}`, `{"limits":[1]}`, `{"limits":{"cpu":true}}`} {
		if json.Unmarshal([]byte(wrong), &r) == nil {
			t.Errorf("%s was taken", wrong)
		}
	}
	if _, err := requirements(wire.Resources{Requests: wire.Quantities{wire.GPU: "1"}}); trust.KindOf(err) != trust.Invalid {
		t.Errorf("a GPU that is requested: %v", err)
	}
}
