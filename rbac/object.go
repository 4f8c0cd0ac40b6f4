package rbac

import (
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sallyport/sallyport/trust"
)

// Object is any Kubernetes object that this package makes.
type Object interface {
	runtime.Object
	metav1.Object
}

// Explained is an object with the reasons that are printed as comments above
// it and above each of its rules.
type Explained struct {
	Object Object
	Why    string
	Rules  []string // one per rule of a Role or ClusterRole
}

// Verb is what a step does.
type Verb string

// The verbs of a step. Apply creates the object or makes it what the step says,
// whichever is needed.
const (
	Create Verb = "create"
	Update Verb = "update"
	Delete Verb = "delete"
	Apply  Verb = "apply"
)

// Step is one write to the API server. For Update the object is complete and
// holds the resourceVersion it was planned from.
type Step struct {
	Verb Verb
	Explained
}

// Plan is what to do, in order.
type Plan []Step

// String prints one step per line, for logs and for people.
func (p Plan) String() string {
	var b strings.Builder
	for _, s := range p {
		fmt.Fprintf(&b, "%s %s\n", s.Verb, Key(s.Object))
	}
	return b.String()
}

// Key names an object the way kubectl does, with its namespace:
// "clusterrolebinding/x", "rolebinding/x -n y".
func Key(o Object) string {
	kind := strings.ToLower(o.GetObjectKind().GroupVersionKind().Kind)
	switch o.(type) { // lists from an API server carry no kinds
	case *corev1.ServiceAccount:
		kind = "serviceaccount"
	case *corev1.Namespace:
		kind = "namespace"
	case *rbacv1.ClusterRole:
		kind = "clusterrole"
	case *rbacv1.ClusterRoleBinding:
		kind = "clusterrolebinding"
	case *rbacv1.Role:
		kind = "role"
	case *rbacv1.RoleBinding:
		kind = "rolebinding"
	case *admissionv1.ValidatingAdmissionPolicy:
		kind = "validatingadmissionpolicy"
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		kind = "validatingadmissionpolicybinding"
	}
	if o.GetNamespace() != "" {
		return kind + "/" + o.GetName() + " -n " + o.GetNamespace()
	}
	return kind + "/" + o.GetName()
}

func meta(cluster trust.ClusterUID, namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{
		ClusterLabel:                   string(cluster),
		"app.kubernetes.io/managed-by": "sallyport",
	}}
}

func rbacType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
}

func newClusterRole(cluster trust.ClusterUID, name string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{TypeMeta: rbacType("ClusterRole"), ObjectMeta: meta(cluster, "", name), Rules: rules}
}

func newRole(cluster trust.ClusterUID, namespace, name string, rules []rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{TypeMeta: rbacType("Role"), ObjectMeta: meta(cluster, namespace, name), Rules: rules}
}

func newClusterRoleBinding(cluster trust.ClusterUID, name, clusterRole string, subject rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{TypeMeta: rbacType("ClusterRoleBinding"), ObjectMeta: meta(cluster, "", name),
		RoleRef: roleRef("ClusterRole", clusterRole), Subjects: []rbacv1.Subject{subject}}
}

func newRoleBinding(cluster trust.ClusterUID, namespace, name string, ref rbacv1.RoleRef, subject rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{TypeMeta: rbacType("RoleBinding"), ObjectMeta: meta(cluster, namespace, name),
		RoleRef: ref, Subjects: []rbacv1.Subject{subject}}
}

func newServiceAccount(cluster trust.ClusterUID, namespace, name string) *corev1.ServiceAccount {
	no := false
	return &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: meta(cluster, namespace, name), AutomountServiceAccountToken: &no}
}

func roleRef(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacGroup, Kind: kind, Name: name}
}

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: name}
}
