package declared

import (
	"strings"

	"github.com/sallyport/sallyport/client"
)

// Kind is what a document declares.
type Kind string

// The kinds, in the order in which they are applied: each needs only what comes
// before it. A federated credential is declared inside its source.
const (
	KindGroup     Kind = "ResourceGroup"
	KindRole      Kind = "TrustedAccessRole"
	KindSource    Kind = "SourceResource"
	KindFederated Kind = "FederatedIdentityCredential"
	KindCluster   Kind = "ManagedCluster"
	KindBinding   Kind = "TrustedAccessRoleBinding"
)

var order = []Kind{KindGroup, KindRole, KindSource, KindFederated, KindCluster, KindBinding}

// Object is one declared resource. Spec is a *Group, *Role, *Source,
// *Federated, *Cluster or *Binding, as Kind says.
type Object struct {
	Position
	Kind  Kind
	ID    string // resource id; compares without regard to ASCII case
	Spec  any
	Needs []string // ids of what must be there first, declared or not
}

// Position is where a document begins; Line counts from 1.
type Position struct {
	File string
	Line int
}

// Group is a resource group. In every kind a nil list or map, and an empty
// string, is one that the file says nothing about.
type Group struct {
	Kind     Kind              `yaml:"kind"`
	Name     string            `yaml:"name"`
	Location string            `yaml:"location"`
	Tags     map[string]string `yaml:"tags,omitempty"`
}

// Role is a trusted access role of one's own; Name is its full name,
// "<source type>/<role>".
type Role struct {
	Kind  Kind   `yaml:"kind"`
	Name  string `yaml:"name"`
	Rules []Rule `yaml:"rules"`
}

// Rule is a Kubernetes policy rule.
type Rule struct {
	APIGroups       []string `yaml:"apiGroups,flow,omitempty"`
	Resources       []string `yaml:"resources,flow,omitempty"`
	ResourceNames   []string `yaml:"resourceNames,flow,omitempty"`
	NonResourceURLs []string `yaml:"nonResourceURLs,flow,omitempty"`
	Verbs           []string `yaml:"verbs,flow"`
}

// Source is a resource of any type with a system-assigned identity, which
// bindings name.
type Source struct {
	Kind     Kind              `yaml:"kind"`
	ID       string            `yaml:"id"`
	Location string            `yaml:"location,omitempty"` // default: the group's
	Identity string            `yaml:"identity,omitempty"` // "" is SystemAssigned, the only one that can be declared
	Tags     map[string]string `yaml:"tags,omitempty"`
	// FederatedCredentials are all that the source has. Nil leaves them alone.
	FederatedCredentials []Federated `yaml:"federatedCredentials,omitempty"`
}

// Federated says which outside tokens a source's identity can be had for.
type Federated struct {
	Name      string   `yaml:"name"`
	Issuer    string   `yaml:"issuer"`
	Subject   string   `yaml:"subject"`
	Audiences []string `yaml:"audiences,flow,omitempty"`
	Keys      any      `yaml:"keys,omitempty"` // RFC 7517 set, when the issuer cannot be reached
}

// Cluster is the registration of a cluster that exists.
type Cluster struct {
	Kind                 Kind              `yaml:"kind"`
	ResourceGroup        string            `yaml:"resourceGroup"`
	Name                 string            `yaml:"name"`
	Location             string            `yaml:"location,omitempty"` // default: the group's
	DisableLocalAccounts *bool             `yaml:"disableLocalAccounts,omitempty"`
	AuthorizedIPRanges   []string          `yaml:"authorizedIPRanges,omitempty"`
	Tags                 map[string]string `yaml:"tags,omitempty"`
}

// Binding is a trusted access role binding.
type Binding struct {
	Kind             Kind     `yaml:"kind"`
	ResourceGroup    string   `yaml:"resourceGroup"`
	ClusterName      string   `yaml:"clusterName"`
	Name             string   `yaml:"name"`
	SourceResourceID string   `yaml:"sourceResourceId"`
	Roles            []string `yaml:"roles"`
}

// groupID, and below it the others, are the ids that names mean.
func groupID(subscription, name string) string {
	return "/subscriptions/" + subscription + "/resourceGroups/" + name
}

func clusterID(subscription, group, name string) string {
	return client.ClusterID(groupID(subscription, group), name)
}

// inSubscription writes the placeholder of a portable id out.
func inSubscription(id, subscription string) string {
	return strings.ReplaceAll(id, placeholder, subscription)
}

// Portable is an id with the subscription in use as a placeholder, so that the
// same files serve another one.
func Portable(id, subscription string) string {
	const before = "/subscriptions/"
	if len(id) >= len(before)+len(subscription) && strings.EqualFold(id[:len(before)+len(subscription)], before+subscription) {
		return id[:len(before)] + placeholder + id[len(before)+len(subscription):]
	}
	return id
}

// placeholder stands for the subscription in use, as in "sallyport rest".
const placeholder = "{subscriptionId}"
