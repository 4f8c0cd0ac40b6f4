package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// The api-versions that this package speaks.
const (
	ResourcesVersion        = "2021-04-01"
	ContainerServiceVersion = "2025-02-01"
	AuthorizationVersion    = "2022-04-01"
	LocksVersion            = "2016-09-01"
	ExtensionsVersion       = "2023-05-01"
	ExtensionTypesVersion   = "2023-05-01-preview"
	InsightsVersion         = "2015-04-01"
	SallyportVersion        = "2026-11-01" // of what only Sallyport has
)

// SystemData is who made and last changed a resource.
type SystemData struct {
	CreatedBy          string `json:"createdBy,omitempty"`
	CreatedByType      string `json:"createdByType,omitempty"`
	CreatedAt          string `json:"createdAt,omitempty"`
	LastModifiedBy     string `json:"lastModifiedBy,omitempty"`
	LastModifiedByType string `json:"lastModifiedByType,omitempty"`
	LastModifiedAt     string `json:"lastModifiedAt,omitempty"`
}

// Subscription is an ARM subscription.
type Subscription struct {
	ID             string `json:"id"`
	SubscriptionID string `json:"subscriptionId"` // GUID
	TenantID       string `json:"tenantId"`
	DisplayName    string `json:"displayName"`
	State          string `json:"state"`
}

// Subscriptions are those that the caller sees.
func (c *Client) Subscriptions(ctx context.Context) ([]Subscription, error) {
	return list[Subscription](ctx, c, "/subscriptions", ResourcesVersion)
}

// Location is a region.
type Location struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	DisplayName string `json:"displayName"`
}

// Locations are the regions of a subscription.
func (c *Client) Locations(ctx context.Context, subscription string) ([]Location, error) {
	return list[Location](ctx, c, "/subscriptions/"+subscription+"/locations", ResourcesVersion)
}

// Group is a resource group.
type Group struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	ManagedBy  string            `json:"managedBy,omitempty"` // id of a resource
	Properties struct {
		ProvisioningState string `json:"provisioningState,omitempty"`
	} `json:"properties"`
}

// Groups are the resource groups of a subscription.
func (c *Client) Groups(ctx context.Context, subscription string) ([]Group, error) {
	return list[Group](ctx, c, "/subscriptions/"+subscription+"/resourceGroups", ResourcesVersion)
}

