package main

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// login is what the arguments of "login" say.
type login struct {
	admin, server, tenant, user, password, tokenFile, certificate, caFile, caHash, name string
	servicePrincipal                                                                    bool
}

func (a *app) loginCommand() *cobra.Command {
	var l login
	return a.command(spec{
		use: "login", short: "Log in to a Sallyport server.",
		long: `Log in to a Sallyport server, as the administrator whose credential file its first
start wrote, or as a service principal: a client id with a secret, or with a token
of another issuer (workload identity federation).

The server's CA must be known beforehand: by --ca-file, by --ca-hash, or because
the system trusts it. Nothing is believed at first sight.`,
		example: `
			sallyport login --admin-file /etc/sallyport/admin.json
			sallyport login --service-principal --server https://sallyport.example.com -u CLIENT_ID -p SECRET -t TENANT_ID --ca-file ca.pem
			sallyport login --service-principal --server https://sallyport.example.com -u CLIENT_ID --federated-token-file TOKEN -t TENANT_ID --ca-hash sha256:HASH`,
		flags: func(f *flags) {
			f.text(&l.admin, "admin-file", "", "The credential file that the server wrote at its first start.")
			f.flag(&l.servicePrincipal, "service-principal", "", "Log in with the credential of a service principal.")
			f.text(&l.server, "server", "", "URL of the server: https://host[:port].")
			f.text(&l.user, "username", "u", "Client id of the service principal.")
			f.text(&l.password, "password", "p", "Client secret, @FILE to read it from a file, @- from stdin.")
			f.text(&l.certificate, "certificate", "", "PEM file with the service principal's private key and registered certificate, read anew each time.")
			f.text(&l.tokenFile, "federated-token-file", "", "File with a token of another issuer, read anew each time.")
			f.text(&l.tenant, "tenant", "t", "The tenant's id.")
			f.text(&l.caFile, "ca-file", "", "The server's CA, PEM.")
			f.text(&l.caHash, "ca-hash", "", "Hash of the server's CA: sha256:<64 digits>.")
			f.text(&l.name, "name", "n", "Name of the context. Default: the server's host.")
		},
		columns: accountColumns,
		run:     func(ctx context.Context, _ []string) (any, error) { return a.logIn(ctx, l) },
	})
}

func (a *app) logIn(ctx context.Context, l login) (any, error) {
	file, err := a.config()
	if err != nil {
		return nil, err
	}
	c, secret, err := l.context(ctx, a)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(c.Server)
	if err != nil {
		return nil, usagef("argument --server: %q is not a URL", c.Server)
	}
	if c.Name = l.name; c.Name == "" {
		c.Name = u.Host
	}
	if secret != "" {
		if c.SecretFile, err = file.KeepSecret(c.Name, secret); err != nil {
			return nil, err
		}
	}
	// Nothing is kept of a login that does not work.
	opened, err := c.Open(file.Tokens(), "sallyport/"+version)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	subs, err := opened.Subscriptions(ctx)
	if err != nil {
		return nil, err
	}
	if c.Subscription == "" && len(subs) > 0 {
		c.Subscription = subs[0].SubscriptionID
	}
	file.Put(*c)
	file.Current = c.Name
	if err := file.Save(); err != nil {
		return nil, err
	}
	if len(subs) == 0 {
		a.warn("no subscription is visible to this caller yet.")
	}
	return accounts(file, c, subs), nil
}

// context is the context that the arguments describe, and a secret to be kept.
func (l login) context(ctx context.Context, a *app) (*client.Context, string, error) {
	ca := ""
	if l.caFile != "" {
		data, err := os.ReadFile(l.caFile)
		if err != nil {
			return nil, "", trust.Errorf(trust.Invalid, "the CA file %s cannot be read", l.caFile).Because(err)
		}
		ca = string(data)
	}
	if l.admin != "" {
		if l.user != "" || l.password != "" || l.tokenFile != "" {
			return nil, "", usagef("argument --admin-file: not allowed with --username, --password or --federated-token-file")
		}
		admin, err := client.ReadAdminFile(l.admin)
		if err != nil {
			return nil, "", err
		}
		path, err := filepath.Abs(l.admin)
		if err != nil {
			return nil, "", err
		}
		if ca == "" {
			ca = admin.CA
		}
		return &client.Context{Server: admin.Server, Authority: admin.Authority, CA: ca, Tenant: admin.TenantID, Subscription: admin.SubscriptionID,
			ClientID: admin.ClientID, Admin: path}, "", nil
	}
	switch {
	case !l.servicePrincipal:
		return nil, "", usagef("sign-in in a browser is not part of this version: use --admin-file FILE, or --service-principal with --server, -u, -t and a credential")
	case l.server == "" || l.user == "" || l.tenant == "":
		return nil, "", usagef("the following arguments are required: --server, --username/-u, --tenant/-t")
	case one(l.password, l.certificate, l.tokenFile) != nil:
		return nil, "", usagef("give one of --password/-p, --certificate and --federated-token-file")
	}
	secret, err := a.fromFile("--password/-p", l.password)
	if err != nil {
		return nil, "", err
	}
	secret = strings.TrimSpace(secret)
	if ca == "" && l.caHash != "" {
		if ca, err = client.FetchCA(ctx, l.server, l.caHash); err != nil {
			return nil, "", err
		}
	}
	for _, path := range []*string{&l.tokenFile, &l.certificate} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, "", err
		}
	}
	return &client.Context{Server: strings.TrimSuffix(l.server, "/"), CA: ca, Tenant: l.tenant, ClientID: l.user, AssertionFile: l.tokenFile, CertificateFile: l.certificate}, secret, nil
}

// one is an error unless exactly one text is not empty.
func one(texts ...string) error {
	n := 0
	for _, t := range texts {
		if t != "" {
			n++
		}
	}
	if n != 1 {
		return errors.New("not exactly one")
	}
	return nil
}

func (a *app) logoutCommand() *cobra.Command {
	return a.command(spec{
		use: "logout", short: "Forget the current context, its secret and all tokens.",
		example: "sallyport logout",
		run: func(context.Context, []string) (any, error) {
			file, err := a.config()
			if err != nil {
				return nil, err
			}
			if err := file.Remove(a.contextName); err != nil {
				return nil, err
			}
			if err := file.Tokens().Clear(); err != nil {
				return nil, err
			}
			return nil, file.Save()
		},
	})
}
