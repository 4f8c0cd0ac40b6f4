package control

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func (c *Control) assignmentRoutes() []*route {
	const at = "{scope...}/providers/Microsoft.Authorization/roleAssignments"
	// The right is asked for at the scope that is assigned, not at the
	// assignment.
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: assignmentType, versions: arm.Authorization, drop: drop,
			action: assignmentType + "/" + action, need: needSubscription | needGroup, handle: handle}
	}
	return []*route{
		r("GET", at, "read", 3, (*call).listAssignments),
		r("GET", at+"/{name}", "read", 4, (*call).getAssignment),
		r("PUT", at+"/{name}", "write", 4, (*call).putAssignment),
		r("DELETE", at+"/{name}", "delete", 4, (*call).removeAssignment),
	}
}

type assignmentBody struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Properties assignmentProperties `json:"properties"`
}

type assignmentProperties struct {
	RoleDefinitionID string `json:"roleDefinitionId"`
	PrincipalID      string `json:"principalId"`
	PrincipalType    string `json:"principalType"`
	Scope            string `json:"scope"`
	CreatedOn        string `json:"createdOn"`
	UpdatedOn        string `json:"updatedOn"`
	CreatedBy        string `json:"createdBy"`
	UpdatedBy        string `json:"updatedBy"`
	Description      string `json:"description,omitempty"`
}

// bodyOfAssignment shows an assignment as it is seen at a scope: the definition's
// id is written as a list of definitions writes it there.
func bodyOfAssignment(a *store.RoleAssignment, at arm.ID) assignmentBody {
	definition := a.RoleDefinitionID
	if at.Subscription != "" {
		definition = definitionID(guidOf(definition), at)
	}
	return assignmentBody{ID: a.ID, Name: nameOf(a.ID), Type: assignmentType, Properties: assignmentProperties{
		definition, a.PrincipalID, a.PrincipalType, a.Scope,
		arm.Time(a.Stamp.CreatedAt), arm.Time(a.Stamp.LastModifiedAt), a.Stamp.CreatedBy, a.Stamp.LastModifiedBy, a.Description,
	}}
}

// assignmentFilter is what a list of assignments can be narrowed to.
type assignmentFilter struct {
	atScope  bool     // none below the scope
	who      string   // "" for everybody
	throughs []string // groups of who, whose assignments count too
}

// assignmentFilter reads "atScope()", "principalId eq 'x'" and "assignedTo('x')",
// which also finds what x has by its groups. Those are known of the caller
// alone.
func (k *call) assignmentFilter() (assignmentFilter, error) {
	var f assignmentFilter
	query := k.request.URL.Query().Get("$filter")
	terms, err := arm.ParseFilter(query)
	for _, t := range terms {
		switch {
		case t.Is("atScope", "()"):
			f.atScope = true
		case t.Is("principalId", "eq"):
			f.who = t.Value
		case t.Is("assignedTo", "()"):
			f.who = t.Value
			if is(f.who, k.caller.Object) {
				f.throughs = k.caller.Groups
			}
		default:
			return f, arm.BadFilter(query)
		}
		// az writes a GUID in braces.
		f.who = strings.Trim(f.who, "{}")
	}
	return f, err
}

func (f *assignmentFilter) lets(a *store.RoleAssignment) bool {
	return f.who == "" || is(a.PrincipalID, f.who) ||
		a.PrincipalType == "Group" && slices.ContainsFunc(f.throughs, func(g string) bool { return is(g, a.PrincipalID) })
}

// listAssignments shows those at the scope, around it, and, unless the filter is
// atScope(), below it.
func (k *call) listAssignments() (*answer, error) {
	filter, err := k.assignmentFilter()
	if err != nil {
		return nil, err
	}
	var list []assignmentBody
	add := func(items []store.Item[store.RoleAssignment]) {
		for _, a := range items {
			if filter.lets(&a.Value) {
				list = append(list, bodyOfAssignment(&a.Value, k.id))
			}
		}
	}
	for _, at := range k.id.Scopes() {
		items, _, err := store.List[store.RoleAssignment](k.ctx, k.Store, assignmentPrefix(at))
		if err != nil {
			return nil, err
		}
		add(items)
	}
	if !filter.atScope {
		here := assignmentPrefix(k.id)
		prefix := store.ResourceKey(k.id.String()) + "/"
		if k.id.IsRoot() {
			prefix = "/arm/"
		}
		items, _, err := store.List[store.RoleAssignment](k.ctx, k.Store, prefix,
			store.Match(func(key string) bool { return len(key) < len(here) || key[:len(here)] != here }))
		if err != nil {
			return nil, err
		}
		add(items)
	}
	return ok(arm.NewList(list, "")), nil
}

