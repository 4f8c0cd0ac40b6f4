package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/trust"
)

// InstallerRole names the installer's Role in each namespace that it may install
// in, and those in SystemNamespace that have to do with it.
const InstallerRole = "sallyport:installer"

// InstallerRights are the installer's identity, the reconciler's right to start
// and stop it, and the installer's right to read what was accepted: the owner's
// words, which it cannot change. consents are the names of those ConfigMaps.
func InstallerRights(cluster trust.ClusterUID, consents []string) []Explained {
	const scaler = "sallyport:installer:scale"
	return []Explained{
		{Object: newServiceAccount(cluster, SystemNamespace, InstallerAccount), Why: "The installer agent: installs, updates and removes the extensions that were accepted, with Helm."},
		{Object: newRole(cluster, SystemNamespace, scaler, []rbacv1.PolicyRule{
			{APIGroups: []string{"apps"}, Resources: []string{"deployments/scale"}, ResourceNames: []string{InstallerAccount}, Verbs: []string{"get", "update"}},
		}), Why: "The installer does not run while there is nothing to install.", Rules: []string{"The reconciler starts the installer when there is something to do, and stops it afterwards. It can change nothing else of it."}},
		{Object: newRoleBinding(cluster, SystemNamespace, scaler, roleRef("Role", scaler), account(SystemNamespace, ReconcilerAccount)), Why: "Gives this to the reconciler."},
		{Object: newRole(cluster, SystemNamespace, InstallerRole, []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: consents, Verbs: []string{"get"}},
		}), Why: "What the installer may do here.", Rules: []string{"Read what was accepted, and in which form. It cannot change it."}},
		{Object: newRoleBinding(cluster, SystemNamespace, InstallerRole, roleRef("Role", InstallerRole), account(SystemNamespace, InstallerAccount)), Why: "Gives this to the installer."},
	}
}

// InstallerRightsIn are the installer's in a namespace. name tells those of one
// extension from those of others. Nobody can make a Role that holds more than
// they hold themselves (the API server refuses it), so what the installer gives to
// an extension's parts is at most what stands here.
func InstallerRightsIn(cluster trust.ClusterUID, namespace, name, why string, rules []rbacv1.PolicyRule, reasons []string) []Explained {
	return []Explained{
		{Object: newRole(cluster, namespace, name, rules), Why: why, Rules: reasons},
		{Object: newRoleBinding(cluster, namespace, name, roleRef("Role", name), account(SystemNamespace, InstallerAccount)), Why: "Gives this to the installer."},
	}
}
