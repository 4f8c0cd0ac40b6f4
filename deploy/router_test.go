package deploy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/rbac"
)

func mlOptions(r *MLRouter) MLOptions {
	return MLOptions{Namespaces: []string{"serving"}, Image: "registry.example/sallyport-ml:v1", Issuer: "https://sallyport.example/t/v2.0", Tenant: "t",
		Audience: "https://sallyport.example/extensions/" + string(uid), MLKey: []byte(key), Keys: []byte("{}"), Router: r}
}

// certificate is a pair for one name.
func certificate(t *testing.T, name string) (certPEM, keyPEM []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, form, form, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func TestTheRoutersSettings(t *testing.T) {
	cert, key := certificate(t, "ml.example")
	_, other := certificate(t, "ml.example")
	for name, c := range map[string]struct {
		r    MLRouter
		says string // "": fine
	}{
		"insecure":              {MLRouter{ServiceType: "ClusterIP", Insecure: true, Alone: true}, ""},
		"a Secret":              {MLRouter{ServiceType: "LoadBalancer", Secret: "tls", Host: "ml.example", Internal: true}, ""},
		"files":                 {MLRouter{ServiceType: "NodePort", Cert: cert, Key: key, Host: "ml.example", URL: "https://ml.example:8443/x"}, ""},
		"no type":               {MLRouter{Insecure: true}, "must be one of"},
		"another type":          {MLRouter{ServiceType: "loadBalancer", Insecure: true}, "must be one of"},
		"no TLS, not asked for": {MLRouter{ServiceType: "ClusterIP"}, "needs a certificate"},
		"both":                  {MLRouter{ServiceType: "ClusterIP", Insecure: true, Secret: "tls"}, "exclude each other"},
		"two certificates":      {MLRouter{ServiceType: "ClusterIP", Secret: "tls", Cert: cert, Key: key, Host: "ml.example"}, "either from"},
		"no name":               {MLRouter{ServiceType: "ClusterIP", Secret: "tls"}, "name in the certificate"},
		"another name":          {MLRouter{ServiceType: "ClusterIP", Cert: cert, Key: key, Host: "other.example"}, "it names ml.example"},
		"another key":           {MLRouter{ServiceType: "ClusterIP", Cert: cert, Key: other, Host: "ml.example"}, "cannot be used together"},
		"half":                  {MLRouter{ServiceType: "ClusterIP", Cert: cert, Host: "ml.example"}, "cannot be used together"},
		"internal node port":    {MLRouter{ServiceType: "NodePort", Insecure: true, Internal: true}, "goes with"},
		"a URL of files":        {MLRouter{ServiceType: "NodePort", Insecure: true, URL: "file:///etc"}, "not an http"},
		"a URL with a query":    {MLRouter{ServiceType: "NodePort", Insecure: true, URL: "https://a/?b"}, "not an http"},
	} {
		_, err := ML(mlOptions(&c.r))
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// Everything that the router's identity may do, in full: what a thief of its token
// has. It reads no Secret, makes nothing, and changes numbers of replicas.
func TestTheRoutersRights(t *testing.T) {
	all, err := ML(mlOptions(&MLRouter{ServiceType: "ClusterIP", Insecure: true}))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all {
		var rules []rbacv1.PolicyRule
		where := e.Object.GetNamespace()
		switch o := e.Object.(type) {
		case *rbacv1.Role:
			rules = o.Rules
		case *rbacv1.ClusterRole:
			rules = o.Rules
		case *rbacv1.RoleBinding:
			if o.RoleRef.Name != o.Name || len(o.Subjects) != 1 || o.Subjects[0].Name != o.Name || o.Subjects[0].Namespace != wire.Namespace {
				t.Errorf("%+v", o)
			}
		}
		if e.Object.GetName() != mlext.RouterAccount {
			continue
		}
		if len(e.Rules) != len(rules) {
			t.Errorf("%d rules, %d reasons", len(rules), len(e.Rules))
		}
		for _, r := range rules {
			got = append(got, strings.TrimSpace(where+" "+strings.Join(r.Resources, ",")+" "+strings.Join(r.Verbs, ",")+" "+strings.Join(r.ResourceNames, ",")))
		}
	}
	slices.Sort(got)
	want := []string{
		"azureml configmaps get,list,watch,patch sallyport-ml-routers",
		"azureml leases get,update sallyport-ml-router",
		"azureml onlinedeployments/scale patch",
		"azureml onlineendpoints,onlinedeployments get,list,watch",
		"serving pods get,list,watch",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheRoutersWorkload(t *testing.T) {
	cert, key := certificate(t, "ml.example")
	find := func(r *MLRouter) (d *appsv1.Deployment, s *corev1.Service, kinds string) {
		all, err := ML(mlOptions(r))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			switch o := e.Object.(type) {
			case *appsv1.Deployment:
				if o.Name == mlext.RouterAccount {
					d = o
				}
			case *corev1.Service:
				if o.Name == mlext.RouterService {
					s = o
				}
			case *corev1.Secret:
				if o.Name == routerSecret {
					kinds += "Secret "
				}
			}
			if e.Object.GetObjectKind().GroupVersionKind().Kind == "PodDisruptionBudget" {
				kinds += "PodDisruptionBudget "
			}
		}
		return d, s, kinds
	}
	d, s, kinds := find(&MLRouter{ServiceType: "LoadBalancer", Cert: cert, Key: key, Host: "ml.example", Internal: true, URL: "https://ml.example"})
	args := strings.Join(d.Spec.Template.Spec.Containers[0].Args, " ")
	if *d.Spec.Replicas != 3 || d.Spec.Template.Spec.Affinity == nil || kinds != "Secret PodDisruptionBudget " || s.Spec.Ports[0].Port != 443 || s.Spec.Type != "LoadBalancer" ||
		s.Annotations[AzureInternal] != "true" || s.Annotations[mlext.ScoringURL] != "https://ml.example" || !strings.Contains(args, "--tls-cert=") || strings.Contains(args, "insecure") {
		t.Errorf("%v\n%+v\n%s", args, s.Spec, kinds)
	}
	d, s, kinds = find(&MLRouter{ServiceType: "ClusterIP", Insecure: true, Alone: true})
	args = strings.Join(d.Spec.Template.Spec.Containers[0].Args, " ")
	if *d.Spec.Replicas != 1 || d.Spec.Template.Spec.Affinity != nil || kinds != "" || s.Spec.Ports[0].Name != "http" || !strings.Contains(args, "--allow-insecure-connections") || strings.Contains(args, "--tls-cert") {
		t.Errorf("%v\n%+v\n%s", args, s.Spec, kinds)
	}
	if all, err := ML(mlOptions(nil)); err != nil || slices.ContainsFunc(all, func(e rbac.Explained) bool { return e.Object.GetName() == mlext.RouterAccount }) {
		t.Errorf("a router nobody asked for: %v", err)
	}
}
