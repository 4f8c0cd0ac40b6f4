// Package kube reads and changes a cluster with its owner's rights: what
// connecting, accepting and disconnecting need, and nothing else.
//
// It owns the calls. What is applied is rendered by packages rbac and deploy.
package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// manager owns the fields that are applied here (server-side apply).
const manager = "sallyport-owner"

// callTimeout bounds one call to the API server.
const callTimeout = 30 * time.Second

// Cluster is an API server, called with its owner's rights.
type Cluster struct {
	Server, Context string // for people

	dynamic   dynamic.Interface
	discovery *discovery.DiscoveryClient
	rbac      *rbacclient.RbacV1Client
}

// Open reads a kubeconfig and takes the named context of it. path "" is what
// kubectl would read. The current context is never taken for granted.
func Open(path, contextName string) (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if path != "" {
		rules = &clientcmd.ClientConfigLoadingRules{ExplicitPath: path}
	}
	loaded, err := rules.Load()
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the kubeconfig cannot be read").Because(err)
	}
	var names []string
	for name := range loaded.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	if _, ok := loaded.Contexts[contextName]; !ok {
		e := trust.Errorf(trust.Invalid, "the kubeconfig has no context %q", contextName)
		if contextName == "" {
			e = trust.Errorf(trust.Invalid, "the context of the cluster's owner must be named, so that no other cluster is changed")
		}
		if e.Hint = "add --kube-context with one of: " + strings.Join(names, ", "); len(names) == 0 {
			e.Hint = "there is no kubeconfig here: add --kubeconfig FILE and --kube-context NAME"
		}
		return nil, e
	}
	config, err := clientcmd.NewNonInteractiveClientConfig(*loaded, contextName, &clientcmd.ConfigOverrides{}, rules).ClientConfig()
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "context %s of the kubeconfig cannot be used", contextName).Because(err)
	}
	config.Timeout, config.QPS, config.Burst, config.UserAgent = callTimeout, 50, 100, "sallyport"
	c := &Cluster{Server: config.Host, Context: contextName}
	if c.dynamic, err = dynamic.NewForConfig(config); err == nil {
		if c.discovery, err = discovery.NewDiscoveryClientForConfig(config); err == nil {
			c.rbac, err = rbacclient.NewForConfig(rest.CopyConfig(config))
		}
	}
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "context %s of the kubeconfig cannot be used", contextName).Because(err)
	}
	return c, nil
}

// said puts an API server's refusal or absence into words.
func (c *Cluster) said(what string, err error) error {
	if err == nil {
		return nil
	}
	kind := trust.Unavailable
	switch {
	case apierrors.IsForbidden(err):
		kind = trust.Forbidden
	case apierrors.IsUnauthorized(err):
		kind = trust.Unauthenticated
	case apierrors.ReasonForError(err) != metav1.StatusReasonUnknown:
		kind = trust.Invalid
	}
	return trust.Errorf(kind, "%s at %s", what, c.Server).Because(err)
}

// minimum is the oldest Kubernetes with the admission policies (v1).
const minimum = 30

// Version is the API server's, refused if it is too old.
func (c *Cluster) Version(ctx context.Context) (string, error) {
	raw, err := c.discovery.RESTClient().Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return "", c.said("cannot read the version", err)
	}
	var v version.Info
	if err := json.Unmarshal(raw, &v); err != nil {
		return "", trust.Errorf(trust.Invalid, "%s does not answer as a Kubernetes API server", c.Server).Because(err)
	}
	minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	if v.Major == "1" && err == nil && minor < minimum {
		return "", trust.Errorf(trust.Unsupported, "Kubernetes %s has no ValidatingAdmissionPolicies: 1.%d or newer is needed", v.GitVersion, minimum)
	}
	return v.GitVersion, nil
}

