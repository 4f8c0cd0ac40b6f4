package router

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sallyport/sallyport/mlext/wire"
)

// sign is a token as the ML service makes it.
func sign(t *testing.T, key *ecdsa.PrivateKey, claims any) string {
	t.Helper()
	sum, err := (&jose.JSONWebKey{Key: key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: base64.RawURLEncoding.EncodeToString(sum)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A token scores the one endpoint that it was made for, of the one workspace, until
// it expires; and an endpoint takes either keys or tokens.
func TestTokensScoreOneEndpoint(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e1", "iris", ours, map[string]int{"blue": 100})
	w.endpoint("e2", "iris", theirs, map[string]int{"blue": 100})
	w.endpoint("e3", "keys", ours, map[string]int{"blue": 100}, "key")
	for d, e := range map[string]string{"d1": "e1", "d2": "e2", "d3": "e3"} {
		w.deployment(d, "blue", e, nil)
		w.pod(d, says(d))
	}
	r, server := w.router()
	now := time.Now()
	r.tokens.now = func() time.Time { return now }
	w.change(nil)
	claims := func(change func(*wire.ScoringToken)) wire.ScoringToken {
		c := wire.ScoringToken{Issuer: wire.Issuer("https://sallyport.example"), Audience: wire.ScoringAudience(audience, "e1"), Subject: "oid of " + ours,
			Issued: now.Unix(), Expires: now.Add(time.Hour).Unix()}
		if change != nil {
			change(&c)
		}
		return c
	}
	good := sign(t, w.key, claims(nil))
	if got := w.call(server.URL, at, good, "{}", nil); got.String() != "200 d1" {
		t.Errorf("%v", got)
	}
	if got := w.call(server.URL, at, sign(t, w.key, claims(func(c *wire.ScoringToken) {
		c.Audience, c.Subject = wire.ScoringAudience(audience, "e2"), "oid of "+theirs
	})), "{}", nil); got.String() != "200 d2" {
		t.Errorf("%v", got)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"another's key":             sign(t, stranger, claims(nil)),
		"another issuer":            sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Issuer = "https://sallyport.example" })),
		"another cluster's":         sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Audience = wire.ScoringAudience(audience+"x", "e1") })),
		"the extension's":           sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Audience = audience })),
		"a workspace's assertion":   sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Audience = "api://AzureADTokenExchange" })),
		"made for another identity": sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Subject = "oid of " + theirs })),
		"for nobody":                sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Subject = "" })),
		"expired":                   sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Expires = now.Unix() - 1 })),
		"for ever":                  sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Expires = 0 })),
		"not yet":                   sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Issued = now.Add(time.Hour).Unix() })),
		"two audiences":             sign(t, w.key, map[string]any{"iss": wire.Issuer("https://sallyport.example"), "sub": "oid of " + ours, "aud": []string{wire.ScoringAudience(audience, "e1"), "x"}, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}),
		"changed":                   good[:len(good)-3] + "AAA",
		"no token":                  "a.b.c",
	} {
		for range 2 { // the second time it may be remembered
			if got := w.call(server.URL, at, token, "{}", nil); got.StatusCode != 401 {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
	// Made anew under the same name, it is another one.
	for path, token := range map[string]string{"/api/v1/endpoint/keys/score": sign(t, w.key, claims(func(c *wire.ScoringToken) { c.Audience = wire.ScoringAudience(audience, "e3") })), at: "key"} {
		if got := w.call(server.URL, path, token, "{}", nil); got.StatusCode != 401 {
			t.Errorf("%s: an endpoint took both keys and tokens: %v", path, got)
		}
	}
	now = now.Add(2 * time.Hour)
	if got := w.call(server.URL, at, good, "{}", nil); got.StatusCode != 401 {
		t.Errorf("a remembered token that has expired: %v", got)
	}
}

// An endpoint whose keys cannot be read is not served at all: without keys it
// would take tokens.
func TestUnreadableKeysAreNotNoKeys(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	r, _ := w.router()
	for _, bad := range []string{"", "zz", digestOf("key") + "00", digestOf("key")[:10]} {
		w.change(func(s *sources) { s.endpoints[0].Spec.Endpoint.Keys = []string{digestOf("key"), bad} })
		if n := len(r.table.Load().endpoints); n != 0 {
			t.Errorf("%q: %d endpoints are served", bad, n)
		}
	}
}
