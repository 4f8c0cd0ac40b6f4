package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

var identityColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "ResourceGroup", Path: "resourceGroup"}, {Heading: "Type", Path: "type"},
	{Heading: "PrincipalId", Path: "identity.principalId"}, {Heading: "ClientId", Path: "identity.clientId"}}

func (a *app) identity() *cobra.Command {
	return a.noun("identity", "Manage services: source resources with a system-assigned identity.",
		a.identityCreate(), a.identityShow(), a.identityList(), a.identityDelete(), a.identityToken(), a.identityServe(),
		a.noun("federated-credential", "Manage which outside tokens an identity can be had for.",
			a.federatedCreate(), a.federatedList(), a.federatedDelete()),
		a.noun("secret", "Manage an identity's client secrets.", a.secretCreate(), a.secretList(), a.secretDelete()),
		a.noun("signing-key", "See and revoke the keys that sign the tokens of all identities.", a.signingKeyList(), a.signingKeyRevoke()),
		a.noun("certificate", "Manage certificates whose keys sign for an identity.", a.certificateCreate(), a.certificateList(), a.certificateShow(), a.certificateDelete()))
}

// named is a source by its id, or by group, type and name.
type named struct{ id, group, typ, name string }

func (n *named) flags(f *flags) {
	n.place(f)
	f.text(&n.name, "name", "n", "Name of the source resource.")
	f.text(&n.id, "ids", "", "The source's resource id, instead of -g, --type and -n.")
	f.alias("ids", "id", "")
}

func (n *named) place(f *flags) {
	f.text(&n.group, "resource-group", "g", "Name of resource group.")
	f.complete("resource-group", f.a.groupNames)
	f.text(&n.typ, "type", "", "Resource type, such as Microsoft.MachineLearningServices/workspaces, or your own.")
	f.alias("type", "resource-type", "")
}

// source is the resource id that the arguments mean.
func (n *named) source(ctx context.Context, a *app) (string, error) {
	if n.id != "" {
		id, err := arm.ParseID(n.id)
		if err != nil || !id.IsResource() {
			return "", usagef("argument --ids: '%s' is not a resource id", n.id)
		}
		_, err = a.session()
		return n.id, err
	}
	if n.group == "" || n.typ == "" || n.name == "" {
		return "", usagef("the following arguments are required: --ids, or --resource-group/-g, --type and --name/-n")
	}
	at, err := a.groupID(ctx, n.group)
	if err != nil {
		return "", err
	}
	namespace, types, ok := strings.Cut(n.typ, "/")
	if !ok || namespace == "" || types == "" || strings.Contains(types, "/") {
		return "", usagef("argument --type: '%s' is not a resource type of the form Namespace/type; name deeper ones with --ids", n.typ)
	}
	id := at + "/providers/" + n.typ + "/" + n.name
	if _, err := arm.ParseID(id); err != nil {
		return "", usagef("argument --name/-n: %v", err)
	}
	return id, nil
}

