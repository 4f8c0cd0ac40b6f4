package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/cmd/sallyport/output"
	"github.com/sallyport/sallyport/trust"
)

var extensionColumns = []output.Column{{Heading: "Name", Path: "name"}, {Heading: "ExtensionType", Path: "extensionType"}, {Heading: "Version", Path: "currentVersion"},
	{Heading: "ProvisioningState", Path: "provisioningState"}, {Heading: "Scope", Path: "keys(scope)[0]"}}

func (a *app) k8sExtension() *cobra.Command {
	return a.noun("k8s-extension", "Manage extensions of clusters, such as Azure ML's.",
		a.extensionCreate(), a.extensionUpdate(), a.extensionShow(), a.extensionList(), a.extensionDelete(), a.extensionWait(),
		a.extensionAccept(), a.extensionWithdraw(), a.extensionTypes())
}

// extensionOn is which extension of which cluster, as az names it.
type extensionOn struct{ group, cluster, clusterType, name string }

func (x *extensionOn) flags(f *flags) {
	x.place(f)
	f.need(&x.name, "name", "n", "Name of the extension instance.")
	f.segment("name")
}

func (x *extensionOn) place(f *flags) {
	f.group(&x.group)
	f.need(&x.cluster, "cluster-name", "c", "Name of the cluster.")
	f.complete("cluster-name", f.a.clusterNames)
	f.need(&x.clusterType, "cluster-type", "t", "managedClusters, or connectedClusters: both are registered clusters here.")
}

// path is where the cluster's extensions are.
func (x *extensionOn) path(ctx context.Context, a *app) (string, error) {
	provider := ""
	for name, p := range map[string]string{"managedClusters": "Microsoft.ContainerService/managedClusters", "connectedClusters": "Microsoft.Kubernetes/connectedClusters"} {
		if strings.EqualFold(x.clusterType, name) {
			provider = p
		}
	}
	if provider == "" {
		return "", usagef("argument --cluster-type/-t: invalid choice: '%s' (choose from managedClusters, connectedClusters)", x.clusterType)
	}
	id, err := a.clusterID(ctx, x.group, x.cluster)
	if err != nil {
		return "", err
	}
	at := strings.Replace(id, "Microsoft.ContainerService/managedClusters", provider, 1)
	return client.ExtensionsPath(at), nil
}

func (x *extensionOn) id(ctx context.Context, a *app) (string, error) {
	at, err := x.path(ctx, a)
	return at + "/" + x.name, err
}

// extensionSettings are the settings as az takes them.
type extensionSettings struct {
	plain, protected         []string
	plainFile, protectedFile string
	autoUpgrade, version     string
	train                    string
	noWait                   bool
}

func (s *extensionSettings) flags(f *flags) {
	f.many(&s.plain, "configuration-settings", "", "Settings, key=value key=value. Names match without regard to case.")
	f.alias("configuration-settings", "config", "")
	f.many(&s.protected, "configuration-protected-settings", "", "Settings that no answer shows again, key=value. A certificate's or key's is the path of its file.")
	f.alias("configuration-protected-settings", "config-protected", "")
	f.text(&s.plainFile, "configuration-settings-file", "", "JSON file with settings; --configuration-settings goes before it.")
	f.alias("configuration-settings-file", "config-file", "")
	f.text(&s.protectedFile, "configuration-protected-settings-file", "", "JSON file with protected settings.")
	f.alias("configuration-protected-settings-file", "config-protected-file", "")
	f.text(&s.autoUpgrade, "auto-upgrade-minor-version", "", "true or false. Default: true.")
	f.alias("auto-upgrade-minor-version", "auto-upgrade", "")
	f.text(&s.version, "version", "", "Version to stay at; needs --auto-upgrade-minor-version false.")
	f.text(&s.train, "release-train", "", "Release train, such as stable.")
	f.flag(&s.noWait, "no-wait", "", "Do not wait for the long-running operation to finish.")
}

// properties are the members of a body that the settings make; what was not
// given is not in it.
func (s *extensionSettings) properties() (map[string]any, error) {
	p := map[string]any{}
	for _, of := range []struct{ member, argument, file, fileArgument string }{
		{"configurationSettings", "--configuration-settings", s.plainFile, "--configuration-settings-file"},
		{"configurationProtectedSettings", "--configuration-protected-settings", s.protectedFile, "--configuration-protected-settings-file"},
	} {
		given := s.plain
		if of.member != "configurationSettings" {
			given = s.protected
		}
		settings, err := settingsOf(of.argument, given, of.fileArgument, of.file)
		if err != nil {
			return nil, err
		}
		if settings != nil {
			p[of.member] = settings
		}
	}
	if s.autoUpgrade != "" {
		on, err := strconv.ParseBool(strings.ToLower(s.autoUpgrade))
		if err != nil {
			return nil, usagef("argument --auto-upgrade-minor-version: invalid choice: '%s' (choose from true, false)", s.autoUpgrade)
		}
		p["autoUpgradeMinorVersion"] = on
	}
	if s.version != "" {
		p["version"] = s.version
	}
	if s.train != "" {
		p["releaseTrain"] = s.train
	}
	return p, nil
}

