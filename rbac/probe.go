package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// Probe is a dry run, with the reconciler's token, that one of the policies
// must refuse. RBAC lets each of them through, so that nothing else hides a
// policy that is missing.
type Probe struct {
	Policy string
	Step   Step
}

// Probes are what the reconciler tries before it applies anything.
func Probes(cluster trust.ClusterUID) []Probe {
	inside := account(BindingsNamespace, Account("00000000-0000-0000-0000-000000000000"))
	bind := func(name, role string, s rbacv1.Subject) Step {
		return step(Create, newClusterRoleBinding(cluster, name, role, s))
	}
	return []Probe{
		{AgentsPolicy, bind(bindingPrefix+"probe-subject", probeRole, account("kube-system", "default"))},
		{AgentsPolicy, bind(bindingPrefix+"probe-role", outsideRole, inside)},
		{AgentsPolicy, step(Delete, newClusterRoleBinding(cluster, outsideBinding, outsideRole, account(SystemNamespace, ReconcilerAccount)))},
		{FencePolicy, bind(fenceProbe, probeRole, inside)},
	}
}

// RefusedBy reports whether an API server's message is a refusal by the policy,
// and not one for another reason.
func RefusedBy(policy, message string) bool {
	return strings.Contains(message, "ValidatingAdmissionPolicy '"+policy+"' with binding '"+policy+"' denied request: ")
}
