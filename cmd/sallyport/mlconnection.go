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

var connectionColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "Category", Path: "category"}, {Heading: "Target", Path: "target"}}

// connectionFile is az's YAML of a connection to a container registry.
type connectionFile struct {
	Schema      string `json:"$schema"`
	Name        string `json:"name"`
	Type        string `json:"type"`
	Target      string `json:"target"`
	Credentials struct {
		Type     string `json:"type"`
		Username string `json:"username"`
		Password string `json:"password"`
	} `json:"credentials"`
}

func (a *app) mlConnection() *cobra.Command {
	return a.noun("connection", "Name container registries with the credentials that pods pull images with.",
		a.connectionCreate(), a.childShow("show", "Show a connection, without its credentials.", "connection", "connections", connectionColumns),
		a.childList("List the connections of a workspace.", "connection", "connections", connectionColumns), a.connectionDelete())
}

func (a *app) connectionCreate() *cobra.Command {
	var n inWorkspace
	var file string
	return a.command(spec{
		use: "create", short: "Make or change a connection to a container registry.",
		long: `Make or change a connection to a container registry, written in az's YAML:
name, type: container_registry, target, and credentials with type: username_password,
username and password. Pods of the workspace's computes pull images with it.`,
		example: "sallyport ml connection create -f registry.yml -g MyResourceGroup -w MyWorkspace",
		flags: func(f *flags) {
			f.need(&file, "file", "f", "The connection's YAML. Keep it 0600: it holds a password.")
			n.flags(f)
			f.text(&n.name, "name", "n", "Name of the connection. Default: the file's.")
		},
		columns: connectionColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			raw, err := os.ReadFile(file)
			if err != nil {
				return nil, trust.Errorf(trust.Invalid, "%s cannot be read", file).Because(err)
			}
			var c connectionFile
			if err := yaml.UnmarshalStrict(raw, &c); err != nil {
				return nil, trust.Errorf(trust.Invalid, "%s does not read as a connection", file) // the cause may quote the password
			}
			if n.name = orText(n.name, c.Name); n.name == "" {
				return nil, usagef("give --name, or a name in the file")
			}
			id, err := n.id(ctx, a, "connections")
			if err != nil {
				return nil, err
			}
			category, auth := c.Type, c.Credentials.Type
			if strings.EqualFold(category, "container_registry") {
				category = "ContainerRegistry"
			}
			if strings.EqualFold(auth, "username_password") {
				auth = "UsernamePassword"
			}
			raw, err = a.begin(ctx, "Creating connection "+n.name, client.Request{Method: http.MethodPut, Path: id, Version: mlVersion, Body: map[string]any{"properties": map[string]any{
				"category": category, "authType": auth, "target": c.Target,
				"credentials": map[string]any{"username": c.Credentials.Username, "password": c.Credentials.Password}}}})
			if err != nil {
				return nil, err
			}
			return flat(raw)
		},
	})
}

func (a *app) connectionDelete() *cobra.Command {
	var n inWorkspace
	var yes bool
	return a.command(spec{
		use: "delete", short: "Delete a connection; clusters forget its credentials.", example: "sallyport ml connection delete -g MyResourceGroup -w MyWorkspace -n NAME",
		flags: func(f *flags) {
			n.named(f, "connection")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a, "connections")
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting connection "+n.name, id, mlVersion, false)
		},
	})
}
