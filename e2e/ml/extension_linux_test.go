package ml

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/mlext/wire"
)

const (
	mlExtension    = "Microsoft.AzureML.Kubernetes"
	probeExtension = "Sallyport.EnvironmentProbe"
)

// on adds which cluster.
func (m *ml) on(args ...string) []string {
	return append(args, "-g", m.GroupName(), "-c", m.Name, "-t", "managedClusters")
}

// accept applies the owner's consent to a type of extensions.
func (m *ml) accept(typ string, args ...string) {
	m.t.Helper()
	consent := m.cli(m.on(append([]string{"k8s-extension", "accept", "--extension-type", typ, "--installer-image", installerImage}, args...)...)...)
	m.must(m.Cluster.Apply(m.t.Context(), consent))
}

func (m *ml) extension(name, query string) string {
	m.t.Helper()
	return m.cli(m.on("k8s-extension", "show", "-n", name, "--query", query, "-o", "tsv")...)
}

// holds is everything in namespaces, and everything that is in none, but what
// comes and goes by itself.
func (m *ml) holds(namespaces ...string) []string {
	m.t.Helper()
	kinds := func(namespaced bool) string {
		all := strings.Fields(m.kubectl("api-resources", "--verbs=list", fmt.Sprintf("--namespaced=%t", namespaced), "-o", "name"))
		return strings.Join(slices.DeleteFunc(all, func(s string) bool {
			return strings.HasPrefix(s, "events") || s == "componentstatuses" || strings.HasPrefix(s, "flowschemas")
		}), ",")
	}
	all := strings.Fields(m.kubectl("get", kinds(false), "-o", "name"))
	for _, ns := range namespaces {
		for _, name := range strings.Fields(m.kubectl("get", kinds(true), "-n", ns, "-o", "name")) {
			all = append(all, ns+"/"+name)
		}
	}
	slices.Sort(all)
	return all
}

// An extension is updated, a failing update is taken back, another chart than the
// accepted one is refused, and a deletion leaves nothing.
func TestExtension(t *testing.T) {
	m := start(t)
	if s := m.extension("azureml", "[provisioningState,currentVersion,configurationSettings.domain,configurationSettings.inferenceRouterHA] | join(' ', @)"); s != "Succeeded 1.0.0 local False" {
		t.Errorf("%q", s)
	}
	if roles := m.kubectl("get", "roles", "-n", wire.Namespace, "-o", "name"); !strings.Contains(roles, "sallyport-ml-gateway") || !strings.Contains(roles, "sallyport-ml-operator") {
		t.Errorf("roles: %s", roles)
	}
	idle := func() {
		t.Helper()
		eventually(t, "the installer has ended", func(ctx context.Context) error {
			pods, err := m.Cluster.Kubectl(ctx, "get", "pods", "-n", "sallyport-system", "-l", "app.kubernetes.io/name=sallyport-installer", "-o", "name")
			if err == nil && pods != "" {
				err = fmt.Errorf("there is %s", pods)
			}
			return err
		})
	}
	idle()
	selector := func() string {
		t.Helper()
		return m.kubectl("get", "deployment", "sallyport-ml-gateway", "-n", wire.Namespace, "-o", "jsonpath={.spec.template.spec.nodeSelector}{.status.readyReplicas}")
	}
	const linux = `{"kubernetes.io/os":"linux"}1`
	m.cli(m.updateExtension("nodeSelector.kubernetes.io/os=linux")...)
	if s := selector(); s != linux {
		t.Errorf("selector %s", s)
	}
	m.accept(mlExtension, "--namespace", "training", "--image", mlImage, "--timeout", "20s") // nobody waits longer for what cannot run
	m.refused("rolled back", m.updateExtension("nodeSelector.kubernetes.io/os=windows")...)
	m.accept(mlExtension, "--namespace", "training", "--image", mlImage)
	if s := m.extension("azureml", "[provisioningState,errorInfo.code,currentVersion] | join(' ', @)"); s != "Failed E40002 1.0.0" {
		t.Errorf("after a failing update: %q", s)
	}
	if s := selector(); s != linux {
		t.Errorf("it was not rolled back: %s", s)
	}
	if s := m.kubectl("get", "configmap", "arcml-healthcheck", "-n", wire.Namespace, "-o", "jsonpath={.data.reports-upgrade}"); !strings.Contains(s, "Status: Failed") || !strings.Contains(s, "ErrorCode: E40002") {
		t.Errorf("health report %q", s)
	}
	consent := []string{"configmap", "extension.microsoft.azureml.kubernetes", "-n", "sallyport-system"}
	digest := m.kubectl(append([]string{"get", "-o", "jsonpath={.data.chart}"}, consent...)...)
	m.afterwards("the consent", func(ctx context.Context) error {
		_, err := m.Cluster.Kubectl(ctx, append([]string{"patch", "-p", `{"data":{"chart":"` + digest + `"}}`}, consent...)...)
		return err
	})
	m.kubectl(append([]string{"patch", "-p", `{"data":{"chart":"sha256:0000"}}`}, consent...)...)
	m.refused("ExtensionDigestRefused", m.updateExtension("nodeSelector.kubernetes.io/os=linux")...)
	m.kubectl(append([]string{"patch", "-p", `{"data":{"chart":"` + digest + `"}}`}, consent...)...)
	m.cli(m.updateExtension("nodeSelector.kubernetes.io/os=linux")...)

	// What cannot work is said before anything is changed.
	m.refused("inferenceRouterHA runs 3 replicas", m.updateExtension("inferenceRouterHA=True", "sslSecret=none", "sslCname=ml.example.com", "allowInsecureConnections=False")...)
	if s := m.extension("azureml", "join(' ', statuses[?level=='Error'].code)"); s != "E40002 E40007" {
		t.Errorf("three routers on one node, with a certificate that is not there: %q", s)
	}
	if s := selector(); s != linux {
		t.Errorf("something was changed: %s", s)
	}

	// What was made for it goes, too.
	m.submit("left", "/train -steps 0 -pace 20ms", "")
	m.until("left", "Running", "")
	m.cli(m.on("k8s-extension", "delete", "-n", "azureml", "--yes")...)
	idle()
	before := m.holds(wire.Namespace, "training")
	for _, what := range before {
		if strings.HasPrefix(what, wire.Namespace+"/") && !slices.Contains([]string{
			"configmap/kube-root-ca.crt", "configmap/sallyport-ml", "configmap/sallyport-ml-keys", "serviceaccount/default",
			"role.rbac.authorization.k8s.io/sallyport:installer:microsoft.azureml.kubernetes", "rolebinding.rbac.authorization.k8s.io/sallyport:installer:microsoft.azureml.kubernetes",
		}, strings.TrimPrefix(what, wire.Namespace+"/")) && !strings.Contains(what, "sallyport:reconciler") && !strings.Contains(what, "sallyport:binding") {
			t.Errorf("left: %s", what)
		}
	}
	if pods := m.kubectl("get", "pods,jobs", "-n", "training", "-o", "name"); pods != "" {
		t.Errorf("left in training: %s", pods)
	}
	m.cli(m.createExtension()...)
	m.cli(m.on("k8s-extension", "delete", "-n", "azureml", "--yes")...)
	idle()
	if after := m.holds(wire.Namespace, "training"); !slices.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	m.cli(m.createExtension()...)
	m.routed()
	m.cli(m.in("trainer", "ml", "compute", "detach", "-n", "k8s", "--yes")...)
	m.cli(m.attachment("k8s", "training")...)
}

