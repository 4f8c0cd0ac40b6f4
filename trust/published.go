package trust

import "strings"

// Published returns the roles that Azure publishes to ordinary subscriptions
// (trustedAccessRoles, eastus, api-version 2025-08-01), rule for rule and in
// their order, dead rules included: a client that compares must find them
// unchanged. The caller owns the result.
func Published() []Role {
	return []Role{
		{SourceType: "Microsoft.DataProtection/backupVaults", Name: "backup-operator", Rules: []Rule{
			on("clusterbackup.dataprotection.microsoft.com", "backups validateforbackups restores validateforrestores deletebackups", "get list watch create update patch delete"),
			on("", "configmaps", "create get list patch update delete"),
		}},
		{SourceType: "Microsoft.MachineLearningServices/workspaces", Name: "mlworkload", Rules: []Rule{
			on("", "services services/proxy", "create get list patch update delete"),
		}},
		{SourceType: "Microsoft.MachineLearningServices/workspaces", Name: "inference-v1", Rules: []Rule{
			on("", "persistentvolumes persistentvolumeclaims", "get list watch create update patch delete"),
			on("", "persistentvolumeclaims/status", "update patch"),
			on("", "events", "get list watch create update patch"),
			on("", "nodes endpoints", "get list watch"),
			on("storage.k8s.io", "storageclasses", "get list watch"),
			on("storage.k8s.io", "csinodes", "get list watch"),
			on("storage.k8s.io", "csidrivers", "create get list patch update delete"),
			on("coordination.k8s.io", "leases", "get list watch create update patch"),
			on("", "namespaces pods pods/log pods/exec configmaps secrets services services/proxy services/status serviceaccounts", "create get list patch update delete"),
			on("apps", "deployments replicasets daemonsets deployments/scale deployments/status", "create get list patch update delete"),
			on("batch", "jobs", "create get list"),
			on("rbac.authorization.k8s.io", "clusterroles clusterrolebindings", "create get list update patch"),
			on("", "pods configmaps services", "watch"),
			on("apps", "deployments deployments/scale", "watch"),
			on("", "deployments deployments/scale", "get list patch update watch"),
			on("apps", "pods configmaps endpoints nodes services", "get list watch"),
		}},
		{SourceType: "Microsoft.Security/pricings", Name: "microsoft-defender-operator", Rules: []Rule{
			on("rbac.authorization.k8s.io", "clusterrolebindings clusterroles rolebindings roles", "get list"),
			on("batch", "cronjobs jobs", "get list"),
			on("networking.k8s.io", "ingresses networkpolicies", "get list"),
			on("apps", "replicasets statefulsets daemonsets deployments", "get list"),
			on("", "namespaces nodes nodes/proxy pods services serviceaccounts secrets configmaps", "get list"),
			on("apiextensions.k8s.io", "customresourcedefinitions", "get list"),
			on("crd.projectcalico.org", "*", "get list"),
		}},
		{SourceType: "Microsoft.Security/pricings", Name: "microsoft-defender-policy-operator", Rules: []Rule{
			on("apiextensions.k8s.io", "customresourcedefinitions", "get list create update delete"),
			on("defender.microsoft.com", "*", "get list create update delete"),
		}},
		{SourceType: "Microsoft.Security/pricings", Name: "microsoft-defender-network-policy-operator", Rules: []Rule{
			on("networking.k8s.io", "networkpolicies", "get list create update patch delete"),
			on("", "pods", "get list update"),
		}},
		{SourceType: "Microsoft.Security/pricings", Name: "mdc-response-operator", Rules: []Rule{
			on("networking.k8s.io", "networkpolicies", "get list create update patch delete"),
			on("", "pods", "get list update delete"),
			on("", "namespaces events", "get list update"),
		}},
	}
}

// on is a rule in one API group; resources and verbs are separated by spaces.
func on(group, resources, verbs string) Rule {
	return Rule{Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: strings.Fields(resources)}
}
