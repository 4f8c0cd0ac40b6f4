package control

import (
	"context"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const definitionType = "Microsoft.Authorization/roleDefinitions"

// definition is a role definition of Microsoft.Authorization: what its holders
// may do on the control API. It has nothing to do with trusted access roles.
type definition struct {
	store.RoleDefinition
	revision int64 // 0: it is built in
}

// GUIDs of the built-in definitions; all but the last are Azure's own.
const (
	ownerGUID          = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	contributorGUID    = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	readerGUID         = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	accessAdminGUID    = "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9"
	clusterUserGUID    = "4abbcc35-e782-43d8-92c5-2d3f1bd2253f"
	extensionAdminGUID = "85cb6faf-e071-4c9b-8136-154b5a04f717"
	dataScientistGUID  = "f6c7c914-8db3-469d-8ca1-694a8f32e121"
	bindingAdminGUID   = "6a1d5f0e-2c77-4d9b-9b0e-5a11e9a07b1d"
)

var builtIn = []definition{
	builtInDefinition(ownerGUID, "Owner", "Grants full access to manage all resources, including the ability to assign roles.",
		[]string{"*"}),
	builtInDefinition(contributorGUID, "Contributor", "Grants full access to manage all resources, but does not allow to assign roles.",
		[]string{"*"}, "Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action"),
	builtInDefinition(readerGUID, "Reader", "View all resources, but does not allow to make any changes.",
		[]string{"*/read"}),
	builtInDefinition(accessAdminGUID, "User Access Administrator", "Lets its holder say who may do what, and nothing else.",
		[]string{"*/read", "Microsoft.Authorization/*"}),
	builtInDefinition(clusterUserGUID, "Azure Kubernetes Service Cluster User Role", "List cluster user credential action.",
		[]string{clusterType + "/listClusterUserCredential/action", clusterType + "/read"}),
	builtInDefinition(extensionAdminGUID, "Kubernetes Extension Contributor", "Can create, update, get, list and delete Kubernetes extensions.",
		[]string{"Microsoft.Authorization/*/read", "Microsoft.Resources/subscriptions/resourceGroups/read", "Microsoft.KubernetesConfiguration/extensions/*"}),
	// Not the workspace's own credentials: whoever makes one is the workspace,
	// wherever it is bound.
	builtInDefinition(dataScientistGUID, "AzureML Data Scientist", "Can run jobs and serve models in a workspace, but neither attach computes nor change the workspace or what it may be had for.",
		[]string{mlWorkspaces + "/read", mlWorkspaces + "/*/read", mlWorkspaces + "/*/action", mlWorkspaces + "/*/write", mlWorkspaces + "/*/delete"},
		mlWorkspaces+"/delete", mlWorkspaces+"/write", mlWorkspaces+"/listKeys/action",
		mlWorkspaces+"/computes/write", mlWorkspaces+"/computes/delete", mlWorkspaces+"/computes/*/write", mlWorkspaces+"/computes/*/delete", mlWorkspaces+"/computes/listKeys/action",
		mlWorkspaces+"/connections/write", mlWorkspaces+"/connections/delete",
		mlWorkspaces+"/federatedIdentityCredentials/*", mlWorkspaces+"/clientSecrets/*", mlWorkspaces+"/clientCertificates/*"),
	builtInDefinition(bindingAdminGUID, "Trusted Access Binding Administrator", "Create and delete trusted access role bindings, and see what they name.",
		[]string{"*/read", bindingType + "/write", bindingType + "/delete"}),
}

const mlWorkspaces = "Microsoft.MachineLearningServices/workspaces"

func builtInDefinition(guid, name, description string, actions []string, not ...string) definition {
	return definition{RoleDefinition: store.RoleDefinition{GUID: guid, Name: name, Description: description, AssignableScopes: []string{"/"},
		Permissions: []store.RolePermission{{Actions: actions, NotActions: not}}}}
}

// guidOf is the last segment of a definition's id: the same definition is
// addressed at every scope.
func guidOf(id string) string { return trust.Fold(id[strings.LastIndexByte(id, '/')+1:]) }

func builtInByID(id string) *definition {
	guid := guidOf(id)
	for i := range builtIn {
		if builtIn[i].GUID == guid {
			return &builtIn[i]
		}
	}
	return nil
}

// definition finds a definition by any id that ends in its GUID; nil if there is
// none.
func (c *Control) definition(ctx context.Context, id string) (*definition, error) {
	if d := builtInByID(id); d != nil {
		return d, nil
	}
	guid := guidOf(id)
	if !arm.ValidGUID(guid) {
		return nil, nil
	}
	item, err := store.Get[store.RoleDefinition](ctx, c.Store, store.RoleDefinition{GUID: guid}.Key())
	if err != nil {
		return nil, missing(err, nil)
	}
	return &definition{item.Value, item.Revision}, nil
}

// definitions are all of them, the custom ones with the revision of the list.
func (c *Control) definitions(ctx context.Context) ([]definition, int64, error) {
	all := slices.Clone(builtIn)
	custom, rev, err := store.List[store.RoleDefinition](ctx, c.Store, store.RoleDefinitionPrefix)
	for _, item := range custom {
		all = append(all, definition{item.Value, item.Revision})
	}
	return all, rev, err
}

// allows: in one of its permissions some action covers it and no notAction does.
func (d *definition) allows(action string) bool {
	return slices.ContainsFunc(d.Permissions, func(p store.RolePermission) bool {
		fits := func(pattern string) bool { return covers(pattern, action) }
		return slices.ContainsFunc(p.Actions, fits) && !slices.ContainsFunc(p.NotActions, fits)
	})
}

// assignableAt tells whether the definition can be seen and assigned at a scope:
// one of its own or one below.
func (d *definition) assignableAt(scope arm.ID) bool {
	return slices.ContainsFunc(scope.Scopes(), func(at arm.ID) bool {
		return slices.ContainsFunc(d.AssignableScopes, func(s string) bool { return is(s, at.String()) })
	})
}

// covers matches an action against a pattern whose '*' stands for any text,
// slashes included, without regard to ASCII case.
func covers(pattern, action string) bool {
	parts := strings.Split(trust.Fold(pattern), "*")
	s := trust.Fold(action)
	if len(parts) == 1 {
		return s == parts[0]
	}
	rest, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, p)
		if i < 0 {
			return false
		}
		rest = rest[i+len(p):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

type definitionBody struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Properties definitionProperties `json:"properties"`
}

type definitionProperties struct {
	RoleName         string           `json:"roleName"`
	Type             string           `json:"type"` // BuiltInRole or CustomRole
	Description      string           `json:"description"`
	AssignableScopes []string         `json:"assignableScopes"`
	Permissions      []permissionBody `json:"permissions"`
	CreatedOn        string           `json:"createdOn,omitempty"`
	UpdatedOn        string           `json:"updatedOn,omitempty"`
	CreatedBy        string           `json:"createdBy,omitempty"`
	UpdatedBy        string           `json:"updatedBy,omitempty"`
}

type permissionBody struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

const customRole, builtInRole = "CustomRole", "BuiltInRole"

func (d *definition) kind() string {
	if d.revision == 0 {
		return builtInRole
	}
	return customRole
}

// id is the definition's id as it is written at a scope.
func (d *definition) id(scope arm.ID) string { return definitionID(d.GUID, scope) }

func definitionID(guid string, scope arm.ID) string {
	id := "/providers/" + definitionType + "/" + guid
	if scope.Subscription != "" {
		id = scope.SubscriptionID().String() + id
	}
	return id
}

func (d *definition) body(scope arm.ID) definitionBody {
	list := func(s []string) []string {
		if s == nil {
			return []string{}
		}
		return s
	}
	b := definitionBody{ID: d.id(scope), Name: d.GUID, Type: definitionType, Properties: definitionProperties{
		RoleName: d.Name, Type: d.kind(), Description: d.Description, AssignableScopes: d.AssignableScopes, Permissions: []permissionBody{},
		CreatedOn: arm.Time(d.Stamp.CreatedAt), UpdatedOn: arm.Time(d.Stamp.LastModifiedAt), CreatedBy: d.Stamp.CreatedBy, UpdatedBy: d.Stamp.LastModifiedBy,
	}}
	for _, p := range d.Permissions {
		b.Properties.Permissions = append(b.Properties.Permissions, permissionBody{list(p.Actions), list(p.NotActions), list(p.DataActions), list(p.NotDataActions)})
	}
	return b
}

func (c *Control) definitionRoutes() []*route {
	const at = "{scope...}/providers/Microsoft.Authorization/roleDefinitions"
	// The right is asked for at the scope that the definition is addressed at;
	// writes ask for it at each of its assignable scopes too.
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: definitionType, versions: arm.Authorization, drop: drop,
			action: definitionType + "/" + action, need: needSubscription, handle: handle}
	}
	return []*route{
		r("GET", at, "read", 3, (*call).listDefinitions),
		r("GET", at+"/{name}", "read", 4, (*call).getDefinition),
		r("PUT", at+"/{name}", "write", 4, (*call).putDefinition),
		r("DELETE", at+"/{name}", "delete", 4, (*call).removeDefinition),
	}
}

