package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

func (a *app) getCredentials() *cobra.Command {
	var group, name, file, rename string
	var admin, overwrite bool
	var who asIdentity
	return a.command(spec{
		use: "get-credentials", short: "Get access credentials for a cluster, through the gateway.",
		long: `Write a kubeconfig that reaches the cluster through the gateway. It holds no secret:
kubectl asks this command for a token when it needs one (sallyport kubeconfig).
Without --client-id the caller is the current context's; with it, the service whose
identity that is.`,
		example: `
			sallyport aks get-credentials -g MyResourceGroup -n MyCluster
			sallyport aks get-credentials -g MyResourceGroup -n MyCluster -f service.kubeconfig --client-id CLIENT_ID --federated-token-file TOKEN`,
		flags: func(f *flags) {
			clusterName(f, &group, &name)
			f.flag(&admin, "admin", "a", "Get cluster administrator credentials: always refused, there are none.")
			f.text(&file, "file", "f", `Kubernetes configuration file to update. Use "-" to print YAML to stdout instead. Default: ~/.kube/config.`)
			f.text(&rename, "context-name", "", "If specified, overwrite the default context name.")
			f.flag(&overwrite, "overwrite-existing", "", "Overwrite any existing cluster entry with the same name.")
			who.flags(f)
		},
		run: func(ctx context.Context, _ []string) (any, error) {
			id, err := a.clusterID(ctx, group, name)
			if err != nil {
				return nil, err
			}
			if admin {
				// Always refused, in the server's words.
				_, err := a.arm.Do(ctx, client.Request{Method: http.MethodPost, Path: id + "/listClusterAdminCredential", Version: client.ContainerServiceVersion})
				return nil, err
			}
			raw, err := a.arm.UserCredential(ctx, id)
			if err != nil {
				return nil, err
			}
			got, err := clientcmd.Load(raw)
			if err != nil {
				return nil, trust.Errorf(trust.Internal, "the server's kubeconfig cannot be read").Because(err)
			}
			if err := ownPlugin(got, a.context.Server); err != nil {
				return nil, err
			}
			if err := who.into(got, a.context.Tenant); err != nil {
				return nil, err
			}
			if who.clientID == "" && a.context.User != "" {
				// The person who asked, whatever context is the current one when
				// kubectl runs.
				for _, user := range got.AuthInfos {
					user.Exec.Args = append(user.Exec.Args, "--context", a.context.Name)
				}
			}
			if rename != "" && rename != got.CurrentContext {
				got.Contexts[rename] = got.Contexts[got.CurrentContext]
				delete(got.Contexts, got.CurrentContext)
				got.CurrentContext = rename
			}
			return nil, a.writeKubeconfig(got, file, overwrite)
		},
	})
}

// ownPlugin keeps of the server's kubeconfig what it may say, and no more:
// kubectl would run its commands, send the files that it names to whatever
// address it names, and hand it tokens for another server that this user knows.
// server is the one that was asked.
func ownPlugin(c *api.Config, server string) error {
	for name, cluster := range c.Clusters {
		c.Clusters[name] = &api.Cluster{Server: cluster.Server, CertificateAuthorityData: cluster.CertificateAuthorityData}
	}
	for name, user := range c.AuthInfos {
		uid := ""
		if user.Exec != nil && len(user.Exec.Args) > 2 && user.Exec.Args[0] == "kubeconfig" && user.Exec.Args[1] == "credential" {
			if i := slices.Index(user.Exec.Args, "--cluster-uid"); i > 0 && i+1 < len(user.Exec.Args) {
				uid = user.Exec.Args[i+1]
			}
		}
		if !arm.ValidGUID(uid) {
			return trust.Errorf(trust.Internal, "the server's kubeconfig has a user %q that does not get its tokens from sallyport kubeconfig credential; it is not written", name)
		}
		c.AuthInfos[name] = &api.AuthInfo{Exec: &api.ExecConfig{
			APIVersion: "client.authentication.k8s.io/v1", Command: pluginCommand(), InteractiveMode: api.IfAvailableExecInteractiveMode,
			Args:        []string{"kubeconfig", "credential", "--server", strings.TrimSuffix(server, "/"), "--cluster-uid", uid},
			InstallHint: "The sallyport command gets the tokens for this cluster; it must be on the PATH.",
		}}
	}
	return nil
}

// pluginCommand is how kubectl calls this program: by name if that finds it, or
// by path.
func pluginCommand() string {
	self, err := os.Executable()
	if err != nil {
		return "sallyport"
	}
	found, err := exec.LookPath("sallyport")
	if err != nil {
		return self
	}
	a, err1 := os.Stat(self)
	b, err2 := os.Stat(found)
	if err1 == nil && err2 == nil && os.SameFile(a, b) {
		return "sallyport"
	}
	return self
}

// writeKubeconfig merges a kubeconfig into a file, or prints it.
func (a *app) writeKubeconfig(got *api.Config, file string, overwrite bool) error {
	if file == "-" {
		data, err := clientcmd.Write(*got)
		if err != nil {
			return fmt.Errorf("write kubeconfig: %w", err)
		}
		_, err = a.out.Write(data)
		return err
	}
	if file == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("find ~/.kube/config: %w", err)
		}
		file = filepath.Join(home, ".kube", "config")
	}
	have := api.NewConfig()
	if data, err := os.ReadFile(file); err == nil {
		if have, err = clientcmd.Load(data); err != nil {
			return trust.Errorf(trust.Invalid, "%s is not a kubeconfig", file).Because(err)
		}
	} else if !os.IsNotExist(err) {
		return trust.Errorf(trust.Invalid, "%s cannot be read", file).Because(err)
	}
	for _, clash := range []string{merge(have.Clusters, got.Clusters, overwrite), merge(have.AuthInfos, got.AuthInfos, overwrite), merge(have.Contexts, got.Contexts, overwrite)} {
		if clash == "" {
			continue
		}
		e := trust.Errorf(trust.Exists, "A different object named %s already exists in %s.", clash, file)
		e.Hint = "add --overwrite-existing, or name another --file or --context-name"
		return e
	}
	have.CurrentContext = got.CurrentContext
	data, err := clientcmd.Write(*have)
	if err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := replaceFile(file, data); err != nil {
		return err
	}
	a.say("Merged \"%s\" as current context in %s", got.CurrentContext, file)
	return nil
}

// merge puts entries into a kubeconfig's map; it returns the name of one that is
// there already and differs.
func merge[T any](into, from map[string]*T, overwrite bool) string {
	for name, v := range from {
		if old, there := into[name]; there && !overwrite && !sameEntry(old, v) {
			return name
		}
		into[name] = v
	}
	return ""
}

// sameEntry compares without where an entry was read from.
func sameEntry(a, b any) bool {
	one := func(v any) []byte {
		c := api.NewConfig()
		switch v := v.(type) {
		case *api.Cluster:
			c.Clusters["x"] = v
		case *api.AuthInfo:
			c.AuthInfos["x"] = v
		case *api.Context:
			c.Contexts["x"] = v
		}
		data, err := clientcmd.Write(*c)
		if err != nil {
			return nil
		}
		return data
	}
	return reflect.DeepEqual(a, b) || bytes.Equal(one(a), one(b))
}

// replaceFile writes a file for its owner's eyes only, at once.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