// Cluster is a registered managed cluster.
type Cluster struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Location   string            `json:"location"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties ClusterProperties `json:"properties"`
}

// ClusterProperties are those that this package knows; Client.Get shows all.
type ClusterProperties struct {
	ProvisioningState string `json:"provisioningState,omitempty"`
	ResourceUID       string `json:"resourceUID,omitempty"` // new at each registration
	PowerState        *struct {
		Code string `json:"code"` // Running, Stopped
	} `json:"powerState,omitempty"`
	DisableLocalAccounts bool                    `json:"disableLocalAccounts,omitempty"`
	APIServerAccess      *APIServerAccessProfile `json:"apiServerAccessProfile,omitempty"`
}

// APIServerAccessProfile says from where people may come. Bound sources are not
// limited by it.
type APIServerAccessProfile struct {
	AuthorizedIPRanges   []string `json:"authorizedIPRanges,omitempty"`
	EnablePrivateCluster bool     `json:"enablePrivateCluster,omitempty"`
}

// ClusterID is the id of a cluster in a resource group.
func ClusterID(group, name string) string {
	return group + "/providers/Microsoft.ContainerService/managedClusters/" + name
}

// Cluster reads a cluster by its id.
func (c *Client) Cluster(ctx context.Context, id string) (*Cluster, error) {
	return read[Cluster](ctx, c, id, ContainerServiceVersion)
}

// Clusters are those of a subscription, or of one of its groups.
func (c *Client) Clusters(ctx context.Context, subscription, group string) ([]Cluster, error) {
	at := "/subscriptions/" + subscription
	if group != "" {
		at += "/resourceGroups/" + group
	}
	return list[Cluster](ctx, c, at+"/providers/Microsoft.ContainerService/managedClusters", ContainerServiceVersion)
}

// PutCluster registers a cluster that exists, or changes its registration.
func (c *Client) PutCluster(ctx context.Context, id string, cluster Cluster) (*Operation, error) {
	return c.Begin(ctx, Request{Method: http.MethodPut, Path: id, Version: ContainerServiceVersion, Body: cluster})
}

// UserCredential is a kubeconfig for the cluster that goes through the gateway.
func (c *Client) UserCredential(ctx context.Context, id string) ([]byte, error) {
	res, err := c.Do(ctx, Request{Method: http.MethodPost, Path: id + "/listClusterUserCredential", Version: ContainerServiceVersion})
	if err != nil {
		return nil, err
	}
	answer, err := decode[struct {
		Kubeconfigs []struct {
			Name  string
			Value []byte
		}
	}](res.Body)
	if err != nil {
		return nil, err
	}
	if len(answer.Kubeconfigs) == 0 {
		return nil, nil
	}
	return answer.Kubeconfigs[0].Value, nil
}

// ExtensionsPath is where a cluster's extensions are listed.
func ExtensionsPath(cluster string) string {
	return Extend(cluster, "Microsoft.KubernetesConfiguration/extensions")
}

// Role is a trusted access role of a location.
type Role struct {
	SourceResourceType string `json:"sourceResourceType"`
	Name               string `json:"name"`
	Rules              []Rule `json:"rules"`
}

// Rule is a Kubernetes policy rule.
type Rule struct {
	Verbs           []string `json:"verbs"`
	APIGroups       []string `json:"apiGroups,omitempty"`
	Resources       []string `json:"resources,omitempty"`
	ResourceNames   []string `json:"resourceNames,omitempty"`
	NonResourceURLs []string `json:"nonResourceURLs,omitempty"`
}

// RolesPath is where a location's roles are listed.
func RolesPath(subscription, location string) string {
	return "/subscriptions/" + subscription + "/providers/Microsoft.ContainerService/locations/" + url.PathEscape(location) + "/trustedAccessRoles"
}

// Roles are the trusted access roles that bindings in a location may name.
func (c *Client) Roles(ctx context.Context, subscription, location string) ([]Role, error) {
	return list[Role](ctx, c, RolesPath(subscription, location), ContainerServiceVersion)
}

// OwnRole is the body of a role of one's own.
type OwnRole struct {
	ID         string `json:"id,omitempty"`
	Name       string `json:"name,omitempty"`
	Properties struct {
		SourceResourceType string   `json:"sourceResourceType"`
		RoleName           string   `json:"roleName,omitempty"`
		Rules              []Rule   `json:"rules"`
		Revision           string   `json:"revision,omitempty"`
		OutlivesRevocation []string `json:"outlivesRevocation,omitempty"`
	} `json:"properties"`
}

// OwnRoleID is the id of a role of one's own by its full name,
// "<resource type>/<role>".
func OwnRoleID(subscription, fullName string) string {
	return OwnRolesPath(subscription) + "/" + url.PathEscape(strings.ReplaceAll(fullName, "/", ":"))
}

// OwnRolesPath is where a subscription's own roles are listed.
func OwnRolesPath(subscription string) string {
	return "/subscriptions/" + subscription + "/providers/Sallyport.Access/trustedAccessRoles"
}

// Binding is a trusted access role binding.
type Binding struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Properties BindingProperties `json:"properties"`
}

// BindingProperties are a binding's own.
type BindingProperties struct {
	ProvisioningState string   `json:"provisioningState,omitempty"` // Updating, Succeeded, Failed, Deleting
	SourceResourceID  string   `json:"sourceResourceId"`
	Roles             []string `json:"roles"`
	Reason            string   `json:"reason,omitempty"` // what it waits for
	Error             *Detail  `json:"error,omitempty"`  // why it is Failed
}

// BindingID is the id of a binding of a cluster.
func BindingID(cluster, name string) string { return BindingsPath(cluster) + "/" + name }

// BindingsPath is where a cluster's bindings are listed.
func BindingsPath(cluster string) string { return cluster + "/trustedAccessRoleBindings" }

// Binding reads a binding by its id.
func (c *Client) Binding(ctx context.Context, id string) (*Binding, error) {
	return read[Binding](ctx, c, id, ContainerServiceVersion)
}

// Bindings are a cluster's.
func (c *Client) Bindings(ctx context.Context, cluster string) ([]Binding, error) {
	return list[Binding](ctx, c, BindingsPath(cluster), ContainerServiceVersion)
}

// PutBinding creates a binding or changes its roles.
func (c *Client) PutBinding(ctx context.Context, id, sourceID string, roles []string) (*Operation, error) {
	return c.Begin(ctx, Request{Method: http.MethodPut, Path: id, Version: ContainerServiceVersion,
		Body: Binding{Properties: BindingProperties{SourceResourceID: sourceID, Roles: roles}}})
}

// Delete deletes any resource. An absent one is no error.
func (c *Client) Delete(ctx context.Context, id, version string) (*Operation, error) {
	return c.Begin(ctx, Request{Method: http.MethodDelete, Path: id, Version: version})
}

// Source is a resource of any type that bindings may name.
type Source struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Type       string            `json:"type,omitempty"`
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Identity   *Identity         `json:"identity,omitempty"`
	Properties json.RawMessage   `json:"properties,omitempty"`
}

// Identity is a managed identity of a resource.
type Identity struct {
	Type        string `json:"type"` // SystemAssigned, None
	PrincipalID string `json:"principalId,omitempty"`
	TenantID    string `json:"tenantId,omitempty"`
	ClientID    string `json:"clientId,omitempty"`
}

// Source reads a source resource by its id.
func (c *Client) Source(ctx context.Context, id string) (*Source, error) {
	return read[Source](ctx, c, id, SallyportVersion)
}

// PutSource makes or changes a source resource.
func (c *Client) PutSource(ctx context.Context, id string, s Source) (*Source, error) {
	o, err := c.Begin(ctx, Request{Method: http.MethodPut, Path: id, Version: SallyportVersion, Body: s})
	if err != nil {
		return nil, err
	}
	body, err := o.Wait(ctx, nil)
	if err != nil {
		return nil, err
	}
	return decode[Source](body)
}

// FederatedCredential says which outside token an identity can be had for.
type FederatedCredential struct {
	ID         string `json:"id,omitempty"`
	Name       string `json:"name,omitempty"`
	Properties struct {
		Issuer    string          `json:"issuer"`
		Subject   string          `json:"subject"`
		Audiences []string        `json:"audiences"`
		Keys      json.RawMessage `json:"keys,omitempty"` // RFC 7517 set, when the issuer cannot be reached
	} `json:"properties"`
}

// FederatedPath is where a source's federated credentials are listed.
func FederatedPath(source string) string { return source + "/federatedIdentityCredentials" }

// SecretsPath is where a source's client secrets are listed and made.
func SecretsPath(source string) string { return source + "/clientSecrets" }

// CertificatesPath is where a source's certificates are listed.
func CertificatesPath(source string) string { return source + "/clientCertificates" }

// RoleAssignment gives a principal a role definition at a scope.
type RoleAssignment struct {
	ID         string `json:"id,omitempty"`
	Name       string `json:"name,omitempty"`
	Properties struct {
		RoleDefinitionID string `json:"roleDefinitionId"`
		PrincipalID      string `json:"principalId"`
		PrincipalType    string `json:"principalType,omitempty"`
		Scope            string `json:"scope,omitempty"`
	} `json:"properties"`
}

// RoleDefinition is what holders of an assignment may do.
type RoleDefinition struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	Properties struct {
		RoleName string `json:"roleName"`
	} `json:"properties"`
}

// RoleDefinitions are those that can be assigned at a scope.
func (c *Client) RoleDefinitions(ctx context.Context, scope string) ([]RoleDefinition, error) {
	return list[RoleDefinition](ctx, c, Extend(scope, "Microsoft.Authorization/roleDefinitions"), AuthorizationVersion)
}

// RoleAssignments are those at a scope and above it.
func (c *Client) RoleAssignments(ctx context.Context, scope string) ([]RoleAssignment, error) {
	return list[RoleAssignment](ctx, c, Extend(scope, "Microsoft.Authorization/roleAssignments"), AuthorizationVersion)
}

// Extend is the path of what extends a scope, which may be "/".
func Extend(scope, typ string) string { return strings.TrimSuffix(scope, "/") + "/providers/" + typ }
