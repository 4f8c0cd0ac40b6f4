package operator

import (
	"encoding/json"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

const (
	masterPort = 6105
	workerPort = 2222
	// A container's termination message: whatever the image, Kubernetes makes the
	// file and hands over at most 4,096 bytes of it.
	metricsFile = corev1.TerminationMessagePathDefault
	indexField  = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
)

func ptr[T any](v T) *T { return &v }

// nameOf is the name of everything that runs for a job.
func nameOf(j *wire.Job) string { return objectName(j.Name, "job-", j.UID) }

// objectName is readable, and a thing's own.
func objectName(name, prefix, uid string) string {
	name = strings.Trim(notName.ReplaceAllString(strings.ToLower(name), "-"), "-")
	if len(name) > 40 {
		name = strings.TrimRight(name[:40], "-")
	}
	if name == "" || name[0] < 'a' || name[0] > 'z' { // it may be a Service's name too
		name = prefix + name
	}
	return strings.TrimRight(name, "-") + "-" + uid[:8]
}

var notName = regexp.MustCompile(`[^a-z0-9-]+`)

func labels(j *wire.Job) map[string]string {
	return map[string]string{mlext.JobLabel: j.UID, "app.kubernetes.io/managed-by": "sallyport-ml"}
}

// render makes the batch/v1 Job of a TrainingJob. An error is of kind Invalid:
// what was asked for cannot run. addresses are of the nodes that services gives
// one of their own.
func render(t *mlext.TrainingJob, kind wire.InstanceType, claims []corev1.PersistentVolumeClaim, addresses []string, c carrier) (*batchv1.Job, error) {
	j := &t.Spec.Job
	resources, err := requirements(kind.Resources)
	if err != nil {
		return nil, err
	}
	env, err := environment(j, addresses)
	if err != nil {
		return nil, err
	}
	name := nameOf(j)
	container := corev1.Container{
		Name: mlext.Container, Image: j.Image, Env: env, Resources: resources,
		SecurityContext:          &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false)},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		WorkingDir:               j.WorkDir,
	}
	for _, word := range argv(j.Command) {
		container.Command = append(container.Command, literal(word))
	}
	pod := workload(kind, resources, tolerations(t.Spec.Owner, t.Spec.Compute))
	pod.RestartPolicy = corev1.RestartPolicyNever
	if err := sharedMemory(&pod, &container, j.ShmSize); err != nil {
		return nil, err
	}
	mounts(&pod, &container, claims)
	if err := c.carry(&pod, &container, j.Mounts); err != nil {
		return nil, err
	}
	if t.Spec.PullSecret != "" {
		pod.ImagePullSecrets = []corev1.LocalObjectReference{{Name: t.Spec.PullSecret}}
	}
	if j.Nodes > 1 {
		pod.Subdomain = name // <name>-<index>.<name> is each one's address
	}
	pod.Containers = append([]corev1.Container{container}, pod.Containers...)
	spec := batchv1.JobSpec{
		Completions: ptr(int32(j.Nodes)), Parallelism: ptr(int32(j.Nodes)), CompletionMode: ptr(batchv1.IndexedCompletion),
		BackoffLimit: ptr(int32(j.Retries)),
		Template:     corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(j)}, Spec: pod},
		// A node that was lost is no fault of the job's.
		PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		}}},
	}
	if j.Timeout > 0 {
		spec.ActiveDeadlineSeconds = ptr(j.Timeout)
	}
	made := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: t.Spec.Namespace, Name: name, Labels: labels(j)}, Spec: spec}
	if j.Queue != "" { // Kueue suspends it until the queue lets it start; without Kueue it starts
		made.Labels[wire.QueueLabel] = j.Queue
	}
	return made, nil
}

// workload is what all pods of workspaces have in common.
func workload(kind wire.InstanceType, resources corev1.ResourceRequirements, tolerated []corev1.Toleration) corev1.PodSpec {
	pod := corev1.PodSpec{
		AutomountServiceAccountToken: ptr(false), EnableServiceLinks: ptr(false),
		SecurityContext: &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		NodeSelector:    kind.NodeSelector,
		Tolerations:     tolerated,
	}
	if _, ok := resources.Limits[wire.GPU]; ok {
		pod.Tolerations = append(pod.Tolerations, corev1.Toleration{Key: wire.GPU, Operator: corev1.TolerationOpExists})
	}
	return pod
}

// tolerations of the taints of nodes that are kept for machine learning, or for
// some workspaces.
func tolerations(o mlext.Owner, compute string) []corev1.Toleration {
	group, workspace := place(o.Workspace)
	var all []corev1.Toleration
	for _, t := range [][2]string{{mlext.TaintAll, mlext.TaintValue}, {mlext.TaintWorkload, mlext.TaintValue},
		{mlext.TaintGroup, group}, {mlext.TaintWorkspace, workspace}, {mlext.TaintCompute, trust.Fold(compute)}} {
		if t[1] == "" || len(validation.IsValidLabelValue(t[1])) > 0 {
			continue // no taint has such a value
		}
		all = append(all, corev1.Toleration{Key: t[0], Operator: corev1.TolerationOpEqual, Value: t[1]})
	}
	return all
}

