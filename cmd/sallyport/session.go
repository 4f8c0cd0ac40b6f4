package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// config is the file of contexts.
func (a *app) config() (*client.File, error) {
	if a.file != nil {
		return a.file, nil
	}
	path, err := client.ConfigPath()
	if err != nil {
		return nil, err
	}
	a.file, err = client.Load(path)
	return a.file, err
}

// session is the context in use and a client for it.
func (a *app) session() (*client.Client, error) {
	if a.arm != nil {
		return a.arm, nil
	}
	file, err := a.config()
	if err != nil {
		return nil, err
	}
	name := a.contextName
	if name == "" {
		name = os.Getenv("SALLYPORT_CONTEXT")
	}
	if a.context, err = file.Use(name); err != nil {
		return nil, err
	}
	credential, err := a.context.Credential(file.Tokens())
	if err != nil {
		return nil, err
	}
	c := client.Config{Server: a.context.Server, Trust: client.ServerTrust{CA: a.context.CA}, Credential: credential, UserAgent: "sallyport/" + version}
	if a.debugging {
		c.Trace = func(method, url string, status int, took time.Duration, id string) {
			a.say("DEBUG: %s %s -> %d in %s (request %s)", method, url, status, took.Round(time.Millisecond), id)
		}
	}
	a.arm, err = client.New(c)
	return a.arm, err
}

// subscription is the GUID of the subscription in use: of --subscription, by id
// or name, else of the context, else the only one there is.
func (a *app) subscription(ctx context.Context) (string, error) {
	c, err := a.session()
	if err != nil {
		return "", err
	}
	want := a.sub
	if want == "" {
		want = a.context.Subscription
	}
	if arm.ValidGUID(want) {
		return want, nil
	}
	all, err := c.Subscriptions(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range all {
		if want != "" && strings.EqualFold(s.DisplayName, want) {
			return s.SubscriptionID, nil
		}
	}
	switch {
	case want != "":
		e := trust.Errorf(trust.NotFound, "The subscription of '%s' doesn't exist in context '%s'.", want, a.context.Name)
		e.Hint = "sallyport account list"
		return "", e
	case len(all) == 0:
		return "", trust.Errorf(trust.NotFound, "No subscription is visible to this caller.")
	case len(all) > 1:
		e := trust.Errorf(trust.Invalid, "There are %d subscriptions and none is chosen.", len(all))
		e.Hint = "sallyport account set --subscription NAME_OR_ID"
		return "", e
	}
	return all[0].SubscriptionID, nil
}

// groupID, clusterID and bindingID are the ids that az's pairs of names mean.
func (a *app) groupID(ctx context.Context, group string) (string, error) {
	sub, err := a.subscription(ctx)
	if err != nil {
		return "", err
	}
	if !arm.ValidGroupName(group) {
		return "", usagef("argument --resource-group/-g: '%s' is not a resource group's name", group)
	}
	return "/subscriptions/" + sub + "/resourceGroups/" + group, nil
}

func (a *app) clusterID(ctx context.Context, group, name string) (string, error) {
	id, err := a.groupID(ctx, group)
	if err != nil {
		return "", err
	}
	if !arm.ValidClusterName(name) {
		return "", usagef("argument --name/-n: '%s' is not a cluster's name: up to 63 letters, digits, '-' and '_'", name)
	}
	return client.ClusterID(id, name), nil
}

func (a *app) bindingID(ctx context.Context, group, cluster, name string) (string, error) {
	id, err := a.clusterID(ctx, group, cluster)
	if err != nil {
		return "", err
	}
	if !arm.ValidBindingName(name) {
		return "", usagef("argument --name/-n: '%s' is not a role binding's name: 1 to 24 letters, digits and '-'", name)
	}
	return client.BindingID(id, name), nil
}

// wait follows an operation and says what it waits for.
func (a *app) wait(ctx context.Context, what string, o *client.Operation) (json.RawMessage, error) {
	a.busy.doing(what, "")
	raw, err := o.Wait(ctx, func(o *client.Operation) {
		reason := o.Reason
		if reason == "" {
			reason = "the server has not said yet what it waits for; state " + o.Status
		}
		a.busy.doing(what, reason)
	})
	if err == nil && strings.EqualFold(o.Status, "Succeeded") && o.Reason != "" {
		a.warn("%s", o.Reason)
	}
	return raw, err
}

// begin is a call and its wait.
func (a *app) begin(ctx context.Context, what string, r client.Request) (json.RawMessage, error) {
	c, err := a.session()
	if err != nil {
		return nil, err
	}
	a.busy.doing(what, "")
	o, err := c.Begin(ctx, r)
	if err != nil {
		return nil, err
	}
	return a.wait(ctx, what, o)
}

// get and list read resources as az shows them.
func (a *app) get(ctx context.Context, path, version string) (any, error) {
	c, err := a.session()
	if err != nil {
		return nil, err
	}
	raw, err := c.Get(ctx, path, version)
	if err != nil {
		return nil, err
	}
	return flat(raw)
}

func (a *app) list(ctx context.Context, path, version string) (any, error) {
	c, err := a.session()
	if err != nil {
		return nil, err
	}
	all := []any{}
	for raw, err := range c.Pages(ctx, path, version) {
		if err != nil {
			return nil, err
		}
		v, err := flat(raw)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// whole reads a resource without lifting its properties, as az shows resource
// groups.
func whole(raw json.RawMessage) (any, error) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, trust.Errorf(trust.Internal, "the server's answer cannot be read").Because(err)
	}
	return v, nil
}

// flat is a resource as az shows it: properties lifted to the top, the resource
// group taken out of the id, systemData null where there is none.
func flat(raw json.RawMessage) (any, error) {
	v, err := whole(raw)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return v, nil
	}
	properties, ok := m["properties"].(map[string]any)
	if !ok {
		return m, nil
	}
	delete(m, "properties")
	for k, p := range properties {
		if _, taken := m[k]; !taken {
			m[k] = p
		}
	}
	if id, ok := m["id"].(string); ok {
		if parsed, err := arm.ParseID(id); err == nil && parsed.Group != "" {
			m["resourceGroup"] = parsed.Group
		}
	}
	if _, ok := m["systemData"]; !ok {
		m["systemData"] = nil
	}
	return m, nil
}

