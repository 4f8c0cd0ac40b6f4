package authority

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

func TestATokenIsAManagedIdentitys(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Algorithm = "" })
	i := w.identity(workspace)
	secret := w.secret(i)
	rec, body := w.post("", withSecret(i, secret.Value, gatewayAud), nil)
	if rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	token := body["access_token"].(string)
	delete(body, "access_token")
	if d := cmp.Diff(map[string]any{"token_type": "Bearer", "expires_in": 3600.0, "ext_expires_in": 3600.0}, body); d != "" {
		t.Errorf("answer (-want +got):\n%s", d)
	}
	if got := rec.Header(); got.Get("Cache-Control") != "no-store" || got.Get("Pragma") != "no-cache" || !strings.HasPrefix(got.Get("Content-Type"), "application/json") {
		t.Errorf("headers %v", got)
	}
	head := part(t, token, 0)
	kid := head["kid"].(string)
	if d := cmp.Diff(map[string]any{"alg": "RS256", "typ": "JWT", "kid": kid}, head); d != "" || len(kid) != 43 {
		t.Errorf("header (-want +got):\n%s", d)
	}
	claims := part(t, token, 1)
	now := float64(w.clock.Now().Unix())
	uti, cred := claims["uti"].(string), claims["sp_cred"].(string)
	if len(uti) != 22 || !strings.HasPrefix(cred, "/secrets/"+i.ClientID+"/"+secret.ID+"#") {
		t.Errorf("uti %q, sp_cred %q", uti, cred)
	}
	if d := cmp.Diff(map[string]any{
		"aud": gatewayAud, "iss": baseURL + "/" + tenant + "/v2.0", "iat": now, "nbf": now, "exp": now + 3600,
		"appid": i.ClientID, "azp": i.ClientID, "appidacr": "1", "azpacr": "1", "idp": baseURL + "/" + tenant + "/v2.0", "idtyp": "app",
		"oid": i.ObjectID, "sub": i.ObjectID, "tid": tenant, "uti": uti, "ver": "2.0", "sp_cred": cred,
		"xms_mirid": strings.Replace(workspace, "resourceGroups", "resourcegroups", 1),
	}, claims); d != "" {
		t.Errorf("claims (-want +got):\n%s", d)
	}
	want := trust.Caller{
		Principal:  trust.Principal{Issuer: w.Issuer(), Tenant: tenant, Object: i.ObjectID},
		ResourceID: claims["xms_mirid"].(string), ClientID: i.ClientID, Audience: gatewayAud, TokenID: uti, KeyID: kid, Credential: cred, Expires: w.clock.Now().Add(time.Hour),
	}
	caller := w.good("the token", token)
	if d := cmp.Diff(want, caller); d != "" {
		t.Errorf("caller (-want +got):\n%s", d)
	}
	if !authn.NamesResource(&caller, workspace) {
		t.Error("the caller does not name its resource")
	}
}

// MSAL asks for more than the resource.
func TestScopesOfOpenIDConnectAreIgnored(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity(workspace)
	form := withSecret(i, w.secret(i).Value, "")
	form.Set("scope", gatewayAud+"/.default openid offline_access profile")
	w.good("MSAL's scopes", w.must(form))
	form.Set("scope", "openid offline_access profile")
	if rec, body := w.post("", form, nil); rec.Code != http.StatusBadRequest || body["error"] != "invalid_scope" {
		t.Errorf("no resource: %d %v", rec.Code, body)
	}
}

func TestAnApplicationNamesNoResource(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity("")
	token := w.must(withSecret(i, w.secret(i).Value, baseURL))
	if _, there := part(t, token, 1)["xms_mirid"]; there {
		t.Error("an application's token has xms_mirid")
	}
	if _, err := w.authn.Authenticate(t.Context(), token, authn.Audiences{baseURL, baseURL + "/"}); err != nil {
		t.Error(err)
	}
	w.refused("at the gateway, with a token for the control API", token)
}

