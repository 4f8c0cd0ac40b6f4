package authority

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	baseURL    = "https://server.test:8443"
	tenant     = "11111111-1111-1111-1111-111111111111"
	workspace  = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/Rg/providers/Microsoft.MachineLearningServices/workspaces/W"
	gatewayAud = baseURL + "/gateways/west"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

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

// logbook keeps every log line.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}
func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// world is a store, an authority on it and a verifier, all running.
type world struct {
	*Authority
	t     testing.TB
	store *store.Store
	dir   *Directory
	clock *clock
	authn *authn.Authenticator
	seal  *seal.Sealer
	logs  *logbook
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{t: time.Unix(1_800_000_000, 0)}, logs: &logbook{}}
	log := slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if w.store, err = store.Open(t.Context(), store.Config{Dir: t.TempDir(), Log: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	if w.seal, err = seal.New(bytes.Repeat([]byte{7}, seal.KeySize)); err != nil {
		t.Fatal(err)
	}
	w.dir = NewDirectory(DirectoryConfig{Store: w.store, Issuer: IssuerURL(baseURL, tenant), Tenant: tenant, Now: w.clock.Now, Log: log})
	conf := Config{Store: w.store, Directory: w.dir, Seal: w.seal, Base: baseURL + "/", Tenant: tenant, Algorithm: "ES256", Now: w.clock.Now, Log: log}
	if change != nil {
		change(&conf)
	}
	if w.Authority, err = New(conf); err != nil {
		t.Fatal(err)
	}
	if w.authn, err = authn.New(authn.Config{Issuers: []authn.Issuer{w.dir.Issuer()}, Now: w.clock.Now, Log: log}); err != nil {
		t.Fatal(err)
	}
	w.run(w.dir.Run)
	w.run(w.Authority.Run)
	w.run(w.authn.Run)
	w.eventually("the authority is ready", func() bool { return w.Ready() == nil && len(w.authn.Ready()) == 0 })
	return w
}

// run runs f until the test ends.
func (w *world) run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			w.t.Errorf("Run: %v", err)
		}
	})
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			w.t.Fatalf("not so after a minute: %s", what)
		}
	}
}

func (w *world) commit(ops ...store.Op) {
	w.t.Helper()
	if _, err := w.store.Commit(w.t.Context(), ops...); err != nil {
		w.t.Fatal(err)
	}
}

// identity makes an identity, a managed one if it has a resource.
func (w *world) identity(resource string) store.Identity {
	w.t.Helper()
	i := store.Identity{ClientID: uuid.NewString(), ObjectID: uuid.NewString(), TenantID: tenant, Kind: "Application", ResourceID: resource}
	if resource != "" {
		i.Kind = kindManaged
	}
	w.commit(store.Create(i))
	return i
}

func (w *world) secret(i store.Identity) Secret {
	w.t.Helper()
	s, err := w.NewSecret(w.t.Context(), i.ClientID, 24*365*time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// post sends a token request; path "" is the v2 endpoint.
func (w *world) post(path string, form url.Values, change func(*http.Request)) (*httptest.ResponseRecorder, map[string]any) {
	w.t.Helper()
	if path == "" {
		path = "/" + tenant + "/oauth2/v2.0/token"
	}
	r := httptest.NewRequestWithContext(w.t.Context(), http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if change != nil {
		change(r)
	}
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, r)
	var body map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &body); err != nil {
		w.t.Fatalf("%s answered %d with no JSON: %s", path, rec.Code, rec.Body)
	}
	return rec, body
}

func withSecret(i store.Identity, secret, resource string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {i.ClientID}, "client_secret": {secret}, "scope": {resource + "/.default"}}
}

func withAssertion(i store.Identity, assertion, resource string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "client_id": {i.ClientID}, "client_assertion": {assertion}, "client_assertion_type": {assertionType}, "scope": {resource + "/.default"}}
}

// must gets a token.
func (w *world) must(form url.Values) string {
	w.t.Helper()
	rec, body := w.post("", form, nil)
	if rec.Code != http.StatusOK {
		w.t.Fatalf("token request: %d %s", rec.Code, rec.Body)
	}
	return body["access_token"].(string)
}

// good authenticates a token at the gateway's audience.
func (w *world) good(when, token string) trust.Caller {
	w.t.Helper()
	c, err := w.authn.Authenticate(w.t.Context(), token, authn.Audiences{gatewayAud})
	if err != nil {
		w.t.Errorf("%s: %v", when, err)
	}
	return c
}

func (w *world) refused(when, token string) {
	w.t.Helper()
	if c, err := w.authn.Authenticate(w.t.Context(), token, authn.Audiences{gatewayAud}); trust.KindOf(err) != trust.Unauthenticated {
		w.t.Errorf("%s: %+v, %v, want a refusal", when, c, err)
	}
}

// part decodes one part of a token.
func part(t *testing.T, token string, n int) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token has %d parts", len(parts))
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[n])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}
