package operator

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// formLabel on pods tells those of the newest form of a deployment from those
// that they replace.
const formLabel = "ml.sallyport.dev/form"

const (
	// noticed is within how many seconds routers have stopped sending requests
	// to a pod that is being ended.
	noticed = 3
	// progressFor is how many seconds a deployment may make no progress, beyond
	// what its probes allow.
	progressFor = 600
)

func deploymentName(d *wire.Deployment) string {
	return objectName(d.Name, "deployment-", d.UID)
}

// replicas that are wanted: the autoscaler's number counts within the bounds
// that were asked for.
func replicas(s *mlext.OnlineDeploymentSpec) int {
	scale := s.Deployment.Scale
	if scale == nil {
		return s.Deployment.Instances
	}
	n := s.Scaled
	if n == 0 {
		n = s.Deployment.Instances
	}
	return min(max(n, scale.Min), scale.Max)
}

// renderDeployment makes the apps/v1 Deployment of an OnlineDeployment. An error
// is of kind Invalid: what was asked for cannot run.
func renderDeployment(s *mlext.OnlineDeploymentSpec, kind wire.InstanceType, c carrier) (*appsv1.Deployment, error) {
	d := &s.Deployment
	asked, err := within(kind.Resources, d.Resources)
	if err != nil {
		return nil, err
	}
	resources, err := requirements(asked)
	if err != nil {
		return nil, err
	}
	env, err := variables(d.Environment)
	if err != nil {
		return nil, err
	}
	seconds := int64((d.Request.Timeout + 999) / 1000)
	container := corev1.Container{
		Name: mlext.Server, Image: d.Image, Env: env, Resources: resources,
		Ports:                    []corev1.ContainerPort{{ContainerPort: int32(d.Scoring.Port)}},
		SecurityContext:          &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false)},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		LivenessProbe:            probe(d.Liveness), ReadinessProbe: probe(d.Readiness),
		// What was sent to it before routers noticed has ended when it is told to
		// end, so that a server that stops at once loses nothing either.
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: noticed + seconds}}},
	}
	pod := workload(kind, resources, tolerations(s.Owner, s.Compute))
	pod.TerminationGracePeriodSeconds = ptr(noticed + seconds + 10)
	if err := sharedMemory(&pod, &container, d.ShmSize); err != nil {
		return nil, err
	}
	labels := map[string]string{mlext.DeploymentLabel: d.UID, "app.kubernetes.io/managed-by": "sallyport-ml"}
	pod.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{mlext.DeploymentLabel: d.UID}}}}
	if err := c.carry(&pod, &container, d.Mounts); err != nil {
		return nil, err
	}
	if s.PullSecret != "" {
		pod.ImagePullSecrets = []corev1.LocalObjectReference{{Name: s.PullSecret}}
	}
	pod.Containers = append([]corev1.Container{container}, pod.Containers...)
	raw, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	form := maps.Clone(labels)
	form[formLabel] = hex.EncodeToString(sum[:8])
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: deploymentName(d), Labels: form},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(int32(replicas(s))), RevisionHistoryLimit: ptr[int32](1),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{mlext.DeploymentLabel: d.UID}},
			// A replica goes when another one takes requests.
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr(intstr.FromInt32(0)), MaxSurge: ptr(intstr.FromString("25%"))}},
			ProgressDeadlineSeconds: ptr(progressFor + patience(d.Readiness)),
			Template:                corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: form}, Spec: pod},
		},
	}, nil
}

// within takes an instance type's resources, changed to what a deployment asks
// for. Its limits may not be exceeded.
func within(kind, asked wire.Resources) (wire.Resources, error) {
	out := wire.Resources{Requests: maps.Clone(kind.Requests), Limits: maps.Clone(kind.Limits)}
	if out.Requests == nil {
		out.Requests = map[string]string{}
	}
	if out.Limits == nil {
		out.Limits = map[string]string{}
	}
	for name, text := range asked.Limits {
		most, bounded := kind.Limits[name]
		if !bounded || !atMost(text, most) {
			return out, trust.Errorf(trust.Invalid, "a limit of %s of %s is beyond the instance type's (%s)", text, name, orNone(most))
		}
		out.Limits[name] = text
		if r, ok := out.Requests[name]; ok && !atMost(r, text) {
			out.Requests[name] = text
		}
	}
	for name, text := range asked.Requests {
		most, bounded := out.Limits[name]
		if !bounded || !atMost(text, most) {
			return out, trust.Errorf(trust.Invalid, "a request of %s of %s is beyond its limit (%s)", text, name, orNone(most))
		}
		out.Requests[name] = text
	}
	return out, nil
}

// probe is Kubernetes'; without a path it is enough that the port is open.
func probe(p *wire.Probe) *corev1.Probe {
	if p == nil {
		return nil
	}
	at := intstr.FromInt32(int32(p.Port))
	handler := corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: at}}
	if p.Path != "" {
		handler = corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: p.Path, Port: at, Scheme: corev1.URISchemeHTTP}}
	}
	return &corev1.Probe{ProbeHandler: handler, InitialDelaySeconds: int32(p.InitialDelay), PeriodSeconds: int32(p.Period),
		TimeoutSeconds: int32(p.Timeout), SuccessThreshold: int32(p.Success), FailureThreshold: int32(p.Failure)}
}

