package main

import (
	"os"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/trust"
)

// computeFile is an attached Kubernetes compute as az's YAML has it.
type computeFile struct {
	Schema      string         `json:"$schema"`
	Name        string         `json:"name"`
	Type        string         `json:"type"`
	Description string         `json:"description"`
	ResourceID  string         `json:"resource_id"`
	Namespace   string         `json:"namespace"`
	Identity    map[string]any `json:"identity"`
	Properties  map[string]any `json:"properties"` // ARM's, in either spelling
}

// computeProperties are what a compute has beside its namespace.
type computeProperties struct {
	DefaultInstanceType string                   `json:"default_instance_type"`
	InstanceTypes       map[string]*instanceFile `json:"instance_types"`
}

type instanceFile struct {
	NodeSelector map[string]scalar `json:"node_selector"`
	Resources    struct {
		Requests map[string]*scalar `json:"requests"`
		Limits   map[string]*scalar `json:"limits"`
	} `json:"resources"`
}

func readComputeFile(path string) (*computeFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, trust.Errorf(trust.Invalid, "the compute's file cannot be read").Because(err)
	}
	var c computeFile
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, trust.Errorf(trust.Invalid, "%s does not read as a compute", path).Because(err)
	}
	if len(c.Identity) > 0 {
		return nil, trust.Errorf(trust.Invalid, "%s: computes have no identity of their own here; leave identity out", path)
	}
	return &c, nil
}

// arm gives a compute's properties in ARM's spelling. az takes them in ARM's or in
// Python's; a name that is neither is refused.
func (c *computeFile) arm() (map[string]any, error) {
	spelt := map[string]string{"defaultinstancetype": "default_instance_type", "instancetypes": "instance_types", "nodeselector": "node_selector"}
	known := func(from map[string]any) map[string]any {
		to := map[string]any{}
		for name, v := range from {
			if s, ok := spelt[strings.ToLower(name)]; ok {
				name = s
			}
			to[name] = v
		}
		return to
	}
	all := known(c.Properties)
	if types, ok := all["instance_types"].(map[string]any); ok {
		for name, v := range types {
			if kind, ok := v.(map[string]any); ok {
				types[name] = known(kind)
			}
		}
	}
	raw, err := yaml.Marshal(all)
	if err != nil {
		return nil, err
	}
	var p computeProperties
	if err := yaml.UnmarshalStrict(raw, &p); err != nil {
		return nil, trust.Errorf(trust.Invalid, "the compute's properties are default_instance_type and instance_types, each with node_selector and resources").Because(err)
	}
	out := texts("defaultInstanceType", p.DefaultInstanceType)
	if len(p.InstanceTypes) == 0 {
		return out, nil
	}
	types := map[string]any{}
	for name, kind := range p.InstanceTypes {
		if kind == nil {
			kind = &instanceFile{}
		}
		types[name] = map[string]any{"nodeSelector": kind.NodeSelector,
			"resources": map[string]any{"requests": kind.Resources.Requests, "limits": kind.Resources.Limits}}
	}
	out["instanceTypes"] = types
	return out, nil
}
