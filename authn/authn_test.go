package authn

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/trust"
)

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestWhoACallerIs(t *testing.T) {
	w := newWorld(t, nil)
	got, err := w.Authenticate(t.Context(), w.token(t, object{CredentialClaim: "s/1"}), Audiences{"x", aud})
	if err != nil {
		t.Fatal(err)
	}
	want := trust.Caller{
		Principal:  trust.Principal{Issuer: ours, Tenant: tenant, Object: "principal"},
		ResourceID: workspace, ClientID: "client", Audience: aud, TokenID: "token-1", KeyID: "rsa-1", Credential: "s/1",
		Expires: w.clock.Now().Add(time.Hour),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("caller (-want +got):\n%s", d)
	}
	ec := sign(t, w.ec, object{"alg": "ES256", "kid": "ec-1"}, w.claims.with(object{"appid": nil, "azp": "client-2", "uti": nil, "jti": "j", "aud": []string{aud}}))
	if got, err = w.Authenticate(t.Context(), ec, Audiences{aud}); err != nil || got.ClientID != "client-2" || got.TokenID != "j" || got.KeyID != "ec-1" {
		t.Errorf("ES256, azp, jti, list of one audience: %+v, %v", got, err)
	}
}

// Every way a token can be wrong that we know of. Each is refused as
// Unauthenticated, with the reason in the message.
func TestHostileTokens(t *testing.T) {
	w := newWorld(t, nil)
	key, other := rsaKeys()[0], rsaKeys()[1]
	now := w.clock.Now().Unix()
	good := w.token(t, nil)
	parts := strings.Split(good, ".")
	jwk := jose.JSONWebKey{Key: other.Public(), KeyID: "rsa-1", Algorithm: "RS256", Use: "sig"}
	head := func(changes object) object { return w.rsaHeader.with(changes) }
	claims := func(changes object) object { return w.claims.with(changes) }

	tests := []struct{ name, token, says string }{
		// Algorithms.
		{"alg none", sign(t, nil, head(object{"alg": "none"}), claims(nil)), "RS256 and ES256"},
		{"alg NoNe", sign(t, nil, head(object{"alg": "NoNe"}), claims(nil)), "RS256 and ES256"},
		{"alg missing", sign(t, key, head(object{"alg": nil}), claims(nil)), "RS256 and ES256"},
		{"alg a list", sign(t, key, head(object{"alg": []string{"RS256"}}), claims(nil)), "RS256 and ES256"},
		{"alg HS256, empty key", sign(t, []byte{}, head(object{"alg": "HS256"}), claims(nil)), "RS256 and ES256"},
		{"alg PS256", sign(t, key, head(object{"alg": "PS256"}), claims(nil)), "RS256 and ES256"},
		{"alg ES256 on an RSA key", sign(t, key, head(object{"alg": "ES256"}), claims(nil)), "its key is for RS256"},
		{"alg RS256 on an EC key", sign(t, w.ec, head(object{"kid": "ec-1"}), claims(nil)), "its key is for ES256"},
		// Keys that the token brings.
		{"embedded jwk", sign(t, other, head(object{"jwk": jwk}), claims(nil)), "header jwk"},
		{"embedded jwk, no kid", sign(t, other, head(object{"jwk": jwk, "kid": nil}), claims(nil)), "header jwk"},
		{"jwk null", sign(t, key, `{"alg":"RS256","kid":"rsa-1","jwk":null}`, claims(nil)), "header jwk"},
		{"jku", sign(t, other, head(object{"jku": "https://evil.test/keys"}), claims(nil)), "header jku"},
		{"x5u", sign(t, other, head(object{"x5u": "https://evil.test/cert"}), claims(nil)), "header x5u"},
		{"x5c", sign(t, other, head(object{"x5c": []string{"AA=="}}), claims(nil)), "header x5c"},
		{"x5c empty", sign(t, key, head(object{"x5c": []string{}}), claims(nil)), "header x5c"},
		{"crit", sign(t, key, head(object{"crit": []string{"b64"}, "b64": false}), claims(nil)), "not accepted"},
		{"no kid", sign(t, key, head(object{"kid": nil}), claims(nil)), "header kid"},
		{"empty kid", sign(t, key, head(object{"kid": ""}), claims(nil)), "header kid"},
		{"kid a number", sign(t, key, head(object{"kid": 1}), claims(nil)), "header kid"},
		{"long kid", sign(t, key, head(object{"kid": strings.Repeat("k", 300)}), claims(nil)), "header kid"},
		{"kid twice", sign(t, other, `{"alg":"RS256","kid":"rsa-1","kid":"evil-1"}`, claims(nil)), "not a JSON object"},
		{"alg twice", sign(t, nil, `{"alg":"RS256","kid":"rsa-1","alg":"none"}`, claims(nil)), "not a JSON object"},
		{"unknown kid", sign(t, key, head(object{"kid": "rsa-9"}), claims(nil)), "does not have"},
		{"ID token", sign(t, key, head(object{"typ": "logout+jwt"}), claims(nil)), "not an access token"},
		// Signatures.
		{"wrong key", sign(t, other, head(nil), claims(nil)), "signature is wrong"},
		{"no signature", parts[0] + "." + parts[1] + ".", "signature is wrong"},
		{"claims exchanged", parts[0] + "." + encode(t, claims(object{"oid": "admin"})) + "." + parts[2], "signature is wrong"},
		{"header exchanged", encode(t, head(object{"x": 1})) + "." + parts[1] + "." + parts[2], "signature is wrong"},
		// Issuers and their keys belong together.
		{"issuer nobody knows", sign(t, key, head(nil), claims(object{"iss": "https://nobody.test"})), "not one that this server believes"},
		{"issuer with a slash", sign(t, key, head(nil), claims(object{"iss": ours + "/"})), "not one that this server believes"},
		{"issuer in capitals", sign(t, key, head(nil), claims(object{"iss": strings.ToUpper(ours)})), "not one that this server believes"},
		{"no issuer", sign(t, key, head(nil), claims(object{"iss": nil})), "names no issuer"},
		{"issuer twice", sign(t, other, head(nil), `{"iss":"https://evil.test","iss":"`+ours+`"}`), "not a JSON object"},
		{"issuer in another case of the name", sign(t, key, head(nil), claims(object{"iss": nil, "ISS": ours})), "names no issuer"},
		{"our issuer, evil's key", sign(t, other, head(object{"kid": "evil-1"}), claims(nil)), "does not have"},
		{"our issuer, evil's key of the same kid", sign(t, other, head(nil), claims(nil)), "signature is wrong"},
		{"evil's issuer, our key", sign(t, key, head(nil), claims(object{"iss": "https://evil.test"})), "signature is wrong"},
		// What an issuer may speak for.
		{"another tenant", w.token(t, object{"tid": "44444444-4444-4444-4444-444444444444"}), "does not speak for tenant"},
		{"no tenant", w.token(t, object{"tid": nil}), "does not speak for tenant"},
		{"evil claims our tenant", sign(t, other, head(object{"kid": "evil-1"}), claims(object{"iss": "https://evil.test"})), "does not speak for tenant"},
		{"evil claims our source", sign(t, other, head(object{"kid": "evil-1"}), claims(object{"iss": "https://evil.test", "tid": "33333333-3333-3333-3333-333333333333"})), "does not speak for resource"},
		{"source out of scope", w.token(t, object{"xms_mirid": otherScope}), "does not speak for resource"},
		{"source beside the scope", w.token(t, object{"xms_mirid": "/subscriptions/22222222-2222-2222-2222-222222222222x/a"}), "does not speak for resource"},
		{"source climbs out", w.token(t, object{"xms_mirid": "/subscriptions/22222222-2222-2222-2222-222222222222/../99999999-9999-9999-9999-999999999999/a"}), "does not speak for resource"},
		{"source with an encoded slash", w.token(t, object{"xms_mirid": workspace + "%2f.."}), "does not speak for resource"},
		{"source empty", w.token(t, object{"xms_mirid": ""}), "does not speak for resource"},
		{"source a list", w.token(t, object{"xms_mirid": []string{workspace}}), "does not speak for resource"},
		{"no principal", w.token(t, object{"oid": nil}), "claim oid"},
		{"principal a number", w.token(t, object{"oid": 7}), "claim oid"},
		{"principal in another case of the name", w.token(t, object{"oid": nil, "OID": "admin"}), "claim oid"},
		// Audiences.
		{"another audience", w.token(t, object{"aud": "https://server.test/gateways/east"}), "this needs one for"},
		{"audience with a slash", w.token(t, object{"aud": aud + "/"}), "this needs one for"},
		{"several audiences", w.token(t, object{"aud": []string{aud, "https://else.test"}}), "2 audiences"},
		{"the same audience twice", w.token(t, object{"aud": []string{aud, aud}}), "2 audiences"},
		{"no audience", w.token(t, object{"aud": nil}), "no audience"},
		{"no audience in the list", w.token(t, object{"aud": []string{}}), "no audience"},
		{"empty audience", w.token(t, object{"aud": ""}), "no audience"},
		{"audience an object", w.token(t, object{"aud": object{"0": aud}}), "no audience"},
		// Dates.
		{"expired now", w.token(t, object{"exp": now}), "expired at"},
		{"expired", w.token(t, object{"exp": now - 1, "iat": now - 3600}), "expired at"},
		{"no exp", w.token(t, object{"exp": nil}), "claim exp"},
		{"exp as text", w.token(t, object{"exp": fmt.Sprint(now + 3600)}), "claim exp"},
		{"exp for ever", sign(t, key, head(nil), strings.Replace(string(mustJSON(t, claims(object{"exp": 1}))), `"exp":1`, `"exp":1e400`, 1)), "claim exp"},
		{"exp too far", sign(t, key, head(nil), strings.Replace(string(mustJSON(t, claims(object{"exp": 1}))), `"exp":1`, `"exp":1e30`, 1)), "claim exp"},
		{"exp negative", w.token(t, object{"exp": -1}), "claim exp"},
		{"not yet", w.token(t, object{"nbf": now + 61}), "not valid before"},
		{"nbf as text", w.token(t, object{"nbf": "soon"}), "claim nbf"},
		{"issued in the future", w.token(t, object{"iat": now + 61}), "in the future"},
		{"no iat", w.token(t, object{"iat": nil}), "claim iat"},
		// Forms.
		{"oversized", w.token(t, object{"pad": strings.Repeat("x", MaxToken)}), "the limit is"},
		{"two parts", parts[0] + "." + parts[1], "not a JSON Web Token"},
		{"four parts", good + ".x", "not a JSON Web Token"},
		{"garbage", "garbage", "not a JSON object"},
		{"dots", "..", "not a JSON Web Token"},
		{"padded", parts[0] + "=." + parts[1] + "." + parts[2], "not a JSON Web Token"},
		{"JSON serialization", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, "JSON Web Token"},
		{"claims a list", sign(t, key, head(nil), `[1]`), "not a JSON object"},
		{"claims null", sign(t, key, head(nil), `null`), "names no issuer"},
		{"claims cut", sign(t, key, head(nil), `{"iss":"`+ours+`"`), "not a JSON object"},
		{"trailing claims", sign(t, key, head(nil), string(mustJSON(t, claims(nil)))+`{}`), "not a JSON object"},
		{"encrypted", "a.b.c.d.e", "JSON Web Token"},
		{"white space", good + "\n", "not a JSON Web Token"},
		{"nothing", "", "no token"},
	}
	for form, secret := range publicForms(t, key.Public()) {
		tests = append(tests, struct{ name, token, says string }{"HS256 with the public key as " + form, sign(t, secret, head(object{"alg": "HS256"}), claims(nil)), "RS256 and ES256"})
	}
	for _, tt := range tests {
		for range 2 { // the second time must not find it in the cache
			got, err := w.Authenticate(t.Context(), tt.token, Audiences{aud})
			if !kindIs(err, trust.Unauthenticated) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v (kind %v), want a refusal with %q", tt.name, err, trust.KindOf(err), tt.says)
			}
			if err != nil && tt.token != "" && len(tt.token) > 40 && strings.Contains(err.Error(), tt.token[len(tt.token)-40:]) {
				t.Errorf("%s: the refusal holds the token", tt.name)
			}
			if d := cmp.Diff(trust.Caller{}, got); d != "" {
				t.Errorf("%s: a refusal names a caller:\n%s", tt.name, d)
			}
		}
	}
	if _, err := w.Authenticate(t.Context(), good, Audiences{aud}); err != nil {
		t.Errorf("the token that all of these were made from: %v", err)
	}
}

