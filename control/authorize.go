package control

import (
	"context"
	"slices"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const assignmentType = "Microsoft.Authorization/roleAssignments"

// What a route may say in place of an action.
const (
	anybody     = "anybody"      // any caller with some role assignment
	handlerAsks = "handler asks" // the right depends on what the handler finds
)

// assignmentPrefix holds the role assignments at one scope.
func assignmentPrefix(scope arm.ID) string {
	return strings.TrimSuffix(store.ResourceKey(scope.Extend("Microsoft.Authorization", "roleAssignments", "x").String()), "x")
}

// authorize asks whether the caller may do what the route does.
func (k *call) authorize() error {
	action := strings.NewReplacer("{type}", k.id.Type(), "{listed}", k.vars["namespace"]+"/"+k.vars["type"]).Replace(k.route.action)
	switch action {
	case anybody:
		return k.someAssignment()
	case handlerAsks:
		return nil
	}
	return k.may(action, k.id)
}

// may is an error of kind Forbidden unless a role assignment at scope or around
// it allows the action.
func (k *call) may(action string, scope arm.ID) error {
	if k.asked == "" {
		k.asked = action
	}
	if k.entry != nil && k.entry.Action == "" {
		k.entry.Action = action
	}
	allowed, err := k.allowed(k.ctx, &k.caller, action, scope)
	if err != nil {
		return err
	}
	if !allowed {
		return arm.NotAuthorized(k.client(), k.caller.Object, action, scope.String())
	}
	return nil
}

// client is the caller as messages name it.
func (k *call) client() string {
	if k.caller.Name != "" {
		return k.caller.Name
	}
	if k.caller.ClientID != "" {
		return k.caller.ClientID
	}
	return k.caller.Object
}

// allowed reads the assignments from the root down to the scope. It reads the
// store each time: a right that was taken away is gone with its commit.
func (c *Control) allowed(ctx context.Context, caller *trust.Caller, action string, scope arm.ID) (bool, error) {
	for _, at := range scope.Scopes() {
		assignments, _, err := store.List[store.RoleAssignment](ctx, c.Store, assignmentPrefix(at))
		if err != nil {
			return false, err
		}
		for _, a := range assignments {
			mine, err := c.assignedTo(ctx, &a.Value, caller)
			if err != nil {
				return false, err
			}
			if !mine {
				continue
			}
			d, err := c.definition(ctx, a.Value.RoleDefinitionID)
			if err != nil {
				return false, err
			}
			if d != nil && d.allows(action) {
				return true, nil
			}
		}
	}
	return false, nil
}

// assignedTo tells whether an assignment is the caller's own or one of its
// groups'. A group is meant by the principal id of a resource that names it, its
// issuer included: nobody's claims can stand for another issuer's group. A
// managed identity is in no group.
func (c *Control) assignedTo(ctx context.Context, a *store.RoleAssignment, caller *trust.Caller) (bool, error) {
	if a.PrincipalType != "Group" {
		return trust.Fold(a.PrincipalID) == trust.Fold(caller.Object), nil
	}
	if caller.ResourceID != "" || len(caller.Groups) == 0 || !arm.ValidGUID(a.PrincipalID) {
		return false, nil
	}
	r, err := store.Get[store.RegisteredGroup](ctx, c.Store, store.RegisteredGroup{PrincipalID: a.PrincipalID}.Key())
	if trust.KindOf(err) == trust.NotFound {
		return false, nil
	}
	g := r.Value.Group
	return err == nil && g.Issuer == caller.GroupIssuer && g.Tenant == caller.Tenant && slices.Contains(caller.Groups, g.Object), err
}

// assignments are the role assignments of the caller at the root, or, without
// any, wherever they are.
func (k *call) assignments() ([]store.RoleAssignment, error) {
	for _, prefix := range []string{assignmentPrefix(arm.ID{}), "/arm/"} {
		all, _, err := store.List[store.RoleAssignment](k.ctx, k.Store, prefix)
		if err != nil {
			return nil, err
		}
		var mine []store.RoleAssignment
		for _, a := range all {
			is, err := k.assignedTo(k.ctx, &a.Value, &k.caller)
			if err != nil {
				return nil, err
			}
			if !is {
				continue
			}
			d, err := k.definition(k.ctx, a.Value.RoleDefinitionID)
			if err != nil {
				return nil, err
			}
			if d != nil {
				mine = append(mine, a.Value)
			}
		}
		if len(mine) > 0 {
			return mine, nil
		}
	}
	return nil, nil
}

// someAssignment refuses callers who may do nothing at all here: a source's
// token, say, whose rights are clusters'.
func (k *call) someAssignment() error {
	mine, err := k.assignments()
	if err != nil {
		return err
	}
	if len(mine) == 0 {
		return arm.NotAuthorized(k.client(), k.caller.Object, "Microsoft.Resources/subscriptions/read", k.id.String())
	}
	return nil
}
