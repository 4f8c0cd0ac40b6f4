package store

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// ResourceKey is the key of an ARM resource: its id, lower-cased (ASCII), below
// "/arm". Children lie below their parent, so that one prefix holds all
// bindings of a cluster.
func ResourceKey(id string) string { return "/arm" + trust.Fold(id) }

// Stamp is when and by whom a resource was made and last changed (ARM
// systemData).
type Stamp struct {
	CreatedBy, CreatedByType           string
	CreatedAt                          time.Time
	LastModifiedBy, LastModifiedByType string
	LastModifiedAt                     time.Time
}

// Touched is the stamp after a change by the caller.
func (s Stamp) Touched(caller *trust.Caller, now time.Time) Stamp {
	by, kind := caller.Object, "Application"
	if caller.ResourceID != "" {
		kind = "ManagedIdentity"
	} else if caller.Name != "" {
		by, kind = caller.Name, "User"
	}
	now = now.UTC()
	if s.CreatedAt.IsZero() {
		s.CreatedBy, s.CreatedByType, s.CreatedAt = by, kind, now
	}
	s.LastModifiedBy, s.LastModifiedByType, s.LastModifiedAt = by, kind, now
	return s
}

// Failure is an error that is stored: what a person may see of it.
type Failure struct {
	Code, Message, Target string
	Details               []Failure `json:",omitempty"`
}

// Subscription is an ARM subscription. ID is "/subscriptions/<guid>".
type Subscription struct {
	ID, DisplayName string
	State           string // "Enabled"
	Stamp           Stamp
}

// Key places a subscription.
func (r Subscription) Key() string { return ResourceKey(r.ID) }

// Group is a resource group.
type Group struct {
	ID, Location string
	Tags         map[string]string
	ManagedBy    string `json:",omitempty"` // id of the resource that manages the group
	Deleting     bool
	Stamp        Stamp
}

// Key places a resource group.
func (r Group) Key() string { return ResourceKey(r.ID) }

// Cluster is a registered managed cluster.
type Cluster struct {
	ID       string // in the casing of its creation
	UID      trust.ClusterUID
	Location string
	Tags     map[string]string
	State    string // provisioningState
	Stopped  bool   // stopped: nobody is let through
	Deleting bool

	DisableLocalAccounts bool
	AuthorizedIPRanges   []string        // CIDRs; they limit people, never a bound source
	Properties           json.RawMessage // properties as last sent, what we do not know included
	Other                json.RawMessage `json:",omitempty"` // other top-level members as last sent: sku, …

	// What connect handed over, to tell this cluster's agents from others'.
	Enrolment *Enrolment `json:",omitempty"`
	Stamp     Stamp
}

// Key places a cluster.
func (r Cluster) Key() string { return ResourceKey(r.ID) }

// Enrolment is what a cluster's agents prove themselves with: projected
// ServiceAccount tokens of this issuer, checked against these keys.
type Enrolment struct {
	ServiceAccountIssuer string
	JWKS                 json.RawMessage // RFC 7517 key set
}

// Binding is a role binding of a cluster.
type Binding struct {
	ID         string // in the casing of its creation
	UID        trust.BindingUID
	ClusterID  string
	ClusterUID trust.ClusterUID
	SourceID   string          // sourceResourceId byte for byte as sent
	Source     trust.Principal // the source's identity at consent
	Roles      []string        // as sent, in order
	Extra      json.RawMessage `json:",omitempty"` // properties as sent that we do not know

	Grants  []trust.Grant // in force: what gateways let through now
	Desired []trust.Grant // what the agents are told to apply; equal to Grants when settled

	State     string   // provisioningState: Updating, Succeeded, Failed, Deleting, Canceled
	Reason    string   // why it is Updating still; readable
	Problem   *Failure `json:",omitempty"` // why it is Failed
	Operation string   // id of the operation in charge
	Stamp     Stamp
}

// Key places a binding below its cluster.
func (r Binding) Key() string { return ResourceKey(r.ID) }

// Source is a source resource of any type: what a binding names.
type Source struct {
	ID, Type, Location string
	Tags               map[string]string
	Identity           *SystemIdentity `json:",omitempty"`
	State              string
	Properties         json.RawMessage
	Other              json.RawMessage `json:",omitempty"` // other top-level members as last sent: kind, sku, …
	Stamp              Stamp
}

// Key places a source resource.
func (r Source) Key() string { return ResourceKey(r.ID) }

// SystemIdentity is a system-assigned managed identity: made in the transaction
// that stores the resource, new at each creation.
type SystemIdentity struct {
	PrincipalID, TenantID, ClientID string
}

// RoleAssignment gives a principal a role definition at a scope.
type RoleAssignment struct {
	ID               string // <scope>/providers/Microsoft.Authorization/roleAssignments/<guid>
	Scope            string // "/" or a resource id
	RoleDefinitionID string
	PrincipalID      string
	PrincipalType    string // User, Group, ServicePrincipal
	Description      string `json:",omitempty"`
	Stamp            Stamp
}

// Key places an assignment.
func (r RoleAssignment) Key() string { return ResourceKey(r.ID) }

// Role is a trusted access role published by this installation's users.
type Role struct {
	Role         trust.Role
	Subscription string          // GUID of the subscription it was published from, which alone may change it
	Extra        json.RawMessage `json:",omitempty"` // properties that we have no field for
	Stamp        Stamp
}

// Key places a published role.
func (r Role) Key() string { return RolePrefix + trust.Fold(string(r.Role.FullName())) }

// RolePrefix holds the roles published here.
const RolePrefix = "/roles/"

// Use says that a binding names a source, so that what becomes of the source
// finds its bindings.
type Use struct {
	SourceID   string
	BindingID  string
	BindingUID trust.BindingUID
}

// UsesPrefix holds the uses of all sources.
const UsesPrefix = "/uses/"

// UsePrefix holds the uses of one source. No resource type is named ":".
func UsePrefix(sourceID string) string {
	return UsesPrefix + trust.Fold(strings.TrimPrefix(sourceID, "/")) + "/:/"
}

// Key places a use below its source.
func (r Use) Key() string { return UsePrefix(r.SourceID) + string(r.BindingUID) }

// Departed is a binding that was deleted and may not be gone everywhere yet. Its
// creation is the deletion's commit.
type Departed struct {
	Binding   Binding // as it was
	Operation string  // id of the operation in charge
	Refused   bool    // no gateway and no agent lets it through any more
}

// DepartedPrefix holds departed bindings by cluster.
const DepartedPrefix = "/departed/"

// Key places a departed binding by its cluster.
func (r Departed) Key() string {
	return DepartedPrefix + string(r.Binding.ClusterUID) + "/" + string(r.Binding.UID)
}