// services let the nodes of a job find each other: each by its name
// (<job>-<index>.<job>), and those that others must know beforehand by an address
// of its own, which is there before they run and where the cluster has no DNS:
// the first one, or with TensorFlow all.
func services(t *mlext.TrainingJob) (names *corev1.Service, own []*corev1.Service) {
	j := &t.Spec.Job
	name, port, n := "-master", masterPort, 1
	if trust.SameFold(j.Distribution, tensorFlow) {
		name, port, n = "-worker", workerPort, j.Nodes
	}
	ports := []corev1.ServicePort{{Name: "node", Port: int32(port), TargetPort: intstr.FromInt32(int32(port))}}
	names = &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: t.Spec.Namespace, Name: nameOf(j), Labels: labels(j)},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, PublishNotReadyAddresses: true, Ports: ports,
			Selector: map[string]string{mlext.JobLabel: j.UID}},
	}
	for i := range n {
		s := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: t.Spec.Namespace, Name: nameOf(j) + name, Labels: labels(j)},
			Spec: corev1.ServiceSpec{PublishNotReadyAddresses: true, Ports: ports,
				Selector: map[string]string{mlext.JobLabel: j.UID, batchv1.JobCompletionIndexAnnotation: strconv.Itoa(i)}},
		}
		if n > 1 {
			s.Name += "-" + strconv.Itoa(i)
		}
		own = append(own, s)
	}
	return names, own
}

const tensorFlow = "TensorFlow"

func requirements(r wire.Resources) (corev1.ResourceRequirements, error) {
	out := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
	if _, ok := r.Requests[wire.GPU]; ok {
		return out, trust.Errorf(trust.Invalid, "the instance type requests %s, which belongs to its limits only", wire.GPU)
	}
	for into, from := range map[*corev1.ResourceList]wire.Quantities{&out.Requests: r.Requests, &out.Limits: r.Limits} {
		for name, text := range from {
			q, err := resource.ParseQuantity(text)
			if err != nil || q.Sign() < 0 {
				return out, trust.Errorf(trust.Invalid, "the instance type asks for %s of %s, which is no quantity", text, name)
			}
			(*into)[corev1.ResourceName(name)] = q
		}
	}
	return out, nil
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)

// variables are the user's.
func variables(from map[string]string) ([]corev1.EnvVar, error) {
	var env []corev1.EnvVar
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if !envName.MatchString(name) {
			return nil, trust.Errorf(trust.Invalid, "%q is not an environment variable's name", name)
		}
		env = append(env, corev1.EnvVar{Name: name, Value: literal(from[name])})
	}
	return env, nil
}

// environment is the user's, and then what says which node of how many this is.
func environment(j *wire.Job, addresses []string) ([]corev1.EnvVar, error) {
	env, err := variables(j.Environment)
	if err != nil {
		return nil, err
	}
	add := func(name, value string) { env = append(env, corev1.EnvVar{Name: name, Value: value}) }
	env = append(env, corev1.EnvVar{Name: "NODE_RANK", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: indexField}}})
	add("AZUREML_NODE_COUNT", strconv.Itoa(j.Nodes))
	add("AZUREML_RUN_ID", j.Name)
	add("AZUREML_METRICS_FILE", metricsFile)
	switch trust.Fold(j.Distribution) {
	case "":
	case "pytorch":
		add("RANK", "$(NODE_RANK)")
		add("LOCAL_RANK", "0")
		add("WORLD_SIZE", strconv.Itoa(j.Nodes))
		add("MASTER_ADDR", addresses[0])
		add("MASTER_PORT", strconv.Itoa(masterPort))
	case "tensorflow":
		workers := make([]string, len(addresses))
		for i, a := range addresses {
			workers[i] = net.JoinHostPort(a, strconv.Itoa(workerPort))
		}
		cluster, err := json.Marshal(map[string][]string{"worker": workers})
		if err != nil {
			return nil, err
		}
		add("TF_CONFIG", `{"cluster":`+string(cluster)+`,"task":{"type":"worker","index":$(NODE_RANK)}}`)
	default:
		return nil, trust.Errorf(trust.Invalid, "the distribution %q is neither PyTorch nor TensorFlow", j.Distribution)
	}
	return env, nil
}

// Marks of claims that jobs mount, as Azure has them.
const (
	claimLabel = "ml.azure.com/pvc"
	claimPath  = "ml.azure.com/mountpath"
)

// sharedMemory of a size; "": what the runtime gives.
func sharedMemory(pod *corev1.PodSpec, container *corev1.Container, text string) error {
	if text == "" {
		return nil
	}
	size, err := resource.ParseQuantity(text)
	if err != nil || size.Sign() <= 0 {
		return trust.Errorf(trust.Invalid, "the shared memory size %q is no quantity like 2Gi", text)
	}
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "shm", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}})
	container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: "shm", MountPath: "/dev/shm"})
	return nil
}

func mounts(pod *corev1.PodSpec, container *corev1.Container, claims []corev1.PersistentVolumeClaim) {
	for i, c := range claims {
		at := c.Annotations[claimPath]
		if !strings.HasPrefix(at, "/") || strings.Contains(at, ":") {
			continue // not meant for jobs without a path
		}
		name := "claim-" + strconv.Itoa(i)
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: at})
	}
}