func TestLeeway(t *testing.T) {
	w := newWorld(t, nil)
	now := w.clock.Now().Unix()
	for _, changes := range []object{{"nbf": now + 60}, {"iat": now + 60}, {"nbf": nil}, {"exp": now + 1}, {"iat": float64(now) + 0.5}} {
		if _, err := w.Authenticate(t.Context(), w.token(t, changes), Audiences{aud}); err != nil {
			t.Errorf("%v: %v", changes, err)
		}
	}
}

func TestACachedTokenIsHeldAgainstTimeAudienceAndStanding(t *testing.T) {
	var stands error // nil: the identity is there
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].Stands = func(*trust.Caller) error { return stands }
	})
	token := w.token(t, nil)
	ok := func(when string) {
		t.Helper()
		if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	ok("first")
	calls := w.issuer.called()
	ok("second")
	if w.issuer.called() != calls || w.cache.len() != 1 {
		t.Errorf("the second use fetched keys, or was not cached (%d)", w.cache.len())
	}
	if _, err := w.Authenticate(t.Context(), token, Audiences{"https://server.test/clusters/1"}); !kindIs(err, trust.Unauthenticated) {
		t.Errorf("another audience wanted: %v", err)
	}
	if _, err := w.Authenticate(t.Context(), token, nil); !kindIs(err, trust.Unauthenticated) {
		t.Errorf("no audience wanted: %v", err)
	}
	ok("after another audience")
	stands = trust.Errorf(trust.Unavailable, "cannot know")
	if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); !kindIs(err, trust.Unavailable) || w.cache.len() != 1 {
		t.Errorf("standing unknown: %v, %d cached", err, w.cache.len())
	}
	stands = trust.Errorf(trust.Unauthenticated, "removed")
	if _, err := w.Authenticate(t.Context(), token, Audiences{aud}); !kindIs(err, trust.Unauthenticated) || !strings.Contains(err.Error(), "removed") {
		t.Errorf("identity removed: %v", err)
	}
	stands = nil
	ok("identity back")
	w.clock.Add(time.Hour)
	w.Authenticator.issuers[ours].ring.set.Load().fetched = w.clock.Now()
	_, err := w.Authenticate(t.Context(), token, Audiences{aud})
	var e *trust.Error
	if !errors.As(err, &e) || e.Code != "ExpiredAuthenticationToken" {
		t.Errorf("after exp: %v", err)
	}
	if w.cache.len() != 0 {
		t.Errorf("%d expired tokens cached", w.cache.len())
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.CacheSize = 16 })
	for i := range 100 {
		if _, err := w.Authenticate(t.Context(), sign(t, w.ec, object{"alg": "ES256", "kid": "ec-1"}, w.claims.with(object{"jti": i})), Audiences{aud}); err != nil {
			t.Fatal(err)
		}
		if n := w.cache.len(); n > 16 {
			t.Fatalf("%d tokens cached, the limit is 16", n)
		}
	}
	if n := w.cache.len(); n < 8 {
		t.Errorf("%d tokens left: eviction threw away too much", n)
	}
}

