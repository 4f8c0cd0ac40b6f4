package store

import "strings"

// The kinds that share the prefix "/arm" tell their keys apart by shape: below
// /arm/subscriptions/<guid>[/resourcegroups/<name>] a resource's key goes on
// with /providers/<namespace>/<type>/<name>[/<type>/<name>…].
const (
	clusterType    = "microsoft.containerservice/managedclusters"
	bindingType    = clusterType + "/trustedaccessrolebindings"
	assignmentType = "microsoft.authorization/roleassignments"
)

// typeOf is the resource type of a key below "/arm", "namespace/type[/type…]",
// and whether it is a resource at all. The last /providers/ counts: a role
// assignment's key begins with its scope's.
func typeOf(key string) (string, bool) {
	const sep = "/providers/"
	i := strings.LastIndex(key, sep)
	if i < 0 || !strings.HasPrefix(key, "/arm/") {
		return "", false
	}
	parts := strings.Split(key[i+len(sep):], "/")
	if len(parts) < 3 || len(parts)%2 == 0 {
		return "", false
	}
	t := parts[0]
	for n := 1; n < len(parts); n += 2 {
		t += "/" + parts[n]
	}
	return t, true
}

// Owns tells whether key is a subscription's.
func (Subscription) Owns(key string) bool {
	rest, ok := strings.CutPrefix(key, "/arm/subscriptions/")
	return ok && rest != "" && !strings.Contains(rest, "/")
}

// Owns tells whether key is a resource group's.
func (Group) Owns(key string) bool {
	parts := strings.Split(key, "/") // "", arm, subscriptions, <guid>, resourcegroups, <name>
	return len(parts) == 6 && parts[1] == "arm" && parts[2] == "subscriptions" && parts[4] == "resourcegroups"
}

// Owns tells whether key is a cluster's.
func (Cluster) Owns(key string) bool {
	t, ok := typeOf(key)
	return ok && t == clusterType
}

// Owns tells whether key is a binding's.
func (Binding) Owns(key string) bool {
	t, ok := typeOf(key)
	return ok && t == bindingType
}

// Owns tells whether key is a role assignment's.
func (RoleAssignment) Owns(key string) bool {
	t, ok := typeOf(key)
	return ok && t == assignmentType
}

// Owns tells whether key is a source's: any resource that is of no kind of its
// own here.
func (Source) Owns(key string) bool {
	t, ok := typeOf(key)
	return ok && t != clusterType && t != bindingType && t != assignmentType && t != extensionType &&
		strings.HasPrefix(key, "/arm/subscriptions/")
}
