package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/declared"
	"github.com/sallyport/sallyport/trust"
)

func (a *app) export() *cobra.Command {
	var folder, group, set string
	var overwrite bool
	return a.command(spec{
		use: "export", short: "Write sources, roles, bindings and what they lie in as files for apply.",
		long: `Write what the subscription has as YAML files that "sallyport apply" takes: one for
the roles, one for each resource group, and one for what lies in no group.
Nothing is exported that is secret: client secrets and private keys are not.
` + filesForm,
		example: `
			sallyport export -f ./access
			sallyport export -g MyResourceGroup -f -`,
		flags: func(f *flags) {
			f.need(&folder, "filename", "f", "Folder to write to; '-' is stdout.")
			f.text(&group, "resource-group", "g", "Only this resource group, without roles.")
			f.complete("resource-group", a.groupNames)
			f.text(&set, "set", "", "Only what this set of files keeps.")
			f.flag(&overwrite, "overwrite-existing", "", "Overwrite files that are there; what else is in the folder stays.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			e := &exporter{app: a, subscription: sub, set: set, files: map[string][]any{}}
			if err := e.collect(ctx, group); err != nil {
				return nil, err
			}
			a.busy.stop()
			if folder == "-" {
				var all []any
				for _, name := range e.names {
					all = append(all, e.files[name]...)
				}
				text, err := declared.File(all)
				if err == nil {
					_, err = a.out.Write(text)
				}
				return nil, err
			}
			return e.write(folder, overwrite)
		},
	})
}

// exporter collects what goes into which file.
type exporter struct {
	app               *app
	subscription, set string
	names             []string // of files, in order
	files             map[string][]any
}

func (e *exporter) add(file string, spec any) {
	if _, ok := e.files[file]; !ok {
		e.names = append(e.names, file)
	}
	e.files[file] = append(e.files[file], spec)
}

// each calls with every resource of a list that the set keeps.
func (e *exporter) each(ctx context.Context, kind declared.Kind, path string, do func(id string, spec any) error) error {
	list, err := e.app.arm.List(ctx, path, versionOfKind(kind))
	if err != nil {
		return err
	}
	for _, raw := range list {
		id, err := idOf(raw)
		if err != nil {
			return err
		}
		live, err := declared.FromServer(kind, raw)
		if err != nil {
			return err
		}
		if e.set != "" && live.Set != e.set && kind != declared.KindFederated {
			continue
		}
		if err := do(id, live.Spec); err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) collect(ctx context.Context, group string) error {
	at := "/subscriptions/" + e.subscription
	if group == "" {
		if err := e.each(ctx, declared.KindRole, client.OwnRolesPath(e.subscription), func(_ string, spec any) error {
			e.add("roles.yaml", spec)
			return nil
		}); err != nil {
			return err
		}
	}
	groups, err := e.app.arm.Groups(ctx, e.subscription)
	if err != nil {
		return err
	}
	found := false
	for _, g := range groups {
		if group != "" && trust.Fold(group) != trust.Fold(g.Name) {
			continue
		}
		found = true
		if err := e.group(ctx, g); err != nil {
			return err
		}
	}
	if group != "" {
		if !found {
			return trust.Errorf(trust.NotFound, "Resource group '%s' could not be found.", group)
		}
		return nil
	}
	return e.sources(ctx, at, "subscription.yaml", true)
}

// group adds a group's file.
func (e *exporter) group(ctx context.Context, g client.Group) error {
	file := "group-" + g.Name + ".yaml"
	live, err := e.app.arm.Get(ctx, g.ID, client.ResourcesVersion)
	if err != nil {
		return err
	}
	l, err := declared.FromServer(declared.KindGroup, live)
	if err != nil {
		return err
	}
	if e.set == "" || l.Set == e.set {
		e.add(file, l.Spec)
	}
	if err := e.sources(ctx, g.ID, file, false); err != nil {
		return err
	}
	clusters, err := e.app.arm.Clusters(ctx, e.subscription, g.Name)
	if err != nil {
		return err
	}
	if err := e.each(ctx, declared.KindCluster, g.ID+"/providers/Microsoft.ContainerService/managedClusters", func(_ string, spec any) error {
		e.add(file, spec)
		return nil
	}); err != nil {
		return err
	}
	for _, c := range clusters {
		if err := e.each(ctx, declared.KindBinding, client.BindingsPath(c.ID), func(_ string, spec any) error {
			b := spec.(*declared.Binding)
			b.SourceResourceID = declared.Portable(b.SourceResourceID, e.subscription)
			e.add(file, b)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// sources adds the sources at a scope with their federated credentials: all of
// a group's, or those of a subscription that lie in no group.
func (e *exporter) sources(ctx context.Context, scope, file string, noGroup bool) error {
	list, err := e.app.sourcesOf(ctx, scope)
	if err != nil {
		return err
	}
	for _, listed := range list {
		if id, err := arm.ParseID(listed.id); noGroup && err == nil && id.Group != "" {
			continue
		}
		raw, err := e.app.arm.Get(ctx, listed.id, client.SallyportVersion)
		if err != nil {
			return err
		}
		live, err := declared.FromServer(declared.KindSource, raw)
		if err != nil {
			return err
		}
		s := live.Spec.(*declared.Source)
		if e.set != "" && live.Set != e.set || s.Identity != "" {
			continue // what has no identity can be bound to nothing
		}
		if err := e.each(ctx, declared.KindFederated, client.FederatedPath(listed.id), func(_ string, spec any) error {
			if f := spec.(*declared.Federated); !f.Reserved() {
				s.FederatedCredentials = append(s.FederatedCredentials, *f)
			}
			return nil
		}); err != nil {
			return err
		}
		s.ID = declared.Portable(s.ID, e.subscription)
		e.add(file, s)
	}
	return nil
}

// write writes the files, each at once or not at all.
func (e *exporter) write(folder string, overwrite bool) (any, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, trust.Errorf(trust.Invalid, "argument --filename/-f: %s cannot be made", folder).Because(err)
	}
	var there []string
	for _, name := range e.names {
		if _, err := os.Lstat(filepath.Join(folder, name)); err == nil {
			there = append(there, filepath.Join(folder, name))
		}
	}
	if len(there) > 0 && !overwrite {
		err := trust.Errorf(trust.Exists, "%v: there already; nothing was written", there)
		err.Hint = "give --overwrite-existing, or another folder"
		return nil, err
	}
	written := []any{}
	for _, name := range e.names {
		text, err := declared.File(e.files[name])
		if err != nil {
			return nil, err
		}
		path := filepath.Join(folder, name)
		if err := replaceFile(path, text); err != nil {
			return nil, err
		}
		written = append(written, map[string]any{"file": path, "resources": len(e.files[name])})
	}
	return written, nil
}
