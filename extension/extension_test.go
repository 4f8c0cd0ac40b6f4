package extension

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/trust"
)

var cluster = Cluster{ID: "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ContainerService/managedClusters/blue", Name: "blue", Location: "local"}

func find(t *testing.T, name string) Type {
	t.Helper()
	typ, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return typ
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

func codes(warnings []Warning) []string {
	var all []string
	for _, w := range warnings {
		all = append(all, w.Code)
	}
	slices.Sort(all)
	return all
}

func TestResolve(t *testing.T) {
	ml := find(t, "microsoft.azureml.KUBERNETES")
	got, warnings, err := ml.Resolve(Values{Plain: map[string]string{"ENABLETRAINING": "True", "nodeSelector.disktype": "ssd", "installVolcano": "False", "nodeselector.Zone": "a"}}, cluster)
	want := map[string]string{"enableTraining": "True", "nodeSelector.disktype": "ssd", "nodeSelector.Zone": "a", "installVolcano": "False",
		"cluster_name": cluster.ID, "clusterId": cluster.ID, "cluster_name_friendly": "blue", "domain": "local", "location": "local", "jobSchedulerLocation": "local"}
	if err != nil || !cmp.Equal(got.Plain, want) || len(got.Protected) != 0 {
		t.Errorf("%v, %v\n%s", got, err, cmp.Diff(want, got.Plain))
	}
	if c := codes(warnings); !slices.Equal(c, []string{"SettingNameCase", "SettingNameCase", "SettingWithoutEffect"}) {
		t.Errorf("%v", warnings)
	}
	// What is resolved resolves to itself, without a word.
	again, warnings, err := ml.Resolve(got, cluster)
	if err != nil || !cmp.Equal(again, got) || !slices.Equal(codes(warnings), []string{"SettingWithoutEffect"}) {
		t.Errorf("%v, %v, %v", again, warnings, err)
	}
}

func TestSettingsRefused(t *testing.T) {
	ml := find(t, "Microsoft.AzureML.Kubernetes")
	cert, key := pair(t, "ml.example.com")
	_, other := pair(t, "ml.example.com")
	in64 := base64.StdEncoding.EncodeToString([]byte(cert))
	serving := map[string]string{"enableInference": "True", "inferenceRouterServiceType": "LoadBalancer", "sslCname": "ml.example.com"}
	with := func(m map[string]string, kv ...string) map[string]string {
		out := map[string]string{}
		for k, v := range m {
			out[k] = v
		}
		for i := 0; i+1 < len(kv); i += 2 {
			if out[kv[i]] = kv[i+1]; kv[i+1] == "-" {
				delete(out, kv[i])
			}
		}
		return out
	}
	train := map[string]string{"enableTraining": "true"}
	tests := []struct {
		name             string
		plain, protected map[string]string
		why, hint        string // "" for why: it is taken
	}{
		{"training", train, nil, "", ""},
		{"nothing enabled", nil, nil, "at least one of enableTraining and enableInference", "--config"},
		{"both false", map[string]string{"enableTraining": "False"}, nil, "at least one of", ""},
		{"not a bool", map[string]string{"enableTraining": "yes"}, nil, "'yes' is neither true nor false", ""},
		{"a typo", with(train, "enableInferense", "True"), nil, "has no setting 'enableInferense'", "enableInference"},
		{"a file's setting of old docs", with(train, "sslCertKeyFile", "x"), nil, "has no setting", "sslKeyPemFile"},
		{"nothing near", with(train, "colour", "red"), nil, "has no setting 'colour'", ""},
		{"twice", with(train, "EnableTraining", "false"), nil, "given twice", ""},
		{"plain and protected", train, map[string]string{"ENABLEtraining": "true"}, "given twice", ""},
		{"a secret in the open", with(train, "scoringFe.sslKey", key), nil, "must be among the protected settings", "--config-protected"},
		{"a relay's secret", train, map[string]string{"relayServerConnectionString": "Endpoint=sb://x"}, "there is no relay", ""},
		{"GPU plugin on", with(train, "installNvidiaDevicePlugin", "True"), nil, "no GPU plugin is installed", ""},
		{"GPU plugin off", with(train, "installNvidiaDevicePlugin", "False"), nil, "", ""},
		{"inference without service", map[string]string{"enableInference": "True", "allowInsecureConnections": "True"}, nil, "inferenceRouterServiceType", ""},
		{"inference in the open", map[string]string{"enableInference": "True", "inferenceRouterServiceType": "nodePort"}, nil, "needs a certificate, or allowInsecureConnections", "sslSecret"},
		{"inference in the open, on purpose", map[string]string{"enableInference": "True", "inferenceRouterServiceType": "nodePort", "allowInsecureConnections": "true"}, nil, "", ""},
		{"unknown service", with(serving, "inferenceRouterServiceType", "ingress"), nil, "'ingress' is not one of loadBalancer, nodePort, clusterIP", ""},
		{"secret", with(serving, "sslSecret", "tls"), nil, "", ""},
		{"secret without name", with(serving, "sslSecret", "tls", "sslCname", "-"), nil, "sslCname", ""},
		{"internal nodePort", with(train, "inferenceRouterServiceType", "nodePort", "internalLoadBalancerProvider", "azure"), nil, "cannot go with", ""},
		{"certificate", serving, map[string]string{"scoringFe.sslCert": in64, "scoringFe.sslKey": key}, "", ""},
		{"certificate by the CLI's names", serving, map[string]string{"sslCertPemFile": cert, "sslKeyPemFile": key}, "", ""},
		{"certificate alone", serving, map[string]string{"scoringFe.sslCert": cert}, "go together", ""},
		{"key alone, with training", train, map[string]string{"sslKeyPemFile": key}, "go together", ""},
		{"key of another", serving, map[string]string{"scoringFe.sslCert": cert, "scoringFe.sslKey": other}, "do not belong together", ""},
		{"passphrase", serving, map[string]string{"scoringFe.sslCert": cert, "scoringFe.sslKey": strings.ReplaceAll(key, "PRIVATE", "ENCRYPTED PRIVATE")}, "passphrase", ""},
		{"another name", with(serving, "sslCname", "other.example.com"), map[string]string{"scoringFe.sslCert": cert, "scoringFe.sslKey": key}, "not for 'other.example.com'", ""},
		{"a file's name", serving, map[string]string{"sslCertPemFile": "/home/me/hidden.pem", "sslKeyPemFile": key}, "a file's name means nothing here", "the file's text"},
	}
	for _, tt := range tests {
		_, _, err := ml.Resolve(Values{tt.plain, tt.protected}, cluster)
		if tt.why == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		var e *trust.Error
		if !errors.As(err, &e) || e.Kind != trust.Invalid || !strings.Contains(e.Message, tt.why) || !strings.Contains(e.Hint, tt.hint) || e.Target == "" {
			t.Errorf("%s: %+v, want %q", tt.name, err, tt.why)
			continue
		}
		for _, v := range tt.protected {
			if strings.Contains(e.Message+e.Hint, v) && len(v) > 6 {
				t.Errorf("%s: the refusal quotes a protected value: %s", tt.name, e.Message)
			}
		}
	}
}

// What is taken here fits the chart's schema too: its refusal would quote it.
func TestAProxysAddressFitsTheChart(t *testing.T) {
	probe := find(t, "Sallyport.EnvironmentProbe")
	for value, good := range map[string]bool{"http://u:p'w@proxy:3128": true, "HTTP://u:secret@proxy:3128": false, "http://u:secret@host/a b": false, "https://u:secret@proxy": false} {
		_, _, err := probe.Resolve(Values{map[string]string{"targets.store": "store.example"}, map[string]string{"proxy": value}}, cluster)
		if (err == nil) != good || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestTypes(t *testing.T) {
	_, err := Find("Microsoft.AzureML.Kubernete")
	var e *trust.Error
	if !errors.As(err, &e) || e.Hint != "did you mean Microsoft.AzureML.Kubernetes?" || e.Code != "ExtensionTypeNotFound" {
		t.Errorf("%+v", err)
	}
	ml, probe := find(t, "Microsoft.AzureML.Kubernetes"), find(t, "sallyport.environmentprobe")
	place := func(typ Type, s Scope, c, ns bool, want Scope, ok bool) {
		t.Helper()
		got, err := typ.Place(s, c, ns)
		if (err == nil) != ok || ok && got != want {
			t.Errorf("%s %+v: %+v, %v", typ.Name, s, got, err)
		}
	}
	place(ml, Scope{}, false, false, Scope{Release: "azureml"}, true)
	place(ml, Scope{Release: "azureml"}, true, false, Scope{Release: "azureml"}, true)
	place(ml, Scope{Release: "other"}, true, false, Scope{}, false)
	place(ml, Scope{Target: "team"}, false, true, Scope{}, false)
	place(probe, Scope{Target: "team"}, false, true, Scope{Target: "team"}, true)
	place(probe, Scope{Target: "Team_1"}, false, true, Scope{}, false)
	place(probe, Scope{Release: "mine", Target: "team"}, true, true, Scope{}, false)
	place(probe, Scope{Release: "mine"}, true, false, Scope{Release: "mine"}, true)
	for _, tt := range []struct {
		version string
		auto    bool
		ok      bool
	}{{"", true, true}, {"1.0.0", false, true}, {"1.0.0", true, false}, {"9.9.9", false, false}} {
		if err := ml.Pin(tt.version, tt.auto); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	for asked, want := range map[string]string{"": "stable", "Preview": "preview", "nightly": ""} {
		if got, err := ml.Train(asked); got != want || (err == nil) != (want != "") {
			t.Errorf("train %q: %q, %v", asked, got, err)
		}
	}
	for _, typ := range Types() {
		seen := map[string]bool{}
		for _, s := range typ.Settings {
			if seen[trust.Fold(s.Key)] || s.Effect != Honoured && s.Why == "" {
				t.Errorf("%s: setting %s is there twice, or does not say why it does nothing", typ.Name, s.Key)
			}
			seen[trust.Fold(s.Key)] = true
			if s.Default != "" && s.fits("x", s.Default, false) != nil {
				t.Errorf("%s: the default of %s is not a value of it", typ.Name, s.Key)
			}
		}
	}
}

func TestMerge(t *testing.T) {
	ml := find(t, "Microsoft.AzureML.Kubernetes")
	old := Values{Plain: map[string]string{"enableTraining": "True", "nodeSelector.a": "1"}, Protected: map[string]string{"scoringFe.sslCert": "c", "scoringFe.sslKey": "k"}}
	kept := ml.Merge(old, Values{Plain: map[string]string{"ENABLETRAINING": "False", "enableInference": "True"}}, false)
	if !cmp.Equal(kept.Plain, map[string]string{"ENABLETRAINING": "False", "enableInference": "True", "nodeSelector.a": "1"}) || len(kept.Protected) != 2 {
		t.Errorf("%v", kept)
	}
	if replaced := ml.Merge(old, Values{Protected: map[string]string{"x": "y"}}, true); !cmp.Equal(replaced.Protected, map[string]string{"x": "y"}) {
		t.Errorf("%v", replaced)
	}
	if old.Plain["enableTraining"] != "True" {
		t.Error("the old settings were changed")
	}
	if err := ml.Keeps(old, Values{Plain: map[string]string{"enableTraining": "True"}}); err == nil || !strings.Contains(err.Error(), "nodeSelector.a") {
		t.Errorf("%v", err)
	}
}

// Whatever is taken resolves to itself again, and no key gets lost or doubled.
func FuzzResolve(f *testing.F) {
	f.Add("enableTraining", "True", "nodeSelector.x", "y")
	f.Add("ENABLETRAINING", "true", "amloperator.a.b", "")
	f.Add("nodeSelector.", "", "sslCname", "a.b")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		for _, typ := range Types() {
			got, _, err := typ.Resolve(Values{Plain: map[string]string{k1: v1, k2: v2}}, cluster)
			if err != nil {
				if trust.KindOf(err) != trust.Invalid {
					t.Fatalf("kind %v: %v", trust.KindOf(err), err)
				}
				continue
			}
			again, _, err := typ.Resolve(got, cluster)
			if err != nil || !cmp.Equal(again, got) {
				t.Fatalf("%q %q: %v, again %v, %v", k1, k2, got, again, err)
			}
		}
	})
}

func TestChartValues(t *testing.T) {
	ml := find(t, "Microsoft.AzureML.Kubernetes")
	cert, key := pair(t, "ml.example.com")
	got, _, err := ml.Resolve(Values{Plain: map[string]string{"enableInference": "true", "inferenceRouterServiceType": "NODEPORT", "sslCname": "ml.example.com",
		"nodeSelector.kubernetes.io/os": "linux", "installVolcano": "True"},
		Protected: map[string]string{"scoringFe.sslCert": base64.StdEncoding.EncodeToString([]byte(cert)), "sslKeyPemFile": key}}, cluster)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"enableTraining": false, "enableInference": true, "allowInsecureConnections": false, "inferenceRouterServiceType": "nodePort", "inferenceRouterHA": true,
		"sslCname": "ml.example.com", "sslCert": cert, "sslKey": key, "nodeSelector": map[string]any{"kubernetes.io/os": "linux"},
		"cluster_name": cluster.ID, "clusterId": cluster.ID, "cluster_name_friendly": "blue", "domain": "local", "location": "local", "jobSchedulerLocation": "local"}
	if have := ml.ChartValues(got); !cmp.Equal(have, want) {
		t.Error(cmp.Diff(want, have))
	}
	probe := find(t, "Sallyport.EnvironmentProbe")
	if got, _, err = probe.Resolve(Values{Plain: map[string]string{"interval": "60", "targets.store": "store.blob.core.windows.net"}}, cluster); err != nil {
		t.Fatal(err)
	}
	want = map[string]any{"interval": 60, "targets": map[string]any{"store": "store.blob.core.windows.net"}, "cluster_name": cluster.ID}
	if have := probe.ChartValues(got); !cmp.Equal(have, want) {
		t.Error(cmp.Diff(want, have))
	}
}

// What az settles for a small cluster the server settles; what was said counts.
func TestSmallClusters(t *testing.T) {
	ml := find(t, "Microsoft.AzureML.Kubernetes")
	serving := map[string]string{"enableInference": "True", "inferenceRouterServiceType": "nodePort", "allowInsecureConnections": "True"}
	for nodes, want := range map[int]string{0: "", 1: "False", 3: ""} {
		c := cluster
		c.Nodes = nodes
		got, _, err := ml.Resolve(Values{Plain: serving}, c)
		if err != nil || got.Plain["inferenceRouterHA"] != want {
			t.Errorf("%d nodes: %v, %v", nodes, got.Plain, err)
		}
	}
	c := cluster
	c.Nodes = 1
	serving["inferenceRouterHA"] = "True"
	if got, _, err := ml.Resolve(Values{Plain: serving}, c); err != nil || got.Plain["inferenceRouterHA"] != "True" {
		t.Errorf("%v, %v", got.Plain, err)
	}
}