// patience is how many seconds a probe lets a server begin.
func patience(p *wire.Probe) int32 {
	if p == nil {
		return 0
	}
	return int32(p.InitialDelay + p.Period*p.Failure)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// deploymentStatus reads a deployment's state off what runs for it: pods are
// those of its newest form.
func deploymentStatus(was wire.DeploymentStatus, made *appsv1.Deployment, wanted int, pods []*corev1.Pod) wire.DeploymentStatus {
	s := wire.DeploymentStatus{State: wire.Updating, Wanted: wanted}
	for _, p := range pods {
		if isReady(p) {
			s.Ready++
		} else if code, reason := whyNotReady(p); reason != "" && (s.Code == "" || fatal(p)) {
			s.Code, s.Reason = code, reason
			if fatal(p) {
				s.State = wire.Failed
			}
		}
	}
	now := made.Status
	all := int32(wanted)
	if now.ObservedGeneration >= made.Generation && now.UpdatedReplicas == all && now.Replicas == all && now.AvailableReplicas == all {
		s.State, s.Code, s.Reason = wire.Succeeded, "", ""
		return s
	}
	for _, c := range made.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue && s.Code == "":
			s.Code, s.Reason = whyRefused(c.Message)
			if s.Code == codeInvalidDeployment {
				s.State = wire.Failed
			}
		case c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && now.ObservedGeneration >= made.Generation:
			s.State = wire.Failed
			if s.Code == "" {
				s.Code, s.Reason = codeNotReady, fmt.Sprintf("%d of %d replicas became ready in time", s.Ready, wanted)
			}
		}
	}
	if s.State == wire.Failed && now.ReadyReplicas > int32(s.Ready) {
		s.Reason += "; the replicas of before go on serving"
	}
	settled := now.UpdatedReplicas > 0 && now.UpdatedReplicas == now.Replicas
	if s.State == wire.Updating && settled && (was.State == wire.Succeeded || was.State == wire.Scaling) {
		s.State = wire.Scaling
	}
	return s
}

// Codes of deployments' statuses, Azure's.
const (
	codeCrash             = "DeploymentCrashLoopBackOff"
	codeInvalidDeployment = "InvalidDeploymentSpec"
	codeNotReady          = "ResourceNotReady"
)

// whyRefused is why the API server takes no pod of a deployment.
func whyRefused(message string) (code, reason string) {
	if strings.Contains(message, "exceeded quota") {
		return codeQuota, "the namespace's quota is used up: " + message
	}
	return codeInvalidDeployment, "no replica can be made: " + message
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// restartsAllowed is how often a server may end before it is one that will not
// run.
const restartsAllowed = 2

// fatal tells whether a replica waits for what waiting will hardly bring.
func fatal(p *corev1.Pod) bool {
	for _, c := range p.Status.InitContainerStatuses {
		if c.State.Waiting != nil && c.State.Waiting.Reason == crashLoop && c.RestartCount >= restartsAllowed {
			return true
		}
	}
	c := containerOf(p, mlext.Server)
	if c.State.Waiting == nil {
		return false
	}
	switch c.State.Waiting.Reason {
	case "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		return true
	}
	return c.State.Waiting.Reason == crashLoop && c.RestartCount >= restartsAllowed
}

const crashLoop = "CrashLoopBackOff"

// whyNotReady says why a replica takes no requests; "" where nothing is wrong
// yet.
func whyNotReady(p *corev1.Pod) (code, reason string) {
	if code, reason = whyCarried(p); reason != "" {
		return code, reason
	}
	c := containerOf(p, mlext.Server)
	if t := lastEnd(c); t != nil {
		if t.Reason == "OOMKilled" {
			return codeMemory, "the server used more memory than its limit"
		}
		reason = fmt.Sprintf("the server ends with exit code %d", t.ExitCode)
		if last := strings.TrimSpace(t.Message); last != "" {
			reason += ": " + lastLines(last, 500)
		}
		return codeCrash, reason
	}
	if c.State.Running != nil {
		return codeNotReady, fmt.Sprintf("replica %s runs and its readiness probe has not succeeded", p.Name)
	}
	return whyWaiting(p, mlext.Server)
}

// lastEnd is how the server ended last, where it does not run.
func lastEnd(c corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	switch {
	case c.State.Terminated != nil:
		return c.State.Terminated
	case c.State.Waiting != nil && c.State.Waiting.Reason == crashLoop:
		return c.LastTerminationState.Terminated
	}
	return nil
}

// lastLines cuts a text at a line's begin, to about so many bytes.
func lastLines(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = strings.ToValidUTF8(s[len(s)-most:], "")
	if _, after, ok := strings.Cut(s, "\n"); ok {
		s = after
	}
	return "… " + s
}
