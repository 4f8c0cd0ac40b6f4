package control

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// pond is a provider that says what it was asked.
type pond struct{ calls []*arm.Call }

func (p *pond) provider() Provider {
	return Provider{
		Namespace: "Contoso.Pond", Tracked: "ponds", Versions: arm.Versions{Known: []string{"2025-01-01"}},
		Types: []arm.ProvidedType{
			{Type: "ponds/fish", Methods: []string{"GET", "PUT", "DELETE"}, Actions: []string{"feed"}, Versions: arm.Versions{Known: []string{"2025-01-01"}}},
			{Type: "ponds/fish/scales", Methods: []string{"GET"}, Versions: arm.Versions{Known: []string{"2025-01-01"}}},
		},
		Serve: func(_ context.Context, c *arm.Call) (*arm.Answer, error) {
			p.calls = append(p.calls, c)
			switch c.ID.Name() {
			case "shark":
				return nil, arm.Errorf(trust.Conflict, "TooBig", "A shark does not fit.")
			case "shoal":
				return nil, trust.Errorf(trust.Throttled, "There are %d fish, which is the limit.", 40)
			}
			return &arm.Answer{Status: http.StatusAccepted, Body: map[string]any{"a": 1}, Header: http.Header{"Location": {"there"}}}, nil
		},
		Complete: func(now, old *store.Source) error {
			if string(now.Properties) == `{"deep":true}` {
				return arm.BadParameter("properties.deep", "no")
			}
			if old.ID == "" {
				now.Properties = json.RawMessage(`{"water":"fresh"}`)
			}
			return nil
		},
		Federate: func(s *store.Source) store.Federated {
			return store.Federated{ClientID: s.Identity.ClientID, Name: "pond", Issuer: "https://pond", Subject: s.Identity.PrincipalID, Audiences: []string{"x"}}
		},
	}
}

const pondPath = groupPath + "/providers/Contoso.Pond/ponds/p1"

func pondQuery(path string) string { return path + "?api-version=2025-01-01" }

func TestAProviderSeesOnlyWhatPassedEveryCheck(t *testing.T) {
	p := &pond{}
	w := newWorld(t, func(c *Config) { c.Providers = []Provider{p.provider()} })
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	fish := pondQuery(pondPath + "/fish/f")
	w.refused(404, arm.ParentResourceNotFound, "PUT", fish, props())
	w.must(200, "PUT", pondQuery(pondPath), map[string]any{"location": "local"})
	w.refused(400, arm.NoRegisteredProviderFound, "PUT", pondPath+"/fish/f?api-version=2001-01-01", props())
	w.refused(400, arm.MissingAPIVersionParameter, "PUT", pondPath+"/fish/f?x=y", props())
	w.refused(404, arm.ResourceGroupNotFound, "PUT", pondQuery(subPath+"/resourceGroups/none/providers/Contoso.Pond/ponds/p1/fish/f"), props())
	w.refused(404, arm.InvalidResourceType, "PUT", pondQuery(pondPath+"/frogs/f"), props())
	w.refused(405, arm.MethodNotAllowed, "PATCH", fish, props())
	if r := w.call("", "PUT", fish, props()); r.status != 401 {
		t.Errorf("no token: %d", r.status)
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		if r := w.call("stranger", method, fish, nil); r.status != 403 {
			t.Errorf("a stranger's %s: %d", method, r.status)
		}
	}
	if r := w.call("stranger", "POST", pondQuery(pondPath+"/fish/f/feed"), nil); r.status != 403 || r.text("error.message") == "" {
		t.Errorf("a stranger's action: %d", r.status)
	}
	if len(p.calls) > 0 {
		t.Fatalf("the provider was asked: %+v", p.calls[0])
	}
	w.refused(409, "TooBig", "PUT", pondQuery(pondPath+"/fish/shark"), props())
	p.calls = nil

	r := w.must(202, "PUT", fish, props("x", 1))
	if r.at("a") != float64(1) || r.header.Get("Location") != "there" {
		t.Errorf("answer %v %v", r.body, r.header)
	}
	w.must(202, "GET", pondQuery(pondPath+"/fish"), nil)
	w.must(202, "POST", pondQuery(pondPath+"/FISH/f/Feed"), map[string]any{"b": 2})
	w.must(202, "GET", pondQuery(pondPath+"/fish/f/scales/s"), nil)
	type seen struct {
		method, id, typ, action, body string
		list                          bool
	}
	var got []seen
	for _, c := range p.calls {
		if c.Caller.Object != w.callers["admin"].Object || c.RequestID == "" || c.Base != base {
			t.Errorf("call %+v", c)
		}
		got = append(got, seen{c.Method, c.ID.String(), c.Type, c.Action, string(c.Body), c.List})
	}
	want := []seen{
		{"PUT", pondPath + "/fish/f", "Contoso.Pond/ponds/fish", "", `{"properties":{"x":1}}`, false},
		{"GET", pondPath, "Contoso.Pond/ponds/fish", "", "", true},
		{"POST", pondPath + "/FISH/f", "Contoso.Pond/ponds/fish", "feed", `{"b":2}`, false},
		{"GET", pondPath + "/fish/f/scales/s", "Contoso.Pond/ponds/fish/scales", "", "", false},
	}
	if len(got) != len(want) {
		t.Fatalf("calls %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("call %d: %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestAProviderCompletesItsSources(t *testing.T) {
	p := &pond{}
	w := newWorld(t, func(c *Config) { c.Providers = []Provider{p.provider()} })
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	w.refused(400, arm.InvalidParameter, "PUT", pondQuery(pondPath), props("deep", true))
	r := w.must(200, "PUT", pondQuery(pondPath), map[string]any{"location": "local", "identity": map[string]any{"type": "SystemAssigned"}})
	if r.text("properties.water") != "fresh" {
		t.Errorf("body %s", r.raw)
	}
	f, err := store.Get[store.Federated](t.Context(), w.store, store.Federated{ClientID: r.text("identity.clientId"), Name: "pond"}.Key())
	if err != nil || f.Value.Subject != r.text("identity.principalId") {
		t.Errorf("credential %+v, %v", f.Value, err)
	}
	r = w.must(200, "PATCH", pondQuery(pondPath), map[string]any{"properties": map[string]any{"depth": 3, "WATER": nil}, "kind": "koi", "identity": map[string]any{"type": "None"}})
	if r.at("properties.depth") != float64(3) || r.at("properties.water") != nil || r.text("kind") != "koi" {
		t.Errorf("patched %s", r.raw)
	}
	if _, err := store.Get[store.Federated](t.Context(), w.store, f.Value.Key()); trust.KindOf(err) != trust.NotFound {
		t.Errorf("the credential outlived the identity: %v", err)
	}
	if got := w.must(200, "GET", subPath+"/providers/Contoso.Pond", nil); len(got.at("resourceTypes").([]any)) != 3 {
		t.Errorf("provider %s", got.raw)
	}
}
