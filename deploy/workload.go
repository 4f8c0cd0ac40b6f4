package deploy

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

const (
	configName = "sallyport-agents"
	configDir  = "/etc/sallyport"
	enrolDir   = "/var/run/secrets/sallyport.dev/enrol"

	caFile     = "server-ca.pem"
	keyFile    = "mandate-key.pem"
	bundleFile = "trust-bundle.pem"
)

// agent is one of the Deployments. They are several because one stolen token
// must not be all.
type agent struct {
	command, account, why string
	memory                string // limit
	replicas              int32
	strategy              appsv1.DeploymentStrategy
}

var (
	reconciler = agent{
		command: "reconcile", account: rbac.ReconcilerAccount, memory: "256Mi", replicas: 1,
		why:      "The reconciler agent. It dials the control plane and this API server; nothing dials it.",
		strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
	}
	proxy = agent{
		command: "proxy", account: rbac.ProxyAccount, memory: "512Mi", replicas: 1,
		why: "The proxy agent. It dials the gateways and this API server; nothing dials it.",
		strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxUnavailable: ptr(intstr.FromInt32(0)), MaxSurge: ptr(intstr.FromInt32(1)),
		}},
	}
	installer = agent{
		command: "install", account: rbac.InstallerAccount, memory: "512Mi",
		why:      "The installer agent, which the reconciler starts when there is something to do. It dials the control plane and this API server; nothing dials it.",
		strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
	}
)

func ptr[T any](v T) *T { return &v }

func labels(cluster trust.ClusterUID) map[string]string {
	return map[string]string{rbac.ClusterLabel: string(cluster), "app.kubernetes.io/managed-by": "sallyport"}
}

// config holds nothing secret: agents prove themselves with their
// ServiceAccounts' tokens.
func (o Options) config() rbac.Explained {
	data := map[string]string{keyFile: string(o.MandateKey)}
	if len(o.ServerCA) > 0 {
		data[caFile] = string(o.ServerCA)
	}
	if len(o.TrustBundle) > 0 {
		data[bundleFile] = string(o.TrustBundle)
	}
	return rbac.Explained{
		Why: "Whom the agents believe: the server's CA, and the key that signs what they are told. Nothing here is secret.",
		Object: &corev1.ConfigMap{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: rbac.SystemNamespace, Name: configName, Labels: labels(o.Cluster)},
			Data:       data,
		},
	}
}

func (o Options) args(a agent) []string {
	args := []string{a.command, "--server=" + o.Server, "--cluster=" + string(o.Cluster), "--mandate-key=" + configDir + "/" + keyFile, "--enrol-token=" + enrolDir + "/token"}
	if len(o.ServerCA) > 0 {
		args = append(args, "--server-ca="+configDir+"/"+caFile)
	}
	if a.command == "proxy" && len(o.Gateways) > 0 {
		args = append(args, "--gateways="+strings.Join(o.Gateways, ","))
	}
	if a.command == "proxy" && len(o.Probes) > 0 {
		args = append(args, "--probes="+strings.Join(o.Probes, ","))
	}
	if a.command == "install" && o.InstallTimeout > 0 {
		args = append(args, "--timeout="+o.InstallTimeout.String())
	}
	return args
}

// reason of an agent's Deployment, with what it may look at.
func (o Options) reason(a agent) string {
	if a.command != "proxy" || len(o.Probes) == 0 {
		return a.why
	}
	return a.why + " Every ten minutes it also resolves these names, connects to them and reports what it saw; it looks at nothing else, whoever asks: " + strings.Join(o.Probes, ", ") + "."
}

func (o Options) env() []corev1.EnvVar {
	var env []corev1.EnvVar
	if o.HTTPSProxy != "" {
		// This API server is never reached through the proxy. Kubernetes fills in
		// its address.
		no := "$(KUBERNETES_SERVICE_HOST),kubernetes.default.svc,localhost,127.0.0.1"
		if o.NoProxy != "" {
			no += "," + o.NoProxy
		}
		env = append(env, corev1.EnvVar{Name: "HTTPS_PROXY", Value: o.HTTPSProxy}, corev1.EnvVar{Name: "NO_PROXY", Value: no})
	}
	if len(o.TrustBundle) > 0 {
		env = append(env, corev1.EnvVar{Name: "SSL_CERT_FILE", Value: configDir + "/" + bundleFile})
	}
	return env
}

func (o Options) deployment(a agent) rbac.Explained {
	selector := map[string]string{"app.kubernetes.io/name": a.account}
	podLabels := labels(o.Cluster)
	podLabels["app.kubernetes.io/name"] = a.account
	return rbac.Explained{Why: o.reason(a), Object: &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: rbac.SystemNamespace, Name: a.account, Labels: podLabels},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(a.replicas), // at most one: an agent is one voice, control waits for what it has applied
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Strategy: a.strategy,
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: podLabels}, Spec: o.pod(a)},
		},
	}}
}

// pod passes Pod Security "restricted".
func (o Options) pod(a agent) corev1.PodSpec {
	return corev1.PodSpec{
		ServiceAccountName:            a.account,
		AutomountServiceAccountToken:  ptr(true), // the ServiceAccount says no for everything else
		EnableServiceLinks:            ptr(false),
		TerminationGracePeriodSeconds: ptr[int64](45), // streams get a bounded time
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: ptr(true), RunAsUser: ptr[int64](65532), RunAsGroup: ptr[int64](65532), FSGroup: ptr[int64](65532),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: a.command, Image: o.Image, ImagePullPolicy: corev1.PullIfNotPresent,
			Args: o.args(a), Env: o.env(),
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(a.memory)},
			},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "config", MountPath: configDir, ReadOnly: true},
				{Name: "enrol", MountPath: enrolDir, ReadOnly: true},
			},
		}},
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: configName}}}},
			{Name: "enrol", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
				ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: enrolAudience(o.Cluster), ExpirationSeconds: ptr[int64](600), Path: "token"},
			}}}}},
		},
	}
}
