package control

import (
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/trust"
)

// definition is a role definition of Microsoft.Authorization: what its holders
// may do on the control API. It has nothing to do with trusted access roles.
type definition struct {
	guid, name, description string
	actions, notActions     []string
}

const definitionType = "Microsoft.Authorization/roleDefinitions"

// The built-in definitions. The first three have Azure's own GUIDs.
const (
	ownerGUID        = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	contributorGUID  = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	readerGUID       = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
	bindingAdminGUID = "6a1d5f0e-2c77-4d9b-9b0e-5a11e9a07b1d"
)

var definitions = []definition{
	{ownerGUID, "Owner", "Grants full access to manage all resources, including the ability to assign roles.",
		[]string{"*"}, nil},
	{contributorGUID, "Contributor", "Grants full access to manage all resources, but does not allow to assign roles.",
		[]string{"*"}, []string{"Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write", "Microsoft.Authorization/elevateAccess/Action"}},
	{readerGUID, "Reader", "View all resources, but does not allow to make any changes.",
		[]string{"*/read"}, nil},
	{bindingAdminGUID, "Trusted Access Binding Administrator", "Create and delete trusted access role bindings, and see what they name.",
		[]string{"*/read", bindingType + "/write", bindingType + "/delete"}, nil},
}

func (d *definition) id() string { return "/providers/" + definitionType + "/" + d.guid }

// definitionByID finds a definition by any id that ends in its GUID: the same
// definition is addressed at every scope.
func definitionByID(id string) (*definition, bool) {
	guid := trust.Fold(id[strings.LastIndexByte(id, '/')+1:])
	for i := range definitions {
		if definitions[i].guid == guid {
			return &definitions[i], true
		}
	}
	return nil, false
}

// allows: some action covers it and no notAction does.
func (d *definition) allows(action string) bool {
	for _, n := range d.notActions {
		if covers(n, action) {
			return false
		}
	}
	for _, a := range d.actions {
		if covers(a, action) {
			return true
		}
	}
	return false
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
	Type             string           `json:"type"`
	Description      string           `json:"description"`
	AssignableScopes []string         `json:"assignableScopes"`
	Permissions      []permissionBody `json:"permissions"`
}

type permissionBody struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
}

func (d *definition) body(scope arm.ID) definitionBody {
	id := d.id()
	if scope.Subscription != "" {
		id = scope.SubscriptionID().String() + id
	}
	not := d.notActions
	if not == nil {
		not = []string{}
	}
	return definitionBody{ID: id, Name: d.guid, Type: definitionType, Properties: definitionProperties{
		RoleName: d.name, Type: "BuiltInRole", Description: d.description, AssignableScopes: []string{"/"},
		Permissions: []permissionBody{{Actions: d.actions, NotActions: not, DataActions: []string{}, NotDataActions: []string{}}},
	}}
}

func (c *Control) definitionRoutes() []*route {
	const at = "{scope...}/providers/Microsoft.Authorization/roleDefinitions"
	return []*route{
		{method: "GET", pattern: at, typ: definitionType, versions: arm.Authorization, drop: 3, action: definitionType + "/read",
			need: needSubscription, handle: (*call).listDefinitions},
		{method: "GET", pattern: at + "/{name}", typ: definitionType, versions: arm.Authorization, drop: 4, action: definitionType + "/read",
			need: needSubscription, handle: (*call).getDefinition},
	}
}

func (k *call) listDefinitions() (*answer, error) {
	name := filterValue(k.request.URL.Query().Get("$filter"), "roleName")
	var list []definitionBody
	for i := range definitions {
		if name == "" || trust.Fold(definitions[i].name) == trust.Fold(name) {
			list = append(list, definitions[i].body(k.id))
		}
	}
	return ok(arm.NewList(list, "")), nil
}

func (k *call) getDefinition() (*answer, error) {
	d, found := definitionByID(k.vars["name"])
	if !found {
		return nil, arm.Errorf(trust.NotFound, "RoleDefinitionDoesNotExist", "The specified role definition with ID '%.64s' does not exist.", k.vars["name"])
	}
	return ok(d.body(k.id)), nil
}

// filterValue reads "name eq 'value'" out of an OData filter, "" if it is not
// there.
func filterValue(filter, name string) string {
	_, rest, found := strings.Cut(trust.Fold(filter), trust.Fold(name)+" eq '")
	if !found {
		return ""
	}
	start := len(filter) - len(rest)
	value, _, closed := strings.Cut(filter[start:], "'")
	if !closed {
		return ""
	}
	return value
}
