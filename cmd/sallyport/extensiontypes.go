package main

import (
	"context"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

var (
	extensionTypeColumns    = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "DefaultScope", Path: "supportedScopes.defaultScope"}, {Heading: "ClusterTypes", Path: "join(', ', supportedClusterTypes)"}}
	extensionVersionColumns = []output.Column{{Heading: "Version", Path: "version"}}
)

// extensionTypes are the types of extensions that a cluster, or the clusters of a
// location, can have: eight commands in az, of two words each.
func (a *app) extensionTypes() *cobra.Command {
	var all []*cobra.Command
	for _, by := range []string{"cluster", "location"} {
		all = append(all,
			a.extensionTypesAt(by, "list", "List the types of extensions"),
			a.extensionTypesAt(by, "show", "Show a type of extension"),
			a.extensionTypesAt(by, "list-versions", "List the versions of a type of extension"),
			a.extensionTypesAt(by, "show-version", "Show a version of a type of extension"))
	}
	return a.noun("extension-types", "See the types of extensions that there are.", all...)
}

func (a *app) extensionTypesAt(by, verb, short string) *cobra.Command {
	var x extensionOn
	var location, typ, version, train, major string
	one, versions := strings.HasPrefix(verb, "show"), strings.Contains(verb, "version")
	s := spec{
		use: verb + "-by-" + by, short: short + " that a " + by + " has.",
		example: "sallyport k8s-extension extension-types " + verb + "-by-" + by + map[string]string{"cluster": " -g MyResourceGroup -c MyCluster -t managedClusters", "location": " -l westeurope"}[by],
		columns: extensionTypeColumns,
	}
	if verb != "list" {
		s.example += " --extension-type Microsoft.AzureML.Kubernetes"
	}
	if verb == "show-version" {
		s.example += " --version 1.0.0"
	}
	if versions {
		s.columns = extensionVersionColumns
	}
	s.flags = func(f *flags) {
		if by == "cluster" {
			x.place(f)
		} else {
			f.need(&location, "location", "l", "Name of the location.")
		}
		if verb != "list" {
			f.need(&typ, "extension-type", "", "Name of the type, such as Microsoft.AzureML.Kubernetes.")
		}
		if verb == "show-version" {
			f.need(&version, "version", "", "The version.")
		}
		if verb == "list-versions" {
			f.text(&train, "release-train", "", "Only those of this release train.")
			f.text(&major, "major-version", "", "Only those of this major version.")
		}
	}
	s.run = func(ctx context.Context, _ []string) (any, error) {
		at, err := x.typesPath(ctx, a, location)
		if err != nil {
			return nil, err
		}
		for _, part := range []struct {
			there bool
			text  string
		}{{typ != "", url.PathEscape(typ)}, {versions, "versions"}, {version != "", url.PathEscape(version)}} {
			if part.there {
				at += "/" + part.text
			}
		}
		if one {
			return a.get(ctx, at, client.ExtensionTypesVersion)
		}
		query := url.Values{}
		if train != "" {
			query.Set("releaseTrain", train)
		}
		if major != "" {
			query.Set("majorVersion", major)
		}
		if len(query) > 0 {
			at += "?" + query.Encode()
		}
		return a.list(ctx, at, client.ExtensionTypesVersion)
	}
	return a.command(s)
}

// typesPath is where the types are listed that the arguments mean.
func (x *extensionOn) typesPath(ctx context.Context, a *app, location string) (string, error) {
	if location == "" {
		extensions, err := x.path(ctx, a)
		return strings.TrimSuffix(extensions, "/extensions") + "/extensionTypes", err
	}
	sub, err := a.subscription(ctx)
	return "/subscriptions/" + sub + "/providers/Microsoft.KubernetesConfiguration/locations/" + url.PathEscape(location) + "/extensionTypes", err
}
