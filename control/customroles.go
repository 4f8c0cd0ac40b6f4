package control

import (
	"errors"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Limits of custom role definitions, Azure's own.
const (
	maxDefinitions      = 5000
	maxActions          = 2000
	maxAssignableScopes = 2000
)

type definitionRequest struct {
	Properties struct {
		RoleName, Type, Description string
		AssignableScopes            []string
		Permissions                 []struct {
			Actions, NotActions, DataActions, NotDataActions []string
			Condition                                        *string
		}
	}
}

// record checks a body by itself.
func (b *definitionRequest) record(guid string) (store.RoleDefinition, error) {
	p := &b.Properties
	r := store.RoleDefinition{GUID: trust.Fold(guid), Name: strings.TrimSpace(p.RoleName), Description: p.Description, AssignableScopes: p.AssignableScopes}
	switch {
	case p.Type != "" && !is(p.Type, customRole):
		return r, arm.BadParameter("properties.type", "'%.64s' is not CustomRole", p.Type)
	case r.Name == "" || len(r.Name) > 512:
		return r, arm.BadParameter("properties.roleName", "it must have 1 to 512 characters")
	case len(r.Description) > 2048:
		return r, arm.BadParameter("properties.description", "it has %d characters, the limit is 2048", len(r.Description))
	case len(p.Permissions) == 0:
		return r, arm.BadParameter("properties.permissions", "at least one is required")
	case len(p.AssignableScopes) == 0 || len(p.AssignableScopes) > maxAssignableScopes:
		return r, arm.BadParameter("properties.assignableScopes", "1 to %d are required", maxAssignableScopes)
	}
	n := 0
	for _, given := range p.Permissions {
		if given.Condition != nil && *given.Condition != "" {
			return r, arm.BadParameter("properties.permissions.condition", "conditions are not evaluated here, so a role with one would give more than it says")
		}
		one := store.RolePermission{Actions: given.Actions, NotActions: given.NotActions, DataActions: given.DataActions, NotDataActions: given.NotDataActions}
		for _, list := range [][]string{one.Actions, one.NotActions, one.DataActions, one.NotDataActions} {
			for _, a := range list {
				if n++; !validAction(a) {
					return r, arm.Errorf(trust.Invalid, "InvalidActionOrNotAction", "'%.200s' is not an action. It must read like 'Microsoft.ContainerService/managedClusters/read', with '*' for any text.", a)
				}
			}
		}
		r.Permissions = append(r.Permissions, one)
	}
	if n > maxActions {
		return r, arm.BadParameter("properties.permissions", "they list %d actions, the limit is %d", n, maxActions)
	}
	return r, nil
}

// validAction takes "*" and what has a namespace, in printable ASCII.
func validAction(s string) bool {
	return len(s) <= 256 && (s == "*" || strings.Contains(s, "/") && !strings.HasPrefix(s, "/") && !strings.HasSuffix(s, "/")) &&
		!strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '\'' || c == '"' })
}

// putDefinition makes or changes a custom role definition, which takes effect
// with the next request of its holders. As in Azure, it takes the right to write
// role definitions at each assignable scope, and not the rights that the
// definition names: giving it to somebody takes the right to assign roles.
func (k *call) putDefinition() (*answer, error) {
	old, err := k.findDefinition()
	if err != nil {
		return nil, err
	}
	if old != nil && old.revision == 0 {
		return nil, fixed(old)
	}
	var body definitionRequest
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	r, err := body.record(k.vars["name"])
	if err != nil {
		return nil, err
	}
	write := store.Create
	if old != nil {
		r.Stamp, write = old.Stamp, updating(old.revision)
		if err := k.mayAtAll(old.AssignableScopes, "write"); err != nil {
			return nil, err
		}
	}
	if err := k.mayAtAll(r.AssignableScopes, "write"); err != nil {
		return nil, err
	}
	guards, err := k.assignableScopes(r.AssignableScopes)
	if err != nil {
		return nil, err
	}
	all, rev, err := k.definitions(k.ctx)
	if err != nil {
		return nil, err
	}
	if old == nil && len(all)-len(builtIn) >= maxDefinitions {
		return nil, arm.Errorf(trust.Invalid, "RoleDefinitionLimitExceeded", "Role definition limit exceeded. No more role definitions can be created.")
	}
	for _, d := range all {
		if is(d.Name, r.Name) && d.GUID != r.GUID {
			return nil, arm.Errorf(trust.Exists, "RoleDefinitionWithSameNameExists", "A role definition cannot be updated with a name that already exists.")
		}
	}
	if old != nil {
		narrowed := &definition{RoleDefinition: r}
		if err := k.unassigned(r.GUID, func(scope arm.ID) bool { return !narrowed.assignableAt(scope) }); err != nil {
			return nil, err
		}
	}
	r.Stamp = k.stamp(r.Stamp, &k.caller)
	ops := append(guards, write(r), store.Quiet(store.RoleDefinitionPrefix, rev))
	revision, err := k.commit(k.durable(), ops...)
	if err != nil {
		return nil, err
	}
	d := &definition{r, revision}
	return created(d.body(k.id)), nil // for an update too: Azure's clients take nothing else
}

