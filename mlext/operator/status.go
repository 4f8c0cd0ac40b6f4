package operator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// Codes of statuses, Azure's where it has them.
const (
	codeUnschedulable = "PodUnschedulable"
	codeImage         = "ImagePullLoopBackOff"
	codeMemory        = "PodOutOfMemory"
	codeQuota         = "OutOfQuota"
	codeTimeout       = "JobTimedOut"
	codeExit          = "UserProgramFailed"
	codeVanished      = "JobDeletedInCluster"
	codeInvalid       = "InvalidJob"
	codeNamespace     = "NamespaceNotFound"
	codeStart         = "ContainerCannotRun"
	codeTransfer      = "DataTransferFailed"
	codeNodeLost      = "NodeLost"
	codeRefused       = "JobRefusedByCluster"
	codeQueue         = "WaitsInQueue"
)

// statusOf reads a job's state off what runs for it. events are the Job's, asked
// for only where there is no pod.
func statusOf(job *batchv1.Job, pods []*corev1.Pod, events []corev1.Event) wire.Status {
	s := wire.Status{State: wire.Queued}
	last := lastAttempts(pods)
	for _, p := range last {
		s.Nodes = append(s.Nodes, nodeOf(p.pod, p.index, p.attempt))
	}
	s.Metrics = metricsOf(last)
	for _, p := range pods {
		if at := startOf(p); !at.IsZero() && (s.Started.IsZero() || at.Before(s.Started)) {
			s.Started = at
		}
	}
	for _, c := range job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			s.State, s.Ended = wire.Completed, c.LastTransitionTime.UTC()
			return s
		case batchv1.JobFailed:
			s.State, s.Ended = wire.Failed, c.LastTransitionTime.UTC()
			s.Code, s.Reason = whyFailed(c, pods)
			return s
		}
	}
	if len(pods) == 0 {
		s.Code, s.Reason = whyNoPods(events)
		if queue := job.Labels[wire.QueueLabel]; queue != "" && job.Spec.Suspend != nil && *job.Spec.Suspend {
			s.Code, s.Reason = codeQueue, "it waits in the queue "+queue
		}
		return s
	}
	running, scheduled := false, false
	for _, p := range last {
		if lost(p.pod) {
			s.State, s.Code = wire.NotResponding, codeNodeLost
			s.Reason = fmt.Sprintf("the cluster's node %s has not been heard of, and whether node %d of the job runs there is not known; it is started elsewhere once the cluster's node is removed", p.pod.Spec.NodeName, p.index)
			return s
		}
		running = running || !startOf(p.pod).IsZero()
		scheduled = scheduled || p.pod.Spec.NodeName != ""
		if code, reason := whyWaiting(p.pod, mlext.Container); reason != "" && s.Reason == "" {
			s.Code, s.Reason = code, reason
		}
	}
	switch {
	case running:
		s.State = wire.Running
	case scheduled:
		s.State = wire.Preparing
	}
	return s
}

// lost tells of a pod whose host has not been heard of. Kubernetes takes its
// readiness away without a reason of its own, which a kubelet always gives, and
// marks it when it was told to go.
func lost(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return false
	}
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse && c.Reason == "" && p.Status.Phase == corev1.PodRunning ||
			c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "DeletionByTaintManager"
	})
}

// next is what to type about a state of a job, "" where nothing helps.
func next(t *mlext.TrainingJob, s *wire.Status) string {
	ns, pod, host := t.Spec.Namespace, "", ""
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Reason != "" || n.Phase == string(corev1.PodPending) || pod == "" {
			pod, host = n.Pod, n.Host
		}
		if s.Nodes[i].Reason != "" {
			break
		}
	}
	switch s.Code {
	case codeUnschedulable:
		return "kubectl describe nodes, or choose another instance type: kubectl get instancetypes"
	case codeImage, codeStart, codeTransfer:
		return fmt.Sprintf("kubectl describe pod -n %s %s", ns, pod)
	case codeMemory:
		return "choose an instance type with more memory, or have the cluster's owner make one: kubectl get instancetypes"
	case codeInvalid:
		return "kubectl get instancetypes, and submit it again as it can run"
	case codeQuota, codeRefused:
		return "kubectl describe resourcequota -n " + ns
	case codeQueue:
		return "kubectl describe workloads.kueue.x-k8s.io -n " + ns
	case codeTimeout:
		return "submit it again with a longer limits.timeout"
	case codeExit:
		return fmt.Sprintf("sallyport ml job download %s -n %s", inWorkspace(t.Spec.Owner.Workspace), t.Spec.Job.Name)
	case codeVanished:
		return "kubectl get events -n " + ns + ", and submit it again"
	case codeNamespace:
		return fmt.Sprintf("have the cluster's owner make it and apply the extension's manifest again: kubectl create namespace %s, sallyport ml extension manifest --namespace %s … | kubectl apply -f -", ns, ns)
	case codeNodeLost:
		return fmt.Sprintf("kubectl get node %s; once it is sure that it does not come back: kubectl delete node %s", host, host)
	}
	if s.State == wire.Queued && s.Code != "" { // an event's own name
		return "kubectl get events -n " + ns
	}
	return ""
}

// place of a workspace; "" if the id is of none.
func place(id string) (group, workspace string) {
	parts := strings.Split(id, "/") // "", subscriptions, s, resourcegroups, g, providers, ns, workspaces, w
	if len(parts) != 9 {
		return "", ""
	}
	return parts[4], parts[8]
}

