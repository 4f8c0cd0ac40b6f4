package main

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var bindingColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "ResourceGroup", Path: "resourceGroup"}, {Heading: "ProvisioningState", Path: "provisioningState"},
	{Heading: "SourceResourceId", Path: "sourceResourceId"}, {Heading: "Roles", Path: "roles"}}

func (a *app) roleBinding() *cobra.Command {
	return a.noun("rolebinding", "Manage trusted access role bindings.",
		a.bindingCreate(), a.bindingUpdate(), a.bindingShow(), a.bindingList(), a.bindingDelete())
}

// bindingName declares az's three arguments that name a binding.
func bindingName(f *flags, group, cluster, name *string) {
	f.group(group)
	f.need(cluster, "cluster-name", "", "The cluster name.")
	f.complete("cluster-name", f.a.clusterNames)
	f.need(name, "name", "n", "Specify the role binding name.")
}

const rolesUsage = "Roles, separated by commas or blanks: Microsoft.Demo/samples/reader,Microsoft.Demo/samples/writer."

func (a *app) bindingCreate() *cobra.Command {
	var group, cluster, name, source string
	var roles []string
	return a.command(spec{
		use: "create", short: "Create a new trusted access role binding.",
		long: `Create a trusted access role binding: it lets one source resource's identity reach
the cluster with the given roles. When the command ends, it is in effect.`,
		example: `sallyport aks trustedaccess rolebinding create -g myResourceGroup --cluster-name myCluster -n bindingName --source-resource-id /subscriptions/0000/resourceGroups/myResourceGroup/providers/Microsoft.Demo/samples/SRC --roles Microsoft.Demo/samples/reader,Microsoft.Demo/samples/writer`,
		flags: func(f *flags) {
			bindingName(f, &group, &cluster, &name)
			f.need(&source, "source-resource-id", "", "The source resource id of the binding.")
			f.alias("source-resource-id", "source-resource", "s")
			f.many(&roles, "roles", "", rolesUsage+" [Required]")
			f.require("roles")
			f.alias("roles", "role-names", "r")
			f.complete("roles", a.roleNames)
		},
		columns: bindingColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.bindingID(ctx, group, cluster, name)
			if err != nil {
				return nil, err
			}
			list, err := splitRoles(roles)
			if err != nil {
				return nil, err
			}
			exists := trust.Errorf(trust.Exists, "TrustedAccess RoleBinding %s already existed, please use 'sallyport aks trustedaccess rolebinding update' command to update!", name)
			switch _, err := a.arm.Binding(ctx, id); {
			case err == nil:
				return nil, exists
			case !notFound(err):
				return nil, err
			}
			shown, err := a.putBinding(ctx, "Creating role binding "+name, id, ifNone(), source, list, nil)
			return shown, made(err, exists)
		},
	})
}

// putBinding writes a binding, names the roles that it had and loses, and waits
// until it is in effect.
func (a *app) putBinding(ctx context.Context, what, id string, condition http.Header, source string, roles, had []string) (any, error) {
	o, err := a.arm.Begin(ctx, client.Request{Method: http.MethodPut, Path: id, Version: client.ContainerServiceVersion, Header: condition,
		Body: client.Binding{Properties: client.BindingProperties{SourceResourceID: source, Roles: roles}}})
	if err != nil {
		return nil, err
	}
	for _, r := range had {
		if !slices.ContainsFunc(roles, func(n string) bool { return strings.EqualFold(n, r) }) {
			a.warn("role %s is dropped: what %s does under it ends now.", r, source)
		}
	}
	raw, err := a.wait(ctx, what, o)
	if err != nil {
		return nil, err
	}
	return flat(raw)
}

func (a *app) bindingUpdate() *cobra.Command {
	var group, cluster, name string
	var roles []string
	return a.command(spec{
		use: "update", short: "Update a trusted access role binding.",
		long: `Give a trusted access role binding other roles. The list is the whole of them: a
role that is not named again is dropped, and what ran under it is cut off.`,
		example: "sallyport aks trustedaccess rolebinding update -g myResourceGroup --cluster-name myCluster -n bindingName --roles Microsoft.Demo/samples/reader,Microsoft.Demo/samples/writer",
		flags: func(f *flags) {
			bindingName(f, &group, &cluster, &name)
			f.many(&roles, "roles", "", rolesUsage+" [Required]")
			f.require("roles")
			f.alias("roles", "role-names", "r")
			f.complete("roles", a.roleNames)
		},
		columns: bindingColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.bindingID(ctx, group, cluster, name)
			if err != nil {
				return nil, err
			}
			list, err := splitRoles(roles)
			if err != nil {
				return nil, err
			}
			old, err := a.arm.Binding(ctx, id)
			if err != nil {
				return nil, err
			}
			return a.putBinding(ctx, "Updating role binding "+name, id, ifAny(), old.Properties.SourceResourceID, list, old.Properties.Roles)
		},
	})
}

func (a *app) bindingShow() *cobra.Command {
	var group, cluster, name string
	return a.command(spec{
		use: "show", short: "Get the specific trusted access role binding according to binding name.",
		example: "sallyport aks trustedaccess rolebinding show -g myResourceGroup --cluster-name myCluster -n bindingName",
		flags:   func(f *flags) { bindingName(f, &group, &cluster, &name) },
		columns: bindingColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.bindingID(ctx, group, cluster, name)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, client.ContainerServiceVersion)
		},
	})
}

func (a *app) bindingList() *cobra.Command {
	var group, cluster string
	return a.command(spec{
		use: "list", short: "List all the trusted access role bindings.",
		example: "sallyport aks trustedaccess rolebinding list -g myResourceGroup --cluster-name myCluster",
		flags: func(f *flags) {
			f.group(&group)
			f.need(&cluster, "cluster-name", "", "The cluster name.")
			f.complete("cluster-name", a.clusterNames)
		},
		columns: bindingColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, group, cluster)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, client.BindingsPath(id), client.ContainerServiceVersion)
		},
	})
}

func (a *app) bindingDelete() *cobra.Command {
	var group, cluster, name string
	var yes, noWait bool
	return a.command(spec{
		use: "delete", short: "Delete a trusted access role binding according to name.",
		long: `Delete a trusted access role binding: the service is disconnected, its open streams
included. When the command ends, access is refused everywhere.`,
		example: "sallyport aks trustedaccess rolebinding delete -g myResourceGroup --cluster-name myCluster -n bindingName",
		flags: func(f *flags) {
			bindingName(f, &group, &cluster, &name)
			f.flag(&noWait, "no-wait", "", "Do not wait until access is refused everywhere.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.bindingID(ctx, group, cluster, name)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting role binding "+name, id, client.ContainerServiceVersion, noWait)
		},
	})
}
