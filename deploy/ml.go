package deploy

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// MLOptions say what of the ML extension to render.
type MLOptions struct {
	Namespaces []string // that workspaces may attach
	Image      string   // of sallyport-ml
	LogClaim   string   // PersistentVolumeClaim in namespace azureml for jobs' logs; empty: lost with the gateway's pod

	Issuer, Tenant, Audience string
	MLKey                    []byte // PEM (PKIX, ECDSA): the ML service's, signs newer key sets
	Keys                     []byte // RFC 7517: the authority's
	Number                   int64  // of that key set: milliseconds since 1970 when it was asked for, as in wire.Keys
	NodeSelector             map[string]string
	NoWorkloads              bool // leave the Deployments out: they run elsewhere, with the same rights
	NoTraining               bool // jobs are refused

	Router *MLRouter // nil: online endpoints are not scored
	// ScoringURL is Router.URL of an extension whose settings bring the router.
	ScoringURL string
}

const (
	mlConfig  = "sallyport-ml"
	mlDir     = "/etc/sallyport-ml"
	mlLogs    = "/var/lib/sallyport-ml"
	mlKeyFile = "ml-key.pem"
)

var mlLabels = map[string]string{"app.kubernetes.io/part-of": "sallyport-ml", "app.kubernetes.io/managed-by": "sallyport"}

// ML is everything that the owner applies to have the ML extension: consent to
// the namespaces it names, and no more.
func ML(o MLOptions) ([]rbac.Explained, error) {
	if err := cmp.Or(o.check(), o.believes()); err != nil {
		return nil, err
	}
	return o.objects(), nil
}

// believes checks that it is said whom the extension believes.
func (o MLOptions) believes() error {
	if o.Issuer == "" || o.Tenant == "" || o.Audience == "" || len(o.MLKey) == 0 || len(o.Keys) == 0 {
		return trust.Errorf(trust.Invalid, "the ML extension needs to know whom to believe")
	}
	return nil
}

func (o MLOptions) check() error {
	if len(o.Namespaces) == 0 || o.Image == "" {
		return trust.Errorf(trust.Invalid, "the ML extension needs namespaces and an image")
	}
	for _, ns := range o.Namespaces {
		if ns == wire.Namespace || ns == rbac.SystemNamespace || ns == rbac.BindingsNamespace || strings.HasPrefix(ns, "kube-") {
			return trust.Errorf(trust.Invalid, "namespace %s is no place for jobs", ns)
		}
	}
	if o.Router != nil {
		return o.Router.check()
	}
	return nil
}

func (o MLOptions) objects() []rbac.Explained {
	all := []rbac.Explained{{
		Why: "Where the extension itself lives. Workspaces' jobs do not run here.",
		Object: &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: wire.Namespace, Labels: with(mlLabels, "pod-security.kubernetes.io/enforce", "restricted")}},
	}}
	all = append(all, mlKinds()...)
	for _, account := range []string{mlext.GatewayAccount, mlext.OperatorAccount} {
		all = append(all, rbac.Explained{Why: "One identity each: a stolen token of one is not the other.", Object: &corev1.ServiceAccount{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
			ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: account, Labels: mlLabels}, AutomountServiceAccountToken: ptr(false)}})
	}
	all = append(all, mlRights(o.Namespaces)...)
	all = append(all, mlSecretsFence()...)
	all = append(all, o.mlData()...)
	if o.Router != nil {
		all = append(all, o.routerObjects()...)
	}
	if o.NoWorkloads {
		return all
	}
	return append(all, o.mlService(), o.mlDeployment(mlext.OperatorAccount), o.mlDeployment(mlext.GatewayAccount))
}

func with(m map[string]string, kv ...string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = v
	}
	for i := 0; i+1 < len(kv); i += 2 {
		out[kv[i]] = kv[i+1]
	}
	return out
}

// right is one rule and why it is there.
type right struct {
	why string
	rbacv1.PolicyRule
}

func may(why, group string, resources, verbs []string, names ...string) right {
	return right{why, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs, ResourceNames: names}}
}