// Issuer is who signs the cluster's ServiceAccount tokens, and its keys
// (RFC 7517).
func (c *Cluster) Issuer(ctx context.Context) (string, json.RawMessage, error) {
	get := func(path string) ([]byte, error) {
		return c.discovery.RESTClient().Get().AbsPath(path).Do(ctx).Raw()
	}
	raw, err := get("/.well-known/openid-configuration")
	if err != nil {
		return "", nil, c.said("cannot read the issuer of ServiceAccount tokens (/.well-known/openid-configuration)", err)
	}
	var document struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(raw, &document); err != nil || document.Issuer == "" {
		return "", nil, trust.Errorf(trust.Invalid, "%s does not say who issues its ServiceAccount tokens", c.Server)
	}
	keys, err := get("/openid/v1/jwks")
	if err != nil {
		return "", nil, c.said("cannot read the keys of ServiceAccount tokens (/openid/v1/jwks)", err)
	}
	return document.Issuer, keys, nil
}

// Registration is the uid of the registration that the API server belongs to,
// "" if to none.
func (c *Cluster) Registration(ctx context.Context) (string, error) {
	ns, err := c.dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Get(ctx, rbac.BindingsNamespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", c.said("cannot read namespace "+rbac.BindingsNamespace, err)
	}
	return ns.GetLabels()[rbac.ClusterLabel], nil
}

// Installed reads what the cluster holds of a registration's acceptances.
func (c *Cluster) Installed(ctx context.Context, uid trust.ClusterUID) (rbac.Installed, error) {
	var have rbac.Installed
	ours := metav1.ListOptions{LabelSelector: rbac.ClusterLabel + "=" + string(uid)}
	clusterRoles, err := c.rbac.ClusterRoles().List(ctx, ours)
	if err != nil {
		return have, c.said("cannot list ClusterRoles", err)
	}
	roles, err := c.rbac.Roles("").List(ctx, ours)
	if err != nil {
		return have, c.said("cannot list Roles", err)
	}
	clusterBindings, err := c.rbac.ClusterRoleBindings().List(ctx, ours)
	if err != nil {
		return have, c.said("cannot list ClusterRoleBindings", err)
	}
	bindings, err := c.rbac.RoleBindings("").List(ctx, ours)
	if err != nil {
		return have, c.said("cannot list RoleBindings", err)
	}
	have.ClusterRoles, have.ClusterRoleBindings, have.RoleBindings = clusterRoles.Items, clusterBindings.Items, bindings.Items
	have.Roles = slices.DeleteFunc(roles.Items, func(r rbacv1.Role) bool { return r.Name != rbac.ReconcilerRole })
	return have, nil
}

// Do makes the writes of a plan, in order; tell is called before each.
func (c *Cluster) Do(ctx context.Context, plan rbac.Plan, tell func(verb, what string)) error {
	for _, s := range plan {
		o, err := loose(s.Object)
		if err != nil {
			return err
		}
		tell(string(s.Verb), rbac.Key(s.Object))
		if s.Verb == rbac.Delete {
			err = c.delete(ctx, o)
		} else {
			err = c.Apply(ctx, o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// loose is an object as the dynamic client takes it.
func loose(o runtime.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("encode object: %w", err)
	}
	delete(m, "status")
	u := &unstructured.Unstructured{Object: m}
	if u.GetKind() == "" { // entries of lists carry no kind
		kinds, _, err := scheme.Scheme.ObjectKinds(o)
		if err != nil {
			return nil, fmt.Errorf("encode object: %w", err)
		}
		u.SetGroupVersionKind(kinds[0])
	}
	return u, nil
}

// resource is where an object's kind lives. All kinds that Sallyport renders
// have regular plurals.
func (c *Cluster) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	plural, _ := meta.UnsafeGuessKindToResource(o.GroupVersionKind())
	r := c.dynamic.Resource(plural)
	if ns := o.GetNamespace(); ns != "" {
		return r.Namespace(ns)
	}
	return r
}

// Apply creates an object or makes it what it says (server-side apply).
func (c *Cluster) Apply(ctx context.Context, o *unstructured.Unstructured) error {
	o = o.DeepCopy()
	o.SetManagedFields(nil)
	o.SetResourceVersion("")
	unstructured.RemoveNestedField(o.Object, "metadata", "creationTimestamp")
	_, err := c.resource(o).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: manager, Force: true})
	return c.said("cannot apply "+name(o), err)
}

