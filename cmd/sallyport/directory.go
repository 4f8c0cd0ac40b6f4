package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

const (
	peopleType = "Sallyport.Identity/groups"
	usersPath  = "/providers/Sallyport.Identity/users"
)

var (
	userColumns = []output.Column{{Heading: "UserPrincipalName", Path: "userPrincipalName"}, {Heading: "DisplayName", Path: "displayName"}, {Heading: "ObjectId", Path: "objectId"},
		{Heading: "Enabled", Path: "accountEnabled"}, {Heading: "Groups", Path: "groups"}}
	groupOfPeopleColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "ResourceGroup", Path: "resourceGroup"}, {Heading: "Group", Path: "group"}, {Heading: "Issuer", Path: "issuer"},
		{Heading: "PrincipalId", Path: "principalId"}}
)

// ad is the directory, in az's words for Entra ID.
func (a *app) ad() *cobra.Command {
	return a.noun("ad", "Manage people: built-in users, and groups that bindings name.",
		a.noun("user", "Manage the built-in users.", a.userCreate(), a.userList(), a.userShow(), a.userUpdate(), a.userPassword(), a.userSignOut(), a.userDelete()),
		a.signedInUser(),
		a.noun("group", "Manage groups of people as sources: one group of one issuer.", a.peopleCreate(), a.peopleList(), a.peopleShow(), a.peopleDelete()))
}

func userPath(name string) string { return usersPath + "/" + url.PathEscape(name) }

// userObjectID finds a user by name.
func (a *app) userObjectID(ctx context.Context, name string) (string, error) {
	raw, err := a.arm.Get(ctx, userPath(name), client.SallyportVersion)
	if err != nil {
		return "", err
	}
	var u struct{ Properties struct{ ObjectID string } }
	if err := json.Unmarshal(raw, &u); err != nil || u.Properties.ObjectID == "" {
		return "", trust.Errorf(trust.Internal, "the server's answer cannot be read").Because(err)
	}
	return u.Properties.ObjectID, nil
}

// userCall sends a change and shows the user; a password that the server made up
// is in this answer only.
func (a *app) userCall(ctx context.Context, r client.Request) (any, error) {
	if _, err := a.session(); err != nil {
		return nil, err
	}
	r.Version = client.SallyportVersion
	res, err := a.arm.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	shown, err := flat(res.Body)
	if err != nil {
		return nil, err
	}
	if m, ok := shown.(map[string]any); ok && m["password"] != nil {
		a.warn("this is the only time that the password is shown.")
	}
	return shown, nil
}

func (a *app) userCreate() *cobra.Command {
	var name, display, password string
	var groups []string
	return a.command(spec{
		use: "create", short: "Create a built-in user.",
		long: `Create a user whom the built-in authority signs in. Without --password the server
makes one up and shows it once. Groups are names; 'sallyport ad group create' makes one
something that a binding can name.`,
		example: `
			sallyport ad user create --user-principal-name anna@example.com --display-name Anna --groups platform oncall
			sallyport ad user create --user-principal-name anna@example.com --password @password`,
		flags: func(f *flags) {
			f.need(&name, "user-principal-name", "", "The name to sign in with.")
			f.text(&display, "display-name", "", "The person's name. Default: the name to sign in with.")
			f.text(&password, "password", "", "At least 12 characters; @FILE to read it from a file, @- from stdin. Default: one is made up.")
			f.many(&groups, "groups", "", "Groups that the user is in.")
		},
		columns: userColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			if _, err := a.session(); err != nil {
				return nil, err
			}
			exists := trust.Errorf(trust.Exists, "The user '%s' exists already.", name)
			exists.Hint = "sallyport ad user update --id " + name
			if _, err := a.arm.Get(ctx, userPath(name), client.SallyportVersion); err == nil {
				return nil, exists
			} else if !notFound(err) {
				return nil, err
			}
			properties := map[string]any{"groups": groups, "accountEnabled": true}
			if display != "" {
				properties["displayName"] = display
			}
			text, err := a.fromFile("--password", password)
			if err != nil {
				return nil, err
			}
			if text = strings.TrimRight(text, "\r\n"); text != "" {
				properties["password"] = text
			}
			shown, err := a.userCall(ctx, client.Request{Method: http.MethodPut, Path: userPath(name), Body: map[string]any{"properties": properties}, Header: ifNone()})
			return shown, made(err, exists)
		},
	})
}

