package main

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var assignmentColumns = []output.Column{{Heading: "Principal", Path: "principalId"}, {Heading: "Role", Path: "roleDefinitionName"}, {Heading: "Scope", Path: "scope"}}

func (a *app) role() *cobra.Command {
	return a.noun("role", "Manage who may do what on the control API.",
		a.noun("assignment", "Manage role assignments.", a.assignmentCreate(), a.assignmentList(), a.assignmentDelete()),
		a.definitionNoun())
}

// assigned is what names an assignment.
type assigned struct{ assignee, role, scope, group string }

func (s *assigned) flags(f *flags) {
	f.text(&s.assignee, "assignee", "", "Object id of the principal, name of a user, or resource id of a source or group of people.")
	f.alias("assignee", "assignee-object-id", "")
	f.text(&s.role, "role", "", "Role name or id: Owner, Contributor, Reader, ...")
	f.text(&s.scope, "scope", "", "Scope at which the role applies, such as /subscriptions/<id>.")
	f.text(&s.group, "resource-group", "g", "Name of resource group: the scope, unless --scope is given.")
}

// at is the scope that the arguments mean.
func (s *assigned) at(ctx context.Context, a *app) (string, error) {
	if s.scope != "" {
		if _, err := arm.ParseID(s.scope); err != nil {
			return "", usagef("argument --scope: %v", err)
		}
		_, err := a.session()
		return s.scope, err
	}
	if s.group != "" {
		return a.groupID(ctx, s.group)
	}
	sub, err := a.subscription(ctx)
	return "/subscriptions/" + sub, err
}

// principal is the object id that --assignee means, and its type.
func (s *assigned) principal(ctx context.Context, a *app) (id, kind string, err error) {
	switch {
	case s.assignee == "" || arm.ValidGUID(s.assignee):
		return s.assignee, "ServicePrincipal", nil
	case !strings.HasPrefix(s.assignee, "/"):
		id, err := a.userObjectID(ctx, s.assignee)
		return id, "User", err
	}
	source, err := a.arm.Source(ctx, s.assignee)
	if err != nil {
		return "", "", err
	}
	var group struct {
		PrincipalID string `json:"principalId"`
	}
	if strings.EqualFold(source.Type, peopleType) && json.Unmarshal(source.Properties, &group) == nil {
		return group.PrincipalID, "Group", nil
	}
	if source.Identity == nil || source.Identity.PrincipalID == "" {
		return "", "", trust.Errorf(trust.Invalid, "%s has no system-assigned identity", s.assignee)
	}
	return source.Identity.PrincipalID, "ServicePrincipal", nil
}

// definition finds a role definition by name or id.
func (s *assigned) definition(ctx context.Context, a *app, scope string) (*client.RoleDefinition, error) {
	all, err := a.arm.RoleDefinitions(ctx, scope)
	if err != nil {
		return nil, err
	}
	var names []string
	for i, d := range all {
		if strings.EqualFold(d.Properties.RoleName, s.role) || strings.EqualFold(d.Name, s.role) || strings.EqualFold(d.ID, s.role) || strings.HasSuffix(strings.ToLower(s.role), "/"+strings.ToLower(d.Name)) {
			return &all[i], nil
		}
		names = append(names, d.Properties.RoleName)
	}
	e := trust.Errorf(trust.NotFound, "Role '%s' doesn't exist.", s.role)
	e.Hint = "use one of: " + strings.Join(names, ", ")
	return nil, e
}

// assignment is an assignment as az shows it: with its role's name.
func assignment(v client.RoleAssignment, definitions []client.RoleDefinition) (any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	shown, err := flat(raw)
	if err != nil {
		return nil, err
	}
	m, _ := shown.(map[string]any)
	m["type"] = "Microsoft.Authorization/roleAssignments"
	for _, d := range definitions {
		if strings.HasSuffix(strings.ToLower(v.Properties.RoleDefinitionID), "/"+strings.ToLower(d.Name)) {
			m["roleDefinitionName"] = d.Properties.RoleName
		}
	}
	delete(m, "systemData")
	return m, nil
}

