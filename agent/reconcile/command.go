package reconcile

import (
	"slices"
	"strings"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// acceptCommand is what the cluster's owner types to accept what a binding asks
// for, with the flags that it needs. Two things only the owner knows: how their
// kubeconfig calls this cluster, and, for a role that is not built in, where
// they keep the file that they have read.
func acceptCommand(bindingID string, r *rbac.Refusal, rules []trust.Rule) string {
	c := "sallyport cluster accept-roles" + target(bindingID)
	builtIn := slices.ContainsFunc(trust.Published(), func(p trust.Role) bool { return p.FullName().Equal(r.Role) })
	if builtIn {
		c += " --roles " + string(r.Role)
	} else {
		c += " --role-file " + r.Role.Short() + ".yaml"
	}
	if len(r.Namespaces) > 0 {
		c += " --namespace " + strings.Join(r.Namespaces, ",")
	}
	if len(trust.OutlivesRevocation(rules)) > 0 {
		c += " --outlives-revocation"
	}
	return c + " --kube-context CONTEXT --apply"
}

// target reads the cluster's resource group and name from the id of one of its
// bindings: /subscriptions/S/resourceGroups/G/providers/P/managedClusters/N/….
func target(bindingID string) string {
	parts := strings.Split(strings.TrimPrefix(bindingID, "/"), "/")
	if len(parts) < 8 || trust.Fold(parts[2]) != "resourcegroups" || trust.Fold(parts[6]) != "managedclusters" || !plain(parts[3]) || !plain(parts[7]) {
		return ""
	}
	return " -g " + parts[3] + " -n " + parts[7]
}

// plain keeps what a shell would read differently out of a line that people
// copy. Resource groups may hold parentheses.
func plain(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return s != "" && s[0] != '-'
}
