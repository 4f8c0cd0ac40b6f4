package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

func defaultInstallerImage() string { return "ghcr.io/sallyport/sallyport-installer:" + version }

// acceptFlags are what a cluster's owner says of a type of extensions.
type acceptFlags struct {
	extensionOn
	typ, workspace      string
	namespaces          []string
	image, installer    string
	claim, scoringURL   string
	httpsProxy, noProxy string
	noInstaller         bool
	timeout             time.Duration
	withdrawn           bool // names and namespaces are enough: nothing may stand in the way
}

func (x *acceptFlags) flags(f *flags) {
	x.place(f)
	f.need(&x.typ, "extension-type", "", "Extension type, such as Microsoft.AzureML.Kubernetes.")
	f.many(&x.namespaces, "namespace", "", "Namespaces: of Microsoft.AzureML.Kubernetes those that workspaces may attach (default: default), of others those that it may be installed in.")
	f.text(&x.image, "image", "", "Image of what the extension runs, best by digest. Default: this version's.")
	f.text(&x.installer, "installer-image", "", "Image of the installer; see 'sallyport image save --program sallyport-installer'. Default: "+defaultInstallerImage()+".")
	f.text(&x.workspace, "workspace-name", "w", "A workspace of the resource group, which shows the ML service's key. Default: any. Microsoft.AzureML.Kubernetes only.")
	f.text(&x.claim, "log-claim", "", "PersistentVolumeClaim in namespace azureml for jobs' logs. Default: they are lost with the gateway's pod.")
	f.text(&x.scoringURL, "scoring-url", "", "Where callers reach online endpoints, when that is not the router's Service: https://HOST[/PATH].")
	f.text(&x.httpsProxy, "https-proxy", "", "URL of the CONNECT proxy by which the installer reaches the server.")
	f.text(&x.noProxy, "no-proxy", "", "More hosts that are not reached through it, comma-separated.")
	f.DurationVar(&x.timeout, "timeout", 0, "How long what is installed may take until it runs, before it is rolled back. Default: 5m.")
	f.flag(&x.noInstaller, "no-installer", "", "Leave the installer's Deployment out: it runs elsewhere, with the same rights.")
}

func (a *app) extensionAccept() *cobra.Command {
	var x acceptFlags
	var chart string
	return a.command(spec{
		use: "accept", short: "Print what a cluster's owner applies to accept a type of extensions.",
		long: `Print what a cluster's owner applies, with their own rights, to accept a type of
extensions: its namespace and kinds, the installer, which does not run while there is
nothing to do, its rights for this type, and the consent to one chart, by digest. Images
and namespaces are named here and nowhere else: no setting of an extension changes them.
Nothing is applied.`,
		example: "sallyport k8s-extension accept -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters --extension-type Microsoft.AzureML.Kubernetes --namespace training | kubectl apply -f -",
		flags: func(f *flags) {
			x.flags(f)
			f.text(&chart, "chart", "", "Folder to write the chart to that is accepted, to read it.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			if chart != "" {
				files, err := deploy.ExtensionChart(x.typ)
				if err == nil {
					err = writeChartFiles(chart, files)
				}
				if err != nil {
					return nil, err
				}
			}
			return nil, a.printConsent(ctx, &x, deploy.Accept, "Accepts extensions of type %s on cluster %s of %s.")
		},
	})
}

func (a *app) extensionWithdraw() *cobra.Command {
	x := acceptFlags{withdrawn: true}
	return a.command(spec{
		use: "withdraw", short: "Print what a cluster's owner deletes to accept a type of extensions no longer.",
		long: `Print what a cluster's owner deletes, with their own rights, to take their consent to a
type of extensions back: everything that 'accept' printed but the installer itself, which
other types may need. Delete extensions of the type first: with the consent goes their
namespace, and the right to remove them. Name the same namespaces as for 'accept'.`,
		example: "sallyport k8s-extension withdraw -g myResourceGroup --cluster-name myCluster --cluster-type managedClusters --extension-type Microsoft.AzureML.Kubernetes --namespace training | kubectl delete --ignore-not-found -f -",
		flags:   x.flags,
		run: func(ctx context.Context, _ []string) (any, error) {
			return nil, a.printConsent(ctx, &x, deploy.Withdraw, "To be deleted: the consent to extensions of type %s on cluster %s of %s.")
		},
	})
}

