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
	servicePrincipal, deviceCode                                                        bool
}

func (a *app) loginCommand() *cobra.Command {
	var l login
	return a.command(spec{
		use: "login", short: "Log in to a Sallyport server.",
		long: `Log in to a Sallyport server: as a person, in a browser on this machine or, with
--use-device-code, on another; as the administrator whose credential file its first
start wrote; or as a service principal: a client id with a secret, a certificate, or a
token of another issuer (workload identity federation).

The server's CA must be known beforehand: by --ca-file, by --ca-hash, or because
the system trusts it. Nothing is believed at first sight.`,
		example: `
			sallyport login --server https://sallyport.example.com --ca-hash sha256:HASH
			sallyport login --use-device-code
			sallyport login --admin-file /etc/sallyport/admin.json
			sallyport login --service-principal --server https://sallyport.example.com -u CLIENT_ID -p SECRET -t TENANT_ID --ca-file ca.pem
			sallyport login --service-principal --server https://sallyport.example.com -u CLIENT_ID --federated-token-file TOKEN -t TENANT_ID --ca-hash sha256:HASH`,
		flags: func(f *flags) {
			f.text(&l.admin, "admin-file", "", "The credential file that the server wrote at its first start.")
			f.flag(&l.deviceCode, "use-device-code", "", "Sign in with a code in a browser on any machine.")
			f.flag(&l.servicePrincipal, "service-principal", "", "Log in with the credential of a service principal.")
			f.text(&l.server, "server", "", "URL of the server: https://host[:port]. Default: the current context's.")
			f.text(&l.user, "username", "u", "Client id of the service principal.")
			f.text(&l.password, "password", "p", "Client secret, @FILE to read it from a file, @- from stdin.")
			f.text(&l.certificate, "certificate", "", "PEM file with the service principal's private key and registered certificate, read anew each time.")
			f.text(&l.tokenFile, "federated-token-file", "", "File with a token of another issuer, read anew each time.")
			f.text(&l.tenant, "tenant", "t", "The tenant's id. Default: what the server says; so for people are 'common' and 'organizations'.")
			f.text(&l.caFile, "ca-file", "", "The server's CA, PEM.")
			f.text(&l.caHash, "ca-hash", "", "Hash of the server's CA: sha256:<64 digits>.")
			f.text(&l.name, "name", "n", "Name of the context. Default: the server's host, for people NAME@HOST.")
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
	c, secret, session, err := l.context(ctx, a, file)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(c.Server)
	if err != nil {
		return nil, usagef("argument --server: %q is not a URL", c.Server)
	}
	if c.Name = l.name; c.Name == "" {
		if c.Name = u.Host; session != nil {
			c.Name = session.UserName + "@" + u.Host
		}
	}
	if session != nil {
		if err := keepSignIn(ctx, a, file, c, session); err != nil {
			return nil, err
		}
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
	if session != nil && trust.KindOf(err) == trust.Forbidden {
		subs, err = nil, nil // who has rights in clusters only is signed in too
	}
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

// context is the context that the arguments describe, and a secret or a person's
// session to be kept.
func (l login) context(ctx context.Context, a *app, file *client.File) (*client.Context, string, *client.Session, error) {
	ca := ""
	if l.caFile != "" {
		data, err := os.ReadFile(l.caFile)
		if err != nil {
			return nil, "", nil, trust.Errorf(trust.Invalid, "the CA file %s cannot be read", l.caFile).Because(err)
		}
		ca = string(data)
	}
	if l.admin == "" && !l.servicePrincipal {
		if l.user != "" || l.password != "" || l.tokenFile != "" || l.certificate != "" {
			return nil, "", nil, usagef("a person's name and password are typed into the sign-in page alone; a credential needs --service-principal")
		}
		c, session, err := l.signIn(ctx, a, file, ca)
		return c, "", session, err
	}
	c, secret, err := l.credential(ctx, a, ca)
	return c, secret, nil, err
}

// credential is context for whoever has a credential of their own.
func (l login) credential(ctx context.Context, a *app, ca string) (*client.Context, string, error) {
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
	case l.server == "" || l.user == "":
		return nil, "", usagef("the following arguments are required: --server, --username/-u")
	case anyTenant(l.tenant):
		return nil, "", usagef("argument --tenant/-t: '%s' is for people; a service principal belongs to one tenant: give its id, or leave --tenant out", l.tenant)
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
	if l.tenant == "" {
		if l.tenant, err = client.FindTenant(ctx, l.server, client.ServerTrust{CA: ca}); err != nil {
			return nil, "", err
		}
	}
	return &client.Context{Server: strings.TrimSuffix(l.server, "/"), CA: ca, Tenant: l.tenant, ClientID: l.user, AssertionFile: l.tokenFile, CertificateFile: l.certificate}, secret, nil
}

// anyTenant tells whether a tenant stands for whichever one a person belongs to.
func anyTenant(tenant string) bool {
	return strings.EqualFold(tenant, "common") || strings.EqualFold(tenant, "organizations")
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
		use: "logout", short: "Sign out: forget the current context, its secret or sign-in, and all tokens.",
		example: "sallyport logout",
		run: func(ctx context.Context, _ []string) (any, error) {
			file, err := a.config()
			if err != nil {
				return nil, err
			}
			c, err := file.Use(a.contextName)
			if err != nil {
				return nil, err
			}
			if c.SessionFile != "" {
				if err := client.EndSession(ctx, c); err != nil {
					a.warn("the server did not hear of it, the sign-in ends there by itself: %s", message(err))
				}
			}
			if err := file.Remove(c.Name); err != nil {
				return nil, err
			}
			if err := file.Tokens().Clear(); err != nil {
				return nil, err
			}
			return nil, file.Save()
		},
	})
}
