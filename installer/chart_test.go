package main

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"

	"github.com/sallyport/sallyport/deploy"
	"github.com/sallyport/sallyport/extension"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/rbac"
)

const (
	mlType    = "Microsoft.AzureML.Kubernetes"
	probeType = "Sallyport.EnvironmentProbe"
	clusterID = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/blue"
	tenant    = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"
)

// rendered is what Helm makes of a type's chart, values checked against its
// schema.
func rendered(t *testing.T, typ, namespace string, values map[string]any) (map[string]*unstructured.Unstructured, error) {
	t.Helper()
	files, err := deploy.ExtensionChart(typ)
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
	v, err := chartutil.ToRenderValues(c, values, common.ReleaseOptions{Name: "x", Namespace: namespace, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	out, err := engine.Render(c, v)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, out[c.Name()+"/templates/extension.yaml"]), nil
}

func parsed(t *testing.T, text string) map[string]*unstructured.Unstructured {
	t.Helper()
	all := map[string]*unstructured.Unstructured{}
	for _, doc := range strings.Split("\n"+text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if len(u.Object) > 0 {
			all[u.GetKind()+" "+u.GetNamespace()+"/"+u.GetName()] = u
		}
	}
	return all
}

// settings are a chart's, from what a caller sends.
func settings(t *testing.T, typ string, plain, protected map[string]string) map[string]any {
	t.Helper()
	x, err := extension.Find(typ)
	if err != nil {
		t.Fatal(err)
	}
	v, _, err := x.Resolve(extension.Values{Plain: plain, Protected: protected}, extension.Cluster{ID: clusterID, Name: "blue", Location: "local"})
	if err != nil {
		t.Fatal(err)
	}
	return x.ChartValues(v)
}

// What Helm makes of the ML extension's chart is what the manifest for the owner
// holds, but what only they may make, for every combination of what values switch.
func TestTheChartIsTheManifest(t *testing.T) {
	options := []func(o *deploy.MLOptions, plain map[string]string, owner map[string]any){
		func(o *deploy.MLOptions, _ map[string]string, owner map[string]any) {
			o.LogClaim, owner["logClaim"] = "logs", "logs"
		},
		func(o *deploy.MLOptions, plain map[string]string, _ map[string]any) {
			o.NodeSelector = map[string]string{"kubernetes.io/os": "linux", "disk": "{{ .Values }}"}
			plain["nodeSelector.kubernetes.io/os"], plain["nodeSelector.disk"] = "linux", "{{ .Values }}"
		},
		func(o *deploy.MLOptions, _ map[string]string, owner map[string]any) {
			o.Namespaces, owner["namespaces"] = []string{"training", "team-b"}, []any{"training", "team-b"}
		},
	}
	for set := range 1 << len(options) {
		o := deploy.MLOptions{Namespaces: []string{"training"}, Image: `registry.example/ml@sha256:0"1`, Issuer: "https://sallyport.example/t/v2.0", Tenant: tenant,
			Audience: "https://sallyport.example/extensions/u", MLKey: []byte("k"), Keys: []byte("k")}
		owner := map[string]any{"image": o.Image, "namespaces": []any{"training"}, "issuer": o.Issuer, "tenant": o.Tenant, "audience": o.Audience}
		plain := map[string]string{"enableTraining": "True"}
		for i, option := range options {
			if set&(1<<i) != 0 {
				option(&o, plain, owner)
			}
		}
		objects, err := deploy.ML(o)
		if err != nil {
			t.Fatal(err)
		}
		var made []rbac.Explained
		for _, e := range objects {
			_, data := e.Object.(*corev1.ConfigMap)
			if name := e.Object.GetName(); e.Object.GetNamespace() != "" && !(data && (name == "sallyport-ml" || name == mlext.KeysConfigMap)) {
				made = append(made, e)
			}
		}
		text, err := deploy.YAML("", made)
		if err != nil {
			t.Fatal(err)
		}
		have, err := rendered(t, mlType, "azureml", map[string]any{"owner": owner, "settings": settings(t, mlType, plain, nil)})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, fmt.Sprintf("%03b", set), parsed(t, string(text)), have)
	}
}

