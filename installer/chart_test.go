package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"helm.sh/helm/v4/pkg/chart/common"
	chartutil "helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
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

// load loads a type's chart.
func load(t *testing.T, typ string) *chart.Chart {
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
	return c
}

// rendered is what Helm makes of a chart, values checked against its schema.
func rendered(t *testing.T, c *chart.Chart, namespace string, values map[string]any) (map[string]*unstructured.Unstructured, error) {
	t.Helper()
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
	ml := load(t, mlType)
	cert, key := pair(t, "ml.example.com")
	options := []func(*combination){
		func(c *combination) { c.LogClaim, c.owner["logClaim"] = "logs", "logs" },
		func(c *combination) {
			c.NodeSelector = map[string]string{"kubernetes.io/os": "linux", "disk": "{{ .Values }}"}
			c.plain["nodeSelector.kubernetes.io/os"], c.plain["nodeSelector.disk"] = "linux", "{{ .Values }}"
		},
		func(c *combination) {
			c.Namespaces, c.owner["namespaces"] = []string{"training", "team-b"}, []any{"training", "team-b"}
		},
		func(c *combination) {
			c.NoTraining = true
			c.set("enableTraining", "False", "enableInference", "True", "inferenceRouterServiceType", "clusterip", "allowInsecureConnections", "True", "inferenceRouterHA", "False")
			c.Router = &deploy.MLRouter{ServiceType: "ClusterIP", Insecure: true, Alone: true}
		},
		func(c *combination) { // from here on: of endpoints
			c.Router = &deploy.MLRouter{ServiceType: "ClusterIP", Insecure: true, Alone: true}
			c.set("enableInference", "True", "inferenceRouterServiceType", "clusterip", "allowInsecureConnections", "True", "inferenceRouterHA", "False")
		},
		func(c *combination) {
			if c.Router != nil {
				c.Router.Alone = false
				c.set("inferenceRouterHA", "True")
			}
		},
		func(c *combination) {
			if c.Router != nil {
				c.Router.ServiceType, c.Router.Internal = "LoadBalancer", true
				c.set("inferenceRouterServiceType", "LOADBALANCER", "internalLoadBalancerProvider", "azure")
			}
		},
		func(c *combination) {
			if c.Router != nil {
				c.Router.URL, c.owner["scoringURL"] = "https://score.example/x", "https://score.example/x"
			}
		},
		func(c *combination) {
			if c.Router != nil {
				c.Router.Insecure, c.Router.Secret, c.Router.Host = false, "tls", "ml.example.com"
				c.set("allowInsecureConnections", "False", "sslSecret", "tls", "sslCname", "ml.example.com")
			}
		},
		func(c *combination) { // it counts more than a Secret
			if c.Router != nil {
				c.Router.Insecure, c.Router.Secret, c.Router.Host = false, "", "ml.example.com"
				c.Router.Cert, c.Router.Key = []byte(cert), []byte(key)
				c.set("sslCname", "ml.example.com")
				c.protected["scoringFe.sslCert"], c.protected["sslKeyPemFile"] = cert, key
			}
		},
	}
	for set := range 1 << len(options) {
		if set&15 != 0 && set&15 != 7 && set&15 != 8 {
			continue // these have nothing to do with each other
		}
		c := &combination{plain: map[string]string{"enableTraining": "True"}, protected: map[string]string{}}
		c.MLOptions = deploy.MLOptions{Namespaces: []string{"training"}, Image: `registry.example/ml@sha256:0"1`, Issuer: "https://sallyport.example/t/v2.0", Tenant: tenant,
			Audience: "https://sallyport.example/extensions/u", MLKey: []byte("k"), Keys: []byte("k")}
		c.owner = map[string]any{"image": c.Image, "namespaces": []any{"training"}, "issuer": c.Issuer, "tenant": c.Tenant, "audience": c.Audience}
		for i, option := range options {
			if set&(1<<i) != 0 {
				option(c)
			}
		}
		objects, err := deploy.ML(c.MLOptions)
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
		have, err := rendered(t, ml, "azureml", map[string]any{"owner": c.owner, "settings": settings(t, mlType, c.plain, c.protected)})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, fmt.Sprintf("%010b", set), parsed(t, string(text)), have)
	}
}

// combination is what is rendered both ways.
type combination struct {
	deploy.MLOptions
	plain, protected map[string]string
	owner            map[string]any
}

func (c *combination) set(kv ...string) {
	for i := 0; i+1 < len(kv); i += 2 {
		c.plain[kv[i]] = kv[i+1]
	}
}

// pair is a certificate for a name, and its key, in PEM.
func pair(t *testing.T, host string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func compare(t *testing.T, name string, want, have map[string]*unstructured.Unstructured) {
	t.Helper()
	if len(want) != len(have) {
		t.Errorf("%s: %d objects of %d", name, len(have), len(want))
	}
	for key, w := range want {
		h := have[key]
		if h == nil {
			t.Errorf("%s: %s is missing", name, key)
			continue
		}
		if len(h.GetAnnotations()) == 0 {
			h.SetAnnotations(nil) // a map without entries is one that is not there
		}
		if !equality.Semantic.DeepEqual(w.Object, h.Object) {
			t.Errorf("%s: %s differs:\n%v\nwant:\n%v", name, key, h.Object, w.Object)
		}
	}
}

// The probe's chart, with and without a proxy.
func TestTheProbesChart(t *testing.T) {
	probe := load(t, probeType)
	owner := map[string]any{"image": "agent:1"}
	plain := map[string]string{"targets.b": "b.example", "targets.a": "a.example", "interval": "60"}
	without, err := rendered(t, probe, "team", map[string]any{"owner": owner, "settings": settings(t, probeType, plain, nil)})
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
	with, err := rendered(t, probe, "team", map[string]any{"owner": owner, "settings": settings(t, probeType, plain, map[string]string{"proxy": "http://u:p@proxy:3128"})})
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
	ml := load(t, mlType)
	good := func() map[string]any {
		return map[string]any{"owner": map[string]any{"image": "i", "namespaces": []any{"training"}, "issuer": "https://i", "tenant": tenant, "audience": "https://a"},
			"settings": settings(t, mlType, map[string]string{"enableTraining": "True"}, nil)}
	}
	for _, name := range []string{"image", "command", "serviceAccountName", "rules", "replicas", "installVolcano"} {
		v := good()
		v["settings"].(map[string]any)[name] = "x"
		if _, err := rendered(t, ml, "azureml", v); err == nil {
			t.Errorf("setting %s was taken", name)
		}
	}
	for name, value := range map[string]any{"namespaces": []any{"a\nb"}, "issuer": "https://i\n- --evil", "tenant": "x", "imgae": "x"} {
		v := good()
		v["owner"].(map[string]any)[name] = value
		if _, err := rendered(t, ml, "azureml", v); err == nil {
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
