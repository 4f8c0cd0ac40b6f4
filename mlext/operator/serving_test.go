package operator

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

func deployed(change func(*wire.Deployment)) *mlext.OnlineDeploymentSpec {
	s := &mlext.OnlineDeploymentSpec{Namespace: "serving", Deployment: wire.Deployment{UID: "0b1f6471-1bf0-4dda-aec3-111122223333", Name: "Blue", Image: "example.com/score:1",
		Instances: 2, Environment: map[string]string{"A": "$(B)"}, Scoring: wire.Route{Path: "/score", Port: 5001},
		Readiness: &wire.Probe{Route: wire.Route{Path: "/ready", Port: 5001}, InitialDelay: 10, Period: 10, Timeout: 2, Success: 1, Failure: 30},
		Liveness:  &wire.Probe{Route: wire.Route{Port: 5001}, InitialDelay: 10, Period: 10, Timeout: 2, Success: 1, Failure: 30},
		Request:   wire.RequestSettings{Timeout: 5500, MaxConcurrent: 1, MaxQueueWait: 500}}}
	if change != nil {
		change(&s.Deployment)
	}
	return s
}

func TestADeploymentLosesNoRequest(t *testing.T) {
	d, err := renderDeployment(deployed(nil), mlext.Default, carrier{})
	if err != nil {
		t.Fatal(err)
	}
	r := d.Spec.Strategy.RollingUpdate
	if d.Name != "blue-0b1f6471" || *d.Spec.Replicas != 2 || r.MaxUnavailable.IntValue() != 0 || r.MaxSurge.String() != "25%" {
		t.Errorf("deployment %+v", d.Spec.Strategy)
	}
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	// A request that was sent just before routers noticed has its whole time.
	if got := c.Lifecycle.PreStop.Sleep.Seconds; got != noticed+6 || *pod.TerminationGracePeriodSeconds <= got {
		t.Errorf("sleep %d, grace %d", got, *pod.TerminationGracePeriodSeconds)
	}
	if c.ReadinessProbe.HTTPGet.Path != "/ready" || c.LivenessProbe.TCPSocket == nil || *pod.AutomountServiceAccountToken || *c.SecurityContext.AllowPrivilegeEscalation {
		t.Errorf("container %+v", c)
	}
	if d, err := renderDeployment(deployed(func(d *wire.Deployment) {
		d.Mounts = []wire.Mount{{Name: "model", Way: wire.Read, Path: "/models/m/1"}}
	}), mlext.Default, carrier{Image: "example.com/ml:1", Address: "10.0.0.1:443", Trust: "pem"}); err != nil || d.Spec.Template.Spec.InitContainers[0].Name != fetcher ||
		!d.Spec.Template.Spec.Containers[0].VolumeMounts[0].ReadOnly || len(d.Spec.Template.Spec.Containers) != 1 {
		t.Errorf("with a model: %+v, %v", d, err)
	}
	if c.Env[0].Value != "$$(B)" {
		t.Errorf("Kubernetes would expand %q", c.Env[0].Value)
	}
	again, err := renderDeployment(deployed(func(d *wire.Deployment) { d.Instances = 5 }), mlext.Default, carrier{})
	if err != nil || again.Labels[formLabel] != d.Labels[formLabel] {
		t.Errorf("scaling makes another form: %v", err)
	}
	other, err := renderDeployment(deployed(func(d *wire.Deployment) { d.Image = "example.com/score:2" }), mlext.Default, carrier{})
	if err != nil || other.Labels[formLabel] == d.Labels[formLabel] {
		t.Errorf("another image is the same form: %v", err)
	}
}