func compare(t *testing.T, name string, want, have map[string]*unstructured.Unstructured) {
	t.Helper()
	if len(want) != len(have) {
		t.Errorf("%s: %d objects of %d", name, len(have), len(want))
	}
	for key, w := range want {
		if h := have[key]; h == nil {
			t.Errorf("%s: %s is missing", name, key)
		} else if !equality.Semantic.DeepEqual(w.Object, h.Object) {
			t.Errorf("%s: %s differs:\n%v\nwant:\n%v", name, key, h.Object, w.Object)
		}
	}
}

// The probe's chart, with and without a proxy.
func TestTheProbesChart(t *testing.T) {
	owner := map[string]any{"image": "agent:1"}
	plain := map[string]string{"targets.b": "b.example", "targets.a": "a.example", "interval": "60"}
	without, err := rendered(t, probeType, "team", map[string]any{"owner": owner, "settings": settings(t, probeType, plain, nil)})
	if err != nil {
		t.Fatal(err)
	}
	args := func(all map[string]*unstructured.Unstructured) string {
		d := all["Deployment team/sallyport-probe"]
		containers, _, err := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
		if err != nil || len(containers) != 1 {
			t.Fatalf("%v %v", containers, err)
		}
		return fmt.Sprint(containers[0].(map[string]any)["args"])
	}
	if got := args(without); len(without) != 5 || got != "[probe --cluster="+clusterID+" --targets=a.example,b.example --every=60s --report=sallyport-probe-report]" {
		t.Errorf("%d objects, %s", len(without), got)
	}
	with, err := rendered(t, probeType, "team", map[string]any{"owner": owner, "settings": settings(t, probeType, plain, map[string]string{"proxy": "http://u:p@proxy:3128"})})
	if err != nil {
		t.Fatal(err)
	}
	secret, _, _ := unstructured.NestedString(with["Secret team/sallyport-probe"].Object, "stringData", "proxy")
	if got := args(with); len(with) != 6 || secret != "http://u:p@proxy:3128" || !strings.HasSuffix(got, " --proxy-file=/etc/sallyport-probe/proxy]") {
		t.Errorf("%d objects, %q, %s", len(with), secret, got)
	}
}

// No value names an image, a command, a ServiceAccount or a rule but the owner's,
// and what could break out of its place stays text.
func TestTheChartsRefuseAndQuote(t *testing.T) {
	good := func() map[string]any {
		return map[string]any{"owner": map[string]any{"image": "i", "namespaces": []any{"training"}, "issuer": "https://i", "tenant": tenant, "audience": "https://a"},
			"settings": settings(t, mlType, map[string]string{"enableTraining": "True"}, nil)}
	}
	for _, name := range []string{"image", "command", "serviceAccountName", "rules", "replicas", "installVolcano"} {
		v := good()
		v["settings"].(map[string]any)[name] = "x"
		if _, err := rendered(t, mlType, "azureml", v); err == nil {
			t.Errorf("setting %s was taken", name)
		}
	}
	for name, value := range map[string]any{"namespaces": []any{"a\nb"}, "issuer": "https://i\n- --evil", "tenant": "x", "imgae": "x"} {
		v := good()
		v["owner"].(map[string]any)[name] = value
		if _, err := rendered(t, mlType, "azureml", v); err == nil {
			t.Errorf("the owner's %s was taken as %q", name, value)
		}
	}
	for _, typ := range []string{mlType, probeType} {
		x, err := extension.Find(typ)
		if err != nil {
			t.Fatal(err)
		}
		for i := range x.Settings {
			for _, word := range []string{"image", "command", "account", "rule", "args"} {
				if s := x.Settings[i].ChartName(); strings.EqualFold(s, word) {
					t.Errorf("%s has a setting %s", typ, s)
				}
			}
		}
	}
}

// A chart's digest is that of its content: the same each time, another with any
// other byte.
func TestDigest(t *testing.T) {
	files, err := deploy.ExtensionChart(mlType)
	if err != nil {
		t.Fatal(err)
	}
	again, err := deploy.ExtensionChart(mlType)
	if err != nil {
		t.Fatal(err)
	}
	d := deploy.ChartDigest(files)
	if d != deploy.ChartDigest(again) {
		t.Error("two renderings have two digests")
	}
	for name := range files {
		again[name] = append([]byte("#"), again[name]...)
		if deploy.ChartDigest(again) == d {
			t.Errorf("%s does not count", name)
		}
		again[name] = files[name]
	}
}
