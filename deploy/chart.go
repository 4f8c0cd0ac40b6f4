package deploy

import (
	"encoding/json"
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/trust"
)

// Chart is a Helm chart of what Connect renders, by file name: the same objects,
// with what may differ between clusters or be changed later as values, filled in
// from o. It accepts no roles: consent is an act of the owner's with their own
// rights (accept-roles), not of whoever upgrades a release; so the bind list is in
// it without rules, which Helm then leaves alone.
func Chart(o Options, version string) (map[string][]byte, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if len(o.Accept) > 0 {
		e := trust.Errorf(trust.Invalid, "a chart accepts no roles")
		e.Hint = "install it first, then: sallyport cluster accept-roles"
		return nil, e
	}
	template, err := chartTemplate()
	if err != nil {
		return nil, err
	}
	values, err := chartValues(o)
	if err != nil {
		return nil, err
	}
	schema, err := json.MarshalIndent(chartSchema(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode values.schema.json: %w", err)
	}
	meta, err := yaml.Marshal(map[string]any{
		"apiVersion": "v2", "name": "sallyport-agents", "type": "application", "version": chartVersion, "appVersion": version,
		"description": "The agents by which Sallyport reaches this cluster", "kubeVersion": fmt.Sprintf(">=1.%d.0-0", rbac.MinKubernetes),
	})
	if err != nil {
		return nil, fmt.Errorf("encode Chart.yaml: %w", err)
	}
	return map[string][]byte{
		"Chart.yaml": meta, "values.yaml": values, "values.schema.json": append(schema, '\n'),
		"templates/agents.yaml": template, "templates/NOTES.txt": []byte(chartNotes),
	}, nil
}

// chartVersion grows when what the chart renders changes.
const chartVersion = "0.1.0"

const chartNotes = `Nothing can be bound in this cluster yet. Its owner accepts roles with

  sallyport cluster accept-roles -g GROUP -n NAME --roles ROLE --kube-context CONTEXT --apply

and ends every access, without any server's help, with

  kubectl delete namespace sallyport-bindings
`

// Stand-ins for values while the objects are rendered: plain words in YAML, that
// nothing else holds.
const (
	inCluster = "SALLYPORT-VALUE-CLUSTER"
	inServer  = "https://SALLYPORT-VALUE-SERVER"
	inCA      = "SALLYPORT-VALUE-SERVER-CA"
	inKey     = "SALLYPORT-VALUE-MANDATE-KEY"
	inGateway = "SALLYPORT-VALUE-GATEWAYS"
	inImage   = "SALLYPORT-VALUE-IMAGE"
	inProxy   = "SALLYPORT-VALUE-HTTPS-PROXY"
	inNoProxy = "SALLYPORT-VALUE-NO-PROXY"
	inBundle  = "SALLYPORT-VALUE-TRUST-BUNDLE"
	inProbes  = "SALLYPORT-VALUE-PROBES"
)

// chartTemplate renders the objects with every option set, and then makes the
// stand-ins into expressions and what an option brings into what its value brings.
func chartTemplate() ([]byte, error) {
	o := Options{Cluster: inCluster, Server: inServer, ServerCA: []byte(inCA), MandateKey: []byte(inKey), Gateways: []string{inGateway},
		Image: inImage, HTTPSProxy: inProxy, NoProxy: inNoProxy, TrustBundle: []byte(inBundle)}
	plain, err := o.objects()
	if err != nil {
		return nil, err
	}
	o.Probes = []string{inProbes}
	objects, err := o.objects()
	if err != nil {
		return nil, err
	}
	for i := range objects {
		objects[i].Why = plain[i].Why // which names no values
	}
	text, err := YAML("Rendered by Sallyport from the same source as 'sallyport cluster connect'.", objects)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, doc := range strings.Split(strings.ReplaceAll(string(text), "{{", `{{ "{{" }}`), "---\n") {
		lines := chartLines(doc)
		switch {
		case strings.Contains(doc, "kind: Deployment\n"):
			lines = "{{- if .Values.agents }}\n" + lines + "{{- end }}\n"
		case strings.Contains(doc, "name: "+rbac.BindListRole+"\n") && strings.Contains(doc, "kind: ClusterRole\n"):
			lines = strings.Replace(lines, "rules: []\n", "", 1)
		}
		out = append(out, lines)
	}
	return []byte(strings.Join(out, "---\n")), nil
}

// chartLines makes the lines that an option brings conditional.
func chartLines(doc string) string {
	var b strings.Builder
	lines := strings.SplitAfter(doc, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		value, length := "", 1
		switch trimmed := strings.TrimSpace(line); {
		case strings.HasPrefix(trimmed, caFile+": "), strings.HasPrefix(trimmed, "- --server-ca="):
			value = "serverCA"
		case strings.HasPrefix(trimmed, bundleFile+": "):
			value = "trustBundle"
		case strings.HasPrefix(trimmed, "- --gateways="):
			value = "gateways"
		case strings.HasPrefix(trimmed, "- --probes="):
			value = "probes"
		case trimmed == "- name: HTTPS_PROXY", trimmed == "- name: NO_PROXY":
			value, length = "httpsProxy", 2
		case trimmed == "- name: SSL_CERT_FILE":
			value, length = "trustBundle", 2
		case trimmed == "env:":
			b.WriteString("{{- if or .Values.httpsProxy .Values.trustBundle }}\n" + line + "{{- end }}\n")
			continue
		}
		piece := chartExpressions(strings.Join(lines[i:i+length], ""))
		i += length - 1
		if value != "" {
			piece = "{{- if .Values." + value + " }}\n" + piece + "{{- end }}\n"
		}
		b.WriteString(piece)
	}
	return b.String()
}

// chartExpressions puts values in place of their stand-ins. What may hold anything
// is quoted; the rest is held to a pattern by the schema.
func chartExpressions(s string) string {
	return strings.NewReplacer(
		": "+inCA+"\n", ": {{ .Values.serverCA | quote }}\n",
		": "+inKey+"\n", ": {{ .Values.mandateKey | quote }}\n",
		": "+inBundle+"\n", ": {{ .Values.trustBundle | quote }}\n",
		": "+inImage+"\n", ": {{ .Values.image | quote }}\n",
		": "+inProxy+"\n", ": {{ .Values.httpsProxy | quote }}\n",
		","+inNoProxy, "{{ if .Values.noProxy }},{{ .Values.noProxy }}{{ end }}",
		inGateway, `{{ join "," .Values.gateways }}`,
		inProbes, `{{ join "," .Values.probes }}`,
		inServer, "{{ .Values.server }}",
		inCluster, "{{ .Values.cluster }}",
	).Replace(s)
}

// chartValues is values.yaml for one cluster.
func chartValues(o Options) ([]byte, error) {
	var b strings.Builder
	for _, v := range []struct {
		why, name string
		value     any
	}{
		{"The cluster's uid at Sallyport.", "cluster", o.Cluster},
		{"URL of the control plane.", "server", o.Server},
		{"The only CA that its certificate may come from, PEM. Empty: the system's roots.", "serverCA", string(o.ServerCA)},
		{"The key that signs what the agents are told, PEM.", "mandateKey", string(o.MandateKey)},
		{"host:port of the gateways. Empty: the control plane's.", "gateways", append([]string{}, o.Gateways...)},
		{"Image of sallyport-agent.", "image", o.Image},
		{"Run the agents here. They may run elsewhere, with the same rights.", "agents", !o.NoAgents},
		{"host:port that the proxy agent may look at now and then and report on. It looks at nothing else.", "probes", append([]string{}, o.Probes...)},
		{"CONNECT proxy for the way out.", "httpsProxy", o.HTTPSProxy},
		{"More hosts that are not reached through it, comma-separated.", "noProxy", o.NoProxy},
		{"PEM that replaces the system's roots in the agents.", "trustBundle", string(o.TrustBundle)},
	} {
		text, err := yaml.Marshal(map[string]any{v.name: v.value})
		if err != nil {
			return nil, fmt.Errorf("encode values.yaml: %w", err)
		}
		b.WriteString("# " + v.why + "\n" + string(text))
	}
	return []byte(b.String()), nil
}

// chartSchema refuses values that Options.check would refuse, and what could break
// out of its place in the template.
func chartSchema() map[string]any {
	pem := `^(-----BEGIN CERTIFICATE-----\s[\s\S]*)?$`
	return map[string]any{
		"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "additionalProperties": false,
		"required": []string{"cluster", "server", "mandateKey", "image"},
		"properties": map[string]any{
			"cluster":     text(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`),
			"server":      text(`^https://[A-Za-z0-9.:\[\]-]+$`),
			"serverCA":    text(pem),
			"mandateKey":  text(`^-----BEGIN PUBLIC KEY-----\s`),
			"gateways":    map[string]any{"type": "array", "items": text(`^[A-Za-z0-9.:\[\]-]+:[0-9]+$`)},
			"probes":      map[string]any{"type": "array", "items": text(`^[A-Za-z0-9.:\[\]-]+:[0-9]+$`)},
			"image":       text(`^[^\s]+$`),
			"agents":      map[string]any{"type": "boolean"},
			"httpsProxy":  text(`^(https?://[^\s]+)?$`),
			"noProxy":     text(`^[A-Za-z0-9.:/,*_\[\]-]*$`),
			"trustBundle": text(pem),
			"global":      map[string]any{"type": "object"}, // Helm adds it
		},
	}
}
