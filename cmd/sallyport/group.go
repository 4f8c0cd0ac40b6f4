package main

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

var groupColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Location", Path: "location"}, {Heading: "Status", Path: "properties.provisioningState"}}

func (a *app) groupNoun() *cobra.Command {
	return a.noun("group", "Manage resource groups.", a.groupCreate(), a.groupDelete(), a.groupExists(), a.groupList(), a.groupShow())
}

// groupName declares the name of a resource group under both of az's names.
func groupName(f *flags, p *string) {
	f.need(p, "name", "n", "Name of the resource group.")
	f.alias("name", "resource-group", "g")
	f.complete("name", f.a.groupNames)
}

func (a *app) groupCreate() *cobra.Command {
	var name, location, manager string
	var tags []string
	return a.command(spec{
		use: "create", short: "Create a new resource group.",
		example: "sallyport group create -l westeurope -n MyResourceGroup",
		flags: func(f *flags) {
			f.need(&location, "location", "l", "Location.")
			groupName(f, &name)
			f.text(&manager, "managed-by", "", "The ID of the resource that manages this resource group.")
			f.many(&tags, "tags", "", "Space-separated tags: key[=value] [key[=value] ...].")
		},
		columns: groupColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.groupID(ctx, name)
			if err != nil {
				return nil, err
			}
			parsed, err := parseTags(tags)
			if err != nil {
				return nil, err
			}
			raw, err := a.begin(ctx, "Creating resource group "+name, client.Request{Method: http.MethodPut, Path: id, Version: client.ResourcesVersion,
				Body: client.Group{Location: location, Tags: parsed, ManagedBy: manager}})
			if err != nil {
				return nil, err
			}
			return whole(raw)
		},
	})
}

func (a *app) groupDelete() *cobra.Command {
	var name string
	var yes, noWait bool
	return a.command(spec{
		use: "delete", short: "Delete a resource group and everything in it.",
		example: "sallyport group delete -n MyResourceGroup",
		flags: func(f *flags) {
			groupName(f, &name)
			f.flag(&noWait, "no-wait", "", "Do not wait for the long-running operation to finish.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.groupID(ctx, name)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting resource group "+name, id, client.ResourcesVersion, noWait)
		},
	})
}

// remove deletes a resource and waits, unless told not to.
func (a *app) remove(ctx context.Context, what, id, version string, noWait bool) error {
	c, err := a.session()
	if err != nil {
		return err
	}
	a.busy.doing(what, "")
	o, err := c.Delete(ctx, id, version)
	if err != nil || noWait {
		return err
	}
	_, err = a.wait(ctx, what, o)
	return err
}

func (a *app) groupExists() *cobra.Command {
	var name string
	return a.command(spec{
		use: "exists", short: "Check if a resource group exists.",
		example: "sallyport group exists -n MyResourceGroup",
		flags:   func(f *flags) { groupName(f, &name) },
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.groupID(ctx, name)
			if err != nil {
				return nil, err
			}
			_, err = a.arm.Do(ctx, client.Request{Method: http.MethodHead, Path: id, Version: client.ResourcesVersion})
			if notFound(err) {
				return false, nil
			}
			return err == nil, err
		},
	})
}

func (a *app) groupList() *cobra.Command {
	var tag string
	return a.command(spec{
		use: "list", short: "List resource groups.",
		example: "sallyport group list --tag team=search -o table",
		flags:   func(f *flags) { tagFlag(f, &tag) },
		columns: groupColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			terms, err := tagTerms(tag)
			if err != nil {
				return nil, err
			}
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			return a.arm.List(ctx, filteredBy("/subscriptions/"+sub+"/resourceGroups", terms), client.ResourcesVersion)
		},
	})
}

func (a *app) groupShow() *cobra.Command {
	var name string
	return a.command(spec{
		use: "show", short: "Get a resource group.",
		example: "sallyport group show -n MyResourceGroup",
		flags:   func(f *flags) { groupName(f, &name) },
		columns: groupColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.groupID(ctx, name)
			if err != nil {
				return nil, err
			}
			raw, err := a.arm.Get(ctx, id, client.ResourcesVersion)
			if err != nil {
				return nil, err
			}
			return whole(raw)
		},
	})
}
