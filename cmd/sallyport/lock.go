package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

var lockColumns = []output.Column{{Heading: "Level", Path: "level"}, {Heading: "Name", Path: "name"}, {Heading: "ResourceGroup", Path: "resourceGroup"}, {Heading: "Notes", Path: "notes"}}

func (a *app) lockNoun() *cobra.Command {
	return a.noun("lock", "Manage locks, which keep what is at a scope and below it from being deleted or changed.",
		a.lockPut("create"), a.lockDelete(), a.lockList(), a.lockShow(), a.lockPut("update"))
}

// locked is what names the scope of locks, and one of them.
type locked struct {
	name, group, resource, namespace, parent, typ string
	ids                                           []string
}

// scopeFlags are those of the scope.
func (l *locked) scopeFlags(f *flags) {
	f.text(&l.group, "resource-group", "g", "Name of resource group. Default: the lock is on the subscription.")
	f.complete("resource-group", f.a.groupNames)
	f.text(&l.resource, "resource", "", "Name of the resource that is locked. Default: the lock is on the group.")
	f.alias("resource", "resource-name", "")
	f.text(&l.typ, "resource-type", "", "The resource's type, 'Namespace/type' or 'type'.")
	f.text(&l.namespace, "namespace", "", "Provider namespace, if the type does not name it.")
	f.text(&l.parent, "parent", "", "The parent's path, 'managedClusters/MyCluster'.")
}

// flags are those of one lock.
func (l *locked) flags(f *flags) {
	f.text(&l.name, "name", "n", "Name of the lock.")
	l.scopeFlags(f)
}

// oneOrIDs are those of locks that are there.
func (l *locked) oneOrIDs(f *flags) {
	l.flags(f)
	f.many(&l.ids, "ids", "", "Ids of locks, in place of the other arguments.")
}

// at is the path of the locks of the scope that the arguments mean.
func (l *locked) at(ctx context.Context, a *app) (string, error) {
	sub, err := a.subscription(ctx)
	if err != nil {
		return "", err
	}
	scope := "/subscriptions/" + sub
	switch {
	case l.resource != "":
		if l.group == "" || l.typ == "" {
			return "", usagef("the following arguments are required with --resource: --resource-group/-g, --resource-type")
		}
		scope, err = resourceID(sub, l.group, l.namespace, l.parent, l.typ, l.resource)
	case l.typ != "" || l.parent != "" || l.namespace != "":
		return "", usagef("the following arguments are required: --resource")
	case l.group != "":
		scope, err = a.groupID(ctx, l.group)
	}
	return client.Extend(scope, "Microsoft.Authorization/locks"), err
}

// one is the id of the lock that the arguments mean.
func (l *locked) one(ctx context.Context, a *app) (string, error) {
	if l.name == "" {
		return "", usagef("the following arguments are required: --name/-n")
	}
	if !arm.ValidLockName(l.name) {
		return "", usagef(`argument --name/-n: '%s' is not a lock's name: up to 260 characters without blanks and <>%%&:\?/`, l.name)
	}
	at, err := l.at(ctx, a)
	return at + "/" + url.PathEscape(l.name), err
}

// all are the ids that the arguments mean.
func (l *locked) all(ctx context.Context, a *app) ([]string, error) {
	if len(l.ids) == 0 {
		id, err := l.one(ctx, a)
		return []string{id}, err
	}
	for _, id := range l.ids {
		if parsed, err := arm.ParseID(id); err != nil || !strings.EqualFold(parsed.Type(), "Microsoft.Authorization/locks") {
			return nil, usagef("argument --ids: %q is not a lock's id", id)
		}
	}
	_, err := a.session()
	return l.ids, err
}

// shownLock is a lock as az shows it.
func shownLock(raw json.RawMessage) (any, error) {
	shown, err := flat(raw)
	if m, ok := shown.(map[string]any); ok {
		for _, name := range []string{"notes", "owners"} {
			if _, there := m[name]; !there {
				m[name] = nil
			}
		}
		delete(m, "systemData")
	}
	return shown, err
}