// mlRole is a role with its binding to one of the extension's accounts; ns "":
// in the whole cluster.
func mlRole(ns, name, account, why string, rights ...right) []rbac.Explained {
	rules, reasons := make([]rbacv1.PolicyRule, 0, len(rights)), make([]string, 0, len(rights))
	for _, r := range rights {
		rules, reasons = append(rules, r.PolicyRule), append(reasons, r.why)
	}
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: wire.Namespace, Name: account}}
	meta := metav1.ObjectMeta{Namespace: ns, Name: name, Labels: mlLabels}
	kind, bound := "Role", "RoleBinding"
	var made, binding rbac.Object
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Name: name}
	if ns == "" {
		kind, bound = "ClusterRole", "ClusterRoleBinding"
		made = &rbacv1.ClusterRole{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}, ObjectMeta: meta, Rules: rules}
	} else {
		made = &rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}, ObjectMeta: meta, Rules: rules}
	}
	ref.Kind = kind
	if ns == "" {
		binding = &rbacv1.ClusterRoleBinding{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: bound}, ObjectMeta: meta, RoleRef: ref, Subjects: subject}
	} else {
		binding = &rbacv1.RoleBinding{TypeMeta: metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: bound}, ObjectMeta: meta, RoleRef: ref, Subjects: subject}
	}
	return []rbac.Explained{{Why: why, Object: made, Rules: reasons}, {Object: binding}}
}

// mlRights is what the extension's parts may do, by account: in namespace
// azureml, in each attached namespace, and in the whole cluster.
func mlRights(namespaces []string) []rbac.Explained {
	const own = "ml.sallyport.dev"
	read, all := []string{"get", "list", "watch"}, []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	var out []rbac.Explained
	role := func(ns, name, account, why string, rights ...right) {
		out = append(out, mlRole(ns, name, account, why, rights...)...)
	}
	role(wire.Namespace, mlext.GatewayAccount, mlext.GatewayAccount, "What the gateway may do with the extension's own objects.",
		may("It keeps what workspaces attached and submitted.", own, []string{"computes", "trainingjobs", "onlineendpoints", "onlinedeployments"}, all),
		may("It says whether the operator lives.", "coordination.k8s.io", []string{"leases"}, []string{"get"}, mlext.OperatorLease),
		may("It says where endpoints are scored.", "", []string{"services"}, []string{"get"}, mlext.RouterService),
		may("It keeps newer key sets of the authority, and publishes who signs its certificate.", "", []string{"configmaps"}, []string{"get", "update"}, mlext.KeysConfigMap, mlext.TrustConfigMap),
		may("It keeps that CA's key, and reads no other Secret.", "", []string{"secrets"}, []string{"get", "update"}, mlext.TrustSecret))
	role("", mlext.GatewayAccount, mlext.GatewayAccount, "The gateway's only right outside namespaces.",
		may("It asks whose token a pod shows it.", "authentication.k8s.io", []string{"tokenreviews"}, []string{"create"}))
	role(wire.Namespace, mlext.OperatorAccount, mlext.OperatorAccount, "What the operator may do with the extension's own objects.",
		may("It reads jobs and deployments, and lets them go when what ran for them is gone.", own, []string{"trainingjobs", "onlinedeployments"}, append(slices.Clone(read), "patch")),
		may("It says what becomes of them.", own, []string{"trainingjobs/status", "onlinedeployments/status"}, []string{"update"}),
		may("It tells pods where the gateway is.", "", []string{"services"}, []string{"get"}, wire.Service),
		may("And whom to believe there.", "", []string{"configmaps"}, []string{"get"}, mlext.TrustConfigMap),
		may("One operator works at a time.", "coordination.k8s.io", []string{"leases"}, []string{"create"}),
		may("The same.", "coordination.k8s.io", []string{"leases"}, []string{"get", "update"}, mlext.OperatorLease))
	role("", mlext.OperatorAccount, mlext.OperatorAccount, "The operator's only right outside namespaces: sizes that the owner has named.",
		may("It reads instance types.", "amlarc.azureml.com", []string{"instancetypes"}, []string{"get", "list"}))
	for _, ns := range namespaces {
		role(ns, mlext.GatewayAccount, mlext.GatewayAccount, "Consent: workspaces may attach namespace "+ns+". The gateway makes nothing that runs.",
			may("It tells whether the namespace is there.", "", []string{"namespaces"}, []string{"get"}, ns),
			may("It knows whose logs to read, and which pod asks.", "", []string{"pods"}, read),
			may("It keeps registry credentials of workspaces for pods, and reads none. A policy holds it to names that begin with "+mlext.PullSecrets+".", "", []string{"secrets"}, []string{"create", "update", "delete"}),
			may("It reads logs of pods. Kubernetes cannot say: of workspaces' only.", "", []string{"pods/log"}, []string{"get"}))
		role(ns, mlext.OperatorAccount, mlext.OperatorAccount, "Consent: workspaces' jobs and model servers may run in namespace "+ns+".",
			may("It runs jobs and ends them.", "batch", []string{"jobs"}, append(slices.Clone(read), "create", "delete")),
			may("It runs model servers, replaces and ends them.", "apps", []string{"deployments"}, append(slices.Clone(read), "create", "update", "delete")),
			may("The nodes of a job find each other by name.", "", []string{"services"}, []string{"get", "create", "delete"}),
			may("It tells whether the namespace is there.", "", []string{"namespaces"}, []string{"get"}, ns),
			may("It sees how they are.", "", []string{"pods"}, read),
			may("It says why one waits.", "", []string{"events"}, []string{"list"}),
			may("It mounts the claims that the owner marked for jobs.", "", []string{"persistentvolumeclaims"}, []string{"list"}))
	}
	return out
}