// inWorkspace is how a command names a workspace.
func inWorkspace(id string) string {
	group, workspace := place(id)
	if workspace == "" {
		return ""
	}
	return "-g " + group + " -w " + workspace
}

type attempt struct {
	pod            *corev1.Pod
	index, attempt int
}

// lastAttempts are the newest pods of each index, in its order.
func lastAttempts(pods []*corev1.Pod) []attempt {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		if d := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	var all []attempt
	for _, p := range pods {
		index, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
		if err != nil {
			continue
		}
		if i := slices.IndexFunc(all, func(a attempt) bool { return a.index == index }); i >= 0 {
			all[i].pod, all[i].attempt = p, all[i].attempt+1
		} else {
			all = append(all, attempt{p, index, 0})
		}
	}
	slices.SortFunc(all, func(a, b attempt) int { return a.index - b.index })
	return all
}

func mainOf(p *corev1.Pod) corev1.ContainerStatus { return containerOf(p, mlext.Container) }

func containerOf(p *corev1.Pod, name string) corev1.ContainerStatus {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == name {
			return c
		}
	}
	return corev1.ContainerStatus{}
}

func startOf(p *corev1.Pod) time.Time {
	switch c := mainOf(p); {
	case c.State.Running != nil:
		return c.State.Running.StartedAt.UTC()
	case c.State.Terminated != nil && !c.State.Terminated.StartedAt.IsZero():
		return c.State.Terminated.StartedAt.UTC()
	}
	return time.Time{}
}

func nodeOf(p *corev1.Pod, index, attempt int) wire.Node {
	n := wire.Node{Index: index, Attempt: attempt, Pod: p.Name, Host: p.Spec.NodeName, Phase: string(p.Status.Phase)}
	if t := mainOf(p).State.Terminated; t != nil {
		n.ExitCode = &t.ExitCode
		if _, n.Reason = whyEnded(t); n.Reason == "" {
			_, n.Reason = whyCarried(p)
		}
	} else if _, n.Reason = whyWaiting(p, mlext.Container); lost(p) {
		n.Reason = "its host has not been heard of"
	}
	return n
}

// metricsOf reads the metrics file of the first node that wrote one: an object
// of numbers. What reads otherwise is a message for people.
func metricsOf(last []attempt) map[string]float64 {
	for _, a := range last {
		t := mainOf(a.pod).State.Terminated
		if t == nil {
			continue
		}
		var metrics map[string]float64
		if json.Unmarshal([]byte(t.Message), &metrics) == nil && len(metrics) > 0 {
			return metrics
		}
	}
	return nil
}

// whyWaiting says why a pod does not run; "" if it does, or nothing is wrong.
func whyWaiting(p *corev1.Pod, container string) (code, reason string) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return codeUnschedulable, "no node takes it: " + c.Message
		}
	}
	if code, reason = whyCarried(p); reason != "" {
		return code, reason
	}
	w := containerOf(p, container).State.Waiting
	if w == nil {
		return "", ""
	}
	switch w.Reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
		return codeImage, fmt.Sprintf("the image cannot be had (%s): %s", w.Reason, w.Message)
	case "ContainerCreating", "PodInitializing", "":
		return "", ""
	}
	return codeStart, fmt.Sprintf("the container does not start (%s): %s", w.Reason, w.Message)
}

func whyEnded(t *corev1.ContainerStateTerminated) (code, reason string) {
	switch {
	case t.Reason == "OOMKilled":
		return codeMemory, "it used more memory than its instance type's limit"
	case t.Reason == "ContainerCannotRun" || t.Reason == "StartError":
		return codeStart, "the container cannot run: " + t.Message
	case t.ExitCode != 0:
		return codeExit, fmt.Sprintf("it ended with exit code %d", t.ExitCode)
	}
	return "", ""
}

// whyFailed is of the Job's own reason, and of the pod that failed first.
func whyFailed(c batchv1.JobCondition, pods []*corev1.Pod) (code, reason string) {
	if c.Reason == batchv1.JobReasonDeadlineExceeded {
		return codeTimeout, "it ran longer than limits.timeout"
	}
	var first *corev1.ContainerStateTerminated
	var of *corev1.Pod
	for _, p := range pods {
		if t := mainOf(p).State.Terminated; t != nil && t.ExitCode != 0 && (first == nil || t.FinishedAt.Before(&first.FinishedAt)) {
			first, of = t, p
		}
	}
	if first == nil {
		for _, p := range pods {
			if code, reason = whyCarried(p); reason != "" {
				return code, fmt.Sprintf("node %s (pod %s, host %s): %s", p.Annotations[batchv1.JobCompletionIndexAnnotation], p.Name, p.Spec.NodeName, reason)
			}
		}
		return codeExit, c.Message
	}
	code, reason = whyEnded(first)
	return code, fmt.Sprintf("node %s (pod %s, host %s): %s", of.Annotations[batchv1.JobCompletionIndexAnnotation], of.Name, of.Spec.NodeName, reason)
}

// whyNoPods is what the Job's controller complained about last.
func whyNoPods(events []corev1.Event) (code, reason string) {
	var last *corev1.Event
	for i := range events {
		if e := &events[i]; e.Type == corev1.EventTypeWarning && (last == nil || last.LastTimestamp.Before(&e.LastTimestamp)) {
			last = e
		}
	}
	if last == nil {
		return "", "no pod has been made for it yet"
	}
	if strings.Contains(last.Message, "exceeded quota") {
		return codeQuota, "the namespace's quota is used up: " + last.Message
	}
	return last.Reason, "no pod can be made for it: " + last.Message
}
