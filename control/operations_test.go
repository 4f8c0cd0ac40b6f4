package control

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Who started an operation may follow it, whatever else they may do; others need
// a right, and learn nothing without it.
func TestWhoMayFollowAnOperation(t *testing.T) {
	w := newWorld(t).scene()
	assign := func(token, guid, scope string) {
		w.caller(token, "oid-"+token, nil)
		w.must(201, "PUT", scope+"/providers/Microsoft.Authorization/roleAssignments/"+newUID(), props("roleDefinitionId", guid, "principalId", "oid-"+token))
	}
	assign("binder", bindingAdminGUID, groupPath)
	assign("other", bindingAdminGUID, clusterPath)
	assign("reader", readerGUID, subPath)
	put := w.call("binder", "PUT", bindingPath, wants(sourcePath, mlworkload))
	url := strings.TrimPrefix(put.header.Get("Azure-AsyncOperation"), base)
	result := strings.Replace(url, "/operations/", "/operationresults/", 1)
	unknown := strings.Replace(url, put.header.Get("x-ms-request-id"), newUID(), 1)
	second := "/subscriptions/" + newUID()
	w.must(201, "PUT", second, map[string]any{"displayName": "second"})
	elsewhere := strings.Replace(url, subPath, second, 1)
	tests := []struct {
		token, url string
		status     int
	}{
		{"binder", url, 200}, {"binder", result, 202}, {"reader", url, 200}, {"admin", url, 200},
		{"other", url, 403}, {"other", result, 403}, {"other", unknown, 403}, {"stranger", url, 403}, {"", url, 401},
		{"binder", unknown, 403}, {"admin", unknown, 404}, {"reader", unknown, 404}, {"binder", elsewhere, 403}, {"admin", elsewhere, 404},
		{"admin", strings.Replace(url, put.header.Get("x-ms-request-id"), "x", 1), 404},
	}
	for _, tt := range tests {
		if r := w.call(tt.token, "GET", tt.url, nil); r.status != tt.status {
			t.Errorf("%s GET %s: %d %s, want %d", tt.token, tt.url, r.status, r.raw, tt.status)
		}
	}
}

