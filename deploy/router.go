package deploy

import (
	"crypto/tls"
	"net/url"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// MLRouter says how online endpoints are scored, in the terms of Azure's
// extension. Without it none is.
type MLRouter struct {
	ServiceType string // LoadBalancer, NodePort, ClusterIP
	Internal    bool   // the load balancer has an address of the private network, as Azure's annotation asks for
	Insecure    bool   // without TLS
	Secret      string // of namespace azureml, with cert.pem and key.pem
	Cert, Key   []byte // PEM; instead of a Secret that there is
	Host        string // the name in the certificate
	URL         string // where callers reach it, when that is not the Service itself
	Alone       bool   // one replica instead of three on three nodes
}

const (
	routerTLSDir   = "/etc/sallyport-ml-tls"
	routerSecret   = "sallyport-ml-router-tls"
	routerReplicas = 3
	// AzureInternal asks Azure's cloud controller for a private address.
	AzureInternal = "service.beta.kubernetes.io/azure-load-balancer-internal"
)

func (r *MLRouter) check() error {
	bad := func(format string, args ...any) *trust.Error { return trust.Errorf(trust.Invalid, format, args...) }
	types := []string{string(corev1.ServiceTypeLoadBalancer), string(corev1.ServiceTypeNodePort), string(corev1.ServiceTypeClusterIP)}
	files := len(r.Cert) > 0 || len(r.Key) > 0
	switch {
	case !slices.Contains(types, r.ServiceType):
		return bad("the type of the router's Service is %q: it must be one of %s", r.ServiceType, strings.Join(types, ", "))
	case r.Internal && r.ServiceType != string(corev1.ServiceTypeLoadBalancer):
		return bad("an internal load balancer goes with the Service type LoadBalancer, not with %s", r.ServiceType)
	case r.Insecure && (files || r.Secret != ""):
		return bad("a certificate and insecure connections exclude each other")
	case !r.Insecure && !files && r.Secret == "":
		return bad("the router needs a certificate (a Secret with cert.pem and key.pem, or both files), or insecure connections")
	case files && r.Secret != "":
		return bad("the certificate comes either from a Secret or from files")
	case !r.Insecure && r.Host == "":
		return bad("the name in the certificate is missing")
	}
	if files {
		pair, err := tls.X509KeyPair(r.Cert, r.Key)
		if err != nil {
			return bad("the certificate and its key cannot be used together").Because(err)
		}
		if err := pair.Leaf.VerifyHostname(r.Host); err != nil {
			return bad("the certificate is not for %s: it names %s", r.Host, strings.Join(pair.Leaf.DNSNames, ", "))
		}
	}
	if r.URL == "" {
		return nil
	}
	if u, err := url.Parse(r.URL); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return bad("the scoring URL %q is not an http or https URL", r.URL)
	}
	return nil
}

// routerObjects is everything that the router needs.
func (o MLOptions) routerObjects() []rbac.Explained {
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: wire.Namespace, Name: name, Labels: mlLabels}
	}
	out := append([]rbac.Explained{{Why: "The router's identity: it can read what is scored, and change numbers of replicas.", Object: &corev1.ServiceAccount{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta(mlext.RouterAccount), AutomountServiceAccountToken: ptr(false)}}},
		routerRights(o.Namespaces)...)
	out = append(out,
		rbac.Explained{Why: "Which routers there are, and the keys by which they know each other. Nothing in it is secret.", Object: &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta(mlext.RoutersConfigMap)}},
		rbac.Explained{Why: "Which router hands out slots and scales. It is here so that the router need not be able to make any.", Object: &coordinationv1.Lease{
			TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}, ObjectMeta: meta(mlext.RouterLease)}})
	if o.NoWorkloads {
		return out
	}
	if len(o.Router.Cert) > 0 {
		out = append(out, rbac.Explained{Why: "The certificate for scoring. The key is secret: keep this file as you keep the key.", Object: &corev1.Secret{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta(routerSecret), Type: corev1.SecretTypeOpaque,
			Data: map[string][]byte{"cert.pem": o.Router.Cert, "key.pem": o.Router.Key}}})
	}
	out = append(out, o.routerService(), o.routerDeployment())
	if !o.Router.Alone {
		out = append(out, rbac.Explained{Why: "Nodes are drained one router at a time.", Object: &policyv1.PodDisruptionBudget{
			TypeMeta: metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"}, ObjectMeta: meta(mlext.RouterAccount),
			Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt32(1)),
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": mlext.RouterAccount}}}}})
	}
	return out
}

// routerRights is what the router may do: read, and change one number.
func routerRights(namespaces []string) []rbac.Explained {
	const own = "ml.sallyport.dev"
	read := []string{"get", "list", "watch"}
	out := mlRole(wire.Namespace, mlext.RouterAccount, mlext.RouterAccount, "What the router may do with the extension's own objects.",
		may("It knows what is scored, by which keys' digests, and how.", own, []string{"onlineendpoints", "onlinedeployments"}, read),
		may("It scales. Nothing else of a deployment can be changed through this.", own, []string{"onlinedeployments/scale"}, []string{"patch"}),
		may("One router hands out slots and scales.", "coordination.k8s.io", []string{"leases"}, []string{"get", "update"}, mlext.RouterLease),
		may("Routers find each other.", "", []string{"configmaps"}, append(slices.Clone(read), "patch"), mlext.RoutersConfigMap))
	for _, ns := range namespaces {
		out = append(out, mlRole(ns, mlext.RouterAccount, mlext.RouterAccount, "Consent: model servers in namespace "+ns+" may be scored.",
			may("It knows which model servers are ready, and where.", "", []string{"pods"}, read))...)
	}
	return out
}

func (o MLOptions) routerService() rbac.Explained {
	r := o.Router
	annotations := map[string]string{}
	for name, value := range map[string]string{mlext.ScoringURL: r.URL, mlext.ScoringHost: r.Host} {
		if value != "" {
			annotations[name] = value
		}
	}
	if r.Internal {
		annotations[AzureInternal] = "true"
	}
	port := corev1.ServicePort{Name: "https", Port: 443, TargetPort: intstr.FromString("score")}
	if r.Insecure {
		port.Name, port.Port = "http", 80
	}
	return rbac.Explained{Why: "Where endpoints are scored. Every request needs a key or token of its endpoint.", Object: &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: mlext.RouterService, Labels: with(mlLabels, "azuremlappname", mlext.RouterService), Annotations: annotations},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceType(r.ServiceType), Selector: map[string]string{"app.kubernetes.io/name": mlext.RouterAccount},
			Ports: []corev1.ServicePort{port}},
	}}
}

