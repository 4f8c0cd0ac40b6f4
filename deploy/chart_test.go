package deploy

import (
	"encoding/json"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// What Helm makes of the chart is compared with Connect's objects in the module
// parity, which may link Helm.
func TestTheChartIsWhole(t *testing.T) {
	o := Options{Cluster: "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001", Server: "https://sallyport.example", Image: "example.com/agent:v1",
		MandateKey: []byte("-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n")}
	files, err := Chart(o, "v1")
	if err != nil {
		t.Fatal(err)
	}
	template := string(files["templates/agents.yaml"])
	if strings.Contains(template, "SALLYPORT-VALUE") {
		t.Errorf("a stand-in is left:\n%s", template)
	}
	var schema struct{ Properties map[string]any }
	if err := json.Unmarshal(files["values.schema.json"], &schema); err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(files["values.yaml"], &values); err != nil {
		t.Fatal(err)
	}
	for name := range values {
		if schema.Properties[name] == nil {
			t.Errorf("the schema refuses value %s", name)
		}
		if !strings.Contains(template, ".Values."+name) {
			t.Errorf("the template does not use value %s", name)
		}
	}
	for _, kind := range []string{"Namespace", "ValidatingAdmissionPolicy", "ClusterRole", "Deployment", "ConfigMap"} {
		if !strings.Contains(template, "kind: "+kind+"\n") {
			t.Errorf("no %s in the template", kind)
		}
	}
	if list := template[strings.Index(template, "name: "+rbac.BindListRole+"\n"):]; strings.Contains(list[:strings.Index(list, "---")], "rules") {
		t.Error("the chart writes the bind list: an upgrade would take the owner's consent away")
	}
	o.Accept = []rbac.RoleConsent{{Role: trust.Published()[0]}}
	if _, err := Chart(o, "v1"); trust.KindOf(err) != trust.Invalid {
		t.Errorf("with a role: %v", err)
	}
}
