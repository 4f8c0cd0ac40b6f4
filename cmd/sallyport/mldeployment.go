package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var deploymentColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "State", Path: "provisioningState"}, {Heading: "Instances", Path: "sku.capacity"},
	{Heading: "Ready", Path: "properties.readyInstances"}, {Heading: "Reason", Path: "properties.statusReason"}}

func (a *app) mlDeployment() *cobra.Command {
	return a.noun("online-deployment", "Run model servers for an endpoint.",
		a.deploymentPut("create"), a.deploymentPut("update"), a.deploymentShow(), a.deploymentList(), a.deploymentDelete(), a.deploymentLogs())
}

// onEndpoint is what az names a deployment with.
type onEndpoint struct {
	inWorkspace
	endpoint string
}

func (n *onEndpoint) flags(f *flags) {
	f.need(&n.endpoint, "endpoint-name", "e", "Name of the endpoint.")
	n.inWorkspace.flags(f)
}

func (n *onEndpoint) named(f *flags) {
	f.need(&n.name, "name", "n", "Name of the deployment.")
	n.flags(f)
}

// id is a deployment's id, or the collection's.
func (n *onEndpoint) id(ctx context.Context, a *app) (string, error) {
	if !arm.ValidSegment(n.endpoint) {
		return "", usagef("argument --endpoint-name/-e: '%s' is not an endpoint's name", n.endpoint)
	}
	return n.inWorkspace.id(ctx, a, endpointType+"/"+n.endpoint+"/deployments")
}

func (a *app) deploymentPut(use string) *cobra.Command {
	var n onEndpoint
	var file string
	var sets []string
	var all, noWait bool
	s := spec{use: use, short: "Create a deployment.", columns: deploymentColumns,
		long: `Create a deployment, written in the YAML of az's Kubernetes online deployments:
environment (an image, with inference_config where it answers), model, model_mount_path,
environment_variables, instance_type, instance_count, resources, liveness_probe, readiness_probe,
request_settings, scale_settings, tags. Requests come when its replicas are ready. What
is not supported is refused by name.`,
		example: "sallyport ml online-deployment create -g MyResourceGroup -w MyWorkspace -f blue.yml --all-traffic"}
	if use == "update" {
		s.short, s.long = "Change a deployment: what is not named stays as it is.", `Change a deployment: what is not named stays as it is. Replicas are replaced one by one,
each when its successor takes requests; no request is lost.`
		s.example = `
			sallyport ml online-deployment update -g MyResourceGroup -w MyWorkspace -f blue.yml
			sallyport ml online-deployment update -g MyResourceGroup -w MyWorkspace -e fraud -n blue --set instance_count=3`
	}
	s.flags = func(f *flags) {
		f.text(&file, "file", "f", "The deployment's YAML.")
		f.text(&n.name, "name", "n", "Name of the deployment. Default: the file's.")
		f.text(&n.endpoint, "endpoint-name", "e", "Name of the endpoint. Default: the file's.")
		n.inWorkspace.flags(f)
		if use == "create" {
			f.flag(&all, "all-traffic", "", "Give it all of the endpoint's traffic when it is ready.")
		}
		f.many(&sets, "set", "", "Changes to the YAML: PATH=VALUE, such as instance_count=3.")
		f.flag(&noWait, "no-wait", "", "Do not wait until it is ready.")
	}
	s.run = func(ctx context.Context, _ []string) (any, error) {
		if all && noWait {
			return nil, usagef("argument --all-traffic: not allowed with --no-wait")
		}
		var d deploymentFile
		if err := readServed(file, sets, &d, "a Kubernetes online deployment"); err != nil {
			return nil, err
		}
		if n.name == "" {
			n.name = d.Name
		}
		if n.endpoint == "" {
			n.endpoint = d.EndpointName
		}
		if n.name == "" || n.endpoint == "" {
			return nil, usagef("the following arguments are required: --name/-n and --endpoint-name/-e, or name and endpoint_name in --file/-f")
		}
		id, err := n.id(ctx, a)
		if err != nil {
			return nil, err
		}
		r := client.Request{Method: http.MethodPatch, Path: id, Version: mlVersion}
		if use == "create" {
			r.Method, r.Header = http.MethodPut, ifNone()
			if err := a.absent(ctx, id, "deployment", n.name); err != nil {
				return nil, err
			}
		}
		if r.Body, err = a.deploymentBody(ctx, &n, &d, use == "create"); err != nil {
			return nil, err
		}
		shown, err := a.change(ctx, use, n.name, r, noWait)
		if err != nil || !all {
			return shown, made(err, servedExists("deployment", n.name))
		}
		return shown, a.allTraffic(ctx, &n)
	}
	return a.command(s)
}

