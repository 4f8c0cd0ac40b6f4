package control

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// A role of one's own is the resource
// /subscriptions/{s}/providers/Sallyport.Access/trustedAccessRoles/{name}, whose
// name is the role's full name with ':' for '/', as the ClusterRole's is:
// Contoso.Scanner:scanners:reader. Every subscription sees it; only the one
// that published it may change it.
func (c *Control) roleRoutes() []*route {
	const own = "/subscriptions/{subscription}/providers/Sallyport.Access/trustedAccessRoles"
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: ownRoleType, versions: arm.Sallyport, drop: drop,
			action: ownRoleType + "/" + action, need: needSubscription, handle: handle}
	}
	return []*route{
		{method: "GET", pattern: "/subscriptions/{subscription}/providers/Microsoft.ContainerService/locations/{location}/trustedAccessRoles",
			typ: armRoleType, versions: arm.ContainerService, drop: 5, action: armRoleType + "/read", need: needSubscription, handle: (*call).listRoles},
		r("GET", own, "read", 3, (*call).listOwnRoles),
		r("GET", own+"/{role}", "read", 0, (*call).getOwnRole),
		r("PUT", own+"/{role}", "write", 0, (*call).putOwnRole),
		r("DELETE", own+"/{role}", "delete", 0, (*call).removeOwnRole),
	}
}

// roleBody is a role as AKS shows it; empty lists are left out, as the live
// service does.
type roleBody struct {
	SourceResourceType string     `json:"sourceResourceType"`
	Name               string     `json:"name"`
	Rules              []ruleBody `json:"rules"`
}

type ruleBody struct {
	Verbs           []string `json:"verbs"`
	APIGroups       []string `json:"apiGroups,omitempty"`
	Resources       []string `json:"resources,omitempty"`
	ResourceNames   []string `json:"resourceNames,omitempty"`
	NonResourceURLs []string `json:"nonResourceURLs,omitempty"`
}

func rulesBody(rules []trust.Rule) []ruleBody {
	out := make([]ruleBody, 0, len(rules))
	for _, r := range rules {
		out = append(out, ruleBody(r))
	}
	return out
}

// ownRoles are the roles published here, in the order of their names.
func (k *call) ownRoles() ([]store.Item[store.Role], error) {
	roles, _, err := store.List[store.Role](k.ctx, k.Store, store.RolePrefix)
	return roles, err
}

// roles are all roles that a binding may name.
func (k *call) roles() ([]trust.Role, error) {
	all := trust.Published()
	own, err := k.ownRoles()
	for _, r := range own {
		all = append(all, r.Value.Role)
	}
	return all, err
}

func (k *call) listRoles() (*answer, error) {
	if _, known := k.knownLocation(k.vars["location"]); !known {
		return nil, arm.Errorf(trust.Invalid, arm.NoRegisteredProviderFound, "No registered resource provider found for location '%.64s' and API version '%s' for type 'locations/trustedAccessRoles'. The supported api-versions are '%s'. The supported locations are '%s'.",
			k.vars["location"], k.version, joined(arm.ContainerService.Known), joined(k.Locations))
	}
	roles, err := k.roles()
	if err != nil {
		return nil, err
	}
	list := make([]roleBody, 0, len(roles))
	for _, r := range roles {
		list = append(list, roleBody{r.SourceType, r.Name, rulesBody(r.Rules)})
	}
	return ok(arm.NewList(list, "")), nil
}

type ownRoleBody struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Type       string            `json:"type"`
	Properties ownRoleProperties `json:"properties"`
	SystemData *systemData       `json:"systemData,omitempty"`
}

type ownRoleProperties struct {
	SourceResourceType string         `json:"sourceResourceType"`
	RoleName           string         `json:"roleName"` // as bindings write it
	Rules              []ruleBody     `json:"rules"`
	Revision           trust.Revision `json:"revision"`
	// OutlivesRevocation says what access the rules can leave behind that
	// deleting a binding does not take away.
	OutlivesRevocation []string `json:"outlivesRevocation"`
	Extra              bag      `json:"-"`
}

// MarshalJSON writes the properties that we have no field for beside the others.
func (p ownRoleProperties) MarshalJSON() ([]byte, error) {
	type plain ownRoleProperties
	return beside(p.Extra, plain(p))
}