func (a *app) assignmentCreate() *cobra.Command {
	var s assigned
	var name, kind string
	return a.command(spec{
		use: "create", short: "Create a new role assignment.",
		example: `sallyport role assignment create --assignee 00000000-0000-0000-0000-000000000000 --role Reader --scope /subscriptions/0b1f6471-1bf0-4dda-aec3-111122223333`,
		flags: func(f *flags) {
			s.flags(f)
			f.require("assignee", "assignee-object-id")
			f.require("role")
			f.text(&kind, "assignee-principal-type", "", "User, Group or ServicePrincipal. Default: what the assignee is, for an object id ServicePrincipal.")
			f.text(&name, "name", "n", "A GUID for the role assignment. Default: a new one.")
		},
		columns: assignmentColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			scope, err := s.at(ctx, a)
			if err != nil {
				return nil, err
			}
			var body client.RoleAssignment
			var found string
			if body.Properties.PrincipalID, found, err = s.principal(ctx, a); err != nil {
				return nil, err
			}
			definition, err := s.definition(ctx, a, scope)
			if err != nil {
				return nil, err
			}
			if body.Properties.PrincipalType = kind; kind == "" {
				body.Properties.PrincipalType = found
			}
			if name == "" {
				name = uuid.NewString()
			}
			body.Properties.RoleDefinitionID = definition.ID
			res, err := a.arm.Do(ctx, client.Request{Method: http.MethodPut, Version: client.AuthorizationVersion, Body: body,
				Path: client.Extend(scope, "Microsoft.Authorization/roleAssignments/"+name)})
			if err != nil {
				return nil, err
			}
			var made client.RoleAssignment
			if err := json.Unmarshal(res.Body, &made); err != nil {
				return nil, trust.Errorf(trust.Internal, "the server's answer cannot be read").Because(err)
			}
			return assignment(made, []client.RoleDefinition{*definition})
		},
	})
}

// find lists the assignments that the arguments mean.
func (s *assigned) find(ctx context.Context, a *app, exact bool) ([]client.RoleAssignment, []client.RoleDefinition, error) {
	scope, err := s.at(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	principal, _, err := s.principal(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	definitions, err := a.arm.RoleDefinitions(ctx, scope)
	if err != nil {
		return nil, nil, err
	}
	role := ""
	if s.role != "" {
		d, err := s.definition(ctx, a, scope)
		if err != nil {
			return nil, nil, err
		}
		role = d.Name
	}
	all, err := a.arm.RoleAssignments(ctx, scope)
	if err != nil {
		return nil, nil, err
	}
	var found []client.RoleAssignment
	for _, one := range all {
		p := one.Properties
		if (principal == "" || strings.EqualFold(p.PrincipalID, principal)) && strings.HasSuffix(strings.ToLower(p.RoleDefinitionID), strings.ToLower(role)) &&
			(!exact || arm.SameID(p.Scope, scope)) {
			found = append(found, one)
		}
	}
	return found, definitions, nil
}

func (a *app) assignmentList() *cobra.Command {
	var s assigned
	var all, inherited bool
	return a.command(spec{
		use: "list", short: "List role assignments.",
		long:    "List role assignments: those at a scope; with --all those below it and around it too.",
		example: "sallyport role assignment list --scope /subscriptions/0b1f6471-1bf0-4dda-aec3-111122223333 -o table",
		flags: func(f *flags) {
			s.flags(f)
			f.flag(&all, "all", "", "Show all assignments under the current subscription.")
			f.flag(&inherited, "include-inherited", "", "Include assignments applied on parent scopes.")
		},
		columns: assignmentColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			found, definitions, err := s.find(ctx, a, !all && !inherited)
			if err != nil {
				return nil, err
			}
			list := []any{}
			for _, one := range found {
				shown, err := assignment(one, definitions)
				if err != nil {
					return nil, err
				}
				list = append(list, shown)
			}
			return list, nil
		},
	})
}

func (a *app) assignmentDelete() *cobra.Command {
	var s assigned
	var ids []string
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete role assignments.",
		example: "sallyport role assignment delete --assignee 00000000-0000-0000-0000-000000000000 --role Reader",
		flags: func(f *flags) {
			s.flags(f)
			f.many(&ids, "ids", "", "Space-separated role assignment ids.")
			f.flag(&yes, "yes", "y", "Continue to delete all assignments under the subscription.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			if len(ids) == 0 {
				if s.assignee == "" && s.role == "" {
					if err := a.confirm(yes, "This will delete all role assignments at the scope. "+sure); err != nil {
						return nil, err
					}
				}
				found, _, err := s.find(ctx, a, true)
				if err != nil {
					return nil, err
				}
				if len(found) == 0 {
					return nil, trust.Errorf(trust.NotFound, "No matched assignments were found to delete, please provide correct --assignee, --role or --scope.")
				}
				for _, one := range found {
					ids = append(ids, one.ID)
				}
			} else if _, err := a.session(); err != nil {
				return nil, err
			}
			for _, id := range ids {
				if err := a.remove(ctx, "Deleting role assignment", id, client.AuthorizationVersion, false); err != nil {
					return nil, err
				}
			}
			return nil, nil
		},
	})
}