// A second type, as a connected cluster's extension, for one namespace: types are
// data. Its password is in no answer and no log.
func TestProbeExtension(t *testing.T) {
	m := start(t)
	m.image(agentImage, m.Program("sallyport-agent"))
	m.kubectl("create", "namespace", "team")
	on := func(args ...string) []string {
		return append(args, "-g", m.GroupName(), "-c", m.Name, "-t", "connectedClusters", "-n", "Probe")
	}
	create := on("k8s-extension", "create", "--extension-type", probeExtension, "--scope", "namespace", "--target-namespace", "team", "--config", "targets.self=localhost", "interval=30", "-o", "none")
	m.refused("has not accepted", create...)
	m.kubectl("create", "namespace", "other")
	m.accept(probeExtension, "--namespace", "other", "--image", agentImage, "--no-installer")
	m.refused("in namespace other, not in team", create...)
	m.accept(probeExtension, "--namespace", "team", "--image", agentImage, "--no-installer")
	before := m.holds("team")
	m.cli(create...)
	if s := m.cli(on("k8s-extension", "show", "--query", "[provisioningState,currentVersion,id] | join(' ', @)", "-o", "tsv")...); !strings.HasPrefix(s, "Succeeded 1.0.0 ") || !strings.Contains(s, "/Microsoft.Kubernetes/connectedClusters/") {
		t.Errorf("%s", s)
	}
	report := func() string {
		t.Helper()
		return m.kubectl("get", "configmap", "sallyport-probe-report", "-n", "team", "-o", `jsonpath={.data.report\.json}`)
	}
	if r := report(); !strings.Contains(r, `"host":"localhost"`) || !strings.Contains(r, m.ClusterID()) {
		t.Errorf("report %s", r)
	}
	m.cli(on("k8s-extension", "update", "--config-protected", "proxy=http://u:s3cret@127.0.0.1:1", "--yes", "-o", "none")...)
	eventually(t, "the probe looks through the proxy", func(context.Context) error {
		if r := report(); !strings.Contains(r, "refused") || strings.Contains(r, "s3cret") {
			return fmt.Errorf("report %s", r)
		}
		return nil
	})
	if s := m.cli(on("k8s-extension", "show", "-o", "json")...); !strings.Contains(s, `"proxy": ""`) || strings.Contains(s, "s3cret") {
		t.Errorf("%s", s)
	}
	m.cli(on("k8s-extension", "delete", "--yes")...)
	if after := m.holds("team"); !slices.Equal(before, after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
}
