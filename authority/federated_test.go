package authority

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/store"
)

var outsideKeys = sync.OnceValue(func() [2]*rsa.PrivateKey {
	var keys [2]*rsa.PrivateKey
	for i := range keys {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = k
	}
	return keys
})

// outside is the issuer of a Kubernetes cluster's ServiceAccount tokens.
type outside struct {
	issuer string
	claims map[string]any
	jwks   json.RawMessage
	key    *rsa.PrivateKey
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{issuer: "https://kubernetes.default.svc.cluster.local", key: outsideKeys()[0]}
	var err error
	if o.jwks, err = json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: o.key.Public(), KeyID: "sa-1", Algorithm: "RS256", Use: "sig"}}}); err != nil {
		t.Fatal(err)
	}
	o.claims = map[string]any{
		"iss": o.issuer, "sub": "system:serviceaccount:ml:trainer", "aud": []string{"api://AzureADTokenExchange"},
		"iat": 1_800_000_000, "nbf": 1_800_000_000, "exp": 1_800_003_600, "jti": "j",
		"kubernetes.io": map[string]any{"namespace": "ml", "serviceaccount": map[string]any{"name": "trainer", "uid": "u"}},
	}
	return o
}

func (o *outside) credential(i store.Identity) store.Federated {
	return store.Federated{ClientID: i.ClientID, Name: "trainer", Issuer: o.issuer, Subject: "system:serviceaccount:ml:trainer",
		Audiences: []string{"api://AzureADTokenExchange"}, JWKS: o.jwks}
}

func (o *outside) token(t *testing.T, changes map[string]any) string {
	t.Helper()
	return o.signed(t, jose.RS256, o.key, changes)
}

func (o *outside) signed(t *testing.T, alg jose.SignatureAlgorithm, key any, changes map[string]any) string {
	t.Helper()
	claims := maps.Clone(o.claims)
	for k, v := range changes {
		if claims[k] = v; v == nil {
			delete(claims, k)
		}
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "sa-1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestFederation(t *testing.T) {
	w := newWorld(t, nil)
	o := newOutside(t)
	i, bare := w.identity(workspace), w.identity("")
	w.commit(store.Create(o.credential(i)))
	token := w.must(withAssertion(i, o.token(t, nil), gatewayAud))
	caller := w.good("exchanged for a ServiceAccount token", token)
	if caller.Object != i.ObjectID || part(t, token, 1)["azpacr"] != "2" || !strings.HasPrefix(caller.Credential, "/federated/"+i.ClientID+"/trainer#") {
		t.Errorf("caller %+v", caller)
	}

	now := w.clock.Now().Unix()
	der, err := x509.MarshalPKIXPublicKey(o.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, assertion := range map[string]string{
		"another subject":              o.token(t, map[string]any{"sub": "system:serviceaccount:ml:trainer2"}),
		"subject in another case":      o.token(t, map[string]any{"sub": "system:serviceaccount:ML:trainer"}),
		"no subject":                   o.token(t, map[string]any{"sub": nil}),
		"another audience":             o.token(t, map[string]any{"aud": "https://kubernetes.default.svc"}),
		"two audiences":                o.token(t, map[string]any{"aud": []string{"api://AzureADTokenExchange", "x"}}),
		"another issuer":               o.token(t, map[string]any{"iss": "https://evil.test"}),
		"our own issuer":               o.token(t, map[string]any{"iss": w.Issuer()}),
		"expired":                      o.token(t, map[string]any{"exp": now}),
		"not yet":                      o.token(t, map[string]any{"nbf": now + 61}),
		"another key":                  o.signed(t, jose.RS256, outsideKeys()[1], nil),
		"HS256 with the public key":    o.signed(t, jose.HS256, der, nil),
		"PS256":                        o.signed(t, jose.PS256, o.key, nil),
		"a token of ours":              token,
		"no token":                     "x.y.z",
		"another identity's assertion": "", // below
	} {
		id := i
		if assertion == "" {
			id, assertion = bare, o.token(t, nil)
		}
		rec, body := w.post("", withAssertion(id, assertion, gatewayAud), nil)
		if rec.Code != http.StatusUnauthorized || body["error"] != "invalid_client" {
			t.Errorf("%s: %d %v", name, rec.Code, body)
		}
	}
}

// Keys that were not handed over are discovered; and only at public addresses
// unless that is allowed.
func TestFederationByDiscovery(t *testing.T) {
	o := newOutside(t)
	mux := http.NewServeMux()
	site := httptest.NewTLSServer(mux)
	t.Cleanup(site.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, site.URL, site.URL+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(o.jwks) })
	roots := x509.NewCertPool()
	roots.AddCert(site.Certificate())
	o.issuer = site.URL
	o.claims["iss"] = site.URL
	for _, private := range []bool{true, false} {
		w := newWorld(t, func(c *Config) { c.PrivateIssuers, c.IssuerRoots = private, roots })
		i := w.identity(workspace)
		f := o.credential(i)
		f.JWKS = nil
		w.commit(store.Create(f))
		rec, body := w.post("", withAssertion(i, o.token(t, nil), gatewayAud), nil)
		if private && rec.Code != http.StatusOK {
			t.Errorf("allowed: %d %v", rec.Code, body)
		}
		if !private && (rec.Code != http.StatusServiceUnavailable || body["access_token"] != nil || !strings.Contains(w.logs.String(), "not public")) {
			t.Errorf("not allowed: %d %v", rec.Code, body)
		}
	}
}