func TestOneVerificationAtATimePerToken(t *testing.T) {
	w := newWorld(t, nil)
	w.issuer.block = make(chan struct{})
	token := w.token(t, nil)
	errs := make(chan error, 50)
	for range cap(errs) {
		go func() {
			_, err := w.Authenticate(t.Context(), token, Audiences{aud})
			errs <- err
		}()
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Authenticate(gone, token, Audiences{aud}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	close(w.issuer.block)
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := w.issuer.called(); n != 1 {
		t.Errorf("keys were fetched %d times, want once", n)
	}
}

func TestForeignAudiencesStandForOurs(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Issuers[0].Audiences = []string{"client-1", "client-2"}
		c.Issuers[0].StandsFor = map[string]string{"client-1": aud}
	})
	got, err := w.Authenticate(t.Context(), w.token(t, object{"aud": "client-1"}), Audiences{aud})
	if err != nil || got.Audience != "client-1" {
		t.Errorf("client-1: %+v, %v", got, err)
	}
	for _, foreign := range []string{"client-2", aud} {
		if _, err := w.Authenticate(t.Context(), w.token(t, object{"aud": foreign}), Audiences{aud}); !kindIs(err, trust.Unauthenticated) {
			t.Errorf("%s: %v, want a refusal", foreign, err)
		}
	}
}