func (a *app) userList() *cobra.Command {
	return a.command(spec{
		use: "list", short: "List the built-in users.", example: "sallyport ad user list -o table", columns: userColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			return a.list(ctx, usersPath, client.SallyportVersion)
		},
	})
}

func userID(f *flags, id *string) {
	f.need(id, "id", "", "The user's name, or a person's object id.")
	f.alias("id", "user-principal-name", "")
}

func (a *app) userShow() *cobra.Command {
	var id string
	return a.command(spec{
		use: "show", short: "Show a user.", example: "sallyport ad user show --id anna@example.com",
		flags: func(f *flags) { userID(f, &id) }, columns: userColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			return a.get(ctx, userPath(id), client.SallyportVersion)
		},
	})
}

func (a *app) userUpdate() *cobra.Command {
	var id, display, enabled string
	var groups []string
	var cmd *cobra.Command
	cmd = a.command(spec{
		use: "update", short: "Change a user: groups, display name, enabled or not.",
		long: `Change a user. A user who is disabled is signed out at once, running requests
included; so is one who leaves a group, of what that group allowed. With the object id
of a person whom the sign-in provider knows, --account-enabled false shuts that person
out here.`,
		example: `
			sallyport ad user update --id anna@example.com --account-enabled false
			sallyport ad user update --id anna@example.com --groups platform`,
		flags: func(f *flags) {
			userID(f, &id)
			f.text(&display, "display-name", "", "The person's name.")
			f.text(&enabled, "account-enabled", "", "true or false.")
			f.many(&groups, "groups", "", "All groups that the user is in from now on; \"\" for none.")
		},
		columns: userColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			if _, err := a.session(); err != nil {
				return nil, err
			}
			r := client.Request{Method: http.MethodPut, Path: userPath(id)}
			if !arm.ValidGUID(id) {
				if _, err := a.arm.Get(ctx, r.Path, client.SallyportVersion); err != nil {
					return nil, err // a PUT would make one
				}
				r.Header = ifAny()
			}
			properties := map[string]any{}
			if display != "" {
				properties["displayName"] = display
			}
			switch strings.ToLower(enabled) {
			case "":
			case "true", "false":
				properties["accountEnabled"] = strings.EqualFold(enabled, "true")
			default:
				return nil, usagef("argument --account-enabled: '%s' is neither true nor false", enabled)
			}
			if cmd.Flags().Changed("groups") {
				list := []string{}
				for _, g := range groups {
					if g != "" {
						list = append(list, g)
					}
				}
				properties["groups"] = list
			}
			if len(properties) == 0 {
				return nil, usagef("nothing to change: give --display-name, --account-enabled or --groups")
			}
			r.Body = map[string]any{"properties": properties}
			return a.userCall(ctx, r)
		},
	})
	return cmd
}

func (a *app) userPassword() *cobra.Command {
	var id, password string
	return a.command(spec{
		use: "reset-password", short: "Give a user another password, and sign them out everywhere.",
		example: "sallyport ad user reset-password --id anna@example.com",
		flags: func(f *flags) {
			userID(f, &id)
			f.text(&password, "password", "", "At least 12 characters; @FILE to read it from a file, @- from stdin. Default: one is made up.")
		},
		columns: userColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			text, err := a.fromFile("--password", password)
			if err != nil {
				return nil, err
			}
			body := map[string]any{}
			if text = strings.TrimRight(text, "\r\n"); text != "" {
				body["password"] = text
			}
			return a.userCall(ctx, client.Request{Method: http.MethodPost, Path: userPath(id) + "/resetPassword", Body: body})
		},
	})
}