// settingsOf reads key=value pairs and a JSON file of them; nil if neither was
// given.
func settingsOf(argument string, pairs []string, fileArgument, file string) (map[string]string, error) {
	if len(pairs) == 0 && file == "" {
		return nil, nil
	}
	all := map[string]string{}
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, trust.Errorf(trust.Invalid, "argument %s: %s cannot be read", fileArgument, file).Because(err)
		}
		if err := json.Unmarshal(data, &all); err != nil {
			return nil, trust.Errorf(trust.Invalid, "argument %s: %s is not a JSON object of strings", fileArgument, file).Because(err)
		}
	}
	given, err := keyValues(argument, pairs)
	if err != nil {
		return nil, err
	}
	for k, v := range given {
		for old := range all {
			if strings.EqualFold(old, k) {
				delete(all, old)
			}
		}
		all[k] = v
	}
	for k, v := range all {
		if slices.ContainsFunc([]string{"sslCertPemFile", "sslKeyPemFile"}, func(f string) bool { return strings.EqualFold(f, k) }) {
			data, err := os.ReadFile(v)
			if err != nil {
				return nil, trust.Errorf(trust.Invalid, "argument %s: %s names a file that cannot be read", argument, k).Because(err)
			}
			all[k] = string(data)
		}
	}
	return all, nil
}

func (a *app) extensionCreate() *cobra.Command {
	var x extensionOn
	var s extensionSettings
	var typ, scope, release, target string
	return a.command(spec{
		use: "create", short: "Create a cluster extension: it is installed, and the command ends when it is.",
		long: `Create an extension of a cluster. The cluster's installer puts it there, if the
cluster's owner has accepted its type; otherwise the answer names the command for that.
Settings that have no effect here are kept and warned of.`,
		example: `sallyport k8s-extension create -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters --name azureml --extension-type Microsoft.AzureML.Kubernetes --scope cluster --config enableTraining=True enableInference=True inferenceRouterServiceType=loadBalancer allowInsecureConnections=True`,
		flags: func(f *flags) {
			x.flags(f)
			f.need(&typ, "extension-type", "", "Extension type, such as Microsoft.AzureML.Kubernetes.")
			f.text(&scope, "scope", "", "cluster or namespace. Default: cluster.")
			f.text(&release, "release-namespace", "", "Namespace to install in, with --scope cluster.")
			f.text(&target, "target-namespace", "", "The namespace that it is for, with --scope namespace.")
			s.flags(f)
		},
		columns: extensionColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			where, err := scopeOf(scope, release, target)
			if err != nil {
				return nil, err
			}
			properties, err := s.properties()
			if err != nil {
				return nil, err
			}
			id, err := x.id(ctx, a)
			if err != nil {
				return nil, err
			}
			properties["extensionType"], properties["scope"] = typ, where
			return a.putExtension(ctx, "Creating extension "+x.name, s.noWait, client.Request{Method: http.MethodPut, Path: id, Version: client.ExtensionsVersion,
				Body: map[string]any{"identity": client.Identity{Type: "SystemAssigned"}, "properties": properties}})
		},
	})
}

// scopeOf is the scope that az's three arguments mean.
func scopeOf(scope, release, target string) (map[string]any, error) {
	switch {
	case scope == "" || strings.EqualFold(scope, "cluster"):
		if target != "" {
			return nil, usagef("argument --target-namespace: not allowed with --scope cluster; --release-namespace says where it is installed")
		}
		return map[string]any{"cluster": map[string]string{"releaseNamespace": release}}, nil
	case strings.EqualFold(scope, "namespace"):
		if release != "" {
			return nil, usagef("argument --release-namespace: not allowed with --scope namespace; --target-namespace says which one it is for")
		}
		return map[string]any{"namespace": map[string]string{"targetNamespace": target}}, nil
	}
	return nil, usagef("argument --scope: invalid choice: '%s' (choose from cluster, namespace)", scope)
}

// putExtension writes an extension, says what the server thinks of it, and waits
// for the installer unless told not to.
func (a *app) putExtension(ctx context.Context, what string, noWait bool, r client.Request) (any, error) {
	c, err := a.session()
	if err != nil {
		return nil, err
	}
	o, err := c.Begin(ctx, r)
	if err != nil {
		return nil, err
	}
	a.extensionWarnings(o.Initial.Body)
	if noWait {
		return nil, nil
	}
	raw, err := a.wait(ctx, what, o)
	if err != nil {
		return nil, err
	}
	return flat(raw)
}

