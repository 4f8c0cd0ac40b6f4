package authority

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/authn"
)

func (w *world) get(path string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodGet, path, nil)
	r.Header = header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, r)
	return rec
}

// What MSAL demands of an authority that it does not know: the document where
// it looks for it, three URLs in it, an issuer on the authority's own host.
func TestDiscoveryIsWhatMSALWants(t *testing.T) {
	w := newWorld(t, nil)
	for _, path := range []string{"/" + tenant + "/v2.0/.well-known/openid-configuration", "//" + tenant + "/v2.0/.well-known/openid-configuration", "/" + tenant + "/.well-known/openid-configuration", "/adfs/.well-known/openid-configuration"} {
		rec := w.get(path, nil)
		var doc map[string]any
		if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil || rec.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
		}
		for _, field := range []string{"authorization_endpoint", "token_endpoint", "issuer", "jwks_uri"} {
			u, err := url.Parse(doc[field].(string))
			if err != nil || u.Scheme+"://"+u.Host != baseURL {
				t.Errorf("%s: %s is %v, want it on %s", path, field, doc[field], baseURL)
			}
		}
		if doc["issuer"] != w.Issuer() || doc["token_endpoint"] != baseURL+"/"+tenant+"/oauth2/v2.0/token" {
			t.Errorf("%s: issuer %v, token endpoint %v", path, doc["issuer"], doc["token_endpoint"])
		}
	}
}

func TestKeySetAndItsCaching(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Algorithm = "RS256" })
	path := "/" + tenant + "/discovery/v2.0/keys"
	rec := w.get(path, nil)
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(rec.Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	if k := set.Keys[0]; !k.IsPublic() || k.Use != "sig" || k.Algorithm != "RS256" || k.KeyID == "" {
		t.Errorf("key %+v", k)
	}
	for _, private := range []string{`"d"`, `"p"`, `"q"`, `"dp"`, `"qi"`} {
		if strings.Contains(rec.Body.String(), private) {
			t.Errorf("the key set has %s", private)
		}
	}
	etag := rec.Header().Get("ETag")
	if rec.Header().Get("Cache-Control") != "public, max-age=300" || etag == "" || !strings.HasPrefix(rec.Header().Get("Content-Type"), "application/json") {
		t.Errorf("headers %v", rec.Header())
	}
	if again := w.get(path, http.Header{"If-None-Match": {etag}}); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("same ETag: %d", again.Code)
	}
	w.revoke(set.Keys[0].KeyID)
	w.settle()
	if after := w.get(path, http.Header{"If-None-Match": {etag}}); after.Code != http.StatusOK || strings.Contains(after.Body.String(), set.Keys[0].KeyID) {
		t.Errorf("after the revocation: %d %s", after.Code, after.Body)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, nil)
	post := httptest.NewRecorder()
	w.Handler().ServeHTTP(post, r)
	if post.Code != http.StatusMethodNotAllowed || post.Header().Get("Allow") == "" {
		t.Errorf("POST: %d", post.Code)
	}
}

// An outside verifier, over TLS, by discovery alone: what kubectl-like clients
// and other servers do with our tokens.
func TestAnOutsideVerifier(t *testing.T) {
	var handler http.Handler
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server.Listener.Close()
	server.Listener = l
	base := "https://" + l.Addr().String()
	w := newWorld(t, func(c *Config) {
		c.Base = base
		w := c.Directory
		w.conf.Issuer = IssuerURL(base, tenant)
	})
	handler = w.Handler()
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())

	i := w.identity(workspace)
	form := withSecret(i, w.secret(i).Value, base)
	token := postTLS(t.Context(), t, server.Client(), base+"/"+tenant+"/oauth2/v2.0/token", form)

	keys, err := authn.NewDiscovery(authn.Discovery{Issuer: w.Issuer(), Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	a, err := authn.New(authn.Config{Issuers: []authn.Issuer{{URL: w.Issuer(), Keys: keys, Tenants: []string{tenant}, Scopes: []string{"/"}}}, Now: w.clock.Now, Log: w.conf.Log})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := a.Authenticate(t.Context(), token, authn.Audiences{base}); err != nil || c.Object != i.ObjectID {
		t.Errorf("%+v, %v", c, err)
	}
}

func postTLS(ctx context.Context, t *testing.T, c *http.Client, to string, form url.Values) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(data, &body); err != nil || body.Token == "" {
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	return body.Token
}

// FuzzTokenRequest: whatever is posted, the answer is a well-formed refusal, or
// a token for the one identity whose secret was in it.
func FuzzTokenRequest(f *testing.F) {
	f.Add("", "application/x-www-form-urlencoded", "")
	f.Add("grant_type=client_credentials&client_id=%zz", "application/x-www-form-urlencoded", "Basic Og==")
	f.Add("grant_type=client_credentials&client_id=44444444-4444-4444-4444-444444444444&client_secret=x&scope="+url.QueryEscape(baseURL)+"/.default", "application/x-www-form-urlencoded; charset=utf-8", "")
	f.Add("grant_type=client_credentials&client_id=44444444-4444-4444-4444-444444444444&client_assertion=a.b.c&client_assertion_type="+url.QueryEscape(assertionType)+"&scope="+url.QueryEscape(baseURL)+"/.default", "application/x-www-form-urlencoded", "")
	f.Add("a=1&a=2", "application/x-www-form-urlencoded", "")
	f.Add(`{"grant_type":"client_credentials"}`, "application/json", "Bearer x")
	f.Add("grant_type=\x00&scope=\xff", "application/x-www-form-urlencoded;;", "")
	w := newWorld(f, nil)
	f.Fuzz(func(t *testing.T, body, kind, authorization string) {
		w.clock.Add(failEvery)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/"+tenant+"/oauth2/v2.0/token", strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Authorization", authorization)
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, r)
		var answer map[string]any
		if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil || rec.Code < 400 || rec.Code > 429 || answer["error"] == "" || answer["access_token"] != nil {
			t.Fatalf("%d %s", rec.Code, rec.Body)
		}
	})
}