func (a *app) userSignOut() *cobra.Command {
	var id string
	return a.command(spec{
		use: "revoke-sign-in-sessions", short: "Sign a user out everywhere.",
		example: "sallyport ad user revoke-sign-in-sessions --id anna@example.com",
		flags:   func(f *flags) { userID(f, &id) }, columns: userColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			return a.userCall(ctx, client.Request{Method: http.MethodPost, Path: userPath(id) + "/revokeSignInSessions"})
		},
	})
}

func (a *app) userDelete() *cobra.Command {
	var id string
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a user: every sign-in ends.", example: "sallyport ad user delete --id anna@example.com",
		flags: func(f *flags) {
			userID(f, &id)
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting user "+id, userPath(id), client.SallyportVersion, false)
		},
	})
}

// people is a group of people by resource group and name.
type people struct{ group, name string }

func (p *people) flags(f *flags) {
	f.group(&p.group)
	f.need(&p.name, "name", "n", "Name of the group's resource.")
	f.alias("name", "display-name", "")
}

func (p *people) id(ctx context.Context, a *app) (string, error) {
	at, err := a.groupID(ctx, p.group)
	return at + "/providers/" + peopleType + "/" + url.PathEscape(p.name), err
}

func (a *app) peopleCreate() *cobra.Command {
	var p people
	var issuer, tenant, group string
	return a.command(spec{
		use: "create", short: "Make a group of people something that a binding can name.",
		long: `Make a group of people a source: one group of one OIDC issuer. Bindings name it by its
resource id, with roles for Sallyport.Identity/groups; role assignments take it as
--assignee. Which group it is cannot be changed later.`,
		example: `
			sallyport ad group create -g MyResourceGroup -n platform
			sallyport ad group create -g MyResourceGroup -n oncall --issuer https://login.example.com --group 2f4c8e1a-oncall`,
		flags: func(f *flags) {
			p.flags(f)
			f.text(&issuer, "issuer", "", "Whose group it is: the issuer's URL. Default: the built-in authority.")
			f.text(&group, "group", "", "The group as tokens name it. Default: --name.")
			f.text(&tenant, "tenant", "", "The tenant of its tokens. Default: this installation's, which people have who sign in here.")
		},
		columns: groupOfPeopleColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := p.id(ctx, a)
			if err != nil {
				return nil, err
			}
			properties := map[string]any{}
			for name, value := range map[string]string{"issuer": issuer, "group": group, "tenantId": tenant} {
				if value != "" {
					properties[name] = value
				}
			}
			raw, err := a.begin(ctx, "Creating "+id, client.Request{Method: http.MethodPut, Path: id, Version: client.SallyportVersion, Body: map[string]any{"properties": properties}})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

func (a *app) peopleList() *cobra.Command {
	var group string
	return a.command(spec{
		use: "list", short: "List the groups of people in a resource group.", example: "sallyport ad group list -g MyResourceGroup -o table",
		flags: func(f *flags) { f.group(&group) }, columns: groupOfPeopleColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			at, err := a.groupID(ctx, group)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, at+"/providers/"+peopleType, client.SallyportVersion)
		},
	})
}

func (a *app) peopleShow() *cobra.Command {
	var p people
	return a.command(spec{
		use: "show", short: "Show a group of people.", example: "sallyport ad group show -g MyResourceGroup -n platform --query id -o tsv",
		flags: p.flags, columns: groupOfPeopleColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := p.id(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, client.SallyportVersion)
		},
	})
}

func (a *app) peopleDelete() *cobra.Command {
	var p people
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a group of people; its bindings let nobody through any more.",
		example: "sallyport ad group delete -g MyResourceGroup -n platform",
		flags: func(f *flags) {
			p.flags(f)
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := p.id(ctx, a)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting "+id, id, client.SallyportVersion, false)
		},
	})
}