// extensionWarnings are the server's remarks on settings: another spelling, no
// effect here.
func (a *app) extensionWarnings(body []byte) {
	var x struct {
		Properties struct {
			Statuses []struct{ Level, Message string }
		}
	}
	if json.Unmarshal(body, &x) != nil {
		return // a body that is no extension has no remarks
	}
	for _, s := range x.Properties.Statuses {
		if s.Level == "Warning" {
			a.warn("%s", s.Message)
		}
	}
}

// impact says what changing a setting does to what runs, as az asks about it; ""
// for settings that interrupt nothing.
func impact(properties map[string]any) []string {
	const endpoints = "online endpoints and deployments"
	of := map[string]string{"enabletraining": "jobs", "enableinference": endpoints, "installnvidiadeviceplugin": "jobs and " + endpoints,
		"allowinsecureconnections": endpoints, "inferencerouterservicetype": endpoints, "internalloadbalancerprovider": endpoints, "sslcname": endpoints}
	var out []string
	settings, _ := properties["configurationSettings"].(map[string]string)
	for k, v := range settings {
		key := strings.ToLower(k)
		what := of[key]
		switch {
		case strings.HasPrefix(key, "nodeselector."):
			what = "jobs and " + endpoints
		case (key == "enabletraining" || key == "enableinference" || key == "installnvidiadeviceplugin") && strings.EqualFold(v, "true"):
			what = "" // only turning it off interrupts anything
		}
		if what != "" {
			out = append(out, fmt.Sprintf("Setting '%s' to '%s' may interrupt %s.", k, v, what))
		}
	}
	slices.Sort(out)
	return out
}

func (a *app) extensionUpdate() *cobra.Command {
	var x extensionOn
	var s extensionSettings
	var yes bool
	return a.command(spec{
		use: "update", short: "Update a cluster extension.",
		long: `Update an extension of a cluster. Settings are added to those that it has; protected
settings replace all that it has.`,
		example: `sallyport k8s-extension update -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters --name azureml --config enableInference=True`,
		flags: func(f *flags) {
			x.flags(f)
			s.flags(f)
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		columns: extensionColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			properties, err := s.properties()
			if err != nil {
				return nil, err
			}
			if len(properties) == 0 {
				return nil, usagef("there is nothing to update: give --configuration-settings, --configuration-protected-settings, --version, --release-train or --auto-upgrade-minor-version")
			}
			id, err := x.id(ctx, a)
			if err != nil {
				return nil, err
			}
			for _, what := range impact(properties) {
				a.warn("%s", what)
			}
			if properties["configurationProtectedSettings"] != nil {
				a.warn("Protected settings that are not given again are removed.")
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return a.putExtension(ctx, "Updating extension "+x.name, s.noWait, client.Request{Method: http.MethodPatch, Path: id, Version: client.ExtensionsVersion,
				Body: map[string]any{"properties": properties}})
		},
	})
}

func (a *app) extensionShow() *cobra.Command {
	var x extensionOn
	return a.command(spec{
		use: "show", short: "Show a cluster extension.",
		example: "sallyport k8s-extension show -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters --name azureml",
		flags:   func(f *flags) { x.flags(f) },
		columns: extensionColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := x.id(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.get(ctx, id, client.ExtensionsVersion)
		},
	})
}

func (a *app) extensionList() *cobra.Command {
	var x extensionOn
	return a.command(spec{
		use: "list", short: "List a cluster's extensions.",
		example: "sallyport k8s-extension list -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters",
		flags:   func(f *flags) { x.place(f) },
		columns: extensionColumns,
		run: func(ctx context.Context, _ []string) (any, error) {
			at, err := x.path(ctx, a)
			if err != nil {
				return nil, err
			}
			return a.list(ctx, at, client.ExtensionsVersion)
		},
	})
}

func (a *app) extensionDelete() *cobra.Command {
	var x extensionOn
	var yes, force, noWait bool
	return a.command(spec{
		use: "delete", short: "Delete a cluster extension: it is taken out of the cluster.",
		long: `Delete an extension of a cluster. When the command ends, the installer has removed
it. With --force only the record goes: what is in the cluster stays there.`,
		example: "sallyport k8s-extension delete -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters --name azureml",
		flags: func(f *flags) {
			x.flags(f)
			f.flag(&force, "force", "", "Forget the extension without removing it from the cluster.")
			f.flag(&noWait, "no-wait", "", "Do not wait for the long-running operation to finish.")
			f.flag(&yes, "yes", "y", "Do not prompt for confirmation.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := x.id(ctx, a)
			if err != nil {
				return nil, err
			}
			if force {
				a.warn("--force forgets the extension; what it installed stays in the cluster.")
				id += "?forceDelete=true"
			}
			if err := a.confirm(yes, sure); err != nil {
				return nil, err
			}
			return nil, a.remove(ctx, "Deleting extension "+x.name, id, client.ExtensionsVersion, noWait)
		},
	})
}
