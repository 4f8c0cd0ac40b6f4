package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var definitionColumns = []output.Column{{Heading: "Name", Path: "roleName"}, {Heading: "Type", Path: "roleType"}, {Heading: "Description", Path: "description"}}

func (a *app) definitionNoun() *cobra.Command {
	return a.noun("definition", "Manage what roles allow on the control API.",
		a.definitionList(), a.definitionCreate("create", "Create a custom role definition."), a.definitionCreate("update", "Update a custom role definition."), a.definitionDelete())
}

// shownDefinition is a definition as az shows it: properties.type is roleType.
func shownDefinition(raw json.RawMessage) (map[string]any, error) {
	shown, err := flat(raw)
	if err != nil {
		return nil, err
	}
	m, _ := shown.(map[string]any)
	var typed struct{ Properties struct{ Type string } }
	if err := json.Unmarshal(raw, &typed); err != nil {
		return nil, trust.Errorf(trust.Internal, "the server's answer cannot be read").Because(err)
	}
	m["roleType"], m["type"] = typed.Properties.Type, "Microsoft.Authorization/roleDefinitions"
	delete(m, "systemData")
	delete(m, "resourceGroup")
	return m, nil
}

// definitionsAt lists definitions at a scope, with those below it.
func (a *app) definitionsAt(ctx context.Context, scope string) ([]json.RawMessage, error) {
	return a.arm.List(ctx, client.Extend(scope, "Microsoft.Authorization/roleDefinitions?"+url.Values{"$filter": {"atScopeAndBelow()"}}.Encode()), client.AuthorizationVersion)
}

func (a *app) definitionList() *cobra.Command {
	var s assigned
	var name string
	var custom bool
	return a.command(spec{
		use: "list", short: "List role definitions.",
		example: "sallyport role definition list --custom-role-only -o table",
		flags: func(f *flags) {
			f.text(&name, "name", "n", "Role name, or the GUID of a definition.")
			f.flag(&custom, "custom-role-only", "", "Custom roles only (vs. built-in ones).")
			f.text(&s.scope, "scope", "", "Scope at which, or below which, they can be assigned. Default: the current subscription.")
			f.text(&s.group, "resource-group", "g", "Name of resource group: the scope, unless --scope is given.")
		},
		columns: definitionColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			scope, err := s.at(ctx, a)
			if err != nil {
				return nil, err
			}
			all, err := a.definitionsAt(ctx, scope)
			if err != nil {
				return nil, err
			}
			list := []any{}
			for _, raw := range all {
				m, err := shownDefinition(raw)
				if err != nil {
					return nil, err
				}
				text := func(key string) string { v, _ := m[key].(string); return v }
				if (!custom || text("roleType") == "CustomRole") && (name == "" || strings.EqualFold(text("roleName"), name) || strings.EqualFold(text("name"), name)) {
					list = append(list, m)
				}
			}
			return list, nil
		},
	})
}

// definitionFile is what az takes as --role-definition; keys match in any case.
type definitionFile struct {
	Name, RoleName, ID, Description                  string
	IsCustom                                         *bool
	Actions, NotActions, DataActions, NotDataActions []string
	AssignableScopes                                 []string
}

// roleOf reads an argument that is JSON, "@FILE", or a file's name.
func (a *app) roleOf(value string) (*definitionFile, error) {
	const argument = "--role-definition"
	if !strings.HasPrefix(strings.TrimSpace(value), "{") && !strings.HasPrefix(value, "@") {
		if _, err := os.Stat(value); err != nil {
			return nil, usagef("argument %s: it is neither JSON nor a file", argument)
		}
		value = "@" + value
	}
	text, err := a.fromFile(argument, value)
	if err != nil {
		return nil, err
	}
	var r definitionFile
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, usagef("argument %s: it is not the JSON of a role definition: %v", argument, err)
	}
	if r.RoleName == "" {
		r.RoleName = r.Name
	}
	if r.RoleName == "" {
		return nil, usagef("argument %s: please provide 'Name'", argument)
	}
	if len(r.AssignableScopes) == 0 {
		return nil, usagef("argument %s: please provide 'AssignableScopes'", argument)
	}
	for _, s := range r.AssignableScopes {
		if _, err := arm.ParseID(s); err != nil {
			return nil, usagef("argument %s: AssignableScopes: %v", argument, err)
		}
	}
	return &r, nil
}