func (a *app) identityCreate() *cobra.Command {
	var n named
	var location string
	var tags []string
	return a.command(spec{
		use: "create", short: "Register a service: a source resource of any type, with a system-assigned identity.",
		example: `
			sallyport identity create -g MyResourceGroup --type Microsoft.MachineLearningServices/workspaces -n MyWorkspace -l westeurope
			sallyport identity create --ids /subscriptions/.../providers/Contoso.Scanner/scanners/nightly`,
		flags: func(f *flags) {
			n.flags(f)
			f.text(&location, "location", "l", "Location. Default: the resource group's.")
			f.many(&tags, "tags", "", "Space-separated tags: key[=value] [key[=value] ...].")
		},
		columns: identityColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			body := client.Source{Identity: &client.Identity{Type: "SystemAssigned"}, Location: location, Properties: json.RawMessage("{}")}
			if body.Tags, err = parseTags(tags); err != nil {
				return nil, err
			}
			if parsed, err := arm.ParseID(id); err == nil && location == "" && parsed.Group != "" {
				a.sub = parsed.Subscription
				if body.Location, err = a.locationOr(ctx, "", parsed.Group); err != nil {
					return nil, err
				}
			}
			raw, err := a.amend(ctx, "Creating "+id, id, client.SallyportVersion, true, func(was json.RawMessage) (any, error) {
				if was == nil {
					return body, nil
				}
				var old client.Source
				if err := json.Unmarshal(was, &old); err != nil {
					return nil, err
				}
				body.Properties = old.Properties // what another program keeps in the resource stays
				if tags == nil {
					body.Tags = old.Tags
				}
				return body, nil
			})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

func (a *app) identityShow() *cobra.Command {
	var n named
	return a.command(spec{
		use: "show", short: "Show a service and its identity.",
		example: "sallyport identity show -g MyResourceGroup --type Contoso.Scanner/scanners -n nightly --query identity.principalId -o tsv",
		flags:   n.flags, columns: identityColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, client.SallyportVersion)
		},
	})
}

func (a *app) identityList() *cobra.Command {
	var n named
	return a.command(spec{
		use: "list", short: "List services of one type.",
		example: "sallyport identity list --type Microsoft.MachineLearningServices/workspaces -o table",
		flags: func(f *flags) {
			n.place(f)
			f.require("type", "resource-type")
		},
		columns: identityColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			at := "/subscriptions/" + sub
			if n.group != "" {
				at += "/resourceGroups/" + n.group
			}
			return a.list(ctx, at+"/providers/"+n.typ, client.SallyportVersion)
		},
	})
}

func (a *app) identityDelete() *cobra.Command {
	var n named
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a service; its identity ends, and every binding that names it.",
		example: "sallyport identity delete -g MyResourceGroup --type Contoso.Scanner/scanners -n nightly",
		flags: func(f *flags) {
			n.flags(f)
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
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

func (a *app) identityToken() *cobra.Command {
	var who asIdentity
	var resource, location, server, caFile string
	return a.command(spec{
		use: "token", short: "Get a token of an identity, with a credential that the caller holds.",
		long: `Get a token of an identity for a gateway or a cluster. The caller shows the
identity's own credential; nobody, administrators included, gets another's token.`,
		example: `
			sallyport identity token --client-id CLIENT_ID --federated-token-file /var/run/secrets/tokens/sallyport --location westeurope
			sallyport identity token --client-id CLIENT_ID --client-secret-file secret --resource https://sallyport.example.com/gateways/westeurope`,
		flags: func(f *flags) {
			who.flags(f)
			f.text(&resource, "resource", "", "Audience: <server>/gateways/<location> or <server>/clusters/<uid>.")
			f.text(&location, "location", "l", "Location whose gateway the token is for, instead of --resource.")
			f.text(&server, "server", "", "URL of the server. Default: the context's.")
			f.text(&caFile, "ca-file", "", "The server's CA, PEM. Default: the context's.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			credential, err := a.identityCredential(&who, server, caFile)
			if err != nil {
				return nil, err
			}
			if (resource == "") == (location == "") {
				return nil, usagef("give either --resource or --location/-l")
			}
			if resource == "" {
				resource = strings.TrimSuffix(credential.Authority, "/") + "/gateways/" + arm.NormalLocation(location)
			}
			t, err := credential.Get(ctx, resource+"/.default", false)
			if err != nil {
				return nil, err
			}
			return map[string]any{"accessToken": t.Value, "expiresOn": t.Expires.Local().Format("2006-01-02 15:04:05.000000"), "expires_on": t.Expires.Unix(),
				"resource": resource, "tenant": who.tenant, "tokenType": "Bearer"}, nil
		},
	})
}

// at marks a path for fromFile.
func at(path string) string {
	if path == "" {
		return ""
	}
	return "@" + path
}
