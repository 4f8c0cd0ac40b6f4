package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

// mlVersion is the api-version of what "ml" asks.
const mlVersion = "2024-04-01"

var (
	workspaceColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "ResourceGroup", Path: "resourceGroup"}, {Heading: "Location", Path: "location"},
		{Heading: "PrincipalId", Path: "identity.principalId"}}
	computeColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "State", Path: "provisioningState"}, {Heading: "ResourceId", Path: "resourceId"},
		{Heading: "Error", Path: "provisioningErrors[0].error.code"}}
	environmentColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Image", Path: "image"}, {Heading: "LatestVersion", Path: "latestVersion"}}
)

func (a *app) ml() *cobra.Command {
	return a.noun("ml", "Train and serve on clusters that a workspace is bound to.",
		a.noun("workspace", "Manage workspaces: each has an identity of its own, which bindings name.",
			a.workspaceCreate(), a.workspaceUpdate(), a.workspaceShow(), a.workspaceList(), a.workspaceDelete()),
		a.noun("compute", "Attach clusters' namespaces to a workspace.",
			a.computeAttach(), a.computeShow(), a.computeList(), a.computeDetach()),
		a.noun("environment", "Manage environments: container images by name and version.",
			a.environmentCreate(), a.environmentShow(), a.environmentList()),
		a.mlJob(), a.assetNoun(modelAsset), a.assetNoun(dataAsset), a.mlConnection(), a.mlEndpoint(), a.mlDeployment(),
		a.noun("extension", "Put the ML extension into a cluster.", a.extensionManifest()))
}

// inWorkspace is what az names a workspace's child with.
type inWorkspace struct{ group, workspace, name string }

func (n *inWorkspace) flags(f *flags) {
	f.group(&n.group)
	f.need(&n.workspace, "workspace-name", "w", "Name of the workspace.")
}

func (n *inWorkspace) named(f *flags, what string) {
	f.need(&n.name, "name", "n", "Name of the "+what+".")
	n.flags(f)
}

func (a *app) workspaceID(ctx context.Context, group, name string) (string, error) {
	id, err := a.groupID(ctx, group)
	if err != nil {
		return "", err
	}
	if !arm.ValidSegment(name) {
		return "", usagef("argument --workspace-name/-w: '%s' is not a workspace's name", name)
	}
	return id + "/providers/Microsoft.MachineLearningServices/workspaces/" + name, nil
}

// id is a child's id, or its collection's.
func (n *inWorkspace) id(ctx context.Context, a *app, typ string) (string, error) {
	id, err := a.workspaceID(ctx, n.group, n.workspace)
	if err != nil {
		return "", err
	}
	if n.name != "" && !arm.ValidSegment(n.name) {
		return "", usagef("argument --name/-n: '%s' is not a name", n.name)
	}
	if id += "/" + typ; n.name != "" {
		id += "/" + n.name
	}
	return id, nil
}

func (a *app) workspaceCreate() *cobra.Command {
	var group, name, location, display, description string
	var tags []string
	return a.command(spec{
		use: "create", short: "Create a workspace with a system-assigned identity.",
		example: "sallyport ml workspace create -g MyResourceGroup -n MyWorkspace",
		flags: func(f *flags) {
			f.group(&group)
			f.need(&name, "name", "n", "Name of the workspace.")
			f.text(&location, "location", "l", "Location. Default: the resource group's.")
			f.text(&display, "display-name", "", "Name to show.")
			f.text(&description, "description", "", "Description.")
			f.many(&tags, "tags", "", "Space-separated tags: key[=value] [key[=value] ...].")
		},
		columns: workspaceColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.workspaceID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			if location, err = a.locationOr(ctx, location, group); err != nil {
				return nil, err
			}
			body := map[string]any{"location": location, "identity": map[string]string{"type": "SystemAssigned"}, "properties": texts("friendlyName", display, "description", description)}
			if all, err := parseTags(tags); err != nil {
				return nil, err
			} else if all != nil {
				body["tags"] = all
			}
			raw, err := a.begin(ctx, "Creating workspace "+name, client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: body})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

// texts are members that are not empty.
func texts(kv ...string) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			m[kv[i]] = kv[i+1]
		}
	}
	return m
}

