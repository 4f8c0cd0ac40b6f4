package main

import (
	"context"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

func (a *app) trustedRole() *cobra.Command {
	return a.noun("role", "Manage trusted access roles: what services ask of clusters.",
		a.roleList(), a.roleCreate(), a.roleShow(), a.roleDelete())
}

func (a *app) roleList() *cobra.Command {
	var location string
	return a.command(spec{
		use: "list", short: "List trusted access roles.",
		long:    "List the trusted access roles that bindings in a location may name: the published ones and your own.",
		example: "sallyport aks trustedaccess role list -l westeurope",
		flags: func(f *flags) {
			f.need(&location, "location", "l", "Location.")
		},
		columns: []output.Column{{Heading: "SourceResourceType", Path: "sourceResourceType"}, {Heading: "Name", Path: "name"}, {Heading: "Rules", Path: "length(rules)"}},
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			return a.arm.List(ctx, client.RolesPath(sub, location), client.ContainerServiceVersion)
		},
	})
}

// roleFile is the file that "role create" reads: the role as "role list" shows
// it.
type roleFile struct {
	SourceResourceType string        `json:"sourceResourceType"`
	Name               string        `json:"name"`
	Rules              []client.Rule `json:"rules"`
}

// readRole reads and checks a role's file, so that a mistake is found where it
// was made.
func readRole(path string) (*trust.Role, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the role file %s cannot be read", path).Because(err)
	}
	var f roleFile
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return nil, trust.Errorf(trust.Invalid, "the role file %s is not valid", path).Because(err)
	}
	r := &trust.Role{SourceType: f.SourceResourceType, Name: f.Name}
	for _, rule := range f.Rules {
		r.Rules = append(r.Rules, trust.Rule(rule))
	}
	if err := trust.ValidateRole(*r); err != nil {
		return nil, err
	}
	return r, nil
}

func wireRules(rules []trust.Rule) []client.Rule {
	out := make([]client.Rule, 0, len(rules))
	for _, r := range rules {
		out = append(out, client.Rule(r))
	}
	return out
}

func (a *app) roleCreate() *cobra.Command {
	var file string
	return a.command(spec{
		use: "create", short: "Publish a role of your own, for a source type of your own, or change its rules.",
		long: `Publish a trusted access role from a YAML file, so that any service can be taken on:

  sourceResourceType: Contoso.Scanner/scanners
  name: reader
  rules:
  - apiGroups: [""]
    resources: [pods]
    verbs: [get, list]

Publishing grants nothing: a cluster's owner accepts the role, and a binding names
it. Rules that would let a service widen its own rights cannot be published.`,
		example: "sallyport aks trustedaccess role create --file reader.yaml",
		flags: func(f *flags) {
			f.need(&file, "file", "f", "The role, YAML.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			role, err := readRole(file)
			if err != nil {
				return nil, err
			}
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			var body client.OwnRole
			body.Properties.SourceResourceType, body.Properties.Rules = role.SourceType, wireRules(role.Rules)
			raw, err := a.begin(ctx, "Publishing role "+string(role.FullName()), client.Request{Method: http.MethodPut,
				Path: client.OwnRoleID(sub, string(role.FullName())), Version: client.SallyportVersion, Body: body})
			if err != nil {
				return nil, err
			}
			for _, why := range trust.OutlivesRevocation(role.Rules) {
				a.warn("role %s outlives revocation: %s", role.FullName(), why)
			}
			return flat(raw)
		},
	})
}

func (a *app) roleShow() *cobra.Command {
	var name string
	return a.command(spec{
		use: "show", short: "Show a role of your own.",
		example: "sallyport aks trustedaccess role show -n Contoso.Scanner/scanners/reader",
		flags: func(f *flags) {
			f.need(&name, "name", "n", "The role's full name: <source type>/<role>.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.ownRole(ctx, name)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, client.SallyportVersion)
		},
	})
}

func (a *app) ownRole(ctx context.Context, name string) (string, error) {
	if strings.Count(name, "/") < 2 {
		return "", usagef("argument --name/-n: %q is not a role's full name, such as Contoso.Scanner/scanners/reader", name)
	}
	sub, err := a.subscription(ctx)
	return client.OwnRoleID(sub, name), err
}

func (a *app) roleDelete() *cobra.Command {
	var name string
	var yes bool
	return a.command(spec{
		use: "delete", short: "Unpublish a role of your own.",
		long:    "Unpublish a role of your own. Bindings that have it keep what their clusters accepted; none can name it any more.",
		example: "sallyport aks trustedaccess role delete -n Contoso.Scanner/scanners/reader",
		flags: func(f *flags) {
			f.need(&name, "name", "n", "The role's full name: <source type>/<role>.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.ownRole(ctx, name)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting role "+name, id, client.SallyportVersion, false)
		},
	})
}
