package ml

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// attach is how the workspace gets its compute: what is missing is said in
// order, with what to type, and what waits for it is tried again by itself.
func (m *ml) attach() {
	m.cli("ml", "workspace", "create", "-g", m.GroupName(), "-n", "trainer", "-o", "none")
	m.kubectl("create", "namespace", "training")
	m.kubectl("create", "namespace", wire.Namespace)
	attach := m.in("trainer", "ml", "compute", "attach", "--type", "Kubernetes", "-n", "k8s", "--resource-id", m.ClusterID(), "--namespace", "training", "-o", "none")

	m.refused("sallyport aks trustedaccess rolebinding create", attach...)
	m.refused("TrustedAccessRoleBindingNotFound", m.in("trainer", "ml", "job", "create", "-f", m.jobFile(), "-n", "early")...)
	m.cli("cluster", "accept-roles", "-g", m.GroupName(), "-n", m.Name, "--kubeconfig", m.Cluster.Kubeconfig(), "--kube-context", "dev",
		"--roles", mlworkload, "--namespace", wire.Namespace, "--apply", "--yes", "-o", "none")
	eventually(m.t, "the server knows of the acceptance", time.Minute, func(ctx context.Context) error {
		out, err := m.CLI(ctx, "cluster", "status", "-g", m.GroupName(), "-n", m.Name, "-o", "json")
		if err == nil && !strings.Contains(strings.ToLower(out), strings.ToLower(mlworkload)) {
			err = fmt.Errorf("status %s", out)
		}
		return err
	})
	m.bind("trainer")
	eventually(m.t, "the compute is tried again by itself", time.Minute, func(ctx context.Context) error {
		out, err := m.CLI(ctx, m.in("trainer", "ml", "compute", "show", "-n", "k8s", "--query", "provisioningErrors[0].error.code", "-o", "tsv")...)
		if err == nil && out != "ExtensionNotInstalled" {
			err = fmt.Errorf("its error is %q", out)
		}
		return err
	})
	m.install("training")
	m.refused("NamespaceRefused", append(m.in("trainer", "ml", "compute", "attach", "--type", "Kubernetes", "-n", "wrong"), "--resource-id", m.ClusterID(), "--namespace", "default")...)
	m.cli(m.in("trainer", "ml", "compute", "detach", "-n", "wrong", "--yes")...)
	m.cli(attach...)
}

func (m *ml) jobFile() string {
	file := m.Path("early.yaml")
	m.must(os.WriteFile(file, []byte("type: command\ncommand: /train\nenvironment: "+trainImage+"\ncompute: k8s\n"), 0o600))
	return file
}

// install has the extension installed by the cluster's installer: refused, with
// what the owner types, until they have accepted it. Its one router is reached on
// the node's own address.
func (m *ml) install(namespace string) {
	m.t.Helper()
	create := m.createExtension()
	m.refused("sallyport k8s-extension accept -g "+m.GroupName()+" --cluster-name "+m.Name, create...)
	m.accept(mlExtension, "--namespace", namespace, "--image", mlImage)
	m.cli(create...)
	m.routed()
}

func (m *ml) createExtension() []string {
	return m.on("k8s-extension", "create", "-n", "azureml", "--extension-type", mlExtension, "-o", "none", "--config", "enableTraining=True",
		"enableInference=True", "inferenceRouterServiceType=nodePort", "allowInsecureConnections=True")
}

// routed says where the router's Service is reached: here nothing else knows.
func (m *ml) routed() {
	m.t.Helper()
	port := m.kubectl("get", "service", "-n", wire.Namespace, mlext.RouterService, "-o", "jsonpath={.spec.ports[0].nodePort}")
	address := m.kubectl("get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	m.kubectl("annotate", "service", "-n", wire.Namespace, mlext.RouterService, "--overwrite", mlext.ScoringURL+"=http://"+net.JoinHostPort(address, port))
}
