package rbac

import (
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/trust"
)

// FenceGroup and its resource and verb are no API that anybody serves: holding
// the verb is how a binding's ServiceAccount shows the fence policy that its
// role was accepted unfenced.
const (
	fenceGroup    = "sallyport.dev"
	fenceResource = "fences"
	fenceVerb     = "lift"
)

// probeRole and probeName are what the reconciler's dry runs name. The roles
// have no rules, so that binding them would give nothing even if it happened.
const (
	probeRole      = "sallyport:role:probe"
	outsideRole    = "sallyport:probe"
	outsideBinding = "sallyport:probe"
	fenceProbe     = bindingPrefix + "fence-probe"
)

// Namespaces are the two that belong to Sallyport. The label on the second says
// which registration this API server belongs to.
func Namespaces(cluster trust.ClusterUID) []Explained {
	namespace := func(name, why string) Explained {
		m := meta(cluster, "", name)
		for _, mode := range []string{"enforce", "audit", "warn"} {
			m.Labels["pod-security.kubernetes.io/"+mode] = "restricted"
		}
		return Explained{Why: why, Object: &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: m}}
	}
	return []Explained{
		namespace(SystemNamespace, "Where the two agents run."),
		namespace(BindingsNamespace, "One ServiceAccount per binding, nothing else. Your kill switch, with no Sallyport server needed:\n  kubectl delete namespace "+BindingsNamespace),
	}
}

// AgentRights are the two agents' ServiceAccounts and everything that they may
// do, apart from acceptances.
func AgentRights(cluster trust.ClusterUID) []Explained {
	reconciler := account(SystemNamespace, ReconcilerAccount)
	proxy := account(SystemNamespace, ProxyAccount)
	writes := []string{"get", "list", "watch", "create", "update", "delete"}
	return []Explained{
		{Object: newServiceAccount(cluster, SystemNamespace, ReconcilerAccount), Why: "The reconciler agent: turns bindings into Kubernetes RBAC."},
		{Object: newServiceAccount(cluster, SystemNamespace, ProxyAccount), Why: "The proxy agent: carries requests from the tunnel to this API server."},
		{Object: newClusterRole(cluster, ReconcilerRole, []rbacv1.PolicyRule{
			{APIGroups: []string{rbacGroup}, Resources: []string{"clusterrolebindings"}, Verbs: writes},
			{APIGroups: []string{rbacGroup}, Resources: []string{"clusterroles"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{""}, Resources: []string{"namespaces"}, ResourceNames: []string{BindingsNamespace}, Verbs: []string{"get"}},
			{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"list"}},
		}), Why: "What the reconciler may do in the whole cluster. No escalate, no impersonate, no Secrets, no wildcard.", Rules: []string{
			"Bind accepted roles to the ServiceAccounts of bindings. The API server lets it bind only what the bind list below names, and the policy sallyport-agents only to those ServiceAccounts.",
			"Read which roles are accepted, and see when one is changed. It cannot write any.",
			"See that the bindings' namespace is there and belongs to this registration.",
			"Count nodes, for `sallyport cluster status`.",
		}},
		{Object: newClusterRoleBinding(cluster, ReconcilerRole, ReconcilerRole, reconciler), Why: "Gives this to the reconciler."},
		{Object: newRole(cluster, BindingsNamespace, ReconcilerRole, []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: writes},
		}), Why: "In the bindings' namespace: one ServiceAccount per binding.", Rules: []string{"Create, repair and remove the ServiceAccounts of bindings; it cannot take tokens of them."}},
		{Object: newRoleBinding(cluster, BindingsNamespace, ReconcilerRole, roleRef("Role", ReconcilerRole), reconciler), Why: "Gives this to the reconciler."},
		{Object: newRole(cluster, BindingsNamespace, "sallyport:proxy", []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"serviceaccounts/token"}, Verbs: []string{"create"}},
		}), Why: "All that the proxy agent may do.", Rules: []string{"Take tokens (15 minutes at most, see the policy sallyport-agents) of the bindings' ServiceAccounts, to run a binding's requests as that binding."}},
		{Object: newRoleBinding(cluster, BindingsNamespace, "sallyport:proxy", roleRef("Role", "sallyport:proxy"), proxy), Why: "Gives this to the proxy agent."},
		{Object: newClusterRole(cluster, probeRole, []rbacv1.PolicyRule{}), Why: "A role without rules, for the reconciler's check (a dry run) that the policies below refuse what they must."},
		{Object: newClusterRole(cluster, outsideRole, []rbacv1.PolicyRule{}), Why: "The same, with a name that is not an accepted role's."},
		{Object: newClusterRoleBinding(cluster, outsideBinding, outsideRole, account(SystemNamespace, ReconcilerAccount)), Why: "A binding to nothing that the reconciler must be unable to delete; checked by a dry run."},
	}
}

