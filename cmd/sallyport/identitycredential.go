package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var federatedColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Issuer", Path: "issuer"}, {Heading: "Subject", Path: "subject"}, {Heading: "Audiences", Path: "audiences"}}

func (a *app) federatedCreate() *cobra.Command {
	var n named
	var name, issuer, subject, keys string
	var audiences []string
	return a.command(spec{
		use: "create", short: "Let tokens of another issuer stand for a service's identity.",
		example: "sallyport identity federated-credential create -g G --type Contoso.Scanner/scanners --identity-name nightly -n k8s --issuer https://kubernetes.default.svc --subject system:serviceaccount:scan:nightly",
		flags: func(f *flags) {
			child(f, &n, &name, "federated credential")
			f.need(&issuer, "issuer", "", "The issuer's URL, as its tokens' iss says it.")
			f.need(&subject, "subject", "", "The tokens' sub, such as system:serviceaccount:NAMESPACE:NAME.")
			f.many(&audiences, "audiences", "", "The tokens' aud. Default: api://AzureADTokenExchange.")
			f.text(&keys, "keys-file", "", "The issuer's JSON Web Key set, for an issuer that the server cannot reach.")
		},
		columns: federatedColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			var body client.FederatedCredential
			p := &body.Properties
			p.Issuer, p.Subject, p.Audiences = issuer, subject, audiences
			if len(audiences) == 0 {
				p.Audiences = []string{"api://AzureADTokenExchange"}
			}
			if keys != "" {
				text, err := a.fromFile("--keys-file", at(keys))
				if err != nil {
					return nil, err
				}
				p.Keys = json.RawMessage(text)
			}
			raw, err := a.begin(ctx, "Creating federated credential "+name, client.Request{Method: http.MethodPut, Path: client.FederatedPath(id) + "/" + name, Version: client.SallyportVersion, Body: body})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

// child declares the arguments of something under a source: its own name is -n.
func child(f *flags, n *named, name *string, what string) {
	parent(f, n)
	f.need(name, "name", "n", "Name of the "+what+".")
	f.segment("name")
}

func parent(f *flags, n *named) {
	n.place(f)
	f.text(&n.name, "identity-name", "", "Name of the source resource.")
	f.text(&n.id, "ids", "", "The source's resource id, instead of -g, --type and --identity-name.")
	f.alias("ids", "id", "")
}

func (a *app) federatedList() *cobra.Command {
	var n named
	return a.command(spec{
		use: "list", short: "List a service's federated credentials.",
		example: "sallyport identity federated-credential list -g G --type Contoso.Scanner/scanners --identity-name nightly",
		flags:   func(f *flags) { parent(f, &n) }, columns: federatedColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, client.FederatedPath(id), client.SallyportVersion)
		},
	})
}

func (a *app) federatedDelete() *cobra.Command {
	var n named
	var name string
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a federated credential: its tokens stand for nothing any more.",
		example: "sallyport identity federated-credential delete -g G --type Contoso.Scanner/scanners --identity-name nightly -n k8s",
		flags: func(f *flags) {
			child(f, &n, &name, "federated credential")
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
			return nil, a.remove(ctx, "Deleting federated credential "+name, client.FederatedPath(id)+"/"+name, client.SallyportVersion, false)
		},
	})
}

var secretColumns = []output.Column{{Heading: "KeyId", Path: "keyId"}, {Heading: "Hint", Path: "hint"}, {Heading: "Start", Path: "startDateTime"}, {Heading: "End", Path: "endDateTime"}}

