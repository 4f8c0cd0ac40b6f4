package ml

import (
	"encoding/json"
	"testing"
)

// secrets are members that overlay drops, as a client's decoder reads them.
type secrets struct {
	Keys        json.RawMessage
	Credentials json.RawMessage
}

// What encoding/json would take for a member is dropped with it.
func FuzzOverlay(f *testing.F) {
	for _, s := range []string{`{"keys":1,"Keys":2}`, `{"\u212aeys":1}`, `{"key\u017f":1}`, `{"Keyſ":{}}`, `{"credentialſ":[],"other":1}`, `null`, `[]`, `{"ke\u0130s":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, err := overlay(raw, []string{"keys", "credentials"}, map[string]any{"state": "x"})
		if err != nil {
			return
		}
		var s secrets
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatalf("%q became %q: %v", raw, out, err)
		}
		if s.Keys != nil || s.Credentials != nil {
			t.Errorf("%q became %q", raw, out)
		}
	})
}
