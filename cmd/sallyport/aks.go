package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

var clusterColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Location", Path: "location"}, {Heading: "ResourceGroup", Path: "resourceGroup"},
	{Heading: "KubernetesVersion", Path: "currentKubernetesVersion"}, {Heading: "PowerState", Path: "powerState.code"}, {Heading: "ProvisioningState", Path: "provisioningState"}}

func (a *app) aks() *cobra.Command {
	return a.noun("aks", "Manage registered Kubernetes clusters, and who may reach them.",
		a.aksCreate(), a.aksDelete(), a.aksList(), a.aksShow(), a.aksPower("start"), a.aksPower("stop"), a.getCredentials(),
		a.noun("trustedaccess", "Manage trusted access: the roles services ask for, and the bindings that grant them.",
			a.trustedRole(), a.roleBinding()))
}

// clusterName declares az's pair that names a cluster.
func clusterName(f *flags, group, name *string) {
	f.group(group)
	f.need(name, "name", "n", "Name of the managed cluster.")
	f.complete("name", f.a.clusterNames)
}

func (a *app) aksCreate() *cobra.Command {
	var group, name, location, ranges string
	var tags []string
	var noLocal, private, noWait bool
	return a.command(spec{
		use: "create", short: "Register a cluster that exists; no nodes are made.",
		long: `Register a cluster that exists. Sallyport makes no nodes and runs no API server:
what follows is 'sallyport cluster connect', which puts its agents into the cluster.`,
		example: "sallyport aks create -g MyResourceGroup -n MyCluster -l westeurope",
		flags: func(f *flags) {
			clusterName(f, &group, &name)
			f.text(&location, "location", "l", "Location. Default: the resource group's.")
			f.many(&tags, "tags", "", "Space-separated tags: key[=value] [key[=value] ...].")
			f.flag(&noLocal, "disable-local-accounts", "", "Refuse static credentials.")
			f.flag(&private, "enable-private-cluster", "", "Record that the API server is private.")
			f.text(&ranges, "api-server-authorized-ip-ranges", "", "Comma-separated CIDRs that people may come from; bound services are not limited.")
			f.flag(&noWait, "no-wait", "", "Do not wait for the long-running operation to finish.")
		},
		columns: clusterColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			cluster := client.Cluster{Location: location}
			if cluster.Tags, err = parseTags(tags); err != nil {
				return nil, err
			}
			cluster.Properties.DisableLocalAccounts = noLocal
			if private || ranges != "" {
				cluster.Properties.APIServerAccess = &client.APIServerAccessProfile{EnablePrivateCluster: private, AuthorizedIPRanges: commas(ranges)}
			}
			if cluster.Location, err = a.locationOr(ctx, location, group); err != nil {
				return nil, err
			}
			o, err := a.arm.PutCluster(ctx, id, cluster)
			if err != nil {
				return nil, err
			}
			raw := o.Initial.Body
			if !noWait {
				if raw, err = a.wait(ctx, "Registering cluster "+name, o); err != nil {
					return nil, err
				}
			}
			a.say("Registered, not created: Sallyport makes no nodes. Next: sallyport cluster connect -g %s -n %s", group, name)
			return flat(raw)
		},
	})
}

func commas(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return c == ',' || c == ' ' })
}

// locationOr is a location, or the resource group's.
func (a *app) locationOr(ctx context.Context, location, group string) (string, error) {
	if location != "" {
		return location, nil
	}
	id, err := a.groupID(ctx, group)
	if err != nil {
		return "", err
	}
	raw, err := a.arm.Get(ctx, id, client.ResourcesVersion)
	if err != nil {
		return "", err
	}
	v, err := whole(raw)
	if err != nil {
		return "", err
	}
	m, _ := v.(map[string]any)
	location, _ = m["location"].(string)
	return location, nil
}

func (a *app) aksList() *cobra.Command {
	var group string
	return a.command(spec{
		use: "list", short: "List registered clusters.",
		example: "sallyport aks list -o table",
		flags: func(f *flags) {
			f.text(&group, "resource-group", "g", "Name of resource group.")
			f.complete("resource-group", a.groupNames)
		},
		columns: clusterColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			at := "/subscriptions/" + sub
			if group != "" {
				at += "/resourceGroups/" + group
			}
			return a.list(ctx, at+"/providers/Microsoft.ContainerService/managedClusters", client.ContainerServiceVersion)
		},
	})
}

func (a *app) aksShow() *cobra.Command {
	var group, name string
	return a.command(spec{
		use: "show", short: "Show the details of a registered cluster.",
		example: "sallyport aks show -g MyResourceGroup -n MyCluster",
		flags:   func(f *flags) { clusterName(f, &group, &name) },
		columns: clusterColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, client.ContainerServiceVersion)
		},
	})
}

func (a *app) aksDelete() *cobra.Command {
	var group, name string
	var yes, noWait bool
	return a.command(spec{
		use: "delete", short: "Delete a cluster's registration and all its role bindings.",
		long: `Delete a cluster's registration and all its role bindings: every bound service is
disconnected. The cluster itself goes on running; 'sallyport cluster disconnect'
takes the agents out of it.`,
		example: "sallyport aks delete -g MyResourceGroup -n MyCluster",
		flags: func(f *flags) {
			clusterName(f, &group, &name)
			f.flag(&noWait, "no-wait", "", "Do not wait for the long-running operation to finish.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting cluster "+name, id, client.ContainerServiceVersion, noWait)
		},
	})
}

// aksPower is start and stop.
func (a *app) aksPower(verb string) *cobra.Command {
	var group, name string
	var noWait bool
	short, note := "Let bound services through to a stopped cluster again.", "Bound services are let through again. Nodes and API server were not touched."
	if verb == "stop" {
		short, note = "Let nobody through to a cluster; nodes go on running.", "Nobody is let through. Nodes and API server go on running: Sallyport stops access, not machines."
	}
	return a.command(spec{
		use: verb, short: short,
		example: "sallyport aks " + verb + " -g MyResourceGroup -n MyCluster",
		flags: func(f *flags) {
			clusterName(f, &group, &name)
			f.flag(&noWait, "no-wait", "", "Do not wait for the long-running operation to finish.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			o, err := a.arm.Begin(ctx, client.Request{Method: http.MethodPost, Path: id + "/" + verb, Version: client.ContainerServiceVersion})
			if err != nil || noWait {
				return nil, err
			}
			if _, err := a.wait(ctx, strings.ToUpper(verb[:1])+verb[1:]+" cluster "+name, o); err != nil {
				return nil, err
			}
			a.say("%s", note)
			return nil, nil
		},
	})
}
