package arm

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/trust"
)

type sample struct {
	Properties struct {
		SourceResourceID string
		Roles            []string
	}
	Tags map[string]string
}

func TestDecodeResource(t *testing.T) {
	var v sample
	err := DecodeResource([]byte(`{"PROPERTIES":{"sourceresourceid":"x","Roles":["a","b"],"newer":{"a":[1,{"b":2}]}},"tags":{"A":"1"},"systemData":null}`), &v)
	if err != nil || v.Properties.SourceResourceID != "x" || len(v.Properties.Roles) != 2 || v.Tags["A"] != "1" {
		t.Errorf("%+v, %v", v, err)
	}
	for name, body := range map[string]string{
		"empty":              ``,
		"blank":              "  \n",
		"not JSON":           `{"properties":`,
		"array":              `[]`,
		"null":               `null`,
		"text":               `"x"`,
		"two values":         `{}{}`,
		"bytes behind":       `{} x`,
		"unknown member":     `{"propertys":{}}`,
		"twice":              `{"tags":{},"tags":{}}`,
		"twice, other case":  `{"properties":{"roles":[],"Roles":[]}}`,
		"wrong type":         `{"properties":{"roles":"a"}}`,
		"deep":               strings.Repeat(`{"properties":`, 100) + `1` + strings.Repeat(`}`, 100),
		"not UTF-8":          "{\"tags\":{\"a\":\"\xff\"}}",
		"long s for s":       `{"properties":{"role` + "\u017f" + `":[]}}`,
		"Kelvin for k":       `{"` + "\u212a" + `ind":"x"}`,
		"unterminated array": `{"properties":{"roles":[`,
	} {
		if err := DecodeResource([]byte(body), &sample{}); err == nil || trust.KindOf(err) != trust.Invalid {
			t.Errorf("%s: %v, want a refusal", name, err)
		} else if _, b := Translate(err); b.Error.Code != InvalidRequestContent {
			t.Errorf("%s: code %s", name, b.Error.Code)
		}
	}
}

func TestReadBody(t *testing.T) {
	request := func(ct, body string) *http.Request {
		r := httptest.NewRequest("PUT", "/", strings.NewReader(body))
		r.Header.Set("Content-Type", ct)
		return r
	}
	if b, err := ReadBody(request("application/json; charset=utf-8", "{}")); err != nil || string(b) != "{}" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := ReadBody(request("application/json", strings.Repeat(" ", MaxBody+1))); trust.KindOf(err) != trust.TooLarge {
		t.Errorf("too large: %v", err)
	}
	_, err := ReadBody(request("text/plain", "{}"))
	if status, body := Translate(err); status != http.StatusUnsupportedMediaType || body.Error.Code != UnsupportedMediaType {
		t.Errorf("%d %+v", status, body)
	}
}

// Whatever is accepted is one JSON object that a second reader reads the same.
func FuzzDecodeResource(f *testing.F) {
	for _, s := range []string{`{}`, `{"properties":{"roles":["a"]}}`, `{"tags":{"a":"b"},"location":"x"}`, `{"properties":[{"a":1},[[]],"x"]}`, `[`, `{"a":1}`, "{\"tags\":null}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v map[string]json.RawMessage
		if err := DecodeResource(data, &v); err != nil {
			if trust.KindOf(err) != trust.Invalid {
				t.Fatalf("kind %v: %v", trust.KindOf(err), err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted %q", data)
		}
		for k := range v {
			if !members[trust.Fold(k)] {
				t.Fatalf("member %q let through", k)
			}
		}
	})
}
