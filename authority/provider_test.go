package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/store"
)

// idp is an OpenID provider over TLS that signs whoever comes in, with whatever
// the test wants to be wrong about it.
type idp struct {
	*httptest.Server
	world *world
	key   *ecdsa.PrivateKey

	mu     sync.Mutex
	asked  url.Values // the authorization request
	claims map[string]any
	broken string // what it does wrong
}

const idpClient, idpSecret = "sallyport", "idp-secret"

func newIDP(t *testing.T) *idp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{key: key, claims: map[string]any{}}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

// at makes a world whose people come from the provider.
func (p *idp) at(t *testing.T, change func(*ProviderConfig)) *world {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	conf := &ProviderConfig{Issuer: p.URL, ClientID: idpClient, ClientSecret: idpSecret, Label: "Example", Private: true, Roots: roots}
	if change != nil {
		change(conf)
	}
	p.world = newWorld(t, func(c *Config) { c.Provider = conf })
	return p.world
}

func (p *idp) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]any{}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		if p.broken == "redirected discovery" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		out = map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token"}
		if p.broken == "another issuer" {
			out["issuer"] = "https://evil.test"
		}
		if p.broken == "plain token endpoint" {
			out["token_endpoint"] = "http://" + r.Host + "/token"
		}
	case "/keys":
		out["keys"] = []any{jose.JSONWebKey{Key: p.key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}
	case "/token":
		_ = r.ParseForm()
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		if r.PostForm.Get("code") != "from-the-provider" || r.PostForm.Get("client_secret") != idpSecret || r.PostForm.Get("redirect_uri") != p.asked.Get("redirect_uri") ||
			base64.RawURLEncoding.EncodeToString(sum[:]) != p.asked.Get("code_challenge") || p.broken == "no token" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if p.broken == "redirected token" {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
			return
		}
		out["id_token"] = p.idToken()
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out)
}

func (p *idp) idToken() string {
	now := p.world.clock.Now()
	claims := map[string]any{"iss": p.URL, "aud": idpClient, "sub": "42", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "nonce": p.asked.Get("nonce"),
		"preferred_username": "anna@corp.test", "name": "Anna", "groups": []string{"platform", "oncall"}}
	for name, v := range p.claims {
		claims[name] = v
	}
	key := any(p.key)
	if p.broken == "another key" {
		other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return ""
		}
		key = other
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return ""
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return ""
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return ""
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return ""
	}
	return token
}

// visit follows a sign-in page's link to the provider, and returns the callback
// that the provider sends the browser to.
func (p *idp) visit(b *browser, page string) string {
	b.t.Helper()
	_, link, ok := strings.Cut(page, `class="button" href="`)
	link, _, _ = strings.Cut(link, `"`)
	if !ok {
		b.t.Fatalf("no link to the provider: %s", page)
	}
	rec := b.do("GET", strings.ReplaceAll(link, "&amp;", "&"), nil)
	to := mustParse(b.t.(*testing.T), rec.Header().Get("Location"))
	if rec.Code != http.StatusFound || to.Scheme+"://"+to.Host != p.URL || to.Path != "/authorize" {
		b.t.Fatalf("to the provider: %d %v %s", rec.Code, to, rec.Body)
	}
	q := to.Query()
	if q.Get("client_id") != idpClient || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("state") == "" || q.Get("nonce") == "" || !strings.Contains(q.Get("scope"), "openid") || q.Get("redirect_uri") != baseURL+at("/signin/callback") {
		b.t.Errorf("authorization request %v", q)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = q
	return at("/signin/callback?") + url.Values{"code": {"from-the-provider"}, "state": q["state"], "iss": {p.URL}}.Encode()
}

func TestAProviderSignsPeopleIn(t *testing.T) {
	p := newIDP(t)
	w := p.at(t, nil)
	query, verifier := asked()
	b := w.browser()
	page := b.do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil).Body.String()
	if !strings.Contains(page, "Sign in with Example") || strings.Contains(page, `type="password"`) {
		t.Errorf("the page: %s", page)
	}
	rec := b.do("GET", p.visit(b, page), nil)
	code := mustParse(t, rec.Header().Get("Location")).Query().Get("code")
	got := w.tokens(withCode(code, verifier, "scope", gatewayAud+"/.default openid offline_access"))
	c := w.good("from the provider", text(got, "access_token"))
	if c.GroupIssuer != p.URL || c.Issuer != w.Issuer() || !slices.Equal(c.Groups, []string{"platform", "oncall"}) || c.Name != "anna@corp.test" || c.Object != objectID(p.URL, "42") || c.Object == objectID(p.URL, "43") {
		t.Errorf("caller %+v", c)
	}
	// The same person again is the same object; a device sign-in ends the same way.
	d := w.asks()
	b = w.browser()
	page, _ = b.types(text(d, "user_code"))
	if rec := b.do("GET", p.visit(b, page), nil); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "You have signed in") {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	device := w.tokens(withDevice(d))
	if again := w.good("by device", text(device, "access_token")); again.Object != c.Object {
		t.Errorf("%+v", again)
	}
	// Shut out here, whatever the provider says.
	w.commit(store.Create(store.User{Name: c.Object, ObjectID: c.Object, Disabled: true}))
	w.ends("shut out", text(got, "access_token"))
	w.noGrant("shut out", "invalid_grant", withRefresh(text(got, "refresh_token")))
	b = w.browser()
	page = b.do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil).Body.String()
	if rec := b.do("GET", p.visit(b, page), nil); rec.Code != http.StatusForbidden {
		t.Errorf("shut out, signs in again: %d %v", rec.Code, rec.Header())
	}
	w.clock.Add(providerSession)
	w.noGrant("after the provider's time", "invalid_grant", withRefresh(text(device, "refresh_token")))
}

