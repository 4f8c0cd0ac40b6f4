package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/trust"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Unix(1_800_000_000, 0)} }
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}
func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// rsaKeys are made once: making them is slow.
var rsaKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	keys := make([]*rsa.PrivateKey, 3)
	for i := range keys {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys[i] = k
	}
	return keys
})

// testIssuer is an issuer whose tokens are written by hand, so that they can be
// as hostile as needed.
type testIssuer struct {
	url string

	mu    sync.Mutex
	keys  []*Key
	err   error
	block chan struct{} // if set, Keys waits for it
	calls int
}

func (i *testIssuer) Keys(ctx context.Context) ([]*Key, error) {
	i.mu.Lock()
	i.calls++
	keys, err, block := i.keys, i.err, i.block
	i.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return keys, err
}

func (i *testIssuer) set(keys ...*Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

func (i *testIssuer) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = err
}

func (i *testIssuer) called() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.calls
}

func mustKey(t testing.TB, id string, public crypto.PublicKey) *Key {
	t.Helper()
	k, err := NewKey(id, public)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type object = map[string]any

// with returns a copy of o with changes; nil removes.
func (b base) with(changes object) object {
	o := maps.Clone(object(b))
	for k, v := range changes {
		if v == nil {
			delete(o, k)
		} else {
			o[k] = v
		}
	}
	return o
}

type base object

func encode(t testing.TB, v any) string {
	t.Helper()
	if s, ok := v.(string); ok {
		return base64.RawURLEncoding.EncodeToString([]byte(s))
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// sign writes a token: header and claims are objects, or JSON text as it is.
func sign(t testing.TB, key any, header, claims any) string {
	t.Helper()
	input := encode(t, header) + "." + encode(t, claims)
	sum := sha256.Sum256([]byte(input))
	var sig []byte
	var err error
	switch k := key.(type) {
	case *rsa.PrivateKey:
		sig, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, k, sum[:])
		if err = e; err == nil {
			sig = make([]byte, 64)
			r.FillBytes(sig[:32])
			s.FillBytes(sig[32:])
		}
	case []byte: // HMAC
		m := hmac.New(sha256.New, k)
		m.Write([]byte(input))
		sig = m.Sum(nil)
	case nil:
	}
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

const (
	ours       = "https://authority.test/11111111-1111-1111-1111-111111111111/v2.0"
	tenant     = "11111111-1111-1111-1111-111111111111"
	aud        = "https://server.test/gateways/west"
	workspace  = "/subscriptions/22222222-2222-2222-2222-222222222222/resourcegroups/rg/providers/Microsoft.MachineLearningServices/workspaces/w"
	otherScope = "/subscriptions/99999999-9999-9999-9999-999999999999/resourcegroups/rg/providers/Contoso.Scanner/scanners/s"
)

// world is an Authenticator with our issuer (keys rsa-1 and ec-1) and a second,
// believed one that only speaks for a tenant of its own and no resources.
type world struct {
	*Authenticator
	clock        *clock
	issuer, evil *testIssuer
	ec           *ecdsa.PrivateKey
	claims       base
	rsaHeader    base
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{clock: newClock(), ec: ec, issuer: &testIssuer{url: ours}, evil: &testIssuer{url: "https://evil.test"}}
	w.issuer.set(mustKey(t, "rsa-1", rsaKeys()[0].Public()), mustKey(t, "ec-1", ec.Public()))
	w.evil.set(mustKey(t, "evil-1", rsaKeys()[1].Public()), mustKey(t, "rsa-1", rsaKeys()[1].Public()))
	now := w.clock.Now().Unix()
	w.claims = base{"iss": ours, "aud": aud, "sub": "principal", "oid": "principal", "tid": tenant, "appid": "client", "uti": "token-1",
		"idtyp": "app", "ver": "2.0", "xms_mirid": workspace, "iat": now, "nbf": now, "exp": now + 3600}
	w.rsaHeader = base{"alg": "RS256", "kid": "rsa-1", "typ": "JWT"}
	c := Config{Now: w.clock.Now, Log: quiet, Issuers: []Issuer{
		{URL: ours, Keys: w.issuer, Tenants: []string{tenant}, Scopes: []string{"/subscriptions/22222222-2222-2222-2222-222222222222"}},
		{URL: "https://evil.test", Keys: w.evil, Tenants: []string{"33333333-3333-3333-3333-333333333333"}},
	}}
	if change != nil {
		change(&c)
	}
	if w.Authenticator, err = New(c); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) token(t testing.TB, changes object) string {
	t.Helper()
	return sign(t, rsaKeys()[0], w.rsaHeader, w.claims.with(changes))
}

// publicPEMs are the forms of a public key that libraries have been tricked
// into using as an HMAC secret.
func publicForms(t *testing.T, public crypto.PublicKey) map[string][]byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"DER": der, "PEM": pemOf(der), "modulus": public.(*rsa.PublicKey).N.Bytes()}
}

func kindIs(err error, want trust.Kind) bool { return err != nil && trust.KindOf(err) == want }

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jwkOf(kid string, key any) jose.JSONWebKey { return jose.JSONWebKey{KeyID: kid, Key: key} }
