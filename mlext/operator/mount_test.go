package operator

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// The program gets its folders; the token that asks for bytes is not among them.
func TestWhatMovesBytesRunsBesideTheProgram(t *testing.T) {
	job := mlext.NewTrainingJob(mlext.TrainingJobSpec{Namespace: "training", PullSecret: "pull", Job: wire.Job{
		UID: "0b1f6471-1bf0-4dda-aec3-111122223333", Name: "fit", Image: "i", Command: "/train", Nodes: 1, WorkDir: "/mnt/azureml/code",
		Mounts: []wire.Mount{{Name: "code", Way: wire.Read, Path: "/mnt/azureml/code", Writable: true}, {Name: "inputs.a", Way: wire.Read, Path: "/mnt/azureml/inputs/a"},
			{Name: "outputs.o", Way: wire.Write, Path: "/mnt/azureml/outputs/o"}},
	}})
	made, err := render(job, mlext.Default, nil, nil, carrier{Image: "own", Address: "10.0.0.1:443", Trust: "pem"})
	if err != nil {
		t.Fatal(err)
	}
	pod := made.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 2 || pod.Containers[0].Name != mlext.Container || len(pod.ImagePullSecrets) != 1 {
		t.Fatalf("pod %+v", pod)
	}
	mounted := func(c corev1.Container) string {
		var all []string
		for _, m := range c.VolumeMounts {
			all = append(all, m.MountPath+map[bool]string{true: ":ro", false: ""}[m.ReadOnly])
		}
		return strings.Join(all, " ")
	}
	const root, token = "/mnt/azureml/", " /var/run/secrets/sallyport-ml:ro"
	for what, is := range map[string][2]string{
		"the program": {mounted(pod.Containers[0]), root + "code " + root + "inputs/a:ro " + root + "outputs/o"},
		"fetch":       {mounted(pod.InitContainers[0]), root + "code " + root + "inputs/a" + token},
		"push":        {mounted(pod.Containers[1]), root + "outputs/o:ro" + token},
	} {
		if is[0] != is[1] {
			t.Errorf("%s has %s, want %s", what, is[0], is[1])
		}
	}
	for _, v := range pod.Volumes {
		if v.Projected != nil && v.Projected.Sources[0].ServiceAccountToken.Audience != wire.PodAudience {
			t.Errorf("token %+v", v.Projected)
		}
	}
	if *pod.AutomountServiceAccountToken || pod.Containers[0].WorkingDir != "/mnt/azureml/code" {
		t.Errorf("pod %+v", pod)
	}
	for _, bad := range []wire.Mount{{Name: "a b", Path: "/x"}, {Name: "a", Path: "x"}, {Name: "a", Path: "/x:y"}} {
		job.Spec.Job.Mounts = []wire.Mount{bad}
		if _, err := render(job, mlext.Default, nil, nil, carrier{}); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestStatusSaysWhatBecameOfBytesAndMetrics(t *testing.T) {
	ended := func(container string, code int32, message string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: container, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Message: message, StartedAt: metav1.NewTime(began)}}}
	}
	failed := &batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}}}}
	s := statusOf(failed, []*corev1.Pod{pod("0", "a", 0, func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{ended(mlext.Container, 0, `{"loss":0.5,"w":3}`), ended(pusher, 1, "outputs.o: the store's disk is full\n")}
	})}, nil)
	if s.Code != codeTransfer || !strings.Contains(s.Reason, "could not be kept: outputs.o: the store's disk is full") || s.Metrics["loss"] != 0.5 || s.Metrics["w"] != 3 {
		t.Errorf("push failed: %+v", s)
	}
	s = statusOf(failed, []*corev1.Pod{pod("0", "a", 0, func(p *corev1.Pod) {
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{ended(fetcher, 1, "inputs.a: there is nothing to read")}
	})}, nil)
	if s.Code != codeTransfer || !strings.Contains(s.Reason, "could not be had: inputs.a") || s.Metrics != nil {
		t.Errorf("fetch failed: %+v", s)
	}
	for _, message := range []string{"", "panic: no", `{"loss":"low"}`, `[1]`, `{}`} {
		s := statusOf(&batchv1.Job{}, []*corev1.Pod{pod("0", "a", 0, func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{ended(mlext.Container, 1, message)}
		})}, nil)
		if s.Metrics != nil {
			t.Errorf("%q reads as %v", message, s.Metrics)
		}
	}
}
