package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// holder is a client with a certificate.
type holder struct {
	key crypto.Signer
	der []byte
}

func newHolder(t *testing.T, w *world, key crypto.Signer) holder {
	t.Helper()
	now := w.clock.Now()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return holder{key, der}
}

func newRSAKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// register registers the holder's certificate for an identity.
func (h holder) register(w *world, i store.Identity) store.Certificate {
	c := store.Certificate{ClientID: i.ClientID, Name: "main", DER: h.der}
	w.commit(store.Create(c))
	return c
}

// assertion is what MSAL sends, with changes; a nil value takes a member out.
func (h holder) assertion(t *testing.T, w *world, client string, header, claims map[string]any) string {
	t.Helper()
	sum := sha256.Sum256(h.der)
	now := w.clock.Now()
	head := map[string]any{"alg": "PS256", "typ": "JWT", "x5t#S256": base64.StdEncoding.EncodeToString(sum[:])} // as MSAL for Go
	body := map[string]any{
		"aud": baseURL + "/" + tenant + "/oauth2/v2.0/token", "iss": client, "sub": client, "jti": uuid.NewString(),
		"nbf": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
	for m, changes := range map[*map[string]any]map[string]any{&head: header, &body: claims} {
		maps.Copy(*m, changes)
		maps.DeleteFunc(*m, func(_ string, v any) bool { return v == nil })
	}
	return signCompact(t, h.key, head, body)
}

// pkcs1 signs as RS256 does, whatever the header says.
type pkcs1 struct{ *rsa.PrivateKey }

func signCompact(t *testing.T, key any, head, body map[string]any) string {
	t.Helper()
	enc := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	input := enc(head) + "." + enc(body)
	digest := sha256.Sum256([]byte(input))
	var sig []byte
	var err error
	switch k := key.(type) {
	case nil:
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write([]byte(input))
		sig = m.Sum(nil)
	case *rsa.PrivateKey:
		if head["alg"] == "PS256" {
			sig, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest[:])
		}
	case pkcs1:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k.PrivateKey, crypto.SHA256, digest[:])
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, digest[:])
		err = e
		sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// The forms that clients send, at both endpoints, and what ends the token.
func TestACertificateIsACredential(t *testing.T) {
	w := newWorld(t, nil)
	i := w.identity(workspace)
	h := newHolder(t, w, newRSAKey(t))
	c := h.register(w, i)
	short := sha1.Sum(h.der) //nolint:gosec // x5t
	x5t := map[string]any{"alg": "RS256", "x5t#S256": nil, "x5t": base64.RawURLEncoding.EncodeToString(short[:])}
	v1 := baseURL + "/" + tenant + "/oauth2/token"
	for name, assertion := range map[string]string{
		"MSAL":                        h.assertion(t, w, i.ClientID, nil, nil),
		"base64url":                   h.assertion(t, w, i.ClientID, map[string]any{"x5t#S256": thumbprintURL(h.der)}, nil),
		"the chain comes along":       h.assertion(t, w, i.ClientID, map[string]any{"x5c": []string{base64.StdEncoding.EncodeToString(h.der)}}, nil),
		"SHA-1, RS256, of older MSAL": h.assertion(t, w, i.ClientID, x5t, nil),
		"for the v1 endpoint":         h.assertion(t, w, i.ClientID, x5t, map[string]any{"aud": v1}),
		"for the issuer":              h.assertion(t, w, i.ClientID, nil, map[string]any{"aud": w.Issuer()}),
		"client id in capitals":       h.assertion(t, w, strings.ToUpper(i.ClientID), nil, nil),
	} {
		token := w.must(withAssertion(i, assertion, gatewayAud))
		if p := part(t, token, 1); p["appidacr"] != "2" || p["oid"] != i.ObjectID {
			t.Errorf("%s: %v", name, p)
		}
		w.good(name, token)
	}
	form := withAssertion(i, h.assertion(t, w, i.ClientID, nil, nil), gatewayAud)
	form.Del("scope")
	form.Set("resource", gatewayAud)
	rec, body := w.post("/"+tenant+"/oauth2/token", form, nil)
	if rec.Code != http.StatusOK {
		t.Fatalf("v1 endpoint: %d %s", rec.Code, rec.Body)
	}
	token := body["access_token"].(string)
	w.good("v1", token)

	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other := newHolder(t, w, ec)
	w.commit(store.Create(store.Certificate{ClientID: i.ClientID, Name: "ec", DER: other.der}))
	w.good("ECDSA", w.must(withAssertion(i, other.assertion(t, w, i.ClientID, map[string]any{"alg": "ES256"}, nil), gatewayAud)))

	w.commit(store.Delete(c.Key(), 0))
	w.eventually("the removal ends the token", func() bool {
		_, err := w.authn.Authenticate(t.Context(), token, authn.Audiences{gatewayAud})
		return trust.KindOf(err) == trust.Unauthenticated
	})
	rec, body = w.post("", withAssertion(i, h.assertion(t, w, i.ClientID, nil, nil), gatewayAud), nil)
	if rec.Code != http.StatusUnauthorized || body["error"] != "invalid_client" {
		t.Errorf("after the removal: %d %s", rec.Code, rec.Body)
	}
}