// findAssignment reads the assignment of the path; none is the zero item.
func (k *call) findAssignment() (store.Item[store.RoleAssignment], error) {
	name := k.vars["name"]
	if !arm.ValidGUID(name) {
		return store.Item[store.RoleAssignment]{}, arm.Errorf(trust.Invalid, "InvalidRoleAssignmentId", "The role assignment ID '%.64s' is not valid. The role assignment ID must be a GUID.", name)
	}
	return store.Find[store.RoleAssignment](k.ctx, k.Store, assignmentPrefix(k.id)+trust.Fold(name))
}

func (k *call) getAssignment() (*answer, error) {
	a, err := k.findAssignment()
	if err != nil {
		return nil, err
	}
	if a.Revision == 0 {
		return nil, arm.Errorf(trust.NotFound, "RoleAssignmentNotFound", "The role assignment '%s' is not found.", k.vars["name"])
	}
	return ok(bodyOfAssignment(&a.Value, k.id)), nil
}

func (k *call) putAssignment() (*answer, error) {
	var body struct {
		Properties struct {
			RoleDefinitionID, PrincipalID, PrincipalType, Description string
			Condition                                                 *string
		}
	}
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	p := body.Properties
	if p.Condition != nil && *p.Condition != "" {
		return nil, arm.BadParameter("properties.condition", "conditions are not evaluated here, so an assignment with one would give more than it says")
	}
	if len(p.Description) > 1024 {
		return nil, arm.BadParameter("properties.description", "it has %d characters, the limit is 1024", len(p.Description))
	}
	d, err := k.definition(k.ctx, p.RoleDefinitionID)
	if err != nil {
		return nil, err
	}
	if d == nil || !d.assignableAt(k.id) {
		e := noDefinition(trust.Invalid, p.RoleDefinitionID)
		if d != nil {
			e.Hint = "the role '" + d.Name + "' can be assigned only at and below " + joined(d.AssignableScopes)
		}
		return nil, e
	}
	if p.PrincipalType == "" {
		p.PrincipalType = "ServicePrincipal"
	}
	if i := slices.IndexFunc([]string{"User", "Group", "ServicePrincipal"}, func(t string) bool { return is(t, p.PrincipalType) }); i < 0 {
		return nil, arm.BadParameter("properties.principalType", "'%.64s' is not User, Group or ServicePrincipal", p.PrincipalType)
	}
	if p.PrincipalID == "" || len(p.PrincipalID) > 256 {
		return nil, arm.BadParameter("properties.principalId", "it must have 1 to 256 characters")
	}
	old, err := k.findAssignment()
	if err != nil {
		return nil, err
	}
	// Nothing takes an assignment along when a provider's resource goes: one on
	// such a resource would be for whoever makes it again.
	guard, err := k.scopeExists(store.ResourceKey)
	if err != nil {
		return nil, err
	}
	if o := old.Value; old.Revision != 0 {
		if guidOf(o.RoleDefinitionID) == d.GUID && is(o.PrincipalID, p.PrincipalID) {
			return k.describe(old, p.Description)
		}
		return nil, arm.Errorf(trust.Forbidden, "RoleAssignmentUpdateNotPermitted", "Tenant ID, application ID, principal ID, and scope are not allowed to be updated.")
	}
	beside, rev, err := store.List[store.RoleAssignment](k.ctx, k.Store, assignmentPrefix(k.id))
	if err != nil {
		return nil, err
	}
	for _, b := range beside {
		if guidOf(b.Value.RoleDefinitionID) == d.GUID && is(b.Value.PrincipalID, p.PrincipalID) {
			return nil, arm.Errorf(trust.Exists, arm.RoleAssignmentExists, "The role assignment already exists. The ID of the conflicting role assignment is %s.", nameOf(b.Value.ID))
		}
	}
	a := store.RoleAssignment{
		ID:    k.id.Extend("Microsoft.Authorization", "roleAssignments", k.vars["name"]).String(),
		Scope: k.id.String(), RoleDefinitionID: d.id(k.id), PrincipalID: p.PrincipalID, PrincipalType: p.PrincipalType,
		Description: p.Description, Stamp: k.stamp(store.Stamp{}, &k.caller),
	}
	if k.id.IsRoot() {
		a.ID = "/providers/" + assignmentType + "/" + k.vars["name"]
	}
	ops := append(append(guard, d.held()...), store.Create(a), store.Quiet(assignmentPrefix(k.id), rev))
	if _, err := k.commit(k.durable(), ops...); err != nil {
		return nil, err
	}
	return created(bodyOfAssignment(&a, k.id)), nil
}

