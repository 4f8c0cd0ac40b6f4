package main

import (
	"context"
	_ "embed"
	"fmt"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
)

//go:embed clientsetup.tmpl
var clientSetupText string

// setup is what the texts of client-setup are filled with.
type setup struct {
	Server, Host, Authority, CA      string
	Tenant, Subscription, ClientID   string
	SecretFile, AdminFile, TokenFile string // one is set, or none is known
}

func (a *app) clientSetup() *cobra.Command {
	return a.noun("client-setup", "Print what to set so that a client made for Azure uses this server.",
		a.clientSetupOf("terraform", "Terraform's azurerm provider."), a.clientSetupOf("az", "Azure's own az."),
		a.clientSetupOf("go", "Azure's SDK for Go."), a.clientSetupOf("js", "Azure's SDK for JavaScript."))
}

func (a *app) clientSetupOf(name, short string) *cobra.Command {
	return a.command(spec{
		use: name, short: short,
		long:    "Print what to set for " + short + " Nothing is changed, and no secret is printed: what holds it is named.",
		example: "sallyport client-setup " + name,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			s, err := newSetup(a.context, sub)
			if err != nil {
				return nil, err
			}
			t, err := template.New("").Funcs(template.FuncMap{"quote": shellQuote}).Parse(clientSetupText)
			if err != nil {
				return nil, fmt.Errorf("read the texts: %w", err)
			}
			a.busy.stop()
			return nil, t.ExecuteTemplate(a.out, name, s)
		},
	})
}

func newSetup(c *client.Context, sub string) (*setup, error) {
	s := &setup{Server: c.Server, Authority: c.Authority, CA: strings.TrimSpace(c.CA), Tenant: c.Tenant, Subscription: sub, ClientID: c.ClientID,
		SecretFile: c.SecretFile, AdminFile: c.Admin, TokenFile: c.AssertionFile}
	if c.Admin != "" {
		admin, err := client.ReadAdminFile(c.Admin)
		if err != nil {
			return nil, err
		}
		if s.CA == "" {
			s.CA = strings.TrimSpace(admin.CA)
		}
		s.ClientID = admin.ClientID
	}
	s.Server = strings.TrimSuffix(s.Server, "/")
	if s.Authority == "" {
		s.Authority = s.Server
	}
	s.Host = strings.TrimPrefix(s.Server, "https://")
	return s, nil
}

// shellQuote makes one word of a POSIX shell's of a string.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