func thumbprintURL(der []byte) string {
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Every way an assertion can be wrong that we know of.
func TestHostileCertificateAssertions(t *testing.T) {
	w := newWorld(t, nil)
	i, other := w.identity(workspace), w.identity("")
	h, thief := newHolder(t, w, newRSAKey(t)), newHolder(t, w, newRSAKey(t))
	h.register(w, i)
	thief.register(w, other)
	now := w.clock.Now()
	head := func(kv ...any) map[string]any { return members(kv...) }
	good := h.assertion(t, w, i.ClientID, nil, nil)
	parts := strings.Split(good, ".")
	public, err := x509.MarshalPKIXPublicKey(h.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	base := map[string]any{"typ": "JWT", "x5t#S256": thumbprintURL(h.der)}
	with := func(m map[string]any, kv ...any) map[string]any {
		out := maps.Clone(m)
		maps.Copy(out, members(kv...))
		return out
	}
	body := part(t, good, 1)
	tests := []struct{ name, assertion, says string }{
		{"alg none", signCompact(t, nil, with(base, "alg", "none"), body), "PS256, RS256 or ES256"},
		{"alg HS256 with the public key", signCompact(t, public, with(base, "alg", "HS256"), body), "PS256, RS256 or ES256"},
		{"alg HS256 with the certificate", signCompact(t, h.der, with(base, "alg", "HS256"), body), "PS256, RS256 or ES256"},
		{"alg ES256 on an RSA key", signCompact(t, h.key, with(base, "alg", "ES256"), body), "not one of its certificate's key"},
		{"RS256 signed, PS256 said", signCompact(t, pkcs1{h.key.(*rsa.PrivateKey)}, with(base, "alg", "PS256"), body), "signature is wrong"},
		{"somebody else's key", signCompact(t, thief.key, with(base, "alg", "PS256"), body), "signature is wrong"},
		{"somebody else's certificate", thief.assertion(t, w, i.ClientID, nil, nil), "no certificate of the identity"},
		{"his own, brought along", signCompact(t, thief.key, with(base, "alg", "PS256", "x5c", []string{base64.StdEncoding.EncodeToString(thief.der)}), body), "signature is wrong"},
		{"embedded key", h.assertion(t, w, i.ClientID, head("jwk", map[string]any{"kty": "RSA"}), nil), "header jwk"},
		{"key from elsewhere", h.assertion(t, w, i.ClientID, head("x5u", "https://evil.test/"), nil), "header x5u"},
		{"crit", h.assertion(t, w, i.ClientID, head("crit", []string{"b64"}), nil), "header crit"},
		{"no thumbprint", h.assertion(t, w, i.ClientID, head("x5t#S256", nil), nil), "does not name its certificate"},
		{"empty thumbprint", h.assertion(t, w, i.ClientID, head("x5t#S256", ""), nil), "does not name its certificate"},
		{"thumbprint no string", h.assertion(t, w, i.ClientID, head("x5t#S256", 1), nil), "is not a string"},
		{"thumbprint no base64", h.assertion(t, w, i.ClientID, head("x5t#S256", "!"), nil), "not base64url"},
		{"for another authority", h.assertion(t, w, i.ClientID, nil, head("aud", "https://login.microsoftonline.com/"+tenant+"/oauth2/v2.0/token")), "audience must be"},
		{"for a gateway", h.assertion(t, w, i.ClientID, nil, head("aud", gatewayAud)), "audience must be"},
		{"for two", h.assertion(t, w, i.ClientID, nil, head("aud", []string{w.Issuer(), gatewayAud})), "audience must be"},
		{"no audience", h.assertion(t, w, i.ClientID, nil, head("aud", nil)), "audience must be"},
		{"another's subject", h.assertion(t, w, i.ClientID, nil, head("sub", other.ClientID)), "iss and sub"},
		{"no subject", h.assertion(t, w, i.ClientID, nil, head("sub", nil)), "iss and sub"},
		{"expired", h.assertion(t, w, i.ClientID, nil, head("exp", now.Unix())), "expired"},
		{"no expiry", h.assertion(t, w, i.ClientID, nil, head("exp", nil)), "expired"},
		{"good for days", h.assertion(t, w, i.ClientID, nil, head("exp", now.Add(25*time.Hour).Unix())), "more than 60 minutes"},
		{"of the future", h.assertion(t, w, i.ClientID, nil, head("nbf", now.Add(5*time.Minute).Unix())), "of the future"},
		{"no id", h.assertion(t, w, i.ClientID, nil, head("jti", nil)), "jti"},
		{"very long id", h.assertion(t, w, i.ClientID, nil, head("jti", strings.Repeat("x", 300))), "jti"},
		{"sub twice", twice(t, h, with(base, "alg", "PS256"), body), "No matching"},
		{"signature cut", parts[0] + "." + parts[1] + ".", "signature is wrong"},
		{"line end", good[:10] + "\n" + good[10:], "not a JSON Web Token"},
	}
	for _, tt := range tests {
		rec, answer := w.post("", withAssertion(i, tt.assertion, gatewayAud), func(r *http.Request) { r.RemoteAddr = fmt.Sprintf("198.51.100.%d:1", len(tt.name)) })
		if says, _ := answer["error_description"].(string); rec.Code != http.StatusUnauthorized || answer["error"] != "invalid_client" || !strings.Contains(says, tt.says) {
			t.Errorf("%s: %d %s, want it to say %q", tt.name, rec.Code, rec.Body, tt.says)
		}
	}

	// The second use, at either endpoint and whoever sends it.
	once := h.assertion(t, w, i.ClientID, nil, nil)
	w.must(withAssertion(i, once, gatewayAud))
	rec, answer := w.post("", withAssertion(i, once, gatewayAud), nil)
	if says, _ := answer["error_description"].(string); rec.Code != http.StatusUnauthorized || !strings.Contains(says, "used before") {
		t.Errorf("replayed: %d %s", rec.Code, rec.Body)
	}
	// A request that fails for another reason does not use it up.
	twice := h.assertion(t, w, i.ClientID, nil, nil)
	if rec, _ := w.post("", withAssertion(i, twice, "https://other.test"), nil); rec.Code != http.StatusBadRequest {
		t.Errorf("unknown resource: %d", rec.Code)
	}
	w.must(withAssertion(i, twice, gatewayAud))

	// What is known of it goes once it has expired by itself.
	w.clock.Add(2 * time.Hour)
	if err := w.forgetAssertions(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, _, err := store.List[store.UsedAssertion](t.Context(), w.store, store.AssertionPrefix)
	if err != nil || len(left) != 0 {
		t.Errorf("%d used assertions are kept, %v", len(left), err)
	}
	w.clock.Add(48 * time.Hour)
	if rec, answer := w.post("", withAssertion(i, h.assertion(t, w, i.ClientID, nil, nil), gatewayAud), nil); rec.Code != http.StatusUnauthorized || !strings.Contains(answer["error_description"].(string), "certificate is good from") {
		t.Errorf("an expired certificate: %d %s", rec.Code, rec.Body)
	}
}

// twice signs claims that have a member two times.
func twice(t *testing.T, h holder, head, body map[string]any) string {
	t.Helper()
	signed := signCompact(t, h.key, head, body)
	parts := strings.Split(signed, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	payload = append([]byte(`{"sub":"x",`), payload[1:]...)
	input := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPSS(rand.Reader, h.key.(*rsa.PrivateKey), crypto.SHA256, digest[:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// FuzzCertificateAssertion: whatever is sent as one is refused, without a panic.
func FuzzCertificateAssertion(f *testing.F) {
	w := newWorld(f, nil)
	i := w.identity("")
	enc := base64.RawURLEncoding.EncodeToString
	f.Add(enc([]byte(`{"alg":"PS256","x5t#S256":"`+thumbprintURL(nil)+`"}`)), enc([]byte(`{"iss":"`+i.ClientID+`"}`)), "AAAA")
	f.Add(enc([]byte(`{"alg":"RS256","x5t":1}`)), enc([]byte(`{"iss":"`+i.ClientID+`","iss":"x"}`)), "")
	f.Add(enc([]byte(`{"alg":"ES256","x5c":["AA"]}`)), enc([]byte(`[]`)), "....")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, head, body, sig string) {
		assertion := head + "." + body + "." + sig
		if _, _, err := parseAssertion(assertion); err == nil {
			_ = selfSigned(assertion, i.ClientID)
		}
		if _, _, used, err := w.byCertificate(t.Context(), i.ClientID, assertion); err == nil || used != nil {
			t.Fatalf("%q was taken", assertion)
		}
	})
}

func members(kv ...any) map[string]any {
	m := map[string]any{}
	for n := 0; n+1 < len(kv); n += 2 {
		m[kv[n].(string)] = kv[n+1]
	}
	return m
}