// mlKinds are the extension's kinds. Azure's InstanceType keeps its own name.
func mlKinds() []rbac.Explained {
	kind := func(why, group, plural, singular, kind, scope string, schema map[string]any, status bool) rbac.Explained {
		version := map[string]any{"name": "v1alpha1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": schema}}
		if status {
			version["subresources"] = map[string]any{"status": map[string]any{}}
		}
		labels := map[string]any{}
		for k, v := range mlLabels {
			labels[k] = v
		}
		return rbac.Explained{Why: why, Object: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": plural + "." + group, "labels": labels},
			"spec": map[string]any{
				"group": group, "scope": scope, "names": map[string]any{"plural": plural, "singular": singular, "kind": kind, "listKind": kind + "List"},
				"versions": []any{version},
			},
		}}}
	}
	// The gateway is the only writer and refuses what it does not know.
	ours := map[string]any{"type": "object", "required": []any{"spec"}, "properties": map[string]any{
		"spec":   map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
		"status": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
	}}
	quantities := func(required ...any) map[string]any {
		s := map[string]any{"type": "object", "additionalProperties": map[string]any{"x-kubernetes-int-or-string": true}}
		if len(required) > 0 {
			s["required"] = required
			s["properties"] = map[string]any{}
			for _, r := range required {
				s["properties"].(map[string]any)[r.(string)] = map[string]any{"type": "string", "minLength": int64(1), "pattern": `^0*[1-9.].*$`}
			}
			delete(s, "additionalProperties")
			s["x-kubernetes-preserve-unknown-fields"] = true
		}
		return s
	}
	limits := quantities("cpu", "memory")
	limits["properties"].(map[string]any)[wire.GPU] = map[string]any{"x-kubernetes-int-or-string": true, "nullable": true}
	instance := map[string]any{"type": "object", "required": []any{"spec"}, "properties": map[string]any{"spec": map[string]any{
		"type": "object", "required": []any{"resources"}, "properties": map[string]any{
			"nodeSelector": map[string]any{"type": "object", "nullable": true, "additionalProperties": map[string]any{"type": "string"}},
			"resources": map[string]any{"type": "object", "required": []any{"requests", "limits"}, "properties": map[string]any{
				"requests": quantities("cpu", "memory"), "limits": limits}},
		}}}}
	return []rbac.Explained{
		kind("A namespace that a workspace attached.", "ml.sallyport.dev", "computes", "compute", "Compute", "Namespaced", ours, false),
		kind("A command job of a workspace.", "ml.sallyport.dev", "trainingjobs", "trainingjob", "TrainingJob", "Namespaced", ours, true),
		kind("A name that a workspace serves models under.", "ml.sallyport.dev", "onlineendpoints", "onlineendpoint", "OnlineEndpoint", "Namespaced", ours, false),
		scaled(kind("Replicas of a model server.", "ml.sallyport.dev", "onlinedeployments", "onlinedeployment", "OnlineDeployment", "Namespaced", ours, true)),
		kind("The sizes that jobs may ask for, as in Azure: yours to make.", "amlarc.azureml.com", "instancetypes", "instancetype", "InstanceType", "Cluster", instance, false),
	}
}