// shownLocks are several: az shows one that is alone by itself.
func shownLocks(raws []json.RawMessage) (any, error) {
	list := []any{}
	for _, raw := range raws {
		shown, err := shownLock(raw)
		if err != nil {
			return nil, err
		}
		list = append(list, shown)
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return list, nil
}

// lockPut is create, or update, which keeps what it is not told.
func (a *app) lockPut(verb string) *cobra.Command {
	var l locked
	var level, notes string
	updates := verb == "update"
	s := spec{
		use: verb, short: "Create a lock.",
		long: `Create a lock on the subscription, on a resource group or on a resource. It holds
for what lies below too. CanNotDelete stops deletions, ReadOnly every change.
What takes access away at once passes both: 'aks stop', and removing a secret,
a certificate or a federated credential.`,
		example: `
			sallyport lock create --name keep --lock-type CanNotDelete -g MyResourceGroup
			sallyport lock create --name keep --lock-type ReadOnly -g MyResourceGroup --resource-type Microsoft.ContainerService/managedClusters --resource MyCluster`,
		columns: lockColumns,
	}
	if updates {
		s.short, s.long, s.example = "Update a lock.", "", "sallyport lock update --name keep --notes 'until the audit is over' -g MyResourceGroup"
	}
	s.flags = func(f *flags) {
		if updates {
			l.oneOrIDs(f)
		} else {
			l.flags(f)
			f.require("name")
		}
		f.text(&level, "lock-type", "t", "The type of lock restriction: CanNotDelete, ReadOnly.")
		if !updates {
			f.require("lock-type")
		}
		f.text(&notes, "notes", "", "Notes about this lock.")
	}
	s.run = func(ctx context.Context, _ []string) (any, error) {
		ids, err := l.all(ctx, a)
		if err != nil {
			return nil, err
		}
		var raws []json.RawMessage
		for _, id := range ids {
			change := func(was json.RawMessage) (any, error) {
				var lock struct {
					Properties map[string]any `json:"properties"`
				}
				if was != nil {
					if err := json.Unmarshal(was, &lock); err != nil {
						return nil, err
					}
				}
				if lock.Properties == nil {
					lock.Properties = map[string]any{}
				}
				if level != "" {
					lock.Properties["level"] = level
				}
				if notes != "" {
					lock.Properties["notes"] = notes
				}
				return lock, nil
			}
			var raw json.RawMessage
			if updates {
				raw, err = a.amend(ctx, "Updating the lock", id, client.LocksVersion, false, change)
			} else if body, e := change(nil); e == nil {
				raw, err = a.begin(ctx, "Creating the lock", client.Request{Method: http.MethodPut, Path: id, Version: client.LocksVersion, Body: body})
			}
			if err != nil {
				return nil, err
			}
			raws = append(raws, raw)
		}
		return shownLocks(raws)
	}
	return a.command(s)
}

func (a *app) lockShow() *cobra.Command {
	var l locked
	return a.command(spec{
		use: "show", short: "Show the properties of a lock.",
		example: "sallyport lock show --name keep -g MyResourceGroup",
		flags:   l.oneOrIDs,
		columns: lockColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			ids, err := l.all(ctx, a)
			if err != nil {
				return nil, err
			}
			var raws []json.RawMessage
			for _, id := range ids {
				raw, err := a.arm.Get(ctx, id, client.LocksVersion)
				if err != nil {
					return nil, err
				}
				raws = append(raws, raw)
			}
			return shownLocks(raws)
		},
	})
}

func (a *app) lockList() *cobra.Command {
	var l locked
	var filter string
	return a.command(spec{
		use: "list", short: "List locks: those at a scope, around it and below it.",
		example: `
			sallyport lock list -o table
			sallyport lock list -g MyResourceGroup --filter-string 'atScope()'`,
		flags: func(f *flags) {
			l.scopeFlags(f)
			f.text(&filter, "filter-string", "", "'atScope()' leaves out those below the scope.")
		},
		columns: lockColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			at, err := l.at(ctx, a)
			if err != nil {
				return nil, err
			}
			if filter != "" {
				at += "?" + url.Values{"$filter": {filter}}.Encode()
			}
			list := []any{}
			for raw, err := range a.arm.Pages(ctx, at, client.LocksVersion) {
				if err != nil {
					return nil, err
				}
				shown, err := shownLock(raw)
				if err != nil {
					return nil, err
				}
				list = append(list, shown)
			}
			return list, nil
		},
	})
}

func (a *app) lockDelete() *cobra.Command {
	var l locked
	return a.command(spec{
		use: "delete", short: "Delete a lock.",
		example: "sallyport lock delete --name keep -g MyResourceGroup",
		flags:   l.oneOrIDs,
		run: func(ctx context.Context, _ []string) (any, error) {
			ids, err := l.all(ctx, a)
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				if err := a.remove(ctx, "Deleting lock", id, client.LocksVersion, false); err != nil {
					return nil, err
				}
			}
			return nil, nil
		},
	})
}