func TestADeploymentStaysWithinItsInstanceType(t *testing.T) {
	kind := wire.InstanceType{Resources: wire.Resources{Requests: map[string]string{"cpu": "1", "memory": "1Gi"}, Limits: map[string]string{"cpu": "2", "memory": "2Gi"}}}
	ask := func(requests, limits map[string]string) (corev1.ResourceRequirements, error) {
		d, err := renderDeployment(deployed(func(d *wire.Deployment) { d.Resources = wire.Resources{Requests: requests, Limits: limits} }), kind, carrier{})
		if err != nil {
			return corev1.ResourceRequirements{}, err
		}
		return d.Spec.Template.Spec.Containers[0].Resources, nil
	}
	r, err := ask(map[string]string{"memory": "100Mi"}, map[string]string{"cpu": "500m"})
	if err != nil || r.Limits.Cpu().String() != "500m" || r.Requests.Cpu().String() != "500m" || r.Requests.Memory().String() != "100Mi" || r.Limits.Memory().String() != "2Gi" {
		t.Errorf("resources %v, %v", r, err)
	}
	for name, c := range map[string]struct{ requests, limits map[string]string }{
		"limit beyond":   {nil, map[string]string{"cpu": "3"}},
		"no such limit":  {nil, map[string]string{"nvidia.com/gpu": "1"}},
		"request beyond": {map[string]string{"memory": "3Gi"}, nil},
		"no quantity":    {nil, map[string]string{"cpu": "many"}},
		"negative":       {map[string]string{"cpu": "-1"}, nil},
	} {
		if r, err := ask(c.requests, c.limits); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func TestReplicasStayWithinBounds(t *testing.T) {
	s := deployed(func(d *wire.Deployment) { d.Scale = &wire.Scale{Min: 2, Max: 4} })
	for scaled, want := range map[int]int{0: 2, 1: 2, 3: 3, 9: 4} {
		if s.Scaled = scaled; replicas(s) != want {
			t.Errorf("%d: %d, want %d", scaled, replicas(s), want)
		}
	}
	if s.Deployment.Scale = nil; replicas(s) != 2 {
		t.Errorf("without bounds: %d", replicas(s))
	}
}

func TestADeploymentsStatusSaysWhy(t *testing.T) {
	server := func(change func(*corev1.Pod)) *corev1.Pod {
		return pod("0", "p", 0, func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: mlext.Server}}
			change(p)
		})
	}
	in := func(reason string, restarts int32, last *corev1.ContainerStateTerminated) *corev1.Pod {
		return server(func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: "because"}
			p.Status.ContainerStatuses[0].RestartCount, p.Status.ContainerStatuses[0].LastTerminationState.Terminated = restarts, last
		})
	}
	running := server(func(p *corev1.Pod) {
		p.Status.ContainerStatuses[0].State.Running = &corev1.ContainerStateRunning{}
	})
	ready := server(func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	})
	unscheduled := server(func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
	})
	done := appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
	condition := func(s appsv1.DeploymentStatus, c appsv1.DeploymentConditionType, is corev1.ConditionStatus, message string) appsv1.DeploymentStatus {
		s.Conditions = []appsv1.DeploymentCondition{{Type: c, Status: is, Message: message}}
		return s
	}
	rolling := appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 1, ReadyReplicas: 1}
	for _, tt := range []struct {
		name, was           string
		made                appsv1.DeploymentStatus
		pods                []*corev1.Pod
		state, code, reason string
	}{
		{"new", "", appsv1.DeploymentStatus{}, nil, wire.Updating, "", ""},
		{"ready", "", done, []*corev1.Pod{ready}, wire.Succeeded, "", ""},
		{"starting", "", rolling, []*corev1.Pod{running}, wire.Updating, codeNotReady, "readiness"},
		{"no node", "", rolling, []*corev1.Pod{unscheduled}, wire.Updating, codeUnschedulable, "0/3 nodes"},
		{"first pull", "", rolling, []*corev1.Pod{in("ErrImagePull", 0, nil)}, wire.Updating, codeImage, "because"},
		{"no image", "", rolling, []*corev1.Pod{in("ImagePullBackOff", 0, nil)}, wire.Failed, codeImage, "go on serving"},
		{"crashed", "", rolling, []*corev1.Pod{in(crashLoop, 1, &corev1.ContainerStateTerminated{ExitCode: 3, Message: "no model"})}, wire.Updating, codeCrash, "exit code 3: no model"},
		{"crashes", "", rolling, []*corev1.Pod{in(crashLoop, 2, &corev1.ContainerStateTerminated{ExitCode: 3})}, wire.Failed, codeCrash, "exit code 3"},
		{"memory", "", rolling, []*corev1.Pod{in(crashLoop, 2, &corev1.ContainerStateTerminated{Reason: "OOMKilled"})}, wire.Failed, codeMemory, "memory"},
		{"no model", "", rolling, []*corev1.Pod{server(func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: fetcher, RestartCount: 2, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: crashLoop}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Message: "no such version"}}}}
		})}, wire.Failed, codeTransfer, "no such version"},
		{"quota", "", condition(rolling, appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "pods is forbidden: exceeded quota: q"), nil, wire.Updating, codeQuota, "quota"},
		{"forbidden", "", condition(rolling, appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "violates PodSecurity"), nil, wire.Failed, codeInvalidDeployment, "PodSecurity"},
		{"too long", "", condition(rolling, appsv1.DeploymentProgressing, corev1.ConditionFalse, ""), []*corev1.Pod{unscheduled}, wire.Failed, codeUnschedulable, "0/3"},
		{"scaling", wire.Succeeded, appsv1.DeploymentStatus{Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 1}, []*corev1.Pod{ready}, wire.Scaling, "", ""},
		{"rolling", wire.Succeeded, rolling, []*corev1.Pod{}, wire.Updating, "", ""},
	} {
		s := deploymentStatus(wire.DeploymentStatus{State: tt.was}, &appsv1.Deployment{Status: tt.made}, 1, tt.pods)
		if s.State != tt.state || s.Code != tt.code || !strings.Contains(s.Reason, tt.reason) {
			t.Errorf("%s: %+v", tt.name, s)
		}
	}
	if got := lastLines(strings.Repeat("é", 300)+"\nlast", 40); !strings.HasSuffix(got, "last") || len(got) > 60 || slices.Contains([]rune(got), '\uFFFD') {
		t.Errorf("last lines %q", got)
	}
}
