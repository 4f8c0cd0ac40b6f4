package main

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

// featuresVersion is the api-version of Microsoft.Features.
const featuresVersion = "2021-07-01"

var featureColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "RegistrationState", Path: "properties.state"}}

func (a *app) feature() *cobra.Command {
	return a.noun("feature", "Manage preview features; nothing in Sallyport waits for one.",
		a.featureList(), a.featureCall("register", "Register a preview feature.", "register"), a.featureCall("show", "Show a preview feature.", ""),
		a.featureCall("unregister", "Unregister a preview feature.", "unregister"))
}

func (a *app) featureList() *cobra.Command {
	var namespace string
	return a.command(spec{
		use: "list", short: "List preview features.",
		example: "sallyport feature list --namespace Microsoft.ContainerService -o table",
		flags:   func(f *flags) { f.text(&namespace, "namespace", "", "The resource namespace.") },
		columns: featureColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			at := "/subscriptions/" + sub + "/providers/Microsoft.Features/"
			if namespace != "" {
				at += "providers/" + namespace + "/"
			}
			return a.arm.List(ctx, at+"features", featuresVersion)
		},
	})
}

// featureCall is a command on one feature; action is "" to show it.
func (a *app) featureCall(verb, short, action string) *cobra.Command {
	var namespace, name string
	return a.command(spec{
		use: verb, short: short,
		example: "sallyport feature " + verb + " --namespace Microsoft.ContainerService --name TrustedAccessPreview",
		flags: func(f *flags) {
			f.need(&namespace, "namespace", "", "The resource namespace, such as Microsoft.ContainerService.")
			f.need(&name, "name", "n", "The feature's name.")
		},
		columns: featureColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			r := client.Request{Method: http.MethodGet, Path: "/subscriptions/" + sub + "/providers/Microsoft.Features/providers/" + namespace + "/features/" + name, Version: featuresVersion}
			if action != "" {
				r.Method, r.Path = http.MethodPost, r.Path+"/"+action
			}
			res, err := a.arm.Do(ctx, r)
			if err != nil {
				return nil, err
			}
			if action == "register" {
				a.say("Trusted access needs no feature here: registering '%s' changes nothing.", name)
			}
			return whole(res.Body)
		},
	})
}

var providerColumns = []output.Column{{Heading: "Namespace", Path: "namespace"}, {Heading: "RegistrationPolicy", Path: "registrationPolicy"}, {Heading: "RegistrationState", Path: "registrationState"}}

func (a *app) provider() *cobra.Command {
	return a.noun("provider", "Manage resource providers.",
		a.providerList(), a.providerCall("register", "Register a resource provider.", "register"), a.providerCall("show", "Show a resource provider.", ""),
		a.providerCall("unregister", "Unregister a resource provider.", "unregister"))
}

func (a *app) providerList() *cobra.Command {
	return a.command(spec{
		use: "list", short: "List resource providers, with their types and api-versions.",
		example: "sallyport provider list -o table",
		columns: providerColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			return a.arm.List(ctx, "/subscriptions/"+sub+"/providers", client.ResourcesVersion)
		},
	})
}

// providerCall is a command on one provider; action is "" to show it.
func (a *app) providerCall(verb, short, action string) *cobra.Command {
	var namespace string
	var wait bool
	return a.command(spec{
		use: verb, short: short,
		example: "sallyport provider " + verb + " --namespace Microsoft.ContainerService",
		flags: func(f *flags) {
			f.need(&namespace, "namespace", "n", "The resource provider's namespace.")
			f.segment("namespace")
			if action != "" {
				f.flag(&wait, "wait", "", "Accepted for az's sake: it is done when the command ends.")
			}
		},
		columns: providerColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			sub, err := a.subscription(ctx)
			if err != nil {
				return nil, err
			}
			r := client.Request{Method: http.MethodGet, Path: "/subscriptions/" + sub + "/providers/" + namespace, Version: client.ResourcesVersion}
			if action != "" {
				r.Method, r.Path = http.MethodPost, r.Path+"/"+action
			}
			res, err := a.arm.Do(ctx, r)
			if err != nil || action != "" { // as az, which prints nothing then
				return nil, err
			}
			return whole(res.Body)
		},
	})
}

// builtIn are the extensions of az whose commands are ours.
var builtIn = []string{"aks-preview", "k8s-extension", "connectedk8s", "ml"}

func (a *app) extension() *cobra.Command {
	return a.noun("extension", "Accepted for az's sake: nothing has to be installed.",
		a.extensionCall("add"), a.extensionCall("update"), a.command(spec{
			use: "list", short: "List the installed extensions: none.",
			example: "sallyport extension list",
			run:     func(context.Context, []string) (any, error) { return []any{}, nil },
		}))
}

func (a *app) extensionCall(verb string) *cobra.Command {
	var name string
	var upgrade, yes bool
	return a.command(spec{
		use: verb, short: "Accepted for az's sake: nothing has to be installed.",
		example: "sallyport extension " + verb + " --name aks-preview",
		flags: func(f *flags) {
			f.need(&name, "name", "n", "Name of the extension.")
			f.flag(&upgrade, "upgrade", "", "Accepted for az's sake.")
			f.flag(&yes, "yes", "y", "Accepted for az's sake.")
		},
		run: func(context.Context, []string) (any, error) {
			if !slices.Contains(builtIn, strings.ToLower(name)) {
				return nil, trust.Errorf(trust.Invalid, "No matching extensions for '%s'. Sallyport has no extensions; those of az that it knows are %s", name, strings.Join(builtIn, ", "))
			}
			a.say("Nothing is needed: what sallyport has of '%s' is built in.", name)
			return nil, nil
		},
	})
}
