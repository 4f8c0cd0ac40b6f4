package main

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
)

var resourceColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "ResourceGroup", Path: "resourceGroup"}, {Heading: "Location", Path: "location"}, {Heading: "Type", Path: "type"}}

func (a *app) resource() *cobra.Command {
	return a.noun("resource", "See resources of any type.", a.resourceList(), a.resourceShow())
}

func (a *app) resourceList() *cobra.Command {
	var group, typ, namespace, name, location, tag string
	return a.command(spec{
		use: "list", short: "List resources: clusters, and the services that bindings name.",
		example: "sallyport resource list --resource-type Microsoft.ContainerService/managedClusters -o table",
		flags: func(f *flags) {
			f.text(&group, "resource-group", "g", "Name of resource group.")
			f.complete("resource-group", a.groupNames)
			f.text(&typ, "resource-type", "", "Only those of this type, 'Namespace/type'.")
			f.text(&namespace, "namespace", "", "Provider namespace, if the type does not name it.")
			f.text(&name, "name", "n", "Only those of this name.")
			f.text(&location, "location", "l", "Only those at this location.")
			tagFlag(f, &tag)
		},
		columns: resourceColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			at := "/subscriptions/" + sub
			if group != "" {
				at += "/resourceGroups/" + group
			}
			terms, err := tagTerms(tag)
			if err != nil {
				return nil, err
			}
			if namespace != "" {
				if typ == "" {
					return nil, usagef("--namespace also requires --resource-type")
				}
				typ = namespace + "/" + typ
			}
			for _, t := range [][2]string{{"resourceType", typ}, {"name", name}, {"location", location}} {
				if t[1] != "" {
					terms = append(terms, t[0]+" eq "+odata(t[1]))
				}
			}
			at = filteredBy(at+"/resources", terms)
			more := "?"
			if len(terms) > 0 {
				more = "&"
			}
			list, err := a.arm.List(ctx, at+more+"$expand=createdTime,changedTime,provisioningState", client.ResourcesVersion)
			if err != nil {
				return nil, err
			}
			all := []any{}
			for _, raw := range list {
				v, err := withGroup(raw)
				if err != nil {
					return nil, err
				}
				all = append(all, v)
			}
			return all, nil
		},
	})
}

// tagFlag declares az's --tag.
func tagFlag(f *flags, p *string) {
	f.text(p, "tag", "", "Only those with this tag: key[=value], or key* for keys that begin so.")
}

// tagTerms are the terms of a $filter for what --tag says.
func tagTerms(tag string) ([]string, error) {
	name, value, valued := strings.Cut(tag, "=")
	prefix, cut := strings.CutSuffix(name, "*")
	switch {
	case tag == "":
		return nil, nil
	case name == "" || cut && valued:
		return nil, usagef("argument --tag: '%s' is not key[=value], or key* for keys that begin so", tag)
	case cut:
		return []string{"startswith(tagname, " + odata(prefix) + ")"}, nil
	}
	terms := []string{"tagname eq " + odata(name)}
	if value != "" {
		terms = append(terms, "tagvalue eq "+odata(value))
	}
	return terms, nil
}

// odata is a value as a $filter quotes it.
func odata(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// filteredBy is a path with a $filter of terms, if there are any.
func filteredBy(path string, terms []string) string {
	if len(terms) == 0 {
		return path
	}
	return path + "?" + url.Values{"$filter": {strings.Join(terms, " and ")}}.Encode()
}

// withGroup is a resource with its properties where they are, and the resource
// group taken out of the id, as az resource shows it.
func withGroup(raw json.RawMessage) (any, error) {
	v, err := whole(raw)
	if m, ok := v.(map[string]any); ok {
		if id, ok := m["id"].(string); ok {
			if parsed, err := arm.ParseID(id); err == nil && parsed.Group != "" {
				m["resourceGroup"] = parsed.Group
			}
		}
	}
	return v, err
}

func (a *app) resourceShow() *cobra.Command {
	var id, group, name, typ, namespace, parent, version string
	return a.command(spec{
		use: "show", short: "Get a resource of any type.",
		example: `
			sallyport resource show --ids /subscriptions/0b1f6471-1bf0-4dda-aec3-111122223333/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/c
			sallyport resource show -g MyResourceGroup -n MyCluster --resource-type Microsoft.ContainerService/managedClusters`,
		flags: func(f *flags) {
			f.text(&id, "ids", "", "Resource id; the other arguments are left out then.")
			f.text(&group, "resource-group", "g", "Name of resource group.")
			f.complete("resource-group", a.groupNames)
			f.text(&name, "name", "n", "The resource's name.")
			f.text(&typ, "resource-type", "", "The resource's type, 'Namespace/type' or 'type'.")
			f.text(&namespace, "namespace", "", "Provider namespace, if the type does not name it.")
			f.text(&parent, "parent", "", "The parent's path, 'managedClusters/MyCluster'.")
			f.text(&version, "api-version", "", "Default: the newest stable one that the provider names.")
		},
		columns: resourceColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			if id == "" {
				if name == "" || typ == "" {
					return nil, usagef("the following arguments are required: --ids, or --name/-n and --resource-type")
				}
				sub, err := a.subscription(ctx)
				if err != nil {
					return nil, err
				}
				if id, err = resourceID(sub, group, namespace, parent, typ, name); err != nil {
					return nil, err
				}
			}
			parsed, err := arm.ParseID(id)
			if err != nil {
				return nil, usageError{err}
			}
			c, err := a.session()
			if err != nil {
				return nil, err
			}
			if version == "" {
				if version, err = versionOf(ctx, c, parsed); err != nil {
					return nil, err
				}
			}
			raw, err := c.Get(ctx, id, version)
			if err != nil {
				return nil, err
			}
			return withGroup(raw)
		},
	})
}

// resourceID puts an id together from az's arguments.
func resourceID(sub, group, namespace, parent, typ, name string) (string, error) {
	if ns, rest, ok := strings.Cut(typ, "/"); ok && namespace == "" {
		namespace, typ = ns, rest
	}
	if namespace == "" {
		return "", usagef("argument --resource-type: %q names no provider; write Namespace/type, or give --namespace", typ)
	}
	id := "/subscriptions/" + sub
	if group != "" {
		id += "/resourceGroups/" + group
	}
	id += "/providers/" + namespace
	if parent = strings.Trim(parent, "/"); parent != "" {
		id += "/" + parent
	}
	return id + "/" + typ + "/" + name, nil
}

// anyVersion is asked with where a provider names no version of a type: types
// that are nobody's here take all.
const anyVersion = "2024-01-01"

// versionOf chooses an api-version as az does: from the provider's own list.
func versionOf(ctx context.Context, c *client.Client, id arm.ID) (string, error) {
	switch {
	case !id.IsResource():
		return client.ResourcesVersion, nil
	case id.Subscription == "":
		return client.AuthorizationVersion, nil
	}
	raw, err := c.Get(ctx, "/subscriptions/"+id.Subscription+"/providers/"+id.Namespace(), client.ResourcesVersion)
	if notFound(err) {
		return anyVersion, nil
	}
	if err != nil {
		return "", err
	}
	var p struct {
		ResourceTypes []struct{ ResourceType, DefaultAPIVersion string }
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return "", err
	}
	_, typ, _ := strings.Cut(id.Type(), "/")
	for _, t := range p.ResourceTypes {
		if strings.EqualFold(t.ResourceType, typ) && t.DefaultAPIVersion != "" {
			return t.DefaultAPIVersion, nil
		}
	}
	return anyVersion, nil
}