// deploymentBody is the deployment as ARM takes it.
func (a *app) deploymentBody(ctx context.Context, n *onEndpoint, d *deploymentFile, whole bool) (map[string]any, error) {
	workspace, err := a.workspaceID(ctx, n.group, n.workspace)
	if err != nil {
		return nil, err
	}
	body := d.body()
	p := body["properties"].(map[string]any)
	if whole || d.Type != "" {
		p["endpointComputeType"] = d.Type // the server says why it does not take another
		if d.Type == "" || strings.EqualFold(d.Type, "kubernetes") {
			p["endpointComputeType"] = "Kubernetes"
		}
	}
	if len(d.Environment) > 0 {
		if p["environmentId"], err = a.environmentID(ctx, workspace, d.Environment); err != nil {
			return nil, err
		}
	} else if whole {
		return nil, usagef("a deployment needs an environment")
	}
	if len(d.Model) > 0 && string(d.Model) != "null" {
		if p["model"], err = a.modelID(ctx, workspace, d.Model); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// modelID finds the version of a model that a deployment names.
func (a *app) modelID(ctx context.Context, workspace string, raw json.RawMessage) (string, error) {
	var name string
	if json.Unmarshal(raw, &name) != nil {
		return "", trust.Errorf(trust.Invalid, "model: name a registered one, azureml:NAME:VERSION or azureml:NAME@latest; see 'sallyport ml model create'")
	}
	if strings.HasPrefix(name, "/") {
		return name, nil
	}
	return a.versionNamed(ctx, "model", workspace, "models", name)
}

// allTraffic gives one deployment everything.
func (a *app) allTraffic(ctx context.Context, n *onEndpoint) error {
	list, err := n.id(ctx, a)
	if err != nil {
		return err
	}
	list = strings.TrimSuffix(list, "/"+n.name)
	all, err := a.list(ctx, list, mlVersion)
	if err != nil {
		return err
	}
	split := map[string]int{}
	for _, v := range all.([]any) {
		if m, ok := v.(map[string]any); ok {
			split[fmt.Sprint(m["name"])] = 0
		}
	}
	split[n.name] = 100
	_, err = a.begin(ctx, "Giving all traffic to "+n.name, client.Request{Method: http.MethodPatch, Path: strings.TrimSuffix(list, "/deployments"), Version: mlVersion,
		Body: map[string]any{"properties": map[string]any{"traffic": split}}})
	return err
}

func (a *app) deploymentShow() *cobra.Command {
	var n onEndpoint
	return a.command(spec{
		use: "show", short: "Show a deployment.", example: "sallyport ml online-deployment show -g MyResourceGroup -w MyWorkspace -e fraud -n blue",
		flags:   n.named,
		columns: deploymentColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, mlVersion)
		},
	})
}

func (a *app) deploymentList() *cobra.Command {
	var n onEndpoint
	return a.command(spec{
		use: "list", short: "List the deployments of an endpoint.", example: "sallyport ml online-deployment list -g MyResourceGroup -w MyWorkspace -e fraud -o table",
		flags:   n.flags,
		columns: deploymentColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, id, mlVersion)
		},
	})
}

func (a *app) deploymentDelete() *cobra.Command {
	var n onEndpoint
	var yes, noWait bool
	return a.command(spec{
		use: "delete", short: "Delete a deployment that gets no traffic.",
		example: "sallyport ml online-deployment delete -g MyResourceGroup -w MyWorkspace -e fraud -n blue",
		flags: func(f *flags) {
			n.named(f)
			f.flag(&noWait, "no-wait", "", "Do not wait until it is gone.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := n.id(ctx, a)
			if err != nil {
				return nil, err
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting "+n.name, id, mlVersion, noWait)
		},
	})
}

func (a *app) deploymentLogs() *cobra.Command {
	var n onEndpoint
	var container string
	var lines int
	return a.command(spec{
		use: "get-logs", short: "Show what a deployment's replicas have written lately.",
		example: "sallyport ml online-deployment get-logs -g MyResourceGroup -w MyWorkspace -e fraud -n blue --lines 100",
		flags: func(f *flags) {
			n.named(f)
			f.IntVarP(&lines, "lines", "l", 5000, "Lines of each replica.")
			f.text(&container, "container", "c", "inference-server or storage-initializer. Default: inference-server.")
		},
		text: func(w io.Writer, result any) error {
			_, err := io.WriteString(w, result.(string))
			return err
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			kind, known := map[string]string{"": "InferenceServer", "inference-server": "InferenceServer", "storage-initializer": "StorageInitializer"}[container]
			if !known {
				return nil, usagef("argument --container/-c: invalid choice: '%s' (choose from inference-server, storage-initializer)", container)
			}
			id, err := n.id(ctx, a)
			if err != nil {
				return nil, err
			}
			var log struct{ Content string }
			if err := a.post(ctx, id+"/getLogs", map[string]any{"containerType": kind, "tail": lines}, &log); err != nil {
				return nil, err
			}
			return log.Content, nil
		},
	})
}
