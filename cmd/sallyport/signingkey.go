package main

import (
	"context"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

const signingKeysPath = "/providers/Sallyport.Identity/signingKeys"

var signingKeyColumns = []output.Column{{Heading: "KeyId", Path: "name"}, {Heading: "State", Path: "state"}, {Heading: "Algorithm", Path: "algorithm"},
	{Heading: "SignsFrom", Path: "signsFrom"}, {Heading: "SignsUntil", Path: "signsUntil"}}

func (a *app) signingKeyList() *cobra.Command {
	return a.command(spec{
		use: "list", short: "List the keys that sign tokens.", example: "sallyport identity signing-key list -o table", columns: signingKeyColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			return a.list(ctx, signingKeysPath, client.SallyportVersion)
		},
	})
}

func (a *app) signingKeyRevoke() *cobra.Command {
	var kid string
	var yes bool
	return a.command(spec{
		use: "revoke", short: "Revoke a signing key that may have been stolen.",
		long: `Revoke a signing key: every token that it has signed is refused within a second, yours
too, and what runs by them ends. Services and agents get new tokens by themselves;
people do too, as long as their sign-in lasts. Another key signs from then on.`,
		example: "sallyport identity signing-key revoke --kid 1mJ8pX0sZr6gU3oQ7yTn2wBv5cKd9eLfAhIjGkMqRsE",
		flags: func(f *flags) {
			f.need(&kid, "kid", "", "The key's id, as list and the header of a token say it.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		columns: signingKeyColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			if err := a.confirm(yes, "Every token that this key has signed is refused from now on. "+sure); err != nil {
				return nil, err
			}
			if _, err := a.session(); err != nil {
				return nil, err
			}
			raw, err := a.begin(ctx, "Revoking "+kid, client.Request{Method: http.MethodPost, Path: signingKeysPath + "/" + url.PathEscape(kid) + "/revoke", Version: client.SallyportVersion})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}