func bodyOfRole(r *store.Role) ownRoleBody {
	name := strings.ReplaceAll(string(r.Role.FullName()), "/", ":")
	lasting := trust.OutlivesRevocation(r.Role.Rules)
	if lasting == nil {
		lasting = []string{}
	}
	extra, _ := parseBag(r.Extra)
	return ownRoleBody{
		ID: "/subscriptions/" + r.Subscription + "/providers/" + ownRoleType + "/" + name, Name: name, Type: ownRoleType, SystemData: systemDataOf(r.Stamp),
		Properties: ownRoleProperties{r.Role.SourceType, string(r.Role.FullName()), rulesBody(r.Role.Rules), r.Role.Revision(), lasting, extra},
	}
}

func (k *call) listOwnRoles() (*answer, error) {
	own, err := k.ownRoles()
	if err != nil {
		return nil, err
	}
	var list []ownRoleBody
	for _, r := range own {
		if is(r.Value.Subscription, k.id.Subscription) {
			list = append(list, bodyOfRole(&r.Value))
		}
	}
	return ok(arm.NewList(list, "")), nil
}

// findOwnRole reads the role of the path; the zero item if this subscription
// published none of that name.
func (k *call) findOwnRole() (store.Item[store.Role], error) {
	return store.Find[store.Role](k.ctx, k.Store, store.RolePrefix+strings.ReplaceAll(trust.Fold(k.vars["role"]), ":", "/"))
}

func (k *call) getOwnRole() (*answer, error) {
	item, err := k.findOwnRole()
	if err != nil {
		return nil, err
	}
	if item.Revision == 0 || !is(item.Value.Subscription, k.id.Subscription) {
		return nil, arm.NoResource(k.id)
	}
	return ok(bodyOfRole(&item.Value)), nil
}

func (k *call) putOwnRole() (*answer, error) {
	var body struct{ Properties json.RawMessage }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	p, err := parseBag(body.Properties)
	if err != nil {
		return nil, err
	}
	var sourceType string
	var rules []trust.Rule
	if _, err := p.get("sourceResourceType", &sourceType); err != nil {
		return nil, err
	}
	if _, err := p.get("rules", &rules); err != nil {
		return nil, err
	}
	p.drop("sourceResourceType", "roleName", "rules", "revision", "outlivesRevocation", "provisioningState")
	full := trust.RoleName(strings.ReplaceAll(k.vars["role"], ":", "/"))
	role := trust.Role{SourceType: full.SourceType(), Name: full.Short(), Rules: rules}
	if sourceType != "" && !is(sourceType, role.SourceType) {
		return nil, arm.BadParameter("properties.sourceResourceType", "the role's name %s says that its source type is %s", k.vars["role"], role.SourceType)
	}
	if err := trust.ValidateRole(role); err != nil {
		e := arm.BadParameter("properties.rules", "%s", err)
		return nil, e
	}
	if slices.ContainsFunc(trust.Published(), func(p trust.Role) bool { return p.FullName().Equal(full) }) {
		return nil, arm.BadParameter("name", "the role %s is built in and cannot be changed", full)
	}
	old, err := k.findOwnRole()
	if err != nil {
		return nil, err
	}
	r, write, status := old.Value, store.Create, http.StatusCreated
	if old.Revision != 0 {
		if !is(r.Subscription, k.id.Subscription) {
			return nil, arm.Errorf(trust.Conflict, arm.Conflict, "The role '%s' was published from another subscription, which alone may change it.", full)
		}
		write, status = updating(old.Revision), http.StatusOK
		role.SourceType, role.Name = r.Role.SourceType, r.Role.Name
	} else {
		r.Subscription = k.id.Subscription
	}
	r.Role, r.Extra, r.Stamp = role, p.store(), k.stamp(r.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), k.within(write(r))...); err != nil {
		return nil, err
	}
	return &answer{status: status, body: bodyOfRole(&r)}, nil
}

// removeOwnRole unpublishes a role. Bindings that have it keep what their
// clusters accepted; none can name it any more.
func (k *call) removeOwnRole() (*answer, error) {
	item, err := k.findOwnRole()
	if err != nil {
		return nil, err
	}
	if item.Revision == 0 || !is(item.Value.Subscription, k.id.Subscription) {
		return empty(http.StatusNoContent), nil
	}
	if _, err := k.commit(k.durable(), store.Delete(item.Value.Key(), item.Revision)); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}