// A store that is away is a 503 that says when to come back, and no more.
func TestStoreAway(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Bootstrap(t.Context(), s, time.Now, First{Tenant: tenant, Subscription: subscription}); err != nil {
		t.Fatal(err)
	}
	ca, err := pki.NewCA(pki.Agents, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, callers: map[string]trust.Caller{}}
	w.caller("admin", "x", nil)
	c, err := New(Config{Store: s, Authenticate: w.authenticate, BaseURL: base, Issuer: issuer, Tenant: tenant, Location: "local", MandateKey: key, AgentCA: ca, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, rt := range c.routes {
		path := example(rt)
		r := httptest.NewRequest(rt.method, path+"?api-version="+version(path), strings.NewReader(`{}`))
		r.Header.Set("Authorization", "Bearer admin")
		out := httptest.NewRecorder()
		c.Handler().ServeHTTP(out, r)
		var body arm.ErrorBody
		if err := json.Unmarshal(out.Body.Bytes(), &body); err != nil || out.Code != 503 || body.Error.Code != arm.ServiceUnavailable || out.Header().Get("Retry-After") != "1" {
			t.Errorf("%s %s: %d %s", rt.method, path, out.Code, out.Body)
		}
		if strings.Contains(out.Body.String(), "etcd") {
			t.Errorf("internal text left: %s", out.Body)
		}
	}
}

// New refuses what would fail later, or open doors.
func TestNewChecksItsConfiguration(t *testing.T) {
	good := newWorld(t).control.Config
	for name, change := range map[string]func(*Config){
		"no store":          func(c *Config) { c.Store = nil },
		"no authenticator":  func(c *Config) { c.Authenticate = nil },
		"no CA":             func(c *Config) { c.AgentCA = nil },
		"no key":            func(c *Config) { c.MandateKey = nil },
		"http":              func(c *Config) { c.BaseURL = "http://x" },
		"a slash":           func(c *Config) { c.BaseURL += "/" },
		"no tenant":         func(c *Config) { c.Tenant = "" },
		"upper-case tenant": func(c *Config) { c.Tenant = "AAAAAAAA-1111-4111-8111-111111111111" },
		"no issuer":         func(c *Config) { c.Issuer = "" },
		"no location":       func(c *Config) { c.Location = "" },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What a key set brings along besides public keys is not kept, and not shown.
func TestOnlyPublicKeysAreKept(t *testing.T) {
	w := newWorld(t).scene()
	k := newKube(t)
	set := strings.Replace(string(k.jwks), `{"keys":[`, `{"keys":[{"kty":"oct","kid":"s","k":"c2VjcmV0"},`, 1)
	set = strings.Replace(set, `"alg":"ES256"`, `"alg":"ES256","x-extra":"secret"`, 1)
	r := w.must(201, "PUT", clusterPath+"/providers/Sallyport.Access/connections/default", props("serviceAccountIssuer", k.issuer, "serviceAccountKeys", json.RawMessage(set)))
	f := w.must(201, "PUT", sourcePath+"/federatedIdentityCredentials/keys", props("issuer", "https://x", "subject", "s", "keys", json.RawMessage(set)))
	for _, r := range []*reply{r, f} {
		if strings.Contains(string(r.raw), "c2VjcmV0") || strings.Contains(string(r.raw), "x-extra") || !strings.Contains(string(r.raw), `"k1"`) {
			t.Errorf("%s", r.raw)
		}
	}
	w.enrolled(k, w.cluster(clusterPath).UID, proxy)
	w.refused(400, arm.InvalidParameter, "PUT", clusterPath+"/providers/Sallyport.Access/connections/default", props("serviceAccountIssuer", k.issuer, "serviceAccountKeys", map[string]any{"keys": []any{}}))
	w.refused(400, arm.InvalidParameter, "PUT", clusterPath+"/providers/Sallyport.Access/connections/default", props("serviceAccountKeys", json.RawMessage(set)))
}

func TestConnection(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.ServerCA = []byte("PEM") }).scene()
	const at = clusterPath + "/providers/Sallyport.Access/connections/default"
	r := w.must(200, "GET", at, nil)
	if r.text("properties.state") != "NotConnected" || len(r.at("properties.agents").([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
	a := w.runAgents(clusterPath, accepts(mlworkload, inference))
	uid := string(a.proxy.uid)
	if _, err := w.store.Commit(t.Context(), store.Put(store.Tunnel{Cluster: a.proxy.uid, Replica: "g1"})); err != nil {
		t.Fatal(err)
	}
	w.eventually("both agents are up to date", func() bool {
		r = w.must(200, "GET", at, nil)
		for _, v := range r.at("properties.agents").([]any) {
			if v.(map[string]any)["upToDate"] != true {
				return false
			}
		}
		return true
	})
	if r.text("properties.clusterUid") != uid || r.text("properties.gatewayUrl") != base+"/clusters/"+uid || r.text("properties.enrolmentAudience") != "sallyport:enrol:"+uid ||
		r.text("properties.serverCA") != "PEM" || !strings.Contains(r.text("properties.mandateKey"), "PUBLIC KEY") || r.text("properties.kubernetesVersion") != "v1.36.3" ||
		r.at("properties.nodes") != 3.0 || r.at("properties.tunnels").([]any)[0] != "g1" {
		t.Errorf("%s", r.raw)
	}
	roles := r.at("properties.acceptedRoles").([]any)
	if len(roles) != 2 || roles[0].(map[string]any)["role"] != inference || roles[0].(map[string]any)["current"] != true || roles[0].(map[string]any)["outlivesRevocation"] == nil {
		t.Errorf("%v", roles)
	}
	a.stop()
	w.advance(time.Minute)
	if r := w.must(200, "GET", at, nil); r.text("properties.state") != "Disconnected" {
		t.Errorf("%s", r.raw)
	}
	w.must(200, "DELETE", at, nil)
	w.must(204, "DELETE", at, nil)
}
