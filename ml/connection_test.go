package ml

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func registry(kv ...any) map[string]any {
	return props(append([]any{"category", "ContainerRegistry", "authType", "UsernamePassword", "target", "https://registry.example.com",
		"credentials", map[string]any{"username": "robot", "password": "a password of its own"}}, kv...)...)
}

// Registry credentials reach the clusters, lie sealed, and are never shown.
func TestRegistryCredentials(t *testing.T) {
	w := newWorld(t).scene()
	at := workspace + "/connections/images"
	shown := w.must(201, "PUT", at, registry())
	for _, r := range []*reply{shown, w.must(200, "GET", at, nil), w.must(200, "GET", workspace+"/connections", nil)} {
		if raw, err := json.Marshal(r.body); err != nil || strings.Contains(string(raw), "a password of its own") || strings.Contains(string(raw), "credentials") {
			t.Errorf("shown %s", raw)
		}
	}
	item, err := store.Get[store.Provided](t.Context(), w.st, store.ProvidedKey(at))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := json.Marshal(item.Value); err != nil || strings.Contains(string(raw), "a password of its own") {
		t.Errorf("kept %s", raw)
	}
	told := func() []wire.Registry {
		var all []wire.Registry
		w.locked(func() bool { all = w.registries; return true })
		return all
	}
	if all := told(); len(all) != 1 || all[0] != (wire.Registry{Server: "registry.example.com", Username: "robot", Password: "a password of its own"}) {
		t.Errorf("told %+v", all)
	}
	w.must(200, "PUT", at, registry("credentials", map[string]any{"username": "robot", "password": "another"}))
	if all := told(); len(all) != 1 || all[0].Password != "another" {
		t.Errorf("told %+v", all)
	}
	// One that was not told is, before something runs.
	w.locked(func() bool { w.registries = nil; return true })
	w.must(201, "PUT", workspace+"/jobs/j", command())
	w.until("the cluster has the job", func() bool { return w.locked(func() bool { return len(w.submitted) == 1 }) })
	if all := told(); len(all) != 1 {
		t.Errorf("told %+v", all)
	}
	w.must(200, "DELETE", at, nil)
	if all := told(); len(all) != 0 {
		t.Errorf("told %+v", all)
	}
	// That the last one is gone, too.
	w.must(201, "PUT", at, registry())
	w.away(func(path string) (int, string) {
		if strings.HasSuffix(path, "/registries") {
			return 503, `{"code": "Unavailable", "message": "away"}`
		}
		return 0, ""
	})
	w.must(200, "DELETE", at, nil)
	if all := told(); len(all) != 1 {
		t.Errorf("told %+v", all)
	}
	w.away(nil)
	w.must(201, "PUT", workspace+"/jobs/k", command())
	w.until("the cluster has the job", func() bool { return w.locked(func() bool { return len(w.submitted) == 2 }) })
	if all := told(); len(all) != 0 {
		t.Errorf("told %+v", all)
	}
	for what, bad := range map[string]map[string]any{
		"category": registry("category", "AzureOpenAI"), "auth": registry("authType", "PAT"), "target": registry("target", "https://a b/c"),
		"no password": registry("credentials", map[string]any{"username": "robot"}),
	} {
		if r := w.call("PUT", at, bad); trust.KindOf(r.err) != trust.Invalid {
			t.Errorf("%s: %v", what, r.err)
		}
	}
}

// A cluster that does not answer holds nobody who changes a connection.
func TestAClusterThatIsAwayHoldsNoConnection(t *testing.T) {
	w := newWorld(t).scene()
	comes := make(chan struct{})
	t.Cleanup(func() { close(comes) })
	w.late.Store(&latePut{is: func(path string) bool { return strings.HasSuffix(path, "/registries") }, sent: func() {}, comes: comes})
	done := make(chan *reply, 1)
	go func() { done <- w.call("PUT", workspace+"/connections/images", registry()) }()
	select {
	case r := <-done:
		if r.err != nil || r.Status != 201 {
			t.Errorf("%+v", r)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("held")
	}
}