func TestTheEndpointOfV1(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity(workspace)
	form := withSecret(i, w.secret(i).Value, "")
	form.Del("scope")
	form.Set("resource", gatewayAud)
	rec, body := w.post("//"+strings.ToUpper(tenant)+"/oauth2/token", form, nil)
	if rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	w.good("v1 token", body["access_token"].(string))
	delete(body, "access_token")
	if d := cmp.Diff(map[string]any{"token_type": "Bearer", "expires_in": "3600", "ext_expires_in": "3600",
		"expires_on": "1800003600", "not_before": "1800000000", "resource": gatewayAud}, body); d != "" {
		t.Errorf("answer (-want +got):\n%s", d)
	}
}

func TestAudiences(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Audiences = []string{"https://graph.test"} })
	const uid = "33333333-3333-3333-3333-333333333333"
	i := w.identity(workspace)
	secret := w.secret(i).Value
	for resource, life := range map[string]float64{
		baseURL: 3600, baseURL + "/": 3600, baseURL + "/gateways/west": 3600, baseURL + "/clusters/" + uid: 900, "https://graph.test": 3600,
		"": 0, "https://other.test": 0, baseURL + "//": 0, baseURL + "/gateways": 0, baseURL + "/gateways/": 0, baseURL + "/gateways/West": 0, baseURL + "/gateways/a/b": 0, baseURL + "/gateways/-": 0,
		baseURL + "/clusters/": 0, baseURL + "/clusters/" + uid + "/": 0, baseURL + "/clusters/x": 0, strings.ToUpper(baseURL): 0, "sallyport:enrol:" + uid: 0, baseURL + ".evil.test": 0,
		baseURL + " https://other.test": 0,
	} {
		rec, body := w.post("", withSecret(i, secret, resource), nil)
		if life == 0 {
			if rec.Code != http.StatusBadRequest || body["error"] != "invalid_resource" && body["error"] != "invalid_scope" {
				t.Errorf("%q: %d %v, want invalid_resource", resource, rec.Code, body["error"])
			}
			continue
		}
		if rec.Code != http.StatusOK || body["expires_in"] != life {
			t.Errorf("%q: %d %v, want %v s", resource, rec.Code, body, life)
			continue
		}
		claims := part(t, body["access_token"].(string), 1)
		if claims["aud"] != resource || claims["exp"].(float64)-claims["iat"].(float64) != life {
			t.Errorf("%q: aud %v for %v s", resource, claims["aud"], claims["exp"].(float64)-claims["iat"].(float64))
		}
	}
}