// describe answers a PUT that asks for what is there, or changes its text.
func (k *call) describe(a store.Item[store.RoleAssignment], text string) (*answer, error) {
	if r := &a.Value; r.Description != text {
		r.Description, r.Stamp = text, k.stamp(r.Stamp, &k.caller)
		if _, err := k.commit(k.durable(), store.Update(*r, a.Revision)); err != nil {
			return nil, err
		}
	}
	return ok(bodyOfAssignment(&a.Value, k.id)), nil
}

// scopeExists demands that the scope of an assignment or a lock is there: one on
// a name that is made later would mean what nobody meant.
func (k *call) scopeExists(keys ...func(string) string) ([]store.Op, error) {
	if k.id.IsRoot() {
		return nil, nil
	}
	for _, of := range keys {
		key := of(k.id.String())
		revision, there, err := k.revisionOf(key)
		if err != nil {
			return nil, err
		}
		if there {
			return []store.Op{store.Guard(key, revision)}, nil
		}
	}
	return nil, arm.NoResource(k.id)
}

// revisionOf finds any resource's revision.
func (k *call) revisionOf(key string) (int64, bool, error) {
	item, err := store.Get[anyRecord](k.ctx, k.Store, key)
	if trust.KindOf(err) == trust.NotFound {
		return 0, false, nil
	}
	return item.Revision, err == nil, err
}

// anyRecord reads a record for its revision alone.
type anyRecord struct{}

func (anyRecord) Key() string { return "" }

func (k *call) removeAssignment() (*answer, error) {
	a, err := k.findAssignment()
	if err != nil {
		return nil, err
	}
	if a.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	ops := []store.Op{store.Delete(a.Value.Key(), a.Revision)}
	if k.id.IsRoot() && guidOf(a.Value.RoleDefinitionID) == ownerGUID {
		guard, err := k.anotherOwner(a.Value.ID)
		if err != nil {
			return nil, err
		}
		ops = append(ops, guard)
	}
	if _, err := k.commit(k.durable(), ops...); err != nil {
		return nil, err
	}
	return ok(bodyOfAssignment(&a.Value, k.id)), nil
}

// anotherOwner refuses to remove the last Owner at the root: nobody could let
// anybody in again.
func (k *call) anotherOwner(but string) (store.Op, error) {
	all, _, err := store.List[store.RoleAssignment](k.ctx, k.Store, assignmentPrefix(k.id))
	if err != nil {
		return store.Op{}, err
	}
	for _, a := range all {
		if guidOf(a.Value.RoleDefinitionID) == ownerGUID && !is(a.Value.ID, but) {
			return store.Guard(a.Value.Key(), a.Revision), nil
		}
	}
	return store.Op{}, arm.Errorf(trust.Conflict, "LastOwner", "The last role assignment of Owner at the root cannot be removed: nobody could administer this installation any more.")
}

// attachedBelow removes what is assigned and locked at a resource that goes, and
// below it.
func (c *Control) attachedBelow(ctx context.Context, id string) ([]store.Op, error) {
	assignments, _, err := store.List[store.RoleAssignment](ctx, c.Store, store.ResourceKey(id)+"/")
	if err != nil {
		return nil, err
	}
	locks, _, err := store.List[store.ManagementLock](ctx, c.Store, store.LocksBelow(id))
	var ops []store.Op
	for _, a := range assignments {
		ops = append(ops, store.Delete(a.Value.Key(), 0))
	}
	for _, l := range locks {
		ops = append(ops, store.Delete(l.Value.Key(), 0))
	}
	return ops, err
}
