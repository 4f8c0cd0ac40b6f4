package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// asIdentity is who a token is for: an identity that shows its own credential.
type asIdentity struct{ clientID, tenant, secretFile, tokenFile, certificateFile string }

func (w *asIdentity) flags(f *flags) {
	f.text(&w.clientID, "client-id", "", "Client id of the identity to be, instead of the current context's caller.")
	f.text(&w.tenant, "tenant", "", "Its tenant. Default: the context's.")
	f.text(&w.secretFile, "client-secret-file", "", "File with its client secret.")
	f.text(&w.certificateFile, "certificate-file", "", "PEM file with its private key and registered certificate.")
	f.text(&w.tokenFile, "federated-token-file", "", "File with a token of another issuer, read anew each time.")
}

func (w *asIdentity) check() error {
	given := 0
	for _, pair := range w.credentials() {
		if pair[1] != "" {
			given++
		}
	}
	switch {
	case w.clientID == "" && given > 0:
		return usagef("the following arguments are required: --client-id")
	case w.clientID != "" && given != 1:
		return usagef("with --client-id give one of --client-secret-file, --certificate-file and --federated-token-file")
	}
	return nil
}

// credentials are the ways to prove it, by their flags.
func (w *asIdentity) credentials() [][2]string {
	return [][2]string{{"--client-secret-file", w.secretFile}, {"--certificate-file", w.certificateFile}, {"--federated-token-file", w.tokenFile}}
}

// into makes a kubeconfig's plugin ask for this identity's tokens.
func (w *asIdentity) into(c *api.Config, tenant string) error {
	if err := w.check(); err != nil || w.clientID == "" {
		return err
	}
	if w.tenant != "" {
		tenant = w.tenant
	}
	for _, user := range c.AuthInfos {
		if user.Exec == nil {
			continue
		}
		user.Exec.ProvideClusterInfo = true // the server's CA, for callers without a context
		user.Exec.Args = append(user.Exec.Args, "--client-id", w.clientID, "--tenant", tenant)
		for _, pair := range w.credentials() {
			if pair[1] == "" {
				continue
			}
			path, err := filepath.Abs(pair[1])
			if err != nil {
				return err
			}
			user.Exec.Args = append(user.Exec.Args, pair[0], path)
		}
	}
	return nil
}

// credential is how the identity gets tokens; server is its authority.
func (w *asIdentity) credential(server, ca string, cache *client.TokenCache) (*client.AuthorityCredential, error) {
	c := client.Context{Name: "--client-id " + w.clientID, Server: server, CA: ca, Tenant: w.tenant, ClientID: w.clientID, SecretFile: w.secretFile, AssertionFile: w.tokenFile, CertificateFile: w.certificateFile}
	return c.Credential(cache)
}

// fromEnvironment fills in what workload identity and the Azure SDKs set.
func (w *asIdentity) fromEnvironment() {
	if w.clientID != "" || os.Getenv("AZURE_CLIENT_ID") == "" || os.Getenv("AZURE_FEDERATED_TOKEN_FILE") == "" {
		return
	}
	w.clientID, w.tokenFile = os.Getenv("AZURE_CLIENT_ID"), os.Getenv("AZURE_FEDERATED_TOKEN_FILE")
	if w.tenant == "" {
		w.tenant = os.Getenv("AZURE_TENANT_ID")
	}
}

func (a *app) kubeconfigNoun() *cobra.Command {
	return a.noun("kubeconfig", "What kubectl runs to get tokens.", a.kubeconfigCredential())
}

// execCredential is the answer to kubectl (client.authentication.k8s.io/v1).
type execCredential struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Status     struct {
		Token               string    `json:"token"`
		ExpirationTimestamp time.Time `json:"expirationTimestamp"`
	} `json:"status"`
}

func (a *app) kubeconfigCredential() *cobra.Command {
	var server, uid string
	var who asIdentity
	return a.command(spec{
		use: "credential", short: "Print a token for one cluster, as kubectl's credential plugins do.",
		long: `Print a token for one cluster as a client.authentication.k8s.io/v1 ExecCredential.
Kubeconfigs of 'sallyport aks get-credentials' name this command; kubectl runs it
when its token ends. Tokens are good for that cluster alone and for 15 minutes.

The caller is, in this order: --client-id with its credential, AZURE_CLIENT_ID with
AZURE_FEDERATED_TOKEN_FILE, the context of that server.`,
		example: "sallyport kubeconfig credential --server https://sallyport.example.com --cluster-uid UID",
		flags: func(f *flags) {
			f.need(&server, "server", "", "URL of the Sallyport server.")
			f.need(&uid, "cluster-uid", "", "Uid of the cluster's registration.")
			who.flags(f)
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			who.fromEnvironment()
			if err := who.check(); err != nil {
				return nil, err
			}
			server = strings.TrimSuffix(server, "/")
			credential, err := a.clusterCredential(&who, server)
			if err != nil {
				return nil, err
			}
			token, err := credential.Get(ctx, server+"/clusters/"+uid+"/.default", false)
			if err != nil {
				return nil, err
			}
			out := execCredential{APIVersion: "client.authentication.k8s.io/v1", Kind: "ExecCredential"}
			// kubectl asks again when this time has come: a little before the end.
			out.Status.Token, out.Status.ExpirationTimestamp = token.Value, token.Expires.Add(-time.Minute).UTC().Truncate(time.Second)
			data, err := json.Marshal(out)
			if err != nil {
				return nil, err
			}
			// kubectl reads this and no other format, whatever --output says.
			_, err = a.out.Write(append(data, '\n'))
			return nil, err
		},
	})
}

// clusterCredential finds who calls, and the server's CA.
func (a *app) clusterCredential(who *asIdentity, server string) (*client.AuthorityCredential, error) {
	file, err := a.config()
	var cache *client.TokenCache
	switch {
	case err == nil:
		cache = file.Tokens()
	case who.clientID == "":
		return nil, err
	default: // in a pod there may be no home, and none is needed
		file = &client.File{}
	}
	var mine *client.Context
	for i := range file.Contexts {
		c := &file.Contexts[i]
		if strings.TrimSuffix(c.Server, "/") != server || a.contextName != "" && c.Name != a.contextName {
			continue
		}
		if mine == nil || c.Name == file.Current {
			mine = c
		}
	}
	if who.clientID == "" {
		if mine == nil {
			e := trust.Errorf(trust.Unauthenticated, "no context is for %s, and no identity was named", server)
			e.Hint = "sallyport login --server " + server + " ..., or give --client-id with its credential"
			return nil, e
		}
		return mine.Credential(cache)
	}
	ca, err := execClusterCA()
	if err != nil {
		return nil, err
	}
	if mine != nil {
		ca = mine.CA
		if who.tenant == "" {
			who.tenant = mine.Tenant
		}
	}
	if who.tenant == "" {
		return nil, usagef("the following arguments are required: --tenant")
	}
	return who.credential(server, ca, cache)
}

// execClusterCA is the CA that kubectl hands to its plugins, "" if none.
func execClusterCA() (string, error) {
	text := os.Getenv("KUBERNETES_EXEC_INFO")
	if text == "" {
		return "", nil
	}
	var info struct {
		Spec struct {
			Cluster struct {
				CA []byte `json:"certificate-authority-data"`
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return "", trust.Errorf(trust.Invalid, "KUBERNETES_EXEC_INFO is not what kubectl sets").Because(err)
	}
	return string(info.Spec.Cluster.CA), nil
}