// bindList is the ClusterRole that lists what the reconciler may bind in the
// whole cluster.
func bindList(cluster trust.ClusterUID, names []string) Explained {
	rules, why := bindRule(names)
	return Explained{Object: newClusterRole(cluster, BindListRole, rules), Why: "The roles that are accepted for the whole cluster. Only somebody with the owner's rights can add one.", Rules: why}
}

// bindRule allows binding names. Without names there is no rule at all: empty
// resourceNames would mean every role there is.
func bindRule(names []string) ([]rbacv1.PolicyRule, []string) {
	if len(names) == 0 {
		return []rbacv1.PolicyRule{}, nil
	}
	return []rbacv1.PolicyRule{{APIGroups: []string{rbacGroup}, Resources: []string{"clusterroles"}, ResourceNames: names, Verbs: []string{"bind"}}},
		[]string{"Bind these roles, by name, and no others."}
}

// BindList is the bind list of a cluster that has accepted nothing yet, and the
// binding that gives it to the reconciler.
func BindList(cluster trust.ClusterUID) []Explained {
	return []Explained{
		bindList(cluster, nil),
		{Object: newClusterRoleBinding(cluster, BindListRole, BindListRole, account(SystemNamespace, ReconcilerAccount)), Why: "Gives the list to the reconciler."},
	}
}

// namespaceRights are the reconciler's in a namespace that roles were accepted
// for.
func namespaceRights(cluster trust.ClusterUID, namespace string, names []string) []Explained {
	rules, why := bindRule(names)
	rules = append(rules, rbacv1.PolicyRule{APIGroups: []string{rbacGroup}, Resources: []string{"rolebindings"}, Verbs: []string{"get", "list", "watch", "create", "update", "delete"}})
	return []Explained{
		{Object: newRole(cluster, namespace, ReconcilerRole, rules), Why: "The roles that are accepted for this namespace.", Rules: append(why, "Bind them here. The policy sallyport-agents keeps it from touching other bindings.")},
		{Object: newRoleBinding(cluster, namespace, ReconcilerRole, roleRef("Role", ReconcilerRole), account(SystemNamespace, ReconcilerAccount)), Why: "Gives this to the reconciler."},
	}
}

// fenceMarker is bound beside a role that was accepted unfenced.
func fenceMarker(cluster trust.ClusterUID, role trust.RoleName, name string) Explained {
	return Explained{Object: newClusterRole(cluster, name, []rbacv1.PolicyRule{
		{APIGroups: []string{fenceGroup}, Resources: []string{fenceResource}, Verbs: []string{fenceVerb}},
	}), Why: "Lifts the fence for bindings to role " + string(role) + "; accepted with --unfenced.", Rules: []string{"No API serves this; the policy sallyport-fence asks for it."}}
}

// Forbidden lists rights that an agent (by its ServiceAccount's name) must not
// hold: it refuses to run with one of them, since a thief of its token would
// hold it too.
func Forbidden(agentAccount string) []trust.Attributes {
	on := func(verb, group, resource, namespace string) trust.Attributes {
		return trust.Attributes{Verb: verb, APIGroup: group, Resource: resource, Namespace: namespace, ResourceRequest: true}
	}
	token := func(namespace string) trust.Attributes {
		return trust.Attributes{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: namespace, ResourceRequest: true}
	}
	list := []trust.Attributes{
		on("*", "*", "*", ""),
		on("impersonate", "", "users", ""),
		on("impersonate", "", "groups", ""),
		on("impersonate", "", "serviceaccounts", ""),
		on("escalate", rbacGroup, "clusterroles", ""),
		on("bind", rbacGroup, "clusterroles", ""),
		on("create", rbacGroup, "clusterroles", ""),
		on("update", rbacGroup, "clusterroles", ""),
		on("patch", rbacGroup, "clusterroles", ""),
		on("create", "admissionregistration.k8s.io", "validatingadmissionpolicies", ""),
		on("update", "admissionregistration.k8s.io", "validatingadmissionpolicies", ""),
		on("delete", "admissionregistration.k8s.io", "validatingadmissionpolicies", ""),
		on("delete", "admissionregistration.k8s.io", "validatingadmissionpolicybindings", ""),
		on("create", "apps", "deployments", ""),
		token(""), token("kube-system"), token(SystemNamespace),
	}
	for _, namespace := range []string{"", SystemNamespace, BindingsNamespace} {
		list = append(list,
			on("get", "", "secrets", namespace), on("list", "", "secrets", namespace), on("create", "", "secrets", namespace), on("create", "", "pods", namespace))
	}
	switch agentAccount {
	case ReconcilerAccount:
		list = append(list, token(BindingsNamespace))
	case ProxyAccount:
		list = append(list,
			on("create", rbacGroup, "clusterrolebindings", ""),
			on("create", rbacGroup, "rolebindings", BindingsNamespace),
			on("create", "", "serviceaccounts", BindingsNamespace))
	}
	return list
}