func (a *app) printConsent(ctx context.Context, x *acceptFlags, render func(deploy.Options, deploy.Accepted) ([]rbac.Explained, error), header string) error {
	t, err := extension.Find(x.typ)
	if err != nil {
		return err
	}
	if _, err := x.extensionOn.path(ctx, a); err != nil { // the cluster's type is one that there is
		return err
	}
	id, err := a.clusterID(ctx, x.group, x.cluster)
	if err != nil {
		return err
	}
	c, err := a.session()
	if err != nil {
		return err
	}
	connection, err := c.Connection(ctx, id)
	if err != nil {
		return err
	}
	p := connection.Properties
	o := deploy.Options{Cluster: trust.ClusterUID(p.ClusterUID), Server: p.Server, ServerCA: []byte(p.ServerCA), MandateKey: []byte(p.MandateKey),
		Image: x.installer, HTTPSProxy: x.httpsProxy, NoProxy: x.noProxy, NoAgents: x.noInstaller, InstallTimeout: x.timeout}
	if o.Image == "" {
		o.Image = defaultInstallerImage()
	}
	accepted, err := a.acceptedType(ctx, x, &t, id)
	if err != nil {
		return err
	}
	objects, err := render(o, accepted)
	if err != nil {
		return err
	}
	text, err := deploy.YAML(fmt.Sprintf(header, t.Name, x.cluster, p.Server), objects)
	if err != nil {
		return err
	}
	a.busy.stop()
	_, err = a.out.Write(text)
	return err
}

// acceptedType is the type with what its owner says of it.
func (a *app) acceptedType(ctx context.Context, x *acceptFlags, t *extension.Type, cluster string) (deploy.Accepted, error) {
	if t.Name != "Microsoft.AzureML.Kubernetes" {
		if x.workspace != "" || x.claim != "" || x.scoringURL != "" {
			return nil, usagef("arguments --workspace-name/-w, --log-claim and --scoring-url are Microsoft.AzureML.Kubernetes' only")
		}
		o := deploy.ProbeOptions{Namespaces: someNamespaces(x.namespaces, t.ReleaseNamespace), Image: x.image}
		if o.Image == "" {
			o.Image = defaultImage()
		}
		return o, nil
	}
	o := deploy.MLOptions{Namespaces: someNamespaces(x.namespaces, "default"), Image: x.image, LogClaim: x.claim, ScoringURL: x.scoringURL}
	if o.Image == "" {
		o.Image = defaultMLImage()
	}
	if x.withdrawn {
		return o, nil
	}
	workspace, err := a.anyWorkspace(ctx, x.group, x.workspace)
	if err != nil {
		return nil, err
	}
	return o, a.mlBelieves(ctx, cluster, workspace, &o)
}

// anyWorkspace is the id of the named workspace of a group, or of any in the
// group's subscription.
func (a *app) anyWorkspace(ctx context.Context, group, name string) (string, error) {
	if name != "" {
		return a.workspaceID(ctx, group, name)
	}
	id, err := a.groupID(ctx, group)
	if err != nil {
		return "", err
	}
	c, err := a.session()
	if err != nil {
		return "", err
	}
	subscription, _, _ := strings.Cut(id, "/resourceGroups/")
	for raw, err := range c.Pages(ctx, subscription+"/providers/Microsoft.MachineLearningServices/workspaces", mlVersion) {
		if err != nil {
			return "", err
		}
		var w struct{ ID string }
		if err := json.Unmarshal(raw, &w); err != nil {
			return "", trust.Errorf(trust.Internal, "the server's list of workspaces cannot be read").Because(err)
		}
		return w.ID, nil
	}
	e := trust.Errorf(trust.Precondition, "there is no workspace yet, and the ML service's key, which the extension believes, is read from one")
	e.Hint = "sallyport ml workspace create -g " + group + " -n NAME"
	return "", e
}
