package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var accountColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Context", Path: "context"}, {Heading: "SubscriptionId", Path: "id"},
	{Heading: "TenantId", Path: "tenantId"}, {Heading: "State", Path: "state"}, {Heading: "IsDefault", Path: "isDefault"}}

// account is a subscription as az shows it, and which context it is seen in.
type account struct {
	CloudName       string   `json:"cloudName"` // the server's host
	Context         string   `json:"context"`
	HomeTenantID    string   `json:"homeTenantId"`
	ID              string   `json:"id"`
	IsDefault       bool     `json:"isDefault"`
	ManagedByTenant []string `json:"managedByTenants"`
	Name            string   `json:"name"`
	Server          string   `json:"server"`
	State           string   `json:"state"`
	TenantID        string   `json:"tenantId"`
	User            struct {
		Name string `json:"name"`
		Type string `json:"type"`
	} `json:"user"`
}

func accounts(file *client.File, c *client.Context, subs []client.Subscription) []account {
	all := []account{}
	for _, s := range subs {
		one := account{CloudName: strings.TrimPrefix(c.Server, "https://"), Context: c.Name, HomeTenantID: c.Tenant, ID: s.SubscriptionID, ManagedByTenant: []string{},
			Name: s.DisplayName, Server: c.Server, State: s.State, TenantID: c.Tenant,
			IsDefault: c.Name == file.Current && strings.EqualFold(s.SubscriptionID, c.Subscription)}
		if one.User.Name, one.User.Type = c.ClientID, "servicePrincipal"; c.User != "" {
			one.User.Name, one.User.Type = c.User, "user"
		}
		all = append(all, one)
	}
	return all
}

func (a *app) account() *cobra.Command {
	return a.noun("account", "Manage subscriptions and contexts.", a.accountList(), a.accountShow(), a.accountSet(), a.accountToken())
}

func (a *app) accountList() *cobra.Command {
	var all bool
	return a.command(spec{
		use: "list", short: "List the subscriptions of every context.",
		long:    "List the subscriptions of every context. A server that does not answer is named and left out.",
		example: "sallyport account list -o table",
		flags: func(f *flags) {
			f.flag(&all, "all", "", "Accepted for az's sake: all subscriptions are always listed.")
		},
		columns: accountColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			file, err := a.config()
			if err != nil {
				return nil, err
			}
			list := []account{}
			for i := range file.Contexts {
				c := &file.Contexts[i]
				if a.contextName != "" && c.Name != a.contextName {
					continue
				}
				subs, err := a.subscriptionsOf(ctx, file, c)
				if err != nil {
					a.warn("context %s: %s", c.Name, message(err))
					continue
				}
				list = append(list, accounts(file, c, subs)...)
			}
			if len(file.Contexts) == 0 {
				a.warn("there is no context yet. Please run 'sallyport login' to access your accounts.")
			}
			return list, nil
		},
	})
}

func (a *app) subscriptionsOf(ctx context.Context, file *client.File, c *client.Context) ([]client.Subscription, error) {
	opened, err := c.Open(file.Tokens(), "sallyport/"+version)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return opened.Subscriptions(ctx)
}

func (a *app) accountShow() *cobra.Command {
	return a.command(spec{
		use: "show", short: "Get the details of the subscription in use.",
		example: "sallyport account show --query id -o tsv",
		columns: accountColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			subs, err := a.arm.Subscriptions(ctx)
			if err != nil {
				return nil, err
			}
			for _, one := range accounts(a.file, a.context, subs) {
				if strings.EqualFold(one.ID, sub) {
					return one, nil
				}
			}
			return nil, trust.Errorf(trust.NotFound, "The subscription '%s' is not visible to this caller.", sub)
		},
	})
}

func (a *app) accountSet() *cobra.Command {
	var name string
	return a.command(spec{
		use: "set", short: "Choose the context and the subscription to use.",
		example: `
			sallyport account set --subscription MySubscription
			sallyport account set --context production`,
		flags: func(f *flags) {
			f.text(&name, "name", "n", "Name or ID of subscription, as --subscription.")
			f.alias("name", "s-name", "s")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			if a.sub == "" {
				a.sub = name
			}
			if a.sub == "" && a.contextName == "" {
				return nil, usagef("the following arguments are required: --subscription/-s/-n, or --context")
			}
			file, err := a.config()
			if err != nil {
				return nil, err
			}
			c, err := file.Use(a.contextName)
			if err != nil {
				return nil, err
			}
			if a.sub != "" {
				sub, err := a.subscription(ctx)
				if err != nil {
					return nil, err
				}
				c.Subscription = sub
			}
			file.Current = c.Name
			return nil, file.Save()
		},
	})
}

func (a *app) accountToken() *cobra.Command {
	var resource, tenant string
	var scopes []string
	return a.command(spec{
		use: "get-access-token", short: "Get a token for a program to call the server with.",
		long: `Get a token of the context's caller. Without --resource it is for the control API;
<server>/gateways/<location> is for clusters of that location.`,
		example: `
			sallyport account get-access-token --query accessToken -o tsv
			sallyport account get-access-token --resource https://sallyport.example.com/gateways/westeurope`,
		flags: func(f *flags) {
			f.text(&resource, "resource", "", "Audience. Default: the server.")
			f.many(&scopes, "scope", "", "Audience as a scope: the audience and /.default.")
			f.text(&tenant, "tenant", "t", "Accepted for az's sake: there is one tenant.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			if resource != "" && len(scopes) > 0 || len(scopes) > 1 {
				return nil, usagef("give either --resource or one --scope")
			}
			if _, err := a.session(); err != nil {
				return nil, err
			}
			if tenant != "" && !strings.EqualFold(tenant, a.context.Tenant) {
				return nil, trust.Errorf(trust.NotFound, "The context is of tenant %s, not %s.", a.context.Tenant, tenant)
			}
			scope := strings.TrimSuffix(a.context.Server, "/") + "/.default"
			switch {
			case resource != "":
				scope = resource + "/.default"
			case len(scopes) == 1:
				scope = scopes[0]
			}
			credential, err := a.context.Credential(a.file.Tokens())
			if err != nil {
				return nil, err
			}
			t, err := credential.Get(ctx, scope, false)
			if err != nil {
				return nil, err
			}
			return map[string]any{"accessToken": t.Value, "expiresOn": t.Expires.Local().Format("2006-01-02 15:04:05.000000"), "expires_on": t.Expires.Unix(),
				"subscription": a.context.Subscription, "tenant": a.context.Tenant, "tokenType": "Bearer"}, nil
		},
	})
}
