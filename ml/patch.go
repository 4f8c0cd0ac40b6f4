package ml

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// changes is the body of a PUT, or that of a PATCH applied to what there is: a
// JSON merge patch (RFC 7396), so that null removes.
func (k *call) changes(old store.Item[store.Provided]) (*body, error) {
	if k.Method != http.MethodPatch {
		return k.decode()
	}
	if old.Revision == 0 {
		return nil, arm.NoResource(k.ID)
	}
	if err := arm.DecodeResource(k.Body, new(body)); err != nil {
		return nil, err
	}
	s, err := k.shape(&old.Value)
	if err != nil {
		return nil, err
	}
	shown, err := json.Marshal(body{Kind: s.Kind, Tags: s.Tags, SKU: s.SKU, Properties: s.Properties})
	if err != nil {
		return nil, err
	}
	now, err := object(shown)
	if err != nil {
		return nil, err
	}
	patch, err := object(k.Body)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(mergePatch(now, patch, trust.SameFold))
	if err != nil {
		return nil, err
	}
	b := new(body)
	if err := json.Unmarshal(raw, b); err != nil {
		return nil, arm.BadParameter("properties", "a member has the wrong type")
	}
	if len(b.Properties) == 0 || b.Properties[0] != '{' {
		return nil, arm.BadParameter("properties", "they cannot be removed: name what of them")
	}
	return b, nil
}

// object reads one, and its numbers as they are written.
func object(raw []byte) (all map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return all, d.Decode(&all)
}

// mergePatch is RFC 7396's MergePatch of two objects. It changes target. same
// compares members' names: ARM's have no case, but for those of environment
// variables.
func mergePatch(target, patch map[string]any, same func(a, b string) bool) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for name, v := range patch {
		was := name
		for had := range target {
			if same(had, name) {
				was = had
			}
		}
		inner, object := v.(map[string]any)
		switch {
		case v == nil:
			delete(target, was)
		case object:
			below := same
			if same(was, "environmentVariables") {
				below = func(a, b string) bool { return a == b }
			}
			outer, _ := target[was].(map[string]any)
			target[was] = mergePatch(outer, inner, below)
		default:
			target[was] = v
		}
	}
	return target
}
