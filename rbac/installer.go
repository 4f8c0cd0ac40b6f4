package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// InstallerRole names the installer's Roles that have to do with one type of
// extensions.
func InstallerRole(typ string) string { return "sallyport:installer:" + trust.Fold(typ) }

// InstallerRights are the installer's identity, and the reconciler's right to
// start and stop it.
func InstallerRights(cluster trust.ClusterUID) []Explained {
	const scaler = "sallyport:installer:scale"
	return []Explained{
		{Object: newServiceAccount(cluster, SystemNamespace, InstallerAccount), Why: "The installer agent: installs, updates and removes the extensions that were accepted, with Helm."},
		{Object: newRole(cluster, SystemNamespace, scaler, []rbacv1.PolicyRule{
			{APIGroups: []string{"apps"}, Resources: []string{"deployments/scale"}, ResourceNames: []string{InstallerAccount}, Verbs: []string{"get", "update"}},
		}), Why: "The installer does not run while there is nothing to do.", Rules: []string{"The reconciler starts it when there is, and stops it afterwards. It can change nothing else of it."}},
		{Object: newRoleBinding(cluster, SystemNamespace, scaler, roleRef("Role", scaler), account(SystemNamespace, ReconcilerAccount)), Why: "Gives this to the reconciler."},
	}
}

// InstallerRightsIn are the installer's in a namespace, for one type. Nobody can
// make a Role that holds more than they hold themselves (the API server refuses
// it), so what the installer gives to an extension's parts is at most what stands
// here.
func InstallerRightsIn(cluster trust.ClusterUID, namespace, typ, why string, rules []rbacv1.PolicyRule, reasons []string) []Explained {
	name := InstallerRole(typ)
	return []Explained{
		{Object: newRole(cluster, namespace, name, rules), Why: why, Rules: reasons},
		{Object: newRoleBinding(cluster, namespace, name, roleRef("Role", name), account(SystemNamespace, InstallerAccount)), Why: "Gives this to the installer."},
	}
}