func (a *app) secretCreate() *cobra.Command {
	var n named
	var days int
	var file string
	return a.command(spec{
		use: "create", short: "Make a client secret for a service's identity. It is shown once.",
		example: "sallyport identity secret create -g G --type Contoso.Scanner/scanners --identity-name nightly --days 30 --file nightly.secret",
		flags: func(f *flags) {
			parent(f, &n)
			f.IntVar(&days, "days", 0, "How many days it lives. Default: 90.")
			f.text(&file, "file", "f", "Write the secret into this file, mode 0600, instead of showing it.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			body := map[string]any{}
			if days > 0 {
				body["validFor"] = fmt.Sprintf("P%dD", days)
			}
			res, err := a.arm.Do(ctx, client.Request{Method: http.MethodPost, Path: client.SecretsPath(id), Version: client.SallyportVersion, Body: body})
			if err != nil {
				return nil, err
			}
			shown, err := flat(res.Body)
			if err != nil {
				return nil, err
			}
			m, _ := shown.(map[string]any)
			delete(m, "systemData")
			text, _ := m["secretText"].(string)
			if text == "" {
				return nil, trust.Errorf(trust.Internal, "the server answered without a secret")
			}
			if file == "" {
				a.warn("this is the only time that the secret is shown.")
				return m, nil
			}
			if err := replaceFile(file, []byte(text+"\n")); err != nil {
				return nil, err
			}
			delete(m, "secretText")
			m["file"] = file
			return m, nil
		},
	})
}

func (a *app) secretList() *cobra.Command {
	var n named
	return a.command(spec{
		use: "list", short: "List a service's client secrets, without their text.",
		example: "sallyport identity secret list -g G --type Contoso.Scanner/scanners --identity-name nightly -o table",
		flags:   func(f *flags) { parent(f, &n) }, columns: secretColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, client.SecretsPath(id), client.SallyportVersion)
		},
	})
}

func (a *app) secretDelete() *cobra.Command {
	var n named
	var key string
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a client secret.",
		example: "sallyport identity secret delete -g G --type Contoso.Scanner/scanners --identity-name nightly --key-id KEY_ID",
		flags: func(f *flags) {
			parent(f, &n)
			f.need(&key, "key-id", "", "The secret's key id; see 'identity secret list'.")
			f.segment("key-id")
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
			return nil, a.remove(ctx, "Deleting client secret "+key, client.SecretsPath(id)+"/"+key, client.SallyportVersion, false)
		},
	})
}

var certificateColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Subject", Path: "subject"}, {Heading: "Thumbprint", Path: "thumbprint"},
	{Heading: "Start", Path: "startDateTime"}, {Heading: "End", Path: "endDateTime"}}

func (a *app) certificateCreate() *cobra.Command {
	var n named
	var name, certificate string
	return a.command(spec{
		use: "create", short: "Register a certificate: whoever holds its key is the service.",
		long: `Register a certificate: whoever holds its key is the service. The key stays where it
is. Registering another certificate under the same name takes the first one's place,
and tokens that were got with that end.`,
		example: "sallyport identity certificate create -g G --type Contoso.Scanner/scanners --identity-name nightly -n main --certificate @nightly.crt",
		flags: func(f *flags) {
			child(f, &n, &name, "certificate")
			f.need(&certificate, "certificate", "", "The certificate, PEM without its key; @FILE to read it from a file.")
		},
		columns: certificateColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			text, err := a.fromFile("--certificate", certificate)
			if err != nil {
				return nil, err
			}
			body := map[string]any{"properties": map[string]any{"certificate": text}}
			raw, err := a.begin(ctx, "Registering certificate "+name, client.Request{Method: http.MethodPut, Path: client.CertificatesPath(id) + "/" + name, Version: client.SallyportVersion, Body: body})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

func (a *app) certificateList() *cobra.Command {
	var n named
	return a.command(spec{
		use: "list", short: "List a service's certificates.",
		example: "sallyport identity certificate list -g G --type Contoso.Scanner/scanners --identity-name nightly -o table",
		flags:   func(f *flags) { parent(f, &n) }, columns: certificateColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, client.CertificatesPath(id), client.SallyportVersion)
		},
	})
}

func (a *app) certificateShow() *cobra.Command {
	var n named
	var name string
	return a.command(spec{
		use: "show", short: "Show one of a service's certificates.",
		example: "sallyport identity certificate show -g G --type Contoso.Scanner/scanners --identity-name nightly -n main",
		flags:   func(f *flags) { child(f, &n, &name, "certificate") }, columns: certificateColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.source(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, client.CertificatesPath(id)+"/"+name, client.SallyportVersion)
		},
	})
}

func (a *app) certificateDelete() *cobra.Command {
	var n named
	var name string
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a certificate: tokens that were got with it end.",
		example: "sallyport identity certificate delete -g G --type Contoso.Scanner/scanners --identity-name nightly -n main",
		flags: func(f *flags) {
			child(f, &n, &name, "certificate")
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
			return nil, a.remove(ctx, "Deleting certificate "+name, client.CertificatesPath(id)+"/"+name, client.SallyportVersion, false)
		},
	})
}
