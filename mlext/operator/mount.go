package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// carrier is what the containers that move a pod's bytes need.
type carrier struct {
	Image   string // of sallyport-ml
	Address string // of the extension's gateway, host:port
	Trust   string // PEM: who signs its certificate
}

const (
	fetcher   = "fetch" // an init container
	pusher    = "push"  // beside the program
	tokenDir  = "/var/run/secrets/sallyport-ml"
	tokenFile = "token"
	// A pod's token; the kubelet renews it.
	tokenSeconds = 600
)

var mountName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)

// carry adds to a pod what fills its mounts before the program starts and keeps
// what it writes. The program's container gets the folders and nothing else. An
// error is of kind Invalid.
func (c carrier) carry(pod *corev1.PodSpec, program *corev1.Container, mounts []wire.Mount) error {
	if len(mounts) == 0 {
		return nil
	}
	spec, err := json.Marshal(mounts)
	if err != nil {
		return err
	}
	var fetch, push []corev1.VolumeMount
	for i, m := range mounts {
		if !mountName.MatchString(m.Name) || !strings.HasPrefix(m.Path, "/") || strings.Contains(m.Path, ":") {
			return trust.Errorf(trust.Invalid, "%q at %q is no mount", m.Name, m.Path)
		}
		at := corev1.VolumeMount{Name: fmt.Sprintf("mount-%d", i), MountPath: m.Path}
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: at.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		own := at
		own.ReadOnly = m.Way == wire.Read && !m.Writable
		program.VolumeMounts = append(program.VolumeMounts, own)
		if m.Way == wire.Read {
			fetch = append(fetch, at)
		} else {
			at.ReadOnly = true
			push = append(push, at)
		}
	}
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "sallyport-ml", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: wire.PodAudience, ExpirationSeconds: ptr[int64](tokenSeconds), Path: tokenFile}}}}}})
	add := func(to *[]corev1.Container, what string, volumes []corev1.VolumeMount) {
		if len(volumes) > 0 {
			*to = append(*to, c.container(what, string(spec), volumes))
		}
	}
	add(&pod.InitContainers, fetcher, fetch)
	add(&pod.Containers, pusher, push)
	return nil
}

// container reads and writes whatever the program's user may, and is root for
// that; it has no other capability.
func (c carrier) container(what, mounts string, volumes []corev1.VolumeMount) corev1.Container {
	return corev1.Container{
		Name: what, Image: c.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/sallyport-ml"},
		Args: []string{what, "--gateway=" + c.Address, "--token-file=" + tokenDir + "/" + tokenFile},
		Env:  []corev1.EnvVar{{Name: mlext.MountsVariable, Value: literal(mounts)}, {Name: mlext.TrustVariable, Value: c.Trust}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		VolumeMounts: append(volumes, corev1.VolumeMount{Name: "sallyport-ml", MountPath: tokenDir, ReadOnly: true}),
		SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), RunAsUser: ptr[int64](0),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"DAC_OVERRIDE"}}},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

// carrier finds where the gateway is and whom to believe there. The address is
// the Service's own: a cluster may have no DNS.
func (o *operator) carrier(ctx context.Context) (carrier, error) {
	service, err := o.Kube.CoreV1().Services(wire.Namespace).Get(ctx, wire.Service, metav1.GetOptions{})
	if err != nil {
		return carrier{}, fmt.Errorf("read Service %s: %w", wire.Service, err)
	}
	anchor, err := o.Kube.CoreV1().ConfigMaps(wire.Namespace).Get(ctx, mlext.TrustConfigMap, metav1.GetOptions{})
	if err != nil {
		return carrier{}, fmt.Errorf("read ConfigMap %s: %w", mlext.TrustConfigMap, err)
	}
	c := carrier{Image: o.Image, Address: service.Spec.ClusterIP + ":443", Trust: anchor.Data[mlext.TrustEntry]}
	if strings.Contains(service.Spec.ClusterIP, ":") {
		c.Address = "[" + service.Spec.ClusterIP + "]:443"
	}
	if c.Trust == "" {
		return carrier{}, trust.Errorf(trust.Unavailable, "the extension's gateway has not started yet")
	}
	return c, nil
}

// whyCarried says why what moves a pod's bytes failed, or has not ended; "" if
// nothing is wrong.
func whyCarried(p *corev1.Pod) (code, reason string) {
	for _, all := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range all {
			if c.Name != fetcher && c.Name != pusher {
				continue
			}
			if t := lastEnd(c); t != nil && t.ExitCode != 0 {
				what := map[string]string{fetcher: "what it reads could not be had", pusher: "what it wrote could not be kept"}[c.Name]
				return codeTransfer, what + ": " + strings.TrimSpace(t.Message)
			}
			if w := c.State.Waiting; w != nil && w.Reason != "PodInitializing" && w.Reason != "ContainerCreating" && w.Reason != "" {
				return codeImage, fmt.Sprintf("the extension's own image cannot be had (%s): %s", w.Reason, w.Message)
			}
		}
	}
	return "", ""
}