func (a *app) workspaceUpdate() *cobra.Command {
	var group, name, display, description string
	var tags []string
	return a.command(spec{
		use: "update", short: "Change a workspace's names and tags; makes its federated credential again.",
		example: "sallyport ml workspace update -g MyResourceGroup -n MyWorkspace --display-name 'Fraud models'",
		flags: func(f *flags) {
			f.group(&group)
			f.need(&name, "name", "n", "Name of the workspace.")
			f.text(&display, "display-name", "", "Name to show.")
			f.text(&description, "description", "", "Description.")
			f.many(&tags, "tags", "", "Space-separated tags: key[=value] [key[=value] ...].")
		},
		columns: workspaceColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.workspaceID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			body := map[string]any{"properties": texts("friendlyName", display, "description", description)}
			if all, err := parseTags(tags); err != nil {
				return nil, err
			} else if all != nil {
				body["tags"] = all
			}
			raw, err := a.begin(ctx, "Updating workspace "+name, client.Request{Method: http.MethodPatch, Path: id, Version: mlVersion, Body: body})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

func (a *app) workspaceShow() *cobra.Command {
	var group, name string
	return a.command(spec{
		use: "show", short: "Show a workspace.", example: "sallyport ml workspace show -g MyResourceGroup -n MyWorkspace",
		flags: func(f *flags) {
			f.group(&group)
			f.need(&name, "name", "n", "Name of the workspace.")
		},
		columns: workspaceColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.workspaceID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, mlVersion)
		},
	})
}

func (a *app) workspaceList() *cobra.Command {
	var group string
	return a.command(spec{
		use: "list", short: "List workspaces.", example: "sallyport ml workspace list -o table",
		flags: func(f *flags) {
			f.text(&group, "resource-group", "g", "Name of resource group.")
			f.complete("resource-group", a.groupNames)
		},
		columns: workspaceColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			at := "/subscriptions/" + sub
			if group != "" {
				if at, err = a.groupID(ctx, group); err != nil {
					return nil, err
				}
			}
			return a.list(ctx, at+"/providers/Microsoft.MachineLearningServices/workspaces", mlVersion)
		},
	})
}

func (a *app) workspaceDelete() *cobra.Command {
	var group, name string
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a workspace and what lies under it; what runs in clusters goes on.",
		example: "sallyport ml workspace delete -g MyResourceGroup -n MyWorkspace",
		flags: func(f *flags) {
			f.group(&group)
			f.need(&name, "name", "n", "Name of the workspace.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.workspaceID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting workspace "+name, id, mlVersion, false)
		},
	})
}

func (a *app) computeAttach() *cobra.Command {
	var n inWorkspace
	var file, typ, resource, namespace, identityType string
	var environment []string
	var noWait bool
	return a.command(spec{
		use: "attach", short: "Attach a namespace of a cluster to a workspace.",
		long: `Attach a namespace of a cluster to a workspace. Checked at once, in this order, with
what to type next: a role binding of the workspace is there and in force, the cluster
is reachable, the ML extension is installed and healthy, the namespace exists and may
be used, the name is free. An attached compute can be attached again as it is, which
checks everything anew. In a file, az's YAML of a Kubernetes compute (name, type,
resource_id, namespace, description, properties), properties may give the compute
instance types of its own (instance_types, default_instance_type); arguments count
more than the file.`,
		example: "sallyport ml compute attach -g MyResourceGroup -w MyWorkspace --type Kubernetes -n k8s --resource-id /subscriptions/.../managedClusters/c --namespace training",
		flags: func(f *flags) {
			f.text(&file, "file", "f", "YAML of the compute. Without one, --name, --type and --resource-id are needed.")
			f.text(&typ, "type", "t", "Kubernetes.")
			f.text(&n.name, "name", "n", "Name of the compute.")
			n.flags(f)
			f.text(&resource, "resource-id", "", "The cluster's resource id.")
			f.text(&namespace, "namespace", "", "Namespace that jobs run in. Default: default.")
			f.text(&identityType, "identity-type", "", "Not used: jobs have no identity of their own. Leave it out.")
			f.many(&environment, "check-environment", "", "Folders or files of facts (see 'sallyport env collect'): check them first, and attach only if nothing fails.")
			f.flag(&noWait, "no-wait", "", "Do not wait for the checks.")
		},
		columns: computeColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			c := &computeFile{}
			if file != "" {
				var err error
				if c, err = readComputeFile(file); err != nil {
					return nil, err
				}
			}
			typ, n.name, resource, namespace = orText(typ, c.Type), orText(n.name, c.Name), orText(resource, c.ResourceID), orText(namespace, c.Namespace)
			for _, needed := range [][2]string{{"--type/-t", typ}, {"--name/-n", n.name}, {"--resource-id", resource}} {
				if needed[1] == "" {
					return nil, usagef("the following arguments are required: %s, or --file/-f with it", needed[0])
				}
			}
			if !strings.EqualFold(typ, "kubernetes") {
				return nil, usagef("argument --type/-t: '%s' is not supported; clusters of type Kubernetes are attached", typ)
			}
			properties, err := c.arm()
			if err != nil {
				return nil, err
			}
			if namespace != "" {
				properties["namespace"] = namespace
			}
			if identityType != "" {
				return nil, usagef("argument --identity-type: computes have no identity of their own here; leave it out")
			}
			id, err := n.id(ctx, a, "computes")
			if err != nil {
				return nil, err
			}
			if len(environment) > 0 {
				cluster, err := arm.ParseID(resource)
				if err != nil {
					return nil, usagef("argument --resource-id: %v", err)
				}
				if err := a.checkBefore(ctx, environment, []string{n.group, cluster.GroupID().String()}, nil); err != nil {
					return nil, err
				}
			}
			s, err := a.session()
			if err != nil {
				return nil, err
			}
			all := texts("description", c.Description)
			all["computeType"], all["resourceId"], all["properties"] = "Kubernetes", resource, properties
			body := map[string]any{"properties": all}
			o, err := s.Begin(ctx, client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: body})
			if err != nil {
				return nil, err
			}
			raw := o.Initial.Body
			if !noWait {
				if raw, err = a.wait(ctx, "Attaching "+n.name, o); err != nil {
					return nil, err
				}
			}
			return flat(raw)
		},
	})
}

