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
			if !assignedTo(&a.Value, caller) {
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
// groups'. A managed identity is in no group.
func assignedTo(a *store.RoleAssignment, caller *trust.Caller) bool {
	if trust.Fold(a.PrincipalID) == trust.Fold(caller.Object) {
		return true
	}
	return caller.ResourceID == "" && a.PrincipalType == "Group" &&
		slices.ContainsFunc(caller.Groups, func(g string) bool { return trust.Fold(g) == trust.Fold(a.PrincipalID) })
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
			if !assignedTo(&a.Value, &k.caller) {
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