// routerDeployment is mlDeployment's form with the router's ports, probes and
// places.
func (o MLOptions) routerDeployment() rbac.Explained {
	e := o.mlDeployment(mlext.RouterAccount)
	d, ok := e.Object.(*appsv1.Deployment)
	if !ok {
		return e
	}
	e.Why = "Stands before model servers. It ends when what it carries has ended, which takes as long as the longest timeout at most."
	pod := &d.Spec.Template.Spec
	c := &pod.Containers[0]
	c.Args = append(c.Args, "--audience="+o.Audience, "--ml-key="+mlDir+"/"+mlKeyFile, "--listen=:8080", "--name=$(POD_NAME)")
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	c.Env = []corev1.EnvVar{field("POD_NAME", "metadata.name")}
	c.Ports = []corev1.ContainerPort{{Name: "score", ContainerPort: 8080}, {Name: "probes", ContainerPort: 8081}}
	get := func(path string) corev1.ProbeHandler {
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("probes")}}
	}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: get("/readyz"), PeriodSeconds: 2, FailureThreshold: 2}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: get("/healthz"), PeriodSeconds: 10, TimeoutSeconds: 5, FailureThreshold: 6}
	c.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("96Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("800Mi")},
	}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: mlDir, ReadOnly: true}}
	pod.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: mlConfig}}}}}
	pod.TerminationGracePeriodSeconds = ptr[int64](320) // the longest timeout is 300
	if secret := o.Router.secret(); secret != "" {
		c.Args = append(c.Args, "--tls-cert="+routerTLSDir+"/cert.pem", "--tls-key="+routerTLSDir+"/key.pem")
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "tls", MountPath: routerTLSDir, ReadOnly: true})
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret, DefaultMode: ptr[int32](0o440)}}})
	} else {
		c.Args = append(c.Args, "--allow-insecure-connections")
	}
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
		MaxUnavailable: ptr(intstr.FromInt32(0)), MaxSurge: ptr(intstr.FromInt32(1))}}
	// Several, if only while one replaces another.
	c.Env = append(c.Env, field("POD_IP", "status.podIP"))
	c.Args = append(c.Args, "--peers=$(POD_IP):8444")
	c.Ports = append(c.Ports, corev1.ContainerPort{Name: "peers", ContainerPort: 8444})
	if !o.Router.Alone {
		d.Spec.Replicas = ptr[int32](routerReplicas)
		// On as many nodes: the surge would find no fourth.
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr(intstr.FromInt32(1)), MaxSurge: ptr(intstr.FromInt32(0))}
		pod.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": mlext.RouterAccount}}}}}}
	}
	return e
}

func (r *MLRouter) secret() string {
	if len(r.Cert) > 0 {
		return routerSecret
	}
	return r.Secret
}

// scaled gives a kind the subresource scale on spec.scaled, through which the
// number can be changed and nothing else.
func scaled(e rbac.Explained) rbac.Explained {
	u, ok := e.Object.(*unstructured.Unstructured)
	if !ok {
		return e
	}
	u = u.DeepCopy()
	versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
	for i := range versions {
		v, ok := versions[i].(map[string]any)
		if !ok {
			continue
		}
		v["subresources"] = map[string]any{"status": map[string]any{}, "scale": map[string]any{"specReplicasPath": ".spec.scaled", "statusReplicasPath": ".status.ready"}}
		v["schema"] = map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "required": []any{"spec"}, "properties": map[string]any{
			"spec": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true,
				// The subresource needs one. 0: nothing was decided.
				"properties": map[string]any{"scaled": map[string]any{"type": "integer", "minimum": int64(0), "default": int64(0)}}},
			"status": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
		}}}
	}
	u.Object["spec"].(map[string]any)["versions"] = versions
	e.Object = u
	return e
}