func (a *app) definitionCreate(verb, short string) *cobra.Command {
	var given string
	return a.command(spec{
		use: verb, short: short,
		long: short + ` The definition is JSON, or @FILE, with the members Name, Description,
Actions, NotActions and AssignableScopes. Data actions give nothing here.`,
		example: `sallyport role definition ` + verb + ` --role-definition '{"Name": "Stopper", "Description": "Stops clusters.",
  "Actions": ["*/read", "Microsoft.ContainerService/managedClusters/stop/action"],
  "AssignableScopes": ["/subscriptions/0b1f6471-1bf0-4dda-aec3-111122223333"]}'`,
		flags:   func(f *flags) { f.need(&given, "role-definition", "", "The role definition as JSON, or @FILE.") },
		columns: definitionColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			r, err := a.roleOf(given)
			if err != nil {
				return nil, err
			}
			if _, err := a.session(); err != nil {
				return nil, err
			}
			scope, guid := r.AssignableScopes[0], uuid.NewString()
			if verb == "update" {
				if guid, err = a.customRole(ctx, scope, r.RoleName, r.Name, r.ID); err != nil {
					return nil, err
				}
			}
			none := func(s []string) []string { return append([]string{}, s...) }
			body := map[string]any{"properties": map[string]any{"roleName": r.RoleName, "description": r.Description, "type": "CustomRole", "assignableScopes": r.AssignableScopes,
				"permissions": []map[string][]string{{"actions": none(r.Actions), "notActions": none(r.NotActions), "dataActions": none(r.DataActions), "notDataActions": none(r.NotDataActions)}}}}
			res, err := a.arm.Do(ctx, client.Request{Method: http.MethodPut, Version: client.AuthorizationVersion, Body: body,
				Path: client.Extend(scope, "Microsoft.Authorization/roleDefinitions/"+guid)})
			if err != nil {
				return nil, err
			}
			return shownDefinition(res.Body)
		},
	})
}

// customRole finds the GUID of a custom role by any of its names.
func (a *app) customRole(ctx context.Context, scope string, names ...string) (string, error) {
	all, err := a.definitionsAt(ctx, scope)
	if err != nil {
		return "", err
	}
	for _, raw := range all {
		m, err := shownDefinition(raw)
		if err != nil {
			return "", err
		}
		guid, _ := m["name"].(string)
		id, _ := m["id"].(string)
		role, _ := m["roleName"].(string)
		for _, n := range names {
			if n != "" && m["roleType"] == "CustomRole" && (strings.EqualFold(n, guid) || strings.EqualFold(n, id) || strings.EqualFold(n, role)) {
				return guid, nil
			}
		}
	}
	e := trust.Errorf(trust.NotFound, "There is no custom role '%s' at %s.", names[0], scope)
	e.Hint = "sallyport role definition list --custom-role-only"
	return "", e
}

func (a *app) definitionDelete() *cobra.Command {
	var s assigned
	var name string
	var custom bool
	return a.command(spec{
		use: "delete", short: "Delete a custom role definition that nobody holds.",
		example: "sallyport role definition delete --name Stopper",
		flags: func(f *flags) {
			f.need(&name, "name", "n", "Role name, or the GUID of the definition.")
			f.flag(&custom, "custom-role-only", "", "Accepted for az's sake: built-in ones cannot be deleted.")
			f.text(&s.scope, "scope", "", "Scope at which it can be assigned. Default: the current subscription.")
			f.text(&s.group, "resource-group", "g", "Name of resource group: the scope, unless --scope is given.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			scope, err := s.at(ctx, a)
			if err != nil {
				return nil, err
			}
			guid, err := a.customRole(ctx, scope, name)
			if err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting role definition", client.Extend(scope, "Microsoft.Authorization/roleDefinitions/"+guid), client.AuthorizationVersion, false)
		},
	})
}
