package deploy

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// ProbeOptions say how the environment's probe is accepted.
type ProbeOptions struct {
	Namespaces []string // that it may be installed in
	Image      string   // of sallyport-agent
}

const (
	probeType = "Sallyport.EnvironmentProbe"
	// ProbeNamespace is where it is installed when nobody says where.
	ProbeNamespace = "sallyport-probe"

	probeName   = "sallyport-probe"
	probeReport = "sallyport-probe-report"
	probeDir    = "/etc/sallyport-probe"

	probeWordImage     = "SALLYPORT-VALUE-IMAGE"
	probeWordInterval  = "SALLYPORT-VALUE-INTERVAL"
	probeWordTargets   = "SALLYPORT-VALUE-TARGETS"
	probeWordProxy     = "SALLYPORT-VALUE-PROXY"
	probeWordCluster   = "SALLYPORT-VALUE-CLUSTER"
	probeWordNamespace = "sallyport-value-namespace"
)

func probeInstallable() *installable {
	return &installable{
		typ: probeType,
		owner: map[string]any{"type": "object", "additionalProperties": false, "required": []string{"image"},
			"properties": map[string]any{"image": text(imagePattern)}},
		chart: templating{
			switches: []string{"$.Values.settings.proxy"},
			words: map[string]string{
				probeWordImage: "$.Values.owner.image", probeWordInterval: "$.Values.settings.interval", probeWordProxy: "$.Values.settings.proxy",
				probeWordTargets: `join "," (sortAlpha (values $.Values.settings.targets))`, probeWordCluster: "$.Values.settings.cluster_name",
				probeWordNamespace: "$.Release.Namespace",
			},
			render: func(without int) ([]rbac.Explained, error) {
				return probeObjects(probeWordNamespace, probeWordImage, without < 0), nil
			},
		},
	}
}

func (o ProbeOptions) accepted() (*acceptance, error) {
	if o.Image == "" || len(o.Namespaces) == 0 {
		return nil, trust.Errorf(trust.Invalid, "the probe needs an image, and namespaces to be in")
	}
	a := &acceptance{installable: probeInstallable(), namespaces: slices.Clone(o.Namespaces), values: map[string]any{"image": o.Image}}
	slices.Sort(a.namespaces)
	for _, ns := range a.namespaces {
		if ns == rbac.SystemNamespace || ns == rbac.BindingsNamespace || strings.HasPrefix(ns, "kube-") {
			return nil, trust.Errorf(trust.Invalid, "namespace %s is no place for an extension", ns)
		}
		if ns == ProbeNamespace {
			a.objects = append(a.objects, rbac.Explained{Why: "Where the probe runs.", Object: &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
				ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: with(probeLabels(), "pod-security.kubernetes.io/enforce", "restricted")}}})
		}
		a.made = append(a.made, probeObjects(ns, o.Image, true)...)
	}
	return a, nil
}

func probeLabels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": probeName, "app.kubernetes.io/managed-by": "sallyport"}
}

// probeObjects are the probe in one namespace. It may write its report, and
// nothing else.
func probeObjects(ns, image string, proxied bool) []rbac.Explained {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: ns, Name: name, Labels: probeLabels()}
	}
	c := corev1.Container{
		Name: "probe", Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		Args: []string{"probe", "--cluster=" + probeWordCluster, "--targets=" + probeWordTargets, "--every=" + probeWordInterval + "s", "--report=" + probeReport},
		Env:  []corev1.EnvVar{{Name: "NAMESPACE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
		},
		ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/sallyport-agent", "probed"}}}, PeriodSeconds: 5},
		SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
	}
	pod := corev1.PodSpec{
		ServiceAccountName: probeName, AutomountServiceAccountToken: ptr(true), EnableServiceLinks: ptr(false),
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr[int64](65532), RunAsGroup: ptr[int64](65532),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
	}
	all := []rbac.Explained{
		{Object: &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta(probeName), AutomountServiceAccountToken: ptr(false)}},
		{Object: &rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"}, ObjectMeta: meta(probeName), Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{probeReport}, Verbs: []string{"get", "patch"}}}}},
		{Object: &rbacv1.RoleBinding{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"}, ObjectMeta: meta(probeName),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: probeName}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: ns, Name: probeName}}}},
		{Object: &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta(probeReport)}},
	}
	if proxied {
		c.Args = append(c.Args, "--proxy-file="+probeDir+"/proxy")
		c.VolumeMounts = []corev1.VolumeMount{{Name: "proxy", MountPath: probeDir, ReadOnly: true}}
		pod.Volumes = []corev1.Volume{{Name: "proxy", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: probeName}}}}
		all = append(all, rbac.Explained{Object: &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta(probeName),
			StringData: map[string]string{"proxy": probeWordProxy}}})
	}
	pod.Containers = []corev1.Container{c}
	return append(all, rbac.Explained{Object: &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta(probeName),
		Spec: appsv1.DeploymentSpec{Replicas: ptr[int32](1), Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": probeName}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: probeLabels()}, Spec: pod}},
	}})
}
