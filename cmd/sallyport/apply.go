package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/declared"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

const filesForm = `
Files are YAML, several resources to a file with "---" between them:

  kind: ResourceGroup
  name: prod
  location: westeurope
  ---
  kind: TrustedAccessRole
  name: Contoso.Scanner/scanners/reader
  rules:
  - apiGroups: [""]
    resources: [pods]
    verbs: [get, list]
  ---
  kind: SourceResource
  id: /subscriptions/{subscriptionId}/resourceGroups/prod/providers/Contoso.Scanner/scanners/nightly
  federatedCredentials:
  - name: nightly-ci
    issuer: https://ci.example.com
    subject: scans
  ---
  kind: ManagedCluster
  resourceGroup: prod
  name: blue
  ---
  kind: TrustedAccessRoleBinding
  resourceGroup: prod
  clusterName: blue
  name: nightly
  sourceResourceId: /subscriptions/{subscriptionId}/resourceGroups/prod/providers/Contoso.Scanner/scanners/nightly
  roles:
  - Contoso.Scanner/scanners/reader

{subscriptionId} stands for the subscription in use. What a file leaves out stays
as it is. "sallyport export" writes such files.`

// declaration are the arguments of apply and diff.
type declaration struct {
	files        []string
	set          string
	prune, adopt bool
}

func (d *declaration) flags(f *flags) {
	f.many(&d.files, "filename", "f", "Files and folders with YAML; folders with those below them; '-' is stdin. [Required]")
	f.require("filename")
	f.text(&d.set, "set", "", "Name of the set of files. It is written to what the files declare, as the tag or property "+declared.SetTag+".")
	f.flag(&d.prune, "prune", "", "Also delete bindings, sources, federated credentials and roles that the set kept and the files no longer have. Needs --set.")
	f.flag(&d.adopt, "adopt", "", "Take over what another set keeps.")
}

// plan reads the files and the server, and says what has to be done.
func (d *declaration) plan(ctx context.Context, a *app) (*plan, error) {
	if d.prune && d.set == "" {
		return nil, usagef("argument --prune: expected --set NAME, which says what may be deleted")
	}
	if strings.TrimSpace(d.set) != d.set || len(d.set) > 64 {
		return nil, usagef("argument --set: %q is not a set's name: up to 64 characters", d.set)
	}
	sub, err := a.subscription(ctx)
	if err != nil {
		return nil, err
	}
	objects, err := declared.Read(d.files, a.in, sub)
	if err != nil {
		return nil, err
	}
	a.busy.doing("Reading the server", "")
	p := &plan{app: a, subscription: sub, declaration: *d}
	if err := p.compare(ctx, objects); err != nil {
		return nil, err
	}
	if d.prune {
		if err := p.surplus(ctx, objects); err != nil {
			return nil, err
		}
	}
	return p, nil
}

var changeColumns = []output.Column{{Heading: "Kind", Path: "kind"}, {Heading: "Name", Path: "name"}, {Heading: "Action", Path: "action"}}

func (a *app) apply() *cobra.Command {
	var d declaration
	var yes, dryRun, noWait bool
	return a.command(spec{
		use: "apply", short: "Make sources, roles, bindings and what they lie in as files declare them.",
		long: `Make resource groups, trusted access roles, source resources, registered clusters
and role bindings as files in a folder declare them. Doing it again changes
nothing. All files are checked before anything is changed; what fails is
reported for each resource, and what needs it is left alone.

With --set NAME and --prune, what the set kept and the files no longer have is
deleted, after a question that names it. Resource groups and clusters never are.
A binding that is Failed is reported and not consented to again.
` + filesForm,
		example: `
			sallyport apply -f ./access
			sallyport apply -f ./access --set prod --prune --dry-run -o table`,
		flags: func(f *flags) {
			d.flags(f)
			f.flag(&dryRun, "dry-run", "", "Say what would be done, and do nothing.")
			f.flag(&noWait, "no-wait", "", "Do not wait until bindings are in effect.")
			f.flag(&yes, "yes", "y", "Do not prompt before --prune deletes.")
		},
		columns: changeColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			p, err := d.plan(ctx, a)
			if err != nil {
				return nil, err
			}
			p.remark()
			if dryRun {
				return p.results(), nil
			}
			if doomed := p.doomed(); len(doomed) > 0 {
				for _, c := range doomed {
					a.warn("%s %s is no longer in the files and will be deleted", c.kind, c.id)
				}
				if err := a.confirm(yes, fmt.Sprintf("Delete these %d? What they let through ends now.", len(doomed))); err != nil {
					return nil, err
				}
			}
			failed := p.carryOut(ctx, noWait)
			a.busy.stop()
			if !failed || ctx.Err() != nil {
				return p.results(), ctx.Err()
			}
			if err := a.print.Print(a.out, p.results(), changeColumns); err != nil {
				return nil, err
			}
			return nil, quietError{exitError}
		},
	})
}

func (a *app) diff() *cobra.Command {
	var d declaration
	return a.command(spec{
		use: "diff", short: "Show how the server differs from what files declare.",
		long: `Show what "sallyport apply" with the same arguments would change, as a diff.
Ends with 0 when nothing differs, 1 when something does, and more than 1 when
that could not be found out.`,
		example: `
			sallyport diff -f ./access
			sallyport diff -f ./access --set prod --prune`,
		flags: d.flags,
		run: func(ctx context.Context, _ []string) (any, error) {
			p, err := d.plan(ctx, a)
			if err != nil {
				return nil, codedError{err, exitUsage}
			}
			a.busy.stop()
			p.remark()
			different := false
			for _, c := range p.changes {
				text := c.diff()
				different = different || len(text) > 0
				if _, err := a.out.Write(text); err != nil {
					return nil, codedError{err, exitUsage}
				}
			}
			if different {
				return nil, quietError{exitError}
			}
			return nil, nil
		},
	})
}

// codedError is an error that ends with a code of its own.
type codedError struct {
	error
	code int
}

func (e codedError) Unwrap() error { return e.error }

// versionOfKind is the api-version to speak of a kind with.
func versionOfKind(k declared.Kind) string {
	switch k {
	case declared.KindGroup:
		return client.ResourcesVersion
	case declared.KindCluster, declared.KindBinding:
		return client.ContainerServiceVersion
	}
	return client.SallyportVersion
}
