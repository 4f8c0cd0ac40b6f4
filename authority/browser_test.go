package authority

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/store"
)

const (
	azureCLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
	otherCLI = "1950a258-227b-4e31-a9cf-717495945fc2"
	backTo   = "http://localhost:54321/done"
	goodPass = "correct horse battery"
)

// user makes a built-in user.
func (w *world) user(name string, groups ...string) store.User {
	w.t.Helper()
	hash, err := HashPassword(goodPass)
	if err != nil {
		w.t.Fatal(err)
	}
	u := store.User{Name: name, ObjectID: uuid.NewString(), DisplayName: "The " + name, Groups: groups}
	w.commit(store.Create(u), store.Create(store.Password{Name: name, Hash: hash, Set: w.clock.Now()}))
	return u
}

// browser is one, as far as sign-ins need it.
type browser struct {
	*world
	cookies map[string]*http.Cookie
	from    string
}

func (w *world) browser() *browser {
	return &browser{world: w, cookies: map[string]*http.Cookie{}, from: "203.0.113.9:1"}
}

func (b *browser) do(method, to string, form url.Values, change ...func(*http.Request)) *httptest.ResponseRecorder {
	b.t.Helper()
	var r *http.Request
	if form != nil {
		r = httptest.NewRequestWithContext(b.t.Context(), method, to, strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		r = httptest.NewRequestWithContext(b.t.Context(), method, to, nil)
	}
	r.RemoteAddr = b.from
	for _, c := range b.cookies {
		r.AddCookie(c)
	}
	for _, f := range change {
		f(r)
	}
	rec := httptest.NewRecorder()
	b.Handler().ServeHTTP(rec, r)
	for _, c := range rec.Result().Cookies() {
		if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode {
			b.t.Errorf("cookie %+v can be read or sent where it must not", c)
		}
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c
		}
	}
	if strings.HasPrefix(rec.Header().Get("Content-Type"), "text/html") {
		policy := rec.Header().Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'; ") || !strings.Contains(policy, "frame-ancestors 'none'") || strings.Contains(policy, "unsafe") || rec.Header().Get("Cache-Control") != "no-store" || rec.Header().Get("Referrer-Policy") != "no-referrer" {
			b.t.Errorf("%s: headers %v", to, rec.Header())
		}
		if rec.Code != http.StatusFound && regexp.MustCompile(`(?i)\ssrc(set)?\s*=|<link|@import|url\(`).MatchString(rec.Body.String()) {
			b.t.Errorf("%s loads something: %s", to, rec.Body)
		}
	}
	return rec
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)

// hidden reads a page's hidden fields.
func hidden(page string) url.Values {
	form := url.Values{}
	for _, m := range hiddenField.FindAllStringSubmatch(page, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	return form
}

func at(path string) string { return "/" + tenant + path }

// asked is an authorization request, and its verifier.
func asked(kv ...string) (query url.Values, verifier string) {
	verifier = random(32)
	sum := sha256.Sum256([]byte(verifier))
	query = url.Values{"client_id": {azureCLI}, "response_type": {"code"}, "redirect_uri": {backTo}, "scope": {baseURL + "/.default openid offline_access profile"}, "state": {"st&te"}, "nonce": {"n0nce"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"}}
	for n := 0; n+1 < len(kv); n += 2 {
		if query.Del(kv[n]); kv[n+1] != "" {
			query.Set(kv[n], kv[n+1])
		}
	}
	return query, verifier
}

// signIn types name and password into the page and returns where the browser was
// sent.
func (b *browser) signIn(query url.Values, name, password string) *httptest.ResponseRecorder {
	b.t.Helper()
	page := b.do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil)
	if page.Code != http.StatusOK {
		b.t.Fatalf("sign-in page: %d %s", page.Code, page.Body)
	}
	form := hidden(page.Body.String())
	form.Set("username", name)
	form.Set("password", password)
	return b.do("POST", at("/signin"), form)
}

// code signs in and returns the authorization code.
func (b *browser) code(query url.Values, name string) string {
	b.t.Helper()
	rec := b.signIn(query, name, goodPass)
	to, err := url.Parse(rec.Header().Get("Location"))
	if rec.Code != http.StatusFound || err != nil || to.Query().Get("code") == "" || to.Query().Get("state") != "st&te" || to.Query().Get("iss") != b.Issuer() {
		b.t.Fatalf("signed in: %d %v %s", rec.Code, to, rec.Body)
	}
	return to.Query().Get("code")
}

func withCode(code, verifier string, kv ...string) url.Values {
	form := url.Values{"grant_type": {grantCode}, "client_id": {azureCLI}, "code": {code}, "code_verifier": {verifier}, "redirect_uri": {backTo}, "scope": {baseURL + "/.default openid offline_access profile"}, "client_info": {"1"}}
	for n := 0; n+1 < len(kv); n += 2 {
		if form.Del(kv[n]); kv[n+1] != "" {
			form.Set(kv[n], kv[n+1])
		}
	}
	return form
}

func withRefresh(token string, kv ...string) url.Values {
	form := url.Values{"grant_type": {grantRefresh}, "client_id": {azureCLI}, "refresh_token": {token}, "scope": {gatewayAud + "/.default openid offline_access"}}
	for n := 0; n+1 < len(kv); n += 2 {
		form.Set(kv[n], kv[n+1])
	}
	return form
}

// tokens exchanges a grant.
func (w *world) tokens(form url.Values) map[string]any {
	w.t.Helper()
	rec, body := w.post("", form, nil)
	if rec.Code != http.StatusOK {
		w.t.Fatalf("token request: %d %s", rec.Code, rec.Body)
	}
	return body
}

// noGrant posts a grant that must be refused.
func (w *world) noGrant(when, code string, form url.Values) {
	w.t.Helper()
	w.clock.Add(failEvery)
	rec, body := w.post("", form, nil)
	if rec.Code != http.StatusBadRequest || body["error"] != code || body["access_token"] != nil || body["refresh_token"] != nil {
		w.t.Errorf("%s: %d %s, want %s", when, rec.Code, rec.Body, code)
	}
}

// ends waits until a token is refused.
func (w *world) ends(when, token string) {
	w.t.Helper()
	w.eventually(when, func() bool {
		_, err := w.authn.Authenticate(w.t.Context(), token, audiences)
		return err != nil && strings.Contains(err.Error(), "token is of")
	})
}

// session signs a user in and returns the answer with its tokens, for the
// gateway.
func (w *world) session(name string) map[string]any {
	w.t.Helper()
	query, verifier := asked()
	return w.tokens(withCode(w.browser().code(query, name), verifier, "scope", gatewayAud+"/.default openid offline_access"))
}

func text(m map[string]any, name string) string { s, _ := m[name].(string); return s }

var audiences = []string{gatewayAud}

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