// listDefinitions shows those that can be assigned at the scope, and with
// atScopeAndBelow() those that can be somewhere below it.
func (k *call) listDefinitions() (*answer, error) {
	query := k.request.URL.Query().Get("$filter")
	terms, err := arm.ParseFilter(query)
	if err != nil {
		return nil, err
	}
	below, name, kind := false, "", ""
	for _, t := range terms {
		switch {
		case t.Is("atScopeAndBelow", "()"):
			below = true
		case t.Is("atScope", "()"):
		case t.Is("roleName", "eq"):
			name = t.Value
		case t.Is("type", "eq"):
			kind = t.Value
		default:
			return nil, arm.BadFilter(query)
		}
	}
	all, _, err := k.definitions(k.ctx)
	if err != nil {
		return nil, err
	}
	var list []definitionBody
	for i := range all {
		d := &all[i]
		seen := d.assignableAt(k.id) || below && slices.ContainsFunc(d.AssignableScopes, func(s string) bool { return inside(s, k.id) })
		if seen && (name == "" || is(d.Name, name)) && (kind == "" || is(d.kind(), kind)) {
			list = append(list, d.body(k.id))
		}
	}
	return ok(arm.NewList(list, "")), nil
}

// inside tells whether an id as it is stored is scope or lies below it.
func inside(id string, scope arm.ID) bool {
	parsed, err := arm.ParseID(id)
	return err == nil && slices.ContainsFunc(parsed.Scopes(), scope.Equal)
}

// findDefinition reads the definition of the path; nil if there is none.
func (k *call) findDefinition() (*definition, error) {
	if !arm.ValidGUID(k.vars["name"]) {
		return nil, arm.Errorf(trust.Invalid, "InvalidRoleDefinitionId", "The role definition ID '%.64s' is not valid. The role definition ID must be a GUID.", k.vars["name"])
	}
	return k.definition(k.ctx, k.vars["name"])
}

func (k *call) getDefinition() (*answer, error) {
	d, err := k.findDefinition()
	if err != nil {
		return nil, err
	}
	// At the root, which is above all scopes, every definition can be read.
	if d == nil || !k.id.IsRoot() && !d.assignableAt(k.id) && !slices.ContainsFunc(d.AssignableScopes, func(s string) bool { return inside(s, k.id) }) {
		return nil, noDefinition(trust.NotFound, k.vars["name"])
	}
	return ok(d.body(k.id)), nil
}

func noDefinition(kind trust.Kind, id string) *trust.Error {
	return arm.Errorf(kind, "RoleDefinitionDoesNotExist", "The specified role definition with ID '%.64s' does not exist.", guidOf(id))
}
