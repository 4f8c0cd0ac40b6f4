package deploy

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

var (
	update = flag.Bool("update", false, "write the golden files")
	shared devclustertest.Shared
)

func TestMain(m *testing.M) { os.Exit(shared.Main(m)) }

const (
	uid  = trust.ClusterUID("0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001")
	cert = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
	key  = "-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n"
)

func options() Options {
	return Options{
		Cluster: uid, Server: "https://sallyport.example:8443", ServerCA: []byte(cert), MandateKey: []byte(key), Image: "registry.example/sallyport-agent:v1",
		Gateways: []string{"gw.example:443"}, HTTPSProxy: "http://proxy.example:3128", NoProxy: "10.0.0.0/8", TrustBundle: []byte(cert),
		Accept: []rbac.RoleConsent{
			{Role: trust.Published()[1]},
			{Role: trust.Published()[0], Consent: rbac.Consent{Namespaces: []string{"default"}}},
		},
	}
}

const header = "Connects cluster c1 to https://sallyport.example:8443."

func bundle(t *testing.T, o Options) string {
	t.Helper()
	all, err := Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	data, err := YAML(header, all)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestGoldenBundle(t *testing.T) {
	got := bundle(t, options())
	file := filepath.Join("testdata", "bundle.yaml")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got; go test -update writes it:\n%s", diff)
	}
}

// Each document must be what the typed object says, comments or not.
func TestYAMLKeepsTheObjects(t *testing.T) {
	all, err := Connect(options())
	if err != nil {
		t.Fatal(err)
	}
	docs := strings.Split(bundle(t, options()), "\n---\n")[1:] // the first is the header
	if len(docs) != len(all) {
		t.Fatalf("%d documents for %d objects", len(docs), len(all))
	}
	for i, e := range all {
		plain, err := yaml.Marshal(e.Object)
		if err != nil {
			t.Fatal(err)
		}
		var want, got map[string]any
		if err := yaml.Unmarshal(plain, &want); err != nil {
			t.Fatal(err)
		}
		delete(want, "status")
		if err := yaml.Unmarshal([]byte(docs[i]), &got); err != nil {
			t.Fatalf("%s: %v\n%s", rbac.Key(e.Object), err, docs[i])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", rbac.Key(e.Object), diff)
		}
	}
}

func TestEveryRightIsExplained(t *testing.T) {
	all, err := Connect(options())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		role, ours := e.Object.(*rbacv1.ClusterRole)
		if ours && strings.HasPrefix(role.Name, "sallyport:reconciler") && len(e.Rules) != len(role.Rules) {
			t.Errorf("%s: %d rules, %d reasons", role.Name, len(role.Rules), len(e.Rules))
		}
		if e.Why == "" {
			t.Errorf("%s has no reason", rbac.Key(e.Object))
		}
	}
}

func TestConnectingAgainWithdrawsNothing(t *testing.T) {
	first, err := Connect(options())
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Accept = nil
	for _, e := range first {
		switch obj := e.Object.(type) {
		case *rbacv1.ClusterRole:
			o.Have.ClusterRoles = append(o.Have.ClusterRoles, *obj)
		case *rbacv1.Role:
			o.Have.Roles = append(o.Have.Roles, *obj)
		}
	}
	again, err := Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range again {
		if e.Object.GetName() == rbac.BindListRole {
			if _, role := e.Object.(*rbacv1.ClusterRole); role {
				t.Errorf("connecting again writes the bind list: %+v", e.Object)
			}
		}
	}
}

func TestAgentsElsewhereHaveTheSameRightsAndNoDeployment(t *testing.T) {
	with, err := Connect(options())
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.NoAgents = true
	without, err := Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	if len(without) != len(with)-2 {
		t.Fatalf("%d objects with, %d without the agents", len(with), len(without))
	}
	for i, e := range without {
		if rbac.Key(e.Object) != rbac.Key(with[i].Object) {
			t.Errorf("object %d is %s, want %s", i, rbac.Key(e.Object), rbac.Key(with[i].Object))
		}
	}
}

func TestProbesAreInTheManifestThatTheOwnerReads(t *testing.T) {
	if plain := bundle(t, options()); strings.Contains(plain, "--probes") {
		t.Error("probes that nobody allowed")
	}
	o := options()
	o.Probes = []string{"store.blob.core.windows.net:443", "vault.vault.azure.net:443"}
	got := bundle(t, o)
	for _, want := range []string{"--probes=store.blob.core.windows.net:443,vault.vault.azure.net:443", "it looks at nothing else"} {
		if strings.Count(strings.ReplaceAll(got, "\n# ", " "), want) != 1 {
			t.Errorf("%q is not in the manifest once", want)
		}
	}
}

func TestConnectRefuses(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no cluster":        func(o *Options) { o.Cluster = "" },
		"http":              func(o *Options) { o.Server = "http://x" },
		"no host":           func(o *Options) { o.Server = "https://" },
		"credentials":       func(o *Options) { o.Server = "https://a:b@x" },
		"CA is not PEM":     func(o *Options) { o.ServerCA = []byte("x") },
		"CA is a key":       func(o *Options) { o.ServerCA = []byte(key) },
		"no mandate key":    func(o *Options) { o.MandateKey = nil },
		"gateway":           func(o *Options) { o.Gateways = []string{"x"} },
		"image":             func(o *Options) { o.Image = "a b" },
		"proxy":             func(o *Options) { o.HTTPSProxy = "socks5://x" },
		"role needs a flag": func(o *Options) { o.Accept = []rbac.RoleConsent{{Role: trust.Published()[2]}} },
	} {
		o := options()
		change(&o)
		if all, err := Connect(o); err == nil || all != nil {
			t.Errorf("%s: rendered", name)
		}
	}
}

// The API server takes the bundle as it stands, with unknown fields refused,
// and Pod Security lets the pods in.
func TestBundleOnARealAPIServer(t *testing.T) {
	c := shared.Cluster(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "bundle.yaml")
	if err := os.WriteFile(file, []byte(bundle(t, options())), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time changes nothing and fails nothing
		if out, err := c.Kubectl(t.Context(), "apply", "--validate=strict", "-f", file); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, a := range []agent{reconciler, proxy} {
		pod := &corev1.Pod{Spec: options().pod(a)}
		pod.APIVersion, pod.Kind, pod.Name, pod.Namespace = "v1", "Pod", a.account, rbac.SystemNamespace
		data, err := yaml.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, a.command+".yaml")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := c.Kubectl(t.Context(), "create", "--dry-run=server", "-f", name)
		if err != nil || strings.Contains(out, "Warning") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	for _, line := range Cleanup(uid) {
		args := append(strings.Fields(line)[1:], "--wait=false")
		if out, err := c.Kubectl(t.Context(), args...); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	out, err := c.Kubectl(t.Context(), "get", "clusterroles,clusterrolebindings,roles,rolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "-A", "-o", "name", "-l", rbac.ClusterLabel+"="+string(uid))
	if err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("left after cleaning up: %v\n%s", err, out)
	}
}
