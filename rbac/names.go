package rbac

import (
	"strings"

	"github.com/sallyport/sallyport/trust"
)

// Names in the cluster. One API server has one registration, so that names that
// are unique in a cluster need no uid in them.
const (
	SystemNamespace   = "sallyport-system"   // the agents
	BindingsNamespace = "sallyport-bindings" // one ServiceAccount per binding, nothing else

	ProxyAccount      = "sallyport-proxy"
	ReconcilerAccount = "sallyport-reconciler"
	InstallerAccount  = "sallyport-installer" // its Deployment has the same name

	// ClusterLabel holds the uid of the registration that an object belongs to.
	ClusterLabel = "sallyport.dev/cluster"
	// BindingLabel holds the uid of the binding that an object is made for.
	BindingLabel = "sallyport.dev/binding"

	namespacesAnnotation = "sallyport.dev/namespaces" // of an nsrole: where it was accepted
	unfencedAnnotation   = "sallyport.dev/unfenced"   // "true": accepted with the fence lifted
	roleAnnotation       = "sallyport.dev/role"       // the role's name as published
	bindingAnnotation    = "sallyport.dev/binding-id"
	sourceAnnotation     = "sallyport.dev/source-id"

	// ReconcilerRole names the reconciler's own ClusterRole, its binding, and
	// its Role in each namespace that a role was accepted for.
	ReconcilerRole = "sallyport:reconciler"
	// BindListRole names the ClusterRole that lists what the reconciler may
	// bind in the whole cluster.
	BindListRole = "sallyport:reconciler:bind"

	accountPrefix  = "binding-"
	rolePrefix     = "sallyport:role:"
	nsRolePrefix   = "sallyport:nsrole:"
	unfencedPrefix = "sallyport:unfencedrole:"
	bindingPrefix  = "sallyport:binding:"

	rbacGroup = "rbac.authorization.k8s.io"
)

// Username is the name that the API server gives a ServiceAccount.
func Username(namespace, account string) string {
	return "system:serviceaccount:" + namespace + ":" + account
}

// Account is the name of a binding's ServiceAccount in BindingsNamespace. The
// uid is new at each creation of a binding, so the tokens of a deleted one are
// never those of its successor.
func Account(uid trust.BindingUID) string { return accountPrefix + string(uid) }

// clusterRoleName is "sallyport:role:<namespace>:<type>:<name>:<hash>": lower
// case, since role names compare so, and with ":" for "/", which a Kubernetes
// name cannot hold. No part of a role's name holds a colon.
func clusterRoleName(prefix string, role trust.RoleName, revision trust.Revision) string {
	return prefix + strings.ReplaceAll(trust.Fold(string(role)), "/", ":") + ":" + string(revision)
}

// ClusterRoleName names the ClusterRole of an accepted role revision: for the
// whole cluster, or (namespaced) to be bound in some namespaces only.
func ClusterRoleName(role trust.RoleName, revision trust.Revision, namespaced bool) string {
	if namespaced {
		return clusterRoleName(nsRolePrefix, role, revision)
	}
	return clusterRoleName(rolePrefix, role, revision)
}

// ParseClusterRoleName is the inverse of ClusterRoleName; the role's name comes
// back in lower case.
func ParseClusterRoleName(name string) (role trust.RoleName, revision trust.Revision, namespaced, ok bool) {
	rest, found := strings.CutPrefix(name, rolePrefix)
	if !found {
		if rest, namespaced = strings.CutPrefix(name, nsRolePrefix); !namespaced {
			return "", "", false, false
		}
	}
	parts := strings.Split(rest, ":")
	if len(parts) < 4 {
		return "", "", false, false
	}
	for _, p := range parts {
		if !plainPart(p) {
			return "", "", false, false
		}
	}
	n := len(parts) - 1
	return trust.RoleName(strings.Join(parts[:n], "/")), trust.Revision(parts[n]), namespaced, true
}

// plainPart is what a published role's name is made of, in lower case. Nothing
// else becomes part of an object's name, or of a command that people copy.
func plainPart(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// bindingName names the (cluster) role binding of one trusted binding to one
// ClusterRole. It holds the revision, so that a new revision is bound before
// the old one is unbound: a roleRef cannot be changed in place.
func bindingName(uid trust.BindingUID, clusterRole string) string {
	return bindingPrefix + string(uid) + ":" + strings.TrimPrefix(clusterRole, "sallyport:")
}