// Each refusal in the shape that Azure's clients read.
func TestRefusals(t *testing.T) {
	w := newWorld(t, nil)
	i, other := w.identity(workspace), w.identity("")
	secret, others := w.secret(i).Value, w.secret(other).Value
	foreign := store.Identity{ClientID: "55555555-5555-5555-5555-555555555555", ObjectID: "o", TenantID: "66666666-6666-6666-6666-666666666666", Kind: "Application"}
	w.commit(store.Create(foreign))
	foreigns := w.secret(foreign).Value
	good := func(change func(url.Values)) url.Values {
		f := withSecret(i, secret, gatewayAud)
		if change != nil {
			change(f)
		}
		return f
	}
	set := func(kv ...string) func(url.Values) {
		return func(f url.Values) {
			for n := 0; n < len(kv); n += 2 {
				if f.Del(kv[n]); kv[n+1] != "" {
					f.Set(kv[n], kv[n+1])
				}
			}
		}
	}
	bearer := w.must(withSecret(other, others, baseURL))
	tests := []struct {
		name   string
		path   string
		form   url.Values
		change func(*http.Request)
		status int
		error  string
		code   float64
	}{
		{"wrong secret", "", good(set("client_secret", secret+"x")), nil, 401, "invalid_client", 7000215},
		{"another identity's secret", "", good(set("client_secret", others)), nil, 401, "invalid_client", 7000215},
		{"the hash as secret", "", good(set("client_secret", string(hashSecret(secret)))), nil, 401, "invalid_client", 7000215},
		{"unknown client", "", good(set("client_id", "44444444-4444-4444-4444-444444444444")), nil, 401, "invalid_client", 7000215},
		{"client of another tenant", "", withSecret(foreign, foreigns, gatewayAud), nil, 401, "invalid_client", 7000215},
		{"no credential", "", good(set("client_secret", "")), nil, 401, "invalid_client", 7000216},
		{"no credential, an administrator's token instead", "", good(set("client_secret", "")), func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+bearer) }, 401, "invalid_client", 7000216},
		{"an administrator's token as assertion", "", withAssertion(i, bearer, gatewayAud), nil, 401, "invalid_client", 70021},
		{"no client", "", good(set("client_id", "")), nil, 400, "invalid_request", 900144},
		{"client no GUID", "", good(set("client_id", "../"+i.ClientID)), nil, 400, "invalid_request", 900144},
		{"two credentials", "", good(set("client_assertion", "x", "client_assertion_type", assertionType)), nil, 400, "invalid_request", 9002312},
		{"Basic and another secret", "", good(nil), func(r *http.Request) { r.SetBasicAuth(i.ClientID, secret) }, 400, "invalid_request", 9002312},
		{"Basic for another client", "", good(set("client_secret", "")), func(r *http.Request) { r.SetBasicAuth(other.ClientID, others) }, 400, "invalid_request", 9002312},
		{"assertion of no type", "", good(set("client_secret", "", "client_assertion", "x")), nil, 400, "invalid_request", 900144},
		{"assertion no token", "", withAssertion(i, "x", gatewayAud), nil, 401, "invalid_client", 70021},
		{"no grant", "", good(set("grant_type", "")), nil, 400, "invalid_request", 900144},
		{"password grant", "", good(set("grant_type", "password")), nil, 400, "unsupported_grant_type", 70003},
		{"no scope", "", good(set("scope", "")), nil, 400, "invalid_scope", 1002012},
		{"scope without .default", "", good(set("scope", gatewayAud)), nil, 400, "invalid_scope", 1002012},
		{"two scopes", "", good(set("scope", gatewayAud+"/.default "+baseURL+"/.default")), nil, 400, "invalid_scope", 1002012},
		{"v1 without resource", "/" + tenant + "/oauth2/token", good(nil), nil, 400, "invalid_request", 900144},
		{"unknown resource", "", good(set("scope", "https://management.azure.com/.default")), nil, 400, "invalid_resource", 500011},
		{"another tenant", "/99999999-9999-9999-9999-999999999999/oauth2/v2.0/token", good(nil), nil, 400, "invalid_request", 90002},
		{"common", "/common/oauth2/v2.0/token", good(nil), nil, 400, "invalid_request", 50059},
		{"unknown endpoint", "/" + tenant + "/oauth2/v3.0/token", good(nil), nil, 404, "invalid_request", 900144},
		{"parameter twice", "", url.Values{"client_id": {i.ClientID, other.ClientID}}, nil, 400, "invalid_request", 9000411},
		{"parameters in the URL", "/" + tenant + "/oauth2/v2.0/token?" + good(nil).Encode(), url.Values{}, nil, 400, "invalid_request", 900144},
		{"JSON", "", good(nil), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400, "invalid_request", 900144},
		{"GET", "", good(nil), func(r *http.Request) { r.Method = http.MethodGet }, 405, "invalid_request", 900561},
		{"oversized", "", good(set("pad", strings.Repeat("x", maxForm))), nil, 400, "invalid_request", 900144},
	}
	for _, tt := range tests {
		w.clock.Add(time.Minute) // so that the limiter forgives
		rec, body := w.post(tt.path, tt.form, tt.change)
		if rec.Code != tt.status || body["error"] != tt.error || !cmp.Equal(body["error_codes"], []any{tt.code}) {
			t.Errorf("%s: %d %v %v, want %d %s %v", tt.name, rec.Code, body["error"], body["error_codes"], tt.status, tt.error, tt.code)
		}
		for _, field := range []string{"error_description", "trace_id", "correlation_id", "timestamp"} {
			if s, _ := body[field].(string); s == "" {
				t.Errorf("%s: no %s", tt.name, field)
			}
		}
		if _, there := body["access_token"]; there {
			t.Errorf("%s: a token came along", tt.name)
		}
	}
	const id = "77777777-7777-7777-7777-777777777777"
	if _, body := w.post("", good(set("client_secret", "x")), func(r *http.Request) { r.Header.Set("client-request-id", id) }); body["correlation_id"] != id {
		t.Errorf("correlation id %v, want the caller's", body["correlation_id"])
	}
	if rec, _ := w.post("", good(set("client_secret", "")), func(r *http.Request) { r.SetBasicAuth(i.ClientID, secret) }); rec.Code != http.StatusOK {
		t.Errorf("client_secret_basic: %d %s", rec.Code, rec.Body)
	}
}

