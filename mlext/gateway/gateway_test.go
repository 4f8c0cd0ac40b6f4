package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

const (
	issuer    = "https://server.test/t/v2.0"
	tenant    = "11111111-1111-4111-8111-111111111111"
	workspace = "/subscriptions/s/resourcegroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
)

var audience = wire.Audience("https://server.test", "33333333-3333-4333-8333-333333333333")

// signer is an authority, or the ML service.
type signer struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	id  string
}

func newSigner(t *testing.T, id string) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{t, key, id}
}

func (s *signer) set() []byte {
	s.t.Helper()
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: s.key.Public(), KeyID: s.id, Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

func (s *signer) sign(v any) string {
	s.t.Helper()
	payload, err := json.Marshal(v)
	if err != nil {
		s.t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.id}}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s *signer) token(change map[string]any) string {
	now := time.Now()
	claims := map[string]any{"iss": issuer, "aud": audience, "tid": tenant, "oid": "o", "sub": "o", "xms_mirid": workspace, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	for k, v := range change {
		if v == nil {
			delete(claims, k)
		} else {
			claims[k] = v
		}
	}
	return s.sign(claims)
}

func newGateway(t *testing.T, authority *signer) *Gateway {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	g := &Gateway{Config: Config{Issuer: issuer, Tenant: tenant, Audience: audience, Now: time.Now, Log: log},
		keys: &keys{issuer: issuer, audience: audience, now: time.Now, log: log}, changed: newWaker()}
	if err := g.keys.set(10, authority.set()); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestOnlyAWorkspacesOwnTokenIsTaken(t *testing.T) {
	authority := newSigner(t, "k1")
	g := newGateway(t, authority)
	ask := func(tokens ...string) (mlext.Owner, error) {
		return g.authenticate(t.Context(), http.Header{wire.TokenHeader: tokens})
	}
	o, err := ask(authority.token(nil))
	if err != nil || o.Object != "o" || o.Workspace != strings.ToLower(workspace) {
		t.Fatalf("%+v %v", o, err)
	}
	forged := newSigner(t, "k1")
	for name, tokens := range map[string][]string{
		"none":             {},
		"empty":            {""},
		"two":              {authority.token(nil), authority.token(nil)},
		"no token":         {"abc"},
		"another signer":   {forged.token(nil)},
		"unknown key":      {newSigner(t, "k2").token(nil)},
		"another issuer":   {authority.token(map[string]any{"iss": "https://else"})},
		"the gateway's":    {authority.token(map[string]any{"aud": "https://server.test/gateways/local"})},
		"another cluster":  {authority.token(map[string]any{"aud": wire.Audience("https://server.test", "44444444-4444-4444-8444-444444444444")})},
		"two audiences":    {authority.token(map[string]any{"aud": []string{audience, "x"}})},
		"another tenant":   {authority.token(map[string]any{"tid": "x"})},
		"expired":          {authority.token(map[string]any{"exp": time.Now().Add(-time.Second).Unix()})},
		"no object":        {authority.token(map[string]any{"oid": nil})},
		"no resource":      {authority.token(map[string]any{"xms_mirid": nil})},
		"another type":     {authority.token(map[string]any{"xms_mirid": strings.Replace(workspace, "/workspaces/", "/vaults/", 1)})},
		"another provider": {authority.token(map[string]any{"xms_mirid": strings.Replace(workspace, "Microsoft.MachineLearningServices", "Contoso.ML", 1)})},
		"below one":        {authority.token(map[string]any{"xms_mirid": workspace + "/computes/c"})},
		"an empty name":    {authority.token(map[string]any{"xms_mirid": strings.TrimSuffix(workspace, "w")})},
	} {
		if _, err := ask(tokens...); trust.KindOf(err) != trust.Unauthenticated && trust.KindOf(err) != trust.Forbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every path asks for a token, those that do not exist too.
func TestEveryPathAsksForAToken(t *testing.T) {
	g := newGateway(t, newSigner(t, "k1"))
	server := httptest.NewServer(g.Handler())
	defer server.Close()
	for _, call := range []string{"GET /health", "PUT /computes/x", "DELETE /computes/x", "PUT /jobs/x", "GET /jobs/x", "DELETE /jobs/x", "POST /jobs/x/cancel",
		"GET /jobs/x/logs", "GET /jobs/x/logs/node-0/attempt-0",
		"PUT /endpoints/x", "DELETE /endpoints/x", "PUT /deployments/x", "GET /deployments/x", "DELETE /deployments/x", "GET /deployments/x/logs", "GET /none", "GET /../../x"} {
		method, path, _ := strings.Cut(call, " ")
		req, err := http.NewRequest(method, server.URL+wire.Prefix+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 401 || !strings.Contains(string(body), wire.Unauthenticated) {
			t.Errorf("%s: %d %s", call, res.StatusCode, body)
		}
	}
}

func TestOnlyTheMLServiceReplacesKeys(t *testing.T) {
	first, service := newSigner(t, "k1"), newSigner(t, "ml")
	g := newGateway(t, first)
	g.keys.refresh = service.key.Public()
	next := newSigner(t, "k2")
	doc := func(number int64, aud string) wire.Keys {
		return wire.Keys{Audience: aud, Number: number, Keys: next.set()}
	}
	for name, signed := range map[string]string{
		"the authority's":   first.sign(doc(20, audience)),
		"another extension": service.sign(doc(20, audience+"x")),
		"an older set":      service.sign(doc(9, audience)),
		"not signed":        "abc",
		"no set":            service.sign(wire.Keys{Audience: audience, Number: 20, Keys: json.RawMessage(`{}`)}),
	} {
		if err := g.keys.replace(t.Context(), signed); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	ask := func(s *signer) error {
		_, err := g.authenticate(t.Context(), http.Header{wire.TokenHeader: {s.token(nil)}})
		return err
	}
	if err := ask(first); err != nil {
		t.Fatal(err)
	}
	if err := g.keys.set(20, next.set()); err != nil {
		t.Fatal(err)
	}
	if err := ask(next); err != nil {
		t.Errorf("the new key: %v", err)
	}
	if ask(first) == nil {
		t.Error("the key that is gone is still believed")
	}
}

func TestALogIsReadInWholeCharacters(t *testing.T) {
	dir := t.TempDir()
	c, err := newCollector(LogConfig{Dir: dir}, nil, nil, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	uid := "0b1f6471-1bf0-4dda-aec3-111122223333"
	file := filepath.Join(dir, uid, "node-0", "attempt-0")
	text := "ä line\nanother ü"
	write := func(n int, done bool) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text[:n]), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := writeAbout(file, about{Pod: "p", Host: "h", Done: done}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string, offset int64) (*wire.LogPart, error) {
		return c.read(context.Background(), uid, name, offset, 0)
	}
	if _, err := read("node-0/attempt-0", 0); trust.KindOf(err) != trust.NotFound {
		t.Errorf("before there is one: %v", err)
	}
	var got strings.Builder
	at := int64(0)
	for n := 1; n <= len(text); n++ { // as it grows, byte by byte
		write(n, n == len(text))
		part, err := read("node-0/attempt-0", at)
		if err != nil || !utf8.ValidString(part.Content) || part.Done != (n == len(text)) {
			t.Fatalf("%d bytes: %+v %v", n, part, err)
		}
		got.WriteString(part.Content)
		at = part.Next
	}
	if got.String() != text {
		t.Errorf("read %q", got.String())
	}
	for _, name := range []string{"../x", "node-0/../attempt-0", "node-0/attempt-0.json", "node-0", "", "node-/attempt-0", "node-0/attempt-0/x"} {
		if _, err := read(name, 0); trust.KindOf(err) != trust.NotFound {
			t.Errorf("%q: %v", name, err)
		}
	}
	files, err := c.list(uid)
	if err != nil || len(files) != 1 || files[0].Name != "node-0/attempt-0" || files[0].Host != "h" || !files[0].Done {
		t.Errorf("files %+v %v", files, err)
	}
	c.AllBytes = 1
	if err := c.sweep(); err != nil {
		t.Fatal(err)
	}
	if files, err := c.list(uid); err != nil || len(files) != 0 {
		t.Errorf("too much was kept: %v %v", files, err)
	}
}

func TestAReaderIsWokenByTheNextLine(t *testing.T) {
	w := newWaker()
	woken := w.next("a")
	w.wake("b")
	select {
	case <-woken:
		t.Fatal("woken by another's")
	default:
	}
	w.wake("a")
	<-woken
}

func TestWithoutTrainingJobsAreRefused(t *testing.T) {
	g := newGateway(t, newSigner(t, "k1"))
	g.NoTraining = true
	err := g.putJob(t.Context(), mlext.Owner{}, wire.Job{UID: "0b1f6471-1bf0-4dda-aec3-111122223333", Image: "i", Command: "c", Nodes: 1})
	var e *trust.Error
	if !errors.As(err, &e) || e.Kind != trust.Conflict || e.Code != wire.TrainingNotEnabled {
		t.Errorf("%v", err)
	}
}