func TestPeopleOfAnIssuerWithoutTenants(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		i := &c.Issuers[0]
		i.Claims = ClaimNames{Object: "sub", Tenant: "-", Name: "email", Groups: "groups"}
		i.Require = map[string]string{"email_verified_by": "hr"}
	})
	person := object{"tid": nil, "oid": nil, "xms_mirid": nil, "sub": "jo", "email": "jo@test", "groups": []string{"ops", "dev"}, "email_verified_by": "hr"}
	got, err := w.Authenticate(t.Context(), w.token(t, person), Audiences{aud})
	if err != nil {
		t.Fatal(err)
	}
	if got.Object != "jo" || got.Tenant != tenant || got.Name != "jo@test" || len(got.Groups) != 2 || got.ResourceID != "" {
		t.Errorf("got %+v", got)
	}
	person["email_verified_by"] = "jo"
	if _, err := w.Authenticate(t.Context(), w.token(t, person), Audiences{aud}); !kindIs(err, trust.Unauthenticated) {
		t.Errorf("required claim wrong: %v", err)
	}
}

func TestNamesResource(t *testing.T) {
	c := &trust.Caller{ResourceID: workspace}
	if !NamesResource(c, strings.Replace(workspace, "resourcegroups", "resourceGroups", 1)) {
		t.Error("case of a segment makes a difference")
	}
	for _, other := range []string{"", workspace + "/", workspace[1:], strings.Replace(workspace, "w", "\u1e83", 1)} {
		if NamesResource(c, other) {
			t.Errorf("%q is taken for the workspace", other)
		}
	}
	if NamesResource(&trust.Caller{}, "") {
		t.Error("a caller without a resource names one")
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	keys := StaticKeys(nil)
	for name, issuers := range map[string][]Issuer{
		"twice":                        {{URL: "a", Keys: keys, Tenants: []string{"t"}}, {URL: "a", Keys: keys, Tenants: []string{"u"}}},
		"no keys":                      {{URL: "a", Tenants: []string{"t"}}},
		"no URL":                       {{Keys: keys, Tenants: []string{"t"}}},
		"no tenants":                   {{URL: "a", Keys: keys}},
		"empty tenant":                 {{URL: "a", Keys: keys, Tenants: []string{""}}},
		"upper-case tenant":            {{URL: "a", Keys: keys, Tenants: []string{"T"}}},
		"no tenant claim, two tenants": {{URL: "a", Keys: keys, Tenants: []string{"t", "u"}, Claims: ClaimNames{Tenant: "-"}}},
		"scope without slash":          {{URL: "a", Keys: keys, Tenants: []string{"t"}, Scopes: []string{"subscriptions/x"}}},
		"scope ending in a slash":      {{URL: "a", Keys: keys, Tenants: []string{"t"}, Scopes: []string{"/subscriptions/"}}},
	} {
		if _, err := New(Config{Issuers: issuers, Now: time.Now, Log: quiet}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