func TestFailuresAreLimitedByAddress(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity("")
	secret := w.secret(i).Value
	from := func(address string) func(*http.Request) { return func(r *http.Request) { r.RemoteAddr = address } }
	n := 0
	for ; n < 100; n++ {
		if rec, _ := w.post("", withSecret(i, "wrong", baseURL), from("192.0.2.1:1")); rec.Code == http.StatusTooManyRequests {
			if rec.Header().Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
			break
		}
	}
	if n < failBurst || n > failBurst+1 {
		t.Errorf("limited after %d failures, want %d", n, failBurst)
	}
	if rec, _ := w.post("", withSecret(i, secret, baseURL), from("192.0.2.1:2")); rec.Code != http.StatusTooManyRequests {
		t.Errorf("same address, good secret: %d, want 429", rec.Code)
	}
	if rec, _ := w.post("", withSecret(i, secret, baseURL), from("192.0.2.2:1")); rec.Code != http.StatusOK {
		t.Errorf("another address: %d", rec.Code)
	}
	w.clock.Add(2 * failEvery)
	if rec, _ := w.post("", withSecret(i, secret, baseURL), from("192.0.2.1:3")); rec.Code != http.StatusOK {
		t.Errorf("after the wait: %d", rec.Code)
	}
	for range 3 * failBurst {
		if rec, _ := w.post("", withSecret(i, secret, baseURL), from("[2001:db8::1]:1")); rec.Code != http.StatusOK {
			t.Fatalf("successes are limited: %d", rec.Code)
		}
	}
}

func TestNothingSecretIsLoggedOrAnswered(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity(workspace)
	secret := w.secret(i)
	token := w.must(withSecret(i, secret.Value, gatewayAud))
	outside := newOutside(t)
	assertion := outside.token(t, nil)
	rec1, _ := w.post("", withAssertion(i, assertion, gatewayAud), nil)
	rec2, _ := w.post("", withSecret(i, secret.Value[:40]+"wrong", gatewayAud), nil)
	rec3, _ := w.post("", withSecret(i, secret.Value, "https://other.test"), nil)
	if infos, err := w.Secrets(t.Context(), i.ClientID); err != nil || len(infos) != 1 || strings.Contains(infos[0].Hint, secret.Value[8:20]) {
		t.Errorf("Secrets = %+v, %v", infos, err)
	}
	item, err := store.Get[store.Secret](t.Context(), w.store, store.Secret{ClientID: i.ClientID, ID: secret.ID}.Key())
	if err != nil || strings.Contains(string(item.Value.Hash), secret.Value) {
		t.Errorf("the store holds the secret: %v", err)
	}
	all := w.logs.String() + rec1.Body.String() + rec2.Body.String() + rec3.Body.String()
	for name, s := range map[string]string{"secret": secret.Value[10:40], "token": token[len(token)-40:], "assertion": assertion[len(assertion)-40:]} {
		if strings.Contains(all, s) {
			t.Errorf("the %s is in a log line or an answer", name)
		}
	}
	if !strings.Contains(all, "token issued") || !strings.Contains(all, "token refused") {
		t.Error("the log tells nothing of tokens")
	}
}
