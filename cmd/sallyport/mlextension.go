package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

func defaultMLImage() string { return "ghcr.io/sallyport/sallyport-ml:" + version }

func (a *app) extensionManifest() *cobra.Command {
	var n inWorkspace
	var cluster, image, claim string
	var namespaces []string
	var noWorkloads, noTraining bool
	var router mlRouter
	return a.command(spec{
		use: "manifest", short: "Print what the cluster's owner applies to have the ML extension.",
		long: `Print what the cluster's owner applies, with their own rights, to have the ML
extension: its kinds, two identities with few rights, and a Role in each namespace
that workspaces may attach. Naming a namespace is consent to jobs in it. Whom the
extension believes is read from the server: the authority's public keys, and the key
with which the ML service signs newer ones, as any workspace's credential shows it.`,
		example: "sallyport ml extension manifest -g MyResourceGroup --cluster-name C -w MyWorkspace --namespace training | kubectl apply -f -",
		flags: func(f *flags) {
			n.flags(f)
			f.need(&cluster, "cluster-name", "", "The cluster, in the same resource group.")
			f.complete("cluster-name", a.clusterNames)
			f.many(&namespaces, "namespace", "", "Namespaces that workspaces may attach. Default: default.")
			f.text(&image, "image", "", "Image of the extension; see 'sallyport image save --program sallyport-ml'. Default: "+defaultMLImage()+".")
			f.text(&claim, "log-claim", "", "PersistentVolumeClaim in namespace azureml for jobs' logs. Default: they are lost with the gateway's pod.")
			router.flags(f)
			f.flag(&noTraining, "no-training", "", "Refuse jobs: the cluster serves only.")
			f.flag(&noWorkloads, "no-workloads", "", "Leave the Deployments out: they run elsewhere.")
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			o := deploy.MLOptions{Image: image, LogClaim: claim, NoWorkloads: noWorkloads, NoTraining: noTraining}
			if o.Image == "" {
				o.Image = defaultMLImage()
			}
			var err error
			if o.Router, err = router.options(); err != nil {
				return nil, err
			}
			o.Namespaces = someNamespaces(namespaces, "default")
			id, err := a.clusterID(ctx, n.group, cluster)
			if err != nil {
				return nil, err
			}
			workspace, err := a.workspaceID(ctx, n.group, n.workspace)
			if err != nil {
				return nil, err
			}
			if err := a.mlBelieves(ctx, id, workspace, &o); err != nil {
				return nil, err
			}
			objects, err := deploy.ML(o)
			if err != nil {
				return nil, err
			}
			text, err := deploy.YAML(fmt.Sprintf("The ML extension of %s, for workspaces of %s.\nIt believes tokens for %s.", cluster, a.arm.Server(), o.Audience), objects)
			if err != nil {
				return nil, err
			}
			a.busy.stop()
			_, err = a.out.Write(text)
			return nil, err
		},
	})
}

// someNamespaces are those of a flag, or the one that it stands for.
func someNamespaces(given []string, none string) []string {
	var all []string
	for _, v := range given {
		all = append(all, commas(v)...)
	}
	if len(all) == 0 {
		all = []string{none}
	}
	return all
}

// mlBelieves fills in whom the extension on a cluster believes. Any workspace
// shows the ML service's key.
func (a *app) mlBelieves(ctx context.Context, cluster, workspace string, o *deploy.MLOptions) error {
	c, err := a.session()
	if err != nil {
		return err
	}
	registered, err := c.Cluster(ctx, cluster)
	if err != nil {
		return err
	}
	o.Audience = wire.Audience(c.Server(), registered.Properties.ResourceUID)
	if o.MLKey, err = mlKey(ctx, c, workspace); err != nil {
		return err
	}
	o.Tenant, o.Number = a.context.Tenant, time.Now().UnixMilli() // before reading: whoever reads later knows better
	o.Issuer, o.Keys, err = a.authorityKeys(ctx)
	return err
}

// mlKey is the ML service's public key, as PEM: what every workspace's own
// credential is checked with.
func mlKey(ctx context.Context, c *client.Client, workspace string) ([]byte, error) {
	raw, err := c.Get(ctx, client.FederatedPath(workspace)+"/sallyport-ml", client.SallyportVersion)
	if err != nil {
		return nil, err
	}
	var f client.FederatedCredential
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, err
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(f.Properties.Keys, &set); err != nil || len(set.Keys) != 1 {
		return nil, trust.Errorf(trust.Invalid, "the workspace's federated credential sallyport-ml holds no key of the ML service")
	}
	der, err := x509.MarshalPKIXPublicKey(set.Keys[0].Key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// authorityKeys are the issuer of workspaces' tokens and its public keys, as
// anybody reads them.
func (a *app) authorityKeys(ctx context.Context) (issuer string, keys []byte, err error) {
	tenant := a.arm.Server() + "/" + a.context.Tenant
	raw, err := a.arm.Get(ctx, "/"+a.context.Tenant+"/discovery/v2.0/keys", "")
	if err != nil {
		return "", nil, err
	}
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) == 0 {
		return "", nil, trust.Errorf(trust.Unavailable, "the authority shows no keys now")
	}
	return tenant + "/v2.0", raw, nil
}