func (a *app) computeShow() *cobra.Command {
	return a.childShow("show", "Show a compute.", "compute", "computes", computeColumns)
}

func (a *app) computeList() *cobra.Command {
	return a.childList("List the computes of a workspace.", "compute", "computes", computeColumns)
}

// childShow and childList are commands that every kind of child has.
func (a *app) childShow(use, short, what, typ string, columns []output.Column) *cobra.Command {
	var n inWorkspace
	return a.command(spec{
		use: use, short: short, example: "sallyport ml " + what + " " + use + " -g MyResourceGroup -w MyWorkspace -n NAME",
		flags:   func(f *flags) { n.named(f, what) },
		columns: columns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, typ)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, mlVersion)
		},
	})
}

func (a *app) childList(short, what, typ string, columns []output.Column) *cobra.Command {
	var n inWorkspace
	return a.command(spec{
		use: "list", short: short, example: "sallyport ml " + what + " list -g MyResourceGroup -w MyWorkspace -o table",
		flags:   n.flags,
		columns: columns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, typ)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, id, mlVersion)
		},
	})
}

func (a *app) computeDetach() *cobra.Command {
	var n inWorkspace
	var yes, noWait bool
	return a.command(spec{
		use: "detach", short: "Detach a compute; the cluster is not touched.",
		example: "sallyport ml compute detach -g MyResourceGroup -w MyWorkspace -n k8s",
		flags: func(f *flags) {
			n.named(f, "compute")
			f.flag(&noWait, "no-wait", "", "Do not wait until it is detached.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "computes")
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Detaching "+n.name, id+"?underlyingResourceAction=Detach", mlVersion, noWait)
		},
	})
}

func (a *app) environmentCreate() *cobra.Command {
	var n inWorkspace
	var version, image, description string
	return a.command(spec{
		use: "create", short: "Name a container image.",
		example: "sallyport ml environment create -g MyResourceGroup -w MyWorkspace -n train --version 1 --image registry.example.com/train:1",
		flags: func(f *flags) {
			n.named(f, "environment")
			f.need(&version, "version", "v", "Version. A version never names another image.")
			f.need(&image, "image", "i", "The image.")
			f.text(&description, "description", "d", "Description.")
		},
		columns: environmentColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "environments")
			if err != nil {
				return nil, err
			}
			if id, err = versionGiven(id, version); err != nil {
				return nil, err
			}
			p := texts("description", description)
			p["image"] = image
			raw, err := a.begin(ctx, "Creating environment "+n.name, client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: map[string]any{"properties": p}})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

func (a *app) environmentShow() *cobra.Command {
	var n inWorkspace
	var version string
	return a.command(spec{
		use: "show", short: "Show an environment, or a version of it.",
		example: "sallyport ml environment show -g MyResourceGroup -w MyWorkspace -n train --version 1",
		flags: func(f *flags) {
			n.named(f, "environment")
			f.text(&version, "version", "v", "Version.")
		},
		columns: environmentColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "environments")
			if err != nil {
				return nil, err
			}
			if version != "" {
				if id, err = versionGiven(id, version); err != nil {
					return nil, err
				}
			}
			return a.get(ctx, id, mlVersion)
		},
	})
}

func (a *app) environmentList() *cobra.Command {
	var n inWorkspace
	return a.command(spec{
		use: "list", short: "List the environments of a workspace, or the versions of one.",
		example: "sallyport ml environment list -g MyResourceGroup -w MyWorkspace -o table",
		flags: func(f *flags) {
			n.flags(f)
			f.text(&n.name, "name", "n", "Name of the environment whose versions are listed.")
		},
		columns: environmentColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "environments")
			if err != nil {
				return nil, err
			}
			if n.name != "" {
				id += "/versions"
			}
			return a.list(ctx, id, mlVersion)
		},
	})
}
