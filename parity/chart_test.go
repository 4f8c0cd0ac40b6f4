package parity

import (
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/rbac"
)

const (
	testKey  = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
	testCert = "-----BEGIN CERTIFICATE-----\nMIIBfDCCASKgAwIBAgIU\n-----END CERTIFICATE-----\n"
)

// What Helm's own engine makes of the chart is what the command line applies, for
// every combination of what may be left out.
func TestTheChartIsTheManifest(t *testing.T) {
	base := deploy.Options{Cluster: "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001", Server: "https://sallyport.example:8443", MandateKey: []byte(testKey), Image: "example.com/agent@sha256:0123"}
	options := []func(*deploy.Options){
		func(o *deploy.Options) { o.ServerCA = []byte(testCert) },
		func(o *deploy.Options) { o.Gateways = []string{"gw-1.example:443", "[fd00::1]:8443"} },
		func(o *deploy.Options) { o.HTTPSProxy = "http://user:pa$$@proxy.example:3128" },
		func(o *deploy.Options) { o.HTTPSProxy, o.NoProxy = "http://proxy.example:3128", "10.0.0.0/8,.example" },
		func(o *deploy.Options) { o.TrustBundle = []byte(testCert + testCert) },
		func(o *deploy.Options) { o.NoAgents = true },
		func(o *deploy.Options) { o.Probes = []string{"store.blob.core.windows.net:443", "vault.example:8443"} },
	}
	for set := range 1 << len(options) {
		o := base
		for i, change := range options {
			if set&(1<<i) != 0 {
				change(&o)
			}
		}
		compare(t, set, o)
	}
}

func compare(t *testing.T, set int, o deploy.Options) {
	t.Helper()
	objects, err := deploy.Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := deploy.YAML("", objects)
	if err != nil {
		t.Fatal(err)
	}
	want, have := parse(t, string(text)), parse(t, rendered(t, o))
	if len(want) != len(have) {
		t.Errorf("%07b: %d objects of %d", set, len(have), len(want))
	}
	for key, w := range want {
		if w.GetKind() == "ClusterRole" && w.GetName() == rbac.BindListRole {
			unstructured.RemoveNestedField(w.Object, "rules") // the owner's, and no release's
		}
		h := have[key]
		if h == nil {
			t.Errorf("%07b: %s is missing", set, key)
		} else if !equality.Semantic.DeepEqual(w.Object, h.Object) {
			t.Errorf("%07b: %s differs:\n%v\nwant:\n%v", set, key, h.Object, w.Object)
		}
	}
}

// rendered is what "helm template" prints, values checked against the schema as
// Helm does.
func rendered(t *testing.T, o deploy.Options) string {
	t.Helper()
	files, err := deploy.Chart(o, "v1")
	if err != nil {
		t.Fatal(err)
	}
	var all []*archive.BufferedFile
	for name, data := range files {
		all = append(all, &archive.BufferedFile{Name: name, Data: data})
	}
	c, err := loader.LoadFiles(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	values, err := chartutil.ToRenderValues(c, nil, common.ReleaseOptions{Name: "agents", Namespace: "default", IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		t.Fatal(err)
	}
	out, err := engine.Render(c, values)
	if err != nil {
		t.Fatal(err)
	}
	return out["sallyport-agents/templates/agents.yaml"]
}

func parse(t *testing.T, text string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for _, doc := range strings.Split(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if len(u.Object) == 0 {
			continue
		}
		key := u.GetKind() + " " + u.GetNamespace() + "/" + u.GetName()
		if all[key] != nil {
			t.Errorf("%s twice", key)
		}
		all[key] = u
	}
	return all
}

// Values that could break out of their place are refused.
func TestTheChartRefusesBadValues(t *testing.T) {
	o := deploy.Options{Cluster: "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001", Server: "https://sallyport.example", MandateKey: []byte(testKey), Image: "example.com/agent:v1"}
	files, err := deploy.Chart(o, "v1")
	if err != nil {
		t.Fatal(err)
	}
	var all []*archive.BufferedFile
	for name, data := range files {
		all = append(all, &archive.BufferedFile{Name: name, Data: data})
	}
	for name, values := range map[string]map[string]any{
		"another uid":     {"cluster": "x"},
		"a line break":    {"server": "https://sallyport.example\n- --evil"},
		"plain http":      {"server": "http://sallyport.example"},
		"a gateway's arg": {"gateways": []any{"gw.example:443 --evil"}},
		"not a key":       {"mandateKey": "x"},
		"no image":        {"image": ""},
		"an unknown name": {"imgae": "x"},
		"a proxy's text":  {"noProxy": "a\"b"},
	} {
		c, err := loader.LoadFiles(all)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chartutil.ToRenderValues(c, values, common.ReleaseOptions{Name: "agents"}, common.DefaultCapabilities); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