// What a provider, or who poses as one, can do wrong.
func TestHostileProviders(t *testing.T) {
	begin := func(t *testing.T, p *idp) (*browser, string) {
		query, _ := asked()
		b := p.world.browser()
		return b, b.do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil).Body.String()
	}
	refused := func(t *testing.T, when string, rec *httptest.ResponseRecorder) {
		t.Helper()
		if rec.Code < 400 || rec.Header().Get("Location") != "" || strings.Contains(rec.Body.String(), "You have signed in") {
			t.Errorf("%s: %d %v %s", when, rec.Code, rec.Header(), rec.Body)
		}
	}
	many := make([]string, maxGroups+1)
	for name, claims := range map[string]map[string]any{
		"another audience": {"aud": "other"}, "two audiences": {"aud": []string{idpClient, "other"}}, "another issuer": {"iss": "https://evil.test"}, "another nonce": {"nonce": "x"}, "no nonce": {"nonce": nil},
		"expired": {"exp": 1}, "nobody": {"sub": ""}, "too many groups": {"groups": many},
	} {
		p := newIDP(t)
		p.at(t, nil)
		p.claims = claims
		b, page := begin(t, p)
		refused(t, name, b.do("GET", p.visit(b, page), nil))
	}
	for _, broken := range []string{"another key", "no token", "redirected token"} {
		p := newIDP(t)
		p.at(t, nil)
		b, page := begin(t, p)
		back := p.visit(b, page)
		p.broken = broken
		refused(t, broken, b.do("GET", back, nil))
	}
	for _, broken := range []string{"redirected discovery", "another issuer", "plain token endpoint"} {
		p := newIDP(t)
		p.at(t, nil)
		p.broken = broken
		b, page := begin(t, p)
		_, link, _ := strings.Cut(page, `class="button" href="`)
		link, _, _ = strings.Cut(link, `"`)
		refused(t, broken, b.do("GET", strings.ReplaceAll(link, "&amp;", "&"), nil))
	}
	p := newIDP(t)
	w := p.at(t, func(c *ProviderConfig) { c.Private = false })
	query, _ := asked()
	b := w.browser()
	page := b.do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil).Body.String()
	_, link, _ := strings.Cut(page, `class="button" href="`)
	link, _, _ = strings.Cut(link, `"`)
	refused(t, "at a private address", b.do("GET", strings.ReplaceAll(link, "&amp;", "&"), nil))
	if !strings.Contains(w.logs.String(), "is not public") {
		t.Error("the log does not say why")
	}

	// The answer counts once, in the browser that was sent, with its state.
	p = newIDP(t)
	w = p.at(t, nil)
	b, page = begin(t, p)
	back := p.visit(b, page)
	refused(t, "in another browser", w.browser().do("GET", back, nil))
	forged := strings.Replace(back, "state=", "state=x", 1)
	refused(t, "another state", b.do("GET", forged, nil))
	refused(t, "another provider's", b.do("GET", strings.Replace(back, "iss=https", "iss=http", 1), nil))
	if rec := b.do("GET", back, nil); rec.Code != http.StatusFound {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	refused(t, "a second time", b.do("GET", back, nil))
	b, page = begin(t, p)
	back = strings.Replace(p.visit(b, page), "code=from-the-provider", "error=access_denied", 1)
	refused(t, "denied there", b.do("GET", back, nil))
}