// notFound tells a missing thing from any other failure.
func notFound(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Status == 404
}

// splitRoles reads --roles: "A,B", "A, B", "A B" and several of these.
func splitRoles(values []string) ([]string, error) {
	var roles []string
	for _, v := range values {
		for _, r := range strings.FieldsFunc(v, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' || c == '\n' }) {
			if slices.ContainsFunc(roles, func(o string) bool { return strings.EqualFold(o, r) }) {
				return nil, usagef("argument --roles: %s is named twice", r)
			}
			if strings.Count(r, "/") < 2 {
				return nil, usagef("argument --roles: %q is not a role: it must read <resource type>/<role>, such as Microsoft.MachineLearningServices/workspaces/mlworkload", r)
			}
			roles = append(roles, r)
		}
	}
	if len(roles) == 0 {
		return nil, usagef("argument --roles: expected at least one role")
	}
	return roles, nil
}

// parseTags reads "--tags a=b c".
func parseTags(values []string) (map[string]string, error) {
	if len(values) == 0 {
		return nil, nil
	}
	tags := map[string]string{}
	for _, v := range values {
		for _, t := range strings.Fields(v) {
			name, value, _ := strings.Cut(t, "=")
			if name == "" {
				return nil, fmt.Errorf("argument --tags: %w", usagef("%q has no name", t))
			}
			tags[name] = value
		}
	}
	return tags, nil
}

// Names for completion; a failure completes nothing.
func (a *app) groupNames(ctx context.Context) []string {
	sub, err := a.subscription(ctx)
	if err != nil {
		return nil
	}
	var names []string
	groups, err := a.arm.Groups(ctx, sub)
	if err != nil {
		return nil
	}
	for _, g := range groups {
		names = append(names, g.Name)
	}
	return names
}

func (a *app) clusterNames(ctx context.Context) []string {
	sub, err := a.subscription(ctx)
	if err != nil {
		return nil
	}
	clusters, err := a.arm.Clusters(ctx, sub, "")
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range clusters {
		names = append(names, c.Name)
	}
	return names
}

func (a *app) roleNames(ctx context.Context) []string {
	sub, err := a.subscription(ctx)
	if err != nil {
		return nil
	}
	var names []string
	locations, err := a.arm.Locations(ctx, sub)
	if err != nil || len(locations) == 0 {
		return nil
	}
	roles, err := a.arm.Roles(ctx, sub, locations[0].Name)
	if err != nil {
		return nil
	}
	for _, r := range roles {
		names = append(names, r.SourceResourceType+"/"+r.Name)
	}
	return names
}