func (c *Cluster) delete(ctx context.Context, o *unstructured.Unstructured) error {
	err := c.resource(o).Delete(ctx, o.GetName(), metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return c.said("cannot delete "+name(o), err)
}

func name(o *unstructured.Unstructured) string {
	s := strings.ToLower(o.GetKind()) + "/" + o.GetName()
	if ns := o.GetNamespace(); ns != "" {
		s += " -n " + ns
	}
	return s
}

// Name is an object for people, as kubectl writes it.
func Name(o *unstructured.Unstructured) string { return name(o) }

// Remove deletes everything of a registration in the order that keeps the
// cluster safe throughout: what is bound, the rights, the agents, the fence
// last.
func (c *Cluster) Remove(ctx context.Context, uid trust.ClusterUID, tell func(verb, what string)) error {
	const rbacGroup, admission = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
	for _, step := range []struct {
		resource schema.GroupVersionResource
		only     string // this name; "" means all
	}{
		{schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, rbac.BindingsNamespace},
		{schema.GroupVersionResource{Group: rbacGroup, Version: "v1", Resource: "clusterrolebindings"}, ""},
		{schema.GroupVersionResource{Group: rbacGroup, Version: "v1", Resource: "rolebindings"}, ""},
		{schema.GroupVersionResource{Group: rbacGroup, Version: "v1", Resource: "roles"}, ""},
		{schema.GroupVersionResource{Group: rbacGroup, Version: "v1", Resource: "clusterroles"}, ""},
		{schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, rbac.SystemNamespace},
		{schema.GroupVersionResource{Group: admission, Version: "v1", Resource: "validatingadmissionpolicybindings"}, ""},
		{schema.GroupVersionResource{Group: admission, Version: "v1", Resource: "validatingadmissionpolicies"}, ""},
	} {
		all, err := c.dynamic.Resource(step.resource).List(ctx, metav1.ListOptions{LabelSelector: rbac.ClusterLabel + "=" + string(uid)})
		if err != nil {
			return c.said("cannot list "+step.resource.Resource, err)
		}
		for i := range all.Items {
			o := &all.Items[i]
			if step.only != "" && o.GetName() != step.only {
				continue
			}
			tell("delete", name(o))
			if err := c.delete(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// Keep is rbac.Installed.Keep for an object of a bundle.
func Keep(have rbac.Installed, uid trust.ClusterUID, o *unstructured.Unstructured) (merged *unstructured.Unstructured, kept []string, err error) {
	if o.GroupVersionKind().Group != rbacv1.GroupName {
		return o, nil, nil
	}
	var typed rbac.Object
	switch o.GetKind() {
	case "ClusterRole":
		typed = &rbacv1.ClusterRole{}
	case "Role":
		typed = &rbacv1.Role{}
	default:
		return o, nil, nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, typed); err != nil {
		return nil, nil, trust.Errorf(trust.Invalid, "%s of the bundle cannot be read", name(o)).Because(err)
	}
	result, kept := have.Keep(uid, typed)
	if len(kept) == 0 {
		return o, nil, nil
	}
	merged, err = loose(result)
	return merged, kept, err
}

// Parse reads the objects of a bundle, in order.
func Parse(bundle []byte) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(bundle), 4096); ; {
		o := &unstructured.Unstructured{}
		if err := docs.Decode(&o.Object); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, trust.Errorf(trust.Invalid, "the bundle is not valid YAML").Because(err)
		}
		if len(o.Object) == 0 {
			continue
		}
		if o.GetKind() == "" || o.GetAPIVersion() == "" || o.GetName() == "" {
			return nil, trust.Errorf(trust.Invalid, "the bundle holds something that is not a Kubernetes object")
		}
		all = append(all, o)
	}
}