// mlData is whom the gateway believes. Nothing in it is secret.
func (o MLOptions) mlData() []rbac.Explained {
	config := func(name, why string, data map[string]string) rbac.Explained {
		return rbac.Explained{Why: why, Object: &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
			ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: name, Labels: mlLabels}, Data: data}}
	}
	return []rbac.Explained{
		config(mlConfig, "The ML service's key: it signs newer key sets, since nothing here can reach the authority. Nothing here is secret.", map[string]string{mlKeyFile: string(o.MLKey)}),
		{Why: "The gateway fills it at its first start: the key of the CA of its certificate.", Object: &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: mlext.TrustSecret, Labels: mlLabels}, Type: corev1.SecretTypeOpaque}},
		config(mlext.TrustConfigMap, "And the certificate of that CA, for pods that ask for their workspace's bytes.", nil),
		config(mlext.KeysConfigMap, "The authority's public keys, as they were when this was written; the gateway keeps newer ones here.",
			map[string]string{"keys": string(o.Keys), "number": strconv.FormatInt(o.Number, 10)}),
	}
}

func (o MLOptions) mlService() rbac.Explained {
	return rbac.Explained{Why: "What the ML service speaks to, through the API server.", Object: &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: wire.Service, Labels: mlLabels},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app.kubernetes.io/name": mlext.GatewayAccount},
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromString("https")}}},
	}}
}

// nodesJSON is a selector as a flag takes it, sorted.
func nodesJSON(selector map[string]string) string {
	text, err := json.Marshal(selector)
	if err != nil {
		return "{}" // strings can be encoded
	}
	return string(text)
}

// mlDeployment passes Pod Security "restricted".
func (o MLOptions) mlDeployment(account string) rbac.Explained {
	part := map[string]string{mlext.GatewayAccount: "gateway", mlext.OperatorAccount: "operator", mlext.RouterAccount: "router"}[account]
	c := corev1.Container{
		Name: part, Image: o.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"/sallyport-ml"},
		Args: []string{part, "--namespaces=" + strings.Join(o.Namespaces, ",")},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("48Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")},
		},
		SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
	}
	pod := corev1.PodSpec{
		ServiceAccountName: account, AutomountServiceAccountToken: ptr(true), EnableServiceLinks: ptr(false), NodeSelector: o.NodeSelector,
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr[int64](65532), RunAsGroup: ptr[int64](65532), FSGroup: ptr[int64](65532),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
	}
	if part == "operator" {
		c.Args = append(c.Args, "--image="+o.Image)
		if len(o.NodeSelector) > 0 {
			c.Args = append(c.Args, "--node-selector="+nodesJSON(o.NodeSelector))
		}
	}
	why := "Runs jobs and model servers, and says what becomes of them. It dials this API server; nothing dials it."
	if part == "gateway" {
		why = "The door. Its logs of jobs are lost with the pod unless they lie on a claim (--log-claim)."
		c.Args = append(c.Args, "--listen=:8443", "--issuer="+o.Issuer, "--tenant="+o.Tenant, "--audience="+o.Audience, "--ml-key="+mlDir+"/"+mlKeyFile, "--log-dir="+mlLogs+"/logs")
		if o.NoTraining {
			c.Args = append(c.Args, "--training=false")
		}
		c.Ports = []corev1.ContainerPort{{Name: "https", ContainerPort: 8443}}
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("https"), Scheme: corev1.URISchemeHTTPS}},
			PeriodSeconds: 2}
		c.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: mlDir, ReadOnly: true}, {Name: "logs", MountPath: mlLogs}}
		logs := corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr(resource.MustParse("3Gi"))}}
		if o.LogClaim != "" {
			logs = corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: o.LogClaim}}
		}
		pod.Volumes = []corev1.Volume{{Name: "logs", VolumeSource: logs},
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: mlConfig}}}}}
	}
	for _, taint := range []string{mlext.TaintAll, mlext.TaintSystem} {
		pod.Tolerations = append(pod.Tolerations, corev1.Toleration{Key: taint, Operator: corev1.TolerationOpEqual, Value: mlext.TaintValue})
	}
	// Kubernetes gives a lost node five minutes; nobody reaches the cluster's jobs
	// that long.
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		pod.Tolerations = append(pod.Tolerations, corev1.Toleration{Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr[int64](10)})
	}
	pod.Containers = []corev1.Container{c}
	labels := with(mlLabels, "app.kubernetes.io/name", account)
	return rbac.Explained{Why: why, Object: &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: account, Labels: labels},
		Spec: appsv1.DeploymentSpec{Replicas: ptr[int32](1), Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": account}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod}},
	}}
}