func fixed(d *definition) error {
	return arm.Errorf(trust.Forbidden, "RoleDefinitionUpdateNotPermitted", "The role '%s' is built in and cannot be changed or deleted.", d.Name)
}

// mayAtAll demands a right on role definitions at every scope.
func (k *call) mayAtAll(scopes []string, verb string) error {
	for _, s := range scopes {
		id, err := arm.ParseID(s)
		if err != nil {
			return arm.BadParameter("properties.assignableScopes", "'%.200s' is not the id of a subscription or resource group", s)
		}
		if err := k.may(definitionType+"/"+verb, id); err != nil {
			return err
		}
	}
	return nil
}

// assignableScopes demands that they are subscriptions and resource groups that
// exist, and returns what must hold for that when the definition is stored.
func (k *call) assignableScopes(scopes []string) ([]store.Op, error) {
	var guards []store.Op
	seen := map[string]bool{}
	for _, s := range scopes {
		id, err := arm.ParseID(s)
		if err != nil || id.IsRoot() || id.IsResource() {
			e := arm.BadParameter("properties.assignableScopes", "'%.200s' is not the id of a subscription or resource group", s)
			e.Hint = "name every subscription in which the role shall be assigned, such as /subscriptions/" + k.exampleSubscription()
			return nil, e
		}
		key := store.ResourceKey(id.String())
		if seen[key] {
			continue
		}
		seen[key] = true
		revision, there, err := k.revisionOf(key)
		if err != nil {
			return nil, err
		}
		if !there {
			return nil, arm.NoResource(id)
		}
		guards = append(guards, store.Guard(key, revision))
	}
	return guards, nil
}

// exampleSubscription is one for messages.
func (k *call) exampleSubscription() string {
	if k.id.Subscription != "" {
		return k.id.Subscription
	}
	return "00000000-0000-0000-0000-000000000000"
}

// unassigned refuses while the definition is assigned at a scope of the given
// kind.
func (k *call) unassigned(guid string, where func(arm.ID) bool) error {
	all, _, err := store.List[store.RoleAssignment](k.ctx, k.Store, "/arm/")
	if err != nil {
		return err
	}
	for _, a := range all {
		scope, err := arm.ParseID(a.Value.Scope)
		if guidOf(a.Value.RoleDefinitionID) == guid && (err != nil || where(scope)) {
			e := arm.Errorf(trust.Conflict, "RoleDefinitionHasAssignments", "There are existing role assignments referencing role (code: RoleDefinitionHasAssignments): %s", a.Value.ID)
			e.Hint = "sallyport role assignment delete --ids " + a.Value.ID
			return e
		}
	}
	return nil
}

// removeDefinition deletes a custom role definition that nobody holds.
func (k *call) removeDefinition() (*answer, error) {
	d, err := k.findDefinition()
	if err != nil {
		return nil, err
	}
	if d == nil {
		return empty(http.StatusNoContent), nil
	}
	if d.revision == 0 {
		return nil, fixed(d)
	}
	if err := k.mayAtAll(d.AssignableScopes, "delete"); err != nil {
		return nil, err
	}
	if err := k.unassigned(d.GUID, func(arm.ID) bool { return true }); err != nil {
		return nil, err
	}
	// Assigning a definition changes its revision, so none that came between is
	// left without what it names.
	if _, err := k.commit(k.durable(), store.Delete(d.Key(), d.revision)); err != nil {
		if errors.Is(err, store.ErrConflict) {
			return nil, arm.Errorf(trust.Conflict, arm.Conflict, "The role definition '%s' was changed or assigned by another request.", d.Name)
		}
		return nil, err
	}
	return ok(d.body(k.id)), nil
}

// held is the change that goes with assigning a definition: a custom one is
// touched, so that it cannot be deleted or narrowed at the same time.
func (d *definition) held() []store.Op {
	if d.revision == 0 {
		return nil
	}
	return []store.Op{store.Update(d.RoleDefinition, d.revision)}
}
