package deploy

import (
	"encoding/base64"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

const mlType = "Microsoft.AzureML.Kubernetes"

// Words for the values of the ML extension's chart.
const (
	mlWordImage     = "SALLYPORT-VALUE-IMAGE"
	mlWordIssuer    = "SALLYPORT-VALUE-ISSUER"
	mlWordTenant    = "SALLYPORT-VALUE-TENANT"
	mlWordAudience  = "SALLYPORT-VALUE-AUDIENCE"
	mlWordClaim     = "SALLYPORT-VALUE-LOG-CLAIM"
	mlWordNamespace = "sallyport-value-namespace"
	mlWordNodes     = "sallyport-value-node-selector"
	mlWordService   = "SALLYPORT-VALUE-SERVICE-TYPE"
	mlWordHost      = "SALLYPORT-VALUE-HOST"
	mlWordURL       = "SALLYPORT-VALUE-SCORING-URL"
	mlWordCert      = "SALLYPORT-VALUE-CERTIFICATE"
	mlWordKey       = "SALLYPORT-VALUE-CERTIFICATE-KEY"
)

// mlSwitches are what values switch on in the ML extension, and how it is
// rendered without.
var mlSwitches = []struct {
	when string
	off  func(*MLOptions)
}{
	{"$.Values.owner.logClaim", func(o *MLOptions) { o.LogClaim = "" }},
	{"$.Values.settings.nodeSelector", func(o *MLOptions) { o.NodeSelector = nil }},
	{"not $.Values.settings.enableTraining", func(o *MLOptions) { o.NoTraining = false }},
	{"$.Values.settings.enableInference", func(o *MLOptions) { o.Router = nil }},
	{"$.Values.settings.inferenceRouterHA", func(o *MLOptions) { o.Router.Alone = true }},
	{"$.Values.settings.internalLoadBalancerProvider", func(o *MLOptions) { o.Router.Internal = false }},
	{"$.Values.settings.sslCname", func(o *MLOptions) { o.Router.Host = "" }},
	{"$.Values.owner.scoringURL", func(o *MLOptions) { o.Router.URL = "" }},
	// A Secret that is there instead of the chart's own; its name is a word, too.
	{"$.Values.settings.sslCert", func(o *MLOptions) { o.Router.Cert, o.Router.Key, o.Router.Secret = nil, nil, routerSecret }},
	{"or $.Values.settings.sslCert $.Values.settings.sslSecret", func(o *MLOptions) { o.Router.Insecure, o.Router.Cert, o.Router.Key = true, nil, nil }},
}

func mlInstallable() *installable {
	i := &installable{
		typ: mlType,
		owner: map[string]any{
			"type": "object", "additionalProperties": false, "required": []string{"image", "namespaces", "issuer", "tenant", "audience"},
			"properties": map[string]any{
				"image": text(imagePattern), "issuer": text(`^https://\S+$`), "tenant": text(`^[0-9a-f-]{36}$`), "audience": text(`^https://\S+$`),
				"namespaces": map[string]any{"type": "array", "minItems": 1, "items": text(namespacePattern)},
				"logClaim":   text(`^([a-z0-9.-]+)?$`),
				"scoringURL": text(`^(https?://\S+)?$`),
			},
		},
		left: []Left{{schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}, mlext.OperatorLease}},
		chart: templating{
			words: map[string]string{mlWordImage: "$.Values.owner.image", mlWordIssuer: "$.Values.owner.issuer", mlWordTenant: "$.Values.owner.tenant",
				mlWordAudience: "$.Values.owner.audience", mlWordClaim: "$.Values.owner.logClaim", mlWordURL: "$.Values.owner.scoringURL",
				mlWordService: "title $.Values.settings.inferenceRouterServiceType", mlWordHost: "$.Values.settings.sslCname",
				base64.StdEncoding.EncodeToString([]byte(mlWordCert)): "b64enc $.Values.settings.sslCert",
				base64.StdEncoding.EncodeToString([]byte(mlWordKey)):  "b64enc $.Values.settings.sslKey",
				nodesJSON(map[string]string{mlWordNodes: ""}):         "toJson $.Values.settings.nodeSelector",
				routerSecret: fmt.Sprintf(`ternary %q $.Values.settings.sslSecret (not (empty $.Values.settings.sslCert))`, routerSecret)},
			maps: map[string]string{mlWordNodes: "$.Values.settings.nodeSelector"},
			each: mlWordNamespace, list: "$.Values.owner.namespaces",
		},
	}
	for _, s := range mlSwitches {
		i.chart.switches = append(i.chart.switches, s.when)
	}
	i.chart.render = func(without int) ([]rbac.Explained, error) {
		o := MLOptions{Namespaces: []string{mlWordNamespace}, Image: mlWordImage, LogClaim: mlWordClaim, Issuer: mlWordIssuer, Tenant: mlWordTenant,
			Audience: mlWordAudience, MLKey: []byte("-"), Keys: []byte("-"), NodeSelector: map[string]string{mlWordNodes: ""}, NoTraining: true,
			Router: &MLRouter{ServiceType: mlWordService, Internal: true, Cert: []byte(mlWordCert), Key: []byte(mlWordKey), Host: mlWordHost, URL: mlWordURL}}
		if without >= 0 {
			mlSwitches[without].off(&o)
		}
		_, made := o.parts()
		return made, nil
	}
	for _, e := range mlKinds() {
		u := e.Object.(*unstructured.Unstructured)
		scope, _, _ := unstructured.NestedString(u.Object, "spec", "scope")
		group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
		plural, _, _ := unstructured.NestedString(u.Object, "spec", "names", "plural")
		if scope == "Namespaced" {
			i.kinds = append(i.kinds, schema.GroupVersionResource{Group: group, Version: "v1alpha1", Resource: plural})
		}
	}
	return i
}

// parts are what the owner applies themselves, however the rest is installed:
// what is there for the whole cluster, and whom the extension believes; and what
// the chart makes.
func (o MLOptions) parts() (owners, made []rbac.Explained) {
	for _, e := range o.objects() {
		_, data := e.Object.(*corev1.ConfigMap)
		if name := e.Object.GetName(); e.Object.GetNamespace() == "" || data && (name == mlConfig || name == mlext.KeysConfigMap) {
			owners = append(owners, e)
		} else {
			made = append(made, e)
		}
	}
	return owners, made
}

func (o MLOptions) accepted() (*acceptance, error) {
	if o.NoWorkloads {
		return nil, trust.Errorf(trust.Invalid, "an extension that the installer installs runs in its cluster")
	}
	if o.Router != nil {
		return nil, trust.Errorf(trust.Invalid, "how endpoints are scored is said by the extension's settings")
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	owners, _ := o.parts()
	// Whatever the settings are, the rights are enough.
	whole := o
	whole.Router = &MLRouter{ServiceType: "ClusterIP", Cert: []byte("-"), Key: []byte("-")}
	_, made := whole.parts()
	values := map[string]any{"image": o.Image, "namespaces": o.Namespaces, "issuer": o.Issuer, "tenant": o.Tenant, "audience": o.Audience}
	if o.LogClaim != "" {
		values["logClaim"] = o.LogClaim
	}
	if o.ScoringURL != "" {
		values["scoringURL"] = o.ScoringURL
	}
	return &acceptance{installable: mlInstallable(), release: wire.Namespace, namespaces: o.Namespaces, values: values, objects: owners, made: made, unsaid: o.believes()}, nil
}
