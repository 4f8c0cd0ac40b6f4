package ml

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// attach is how the workspace gets its compute: what is missing is said in
// order, with what to type, and what waits for it is tried again by itself.
func (m *ml) attach() {
	m.cli("ml", "workspace", "create", "-g", m.GroupName(), "-n", "trainer", "-o", "none")
	m.kubectl("create", "namespace", "training")
	m.kubectl("create", "namespace", wire.Namespace)
	attach := m.attachment("k8s", "training")

	m.refused("sallyport aks trustedaccess rolebinding create", attach...)
	m.refused("TrustedAccessRoleBindingNotFound", m.in("trainer", "ml", "job", "create", "-f", m.jobFile(), "-n", "early")...)
	m.cli("cluster", "accept-roles", "-g", m.GroupName(), "-n", m.Name, "--kubeconfig", m.Cluster.Kubeconfig(), "--kube-context", "dev",
		"--roles", mlworkload, "--namespace", wire.Namespace, "--apply", "--yes", "-o", "none")
	eventually(m.t, "the server knows of the acceptance", func(ctx context.Context) error {
		out, err := m.CLI(ctx, "cluster", "status", "-g", m.GroupName(), "-n", m.Name, "-o", "json")
		if err == nil && !strings.Contains(strings.ToLower(out), strings.ToLower(mlworkload)) {
			err = fmt.Errorf("status %s", out)
		}
		return err
	})
	m.bind("trainer")
	eventually(m.t, "the compute is tried again by itself", func(ctx context.Context) error {
		out, err := m.CLI(ctx, m.in("trainer", "ml", "compute", "show", "-n", "k8s", "--query", "provisioningErrors[0].error.code", "-o", "tsv")...)
		if err == nil && out != "ExtensionNotInstalled" {
			err = fmt.Errorf("its error is %q", out)
		}
		return err
	})
	m.install("training")
	m.refused("NamespaceRefused", m.attachment("wrong", "default")...)
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

// settings of the extension, but in tests of them.
var settings = []string{"enableTraining=True", "enableInference=True", "inferenceRouterServiceType=nodePort", "allowInsecureConnections=True"}

func (m *ml) createExtension() []string {
	return m.on(append([]string{"k8s-extension", "create", "-n", "azureml", "--extension-type", mlExtension, "-o", "none", "--config"}, settings...)...)
}

func (m *ml) updateExtension(settings ...string) []string {
	return m.on(append([]string{"k8s-extension", "update", "-n", "azureml", "--yes", "-o", "none", "--config"}, settings...)...)
}

func (m *ml) routed() {
	m.t.Helper()
	m.must(m.route(m.t.Context()))
}

// route says where the router's Service is reached: here nothing else knows.
func (m *ml) route(ctx context.Context) error {
	port, err := m.Cluster.Kubectl(ctx, "get", "service", "-n", wire.Namespace, mlext.RouterService, "-o", "jsonpath={.spec.ports[0].nodePort}")
	if err != nil {
		return err
	}
	at := net.JoinHostPort(m.Cluster.Nodes()[0].Address().String(), port)
	_, err = m.Cluster.Kubectl(ctx, "annotate", "service", "-n", wire.Namespace, mlext.RouterService, "--overwrite", mlext.ScoringURL+"=http://"+at)
	return err
}
