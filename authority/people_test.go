package authority

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// A built-in user signs in with code and PKCE; the tokens say who, the gateway
// knows the groups, and refreshing gets tokens for other audiences.
func TestAPersonSignsIn(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("anna@example.com", "platform", "oncall")
	query, verifier := asked()
	got := w.tokens(withCode(w.browser().code(query, "ANNA@example.com"), verifier))
	access, id := part(t, text(got, "access_token"), 1), part(t, text(got, "id_token"), 1)
	for claim, want := range map[string]any{"aud": baseURL, "oid": u.ObjectID, "sub": u.ObjectID, "tid": tenant, "appid": azureCLI, "idtyp": "user", "preferred_username": u.Name,
		"name": u.DisplayName, "idp": w.Issuer(), "scp": "user_impersonation", "appidacr": "0", "xms_mirid": nil} {
		if access[claim] != want {
			t.Errorf("access token: %s is %v, want %v", claim, access[claim], want)
		}
	}
	for claim, want := range map[string]any{"aud": azureCLI, "oid": u.ObjectID, "nonce": "n0nce", "preferred_username": u.Name, "sp_cred": nil, "groups": nil} {
		if id[claim] != want {
			t.Errorf("id token: %s is %v, want %v", claim, id[claim], want)
		}
	}
	info, err := base64.RawURLEncoding.DecodeString(text(got, "client_info"))
	var who map[string]string
	if err != nil || json.Unmarshal(info, &who) != nil || who["uid"] != u.ObjectID || who["utid"] != tenant {
		t.Errorf("client_info %s, %v", info, err)
	}
	if got["scope"] != query.Get("scope") || !strings.HasPrefix(text(got, "refresh_token"), refreshPrefix) {
		t.Errorf("answer %v", got)
	}
	next := w.tokens(withRefresh(text(got, "refresh_token")))
	c := w.good("refreshed for the gateway", text(next, "access_token"))
	if c.Name != u.Name || !slices.Equal(c.Groups, u.Groups) || c.GroupIssuer != w.Issuer() || c.Object != u.ObjectID || c.ResourceID != "" {
		t.Errorf("caller %+v", c)
	}
	// An id token is no access token.
	w.refused("id token", text(got, "id_token"))

	// A cluster's tokens are short here too.
	cluster := w.tokens(withRefresh(text(next, "refresh_token"), "scope", baseURL+"/clusters/77777777-7777-7777-7777-777777777777/.default offline_access"))
	if cluster["expires_in"] != float64(ClusterTokenLife/time.Second) || cluster["id_token"] != nil {
		t.Errorf("for a cluster: %v", cluster)
	}
	// Without offline_access there is nothing to refresh with.
	query, verifier = asked("scope", baseURL+"/.default")
	if short := w.tokens(withCode(w.browser().code(query, "anna@example.com"), verifier, "scope", "")); short["refresh_token"] != nil || short["id_token"] != nil {
		t.Errorf("no offline_access: %v", short)
	}
	// form_post, which MSAL for Go asks for: the code is in a form to the client.
	query, verifier = asked("response_mode", "form_post")
	rec := w.browser().signIn(query, "anna@example.com", goodPass)
	form := hidden(rec.Body.String())
	if rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), `action="`+backTo+`"`) || form.Get("state") != "st&te" || !strings.Contains(rec.Header().Get("Content-Security-Policy"), "form-action 'self' http://localhost:54321") {
		t.Fatalf("form_post: %d %s", rec.Code, rec.Body)
	}
	w.tokens(withCode(form.Get("code"), verifier))
	// v1, with a resource.
	query, verifier = asked("resource", gatewayAud, "scope", "")
	page := w.browser()
	begun := page.do("GET", at("/oauth2/authorize?")+query.Encode(), nil)
	fill := hidden(begun.Body.String())
	fill.Set("username", u.Name)
	fill.Set("password", goodPass)
	back := mustParse(t, page.do("POST", at("/signin"), fill).Header().Get("Location"))
	v1 := withCode(back.Query().Get("code"), verifier, "scope", "", "resource", gatewayAud)
	rec, body := w.post(at("/oauth2/token"), v1, nil)
	if rec.Code != http.StatusOK || body["resource"] != gatewayAud || body["expires_in"] != "3600" {
		t.Errorf("v1: %d %s", rec.Code, rec.Body)
	}
}

// Codes: once, in time, by the client and for the place they were made for, with
// the verifier.
// Clients without a tenant ask "common" or "organizations": people are signed in
// there, in the one tenant that there is, and nobody else is.
func TestTenantsThatNobodyNamed(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("anna")
	i := w.identity("")
	secret := w.secret(i)
	own, _ := w.post(at("/v2.0/.well-known/openid-configuration"), nil, func(r *http.Request) { r.Method = http.MethodGet })
	for _, tenantName := range []string{"common", "Organizations"} {
		in := "/" + tenantName
		rec, _ := w.post(in+"/v2.0/.well-known/openid-configuration", nil, func(r *http.Request) { r.Method = http.MethodGet })
		if rec.Code != http.StatusOK || rec.Body.String() != own.Body.String() {
			t.Errorf("%s: %d %s", tenantName, rec.Code, rec.Body)
		}
		query, verifier := asked()
		b := w.browser()
		page := b.do("GET", in+"/oauth2/v2.0/authorize?"+query.Encode(), nil)
		form := hidden(page.Body.String())
		form.Set("username", u.Name)
		form.Set("password", goodPass)
		to := mustParse(t, b.do("POST", at("/signin"), form).Header().Get("Location"))
		rec, got := w.post(in+"/oauth2/v2.0/token", withCode(to.Query().Get("code"), verifier), nil)
		if rec.Code != http.StatusOK || part(t, text(got, "access_token"), 1)["tid"] != tenant {
			t.Fatalf("%s: %d %s", tenantName, rec.Code, rec.Body)
		}
		rec, got = w.post(in+"/oauth2/v2.0/token", withRefresh(text(got, "refresh_token")), nil)
		if rec.Code != http.StatusOK {
			t.Errorf("%s refreshes: %d %s", tenantName, rec.Code, rec.Body)
		}
		w.good(tenantName, text(got, "access_token"))
		rec, d := w.post(in+"/oauth2/v2.0/devicecode", url.Values{"client_id": {azureCLI}, "scope": {gatewayAud + "/.default"}}, nil)
		if rec.Code != http.StatusOK || d["verification_uri"] != baseURL+at("/device") {
			t.Errorf("%s: a device: %d %s", tenantName, rec.Code, rec.Body)
		}
		rec, got = w.post(in+"/oauth2/v2.0/token", withSecret(i, secret.Value, gatewayAud), nil)
		if rec.Code != http.StatusBadRequest || got["error"] != "invalid_request" || !strings.HasPrefix(text(got, "error_description"), "AADSTS50059: ") || got["access_token"] != nil {
			t.Errorf("%s: client credentials: %d %s", tenantName, rec.Code, rec.Body)
		}
	}
	rec, got := w.post("/consumers/oauth2/v2.0/token", withSecret(i, secret.Value, gatewayAud), nil)
	if rec.Code != http.StatusBadRequest || !strings.Contains(text(got, "error_description"), "no personal accounts here: use 'organizations'") {
		t.Errorf("consumers: %d %s", rec.Code, rec.Body)
	}
}

func TestHostileAuthorizationCodes(t *testing.T) {
	w := newWorld(t, nil)
	w.user("anna")
	fresh := func() (string, string) {
		query, verifier := asked()
		return w.browser().code(query, "anna"), verifier
	}
	code, verifier := fresh()
	other, otherVerifier := fresh()
	for name, form := range map[string]url.Values{
		"wrong verifier":           withCode(code, random(32)),
		"another code's verifier":  withCode(code, otherVerifier),
		"no verifier":              withCode(code, verifier, "code_verifier", ""),
		"more than the verifier":   withCode(code, verifier+"x"),
		"short verifier":           withCode(code, "x"),
		"another redirect":         withCode(code, verifier, "redirect_uri", "http://localhost:1/done"),
		"no redirect":              withCode(code, verifier, "redirect_uri", ""),
		"another client":           withCode(code, verifier, "client_id", otherCLI),
		"another code":             withCode(random(32), verifier),
		"a piece of a code":        withCode(code[:20], verifier),
		"no code":                  withCode("", verifier),
		"a refresh token's prefix": withCode(refreshPrefix+code, verifier),
	} {
		w.noGrant(name, "invalid_grant", form)
	}
	w.noGrant("unknown client", "unauthorized_client", withCode(code, verifier, "client_id", tenant))
	w.noGrant("two resources", "invalid_scope", withCode(code, verifier, "scope", baseURL+"/.default "+gatewayAud+"/.default"))
	w.noGrant("unknown resource", "invalid_resource", withCode(code, verifier, "scope", "https://other.test/.default"))
	rec, body := w.post("", withCode(code, verifier, "client_secret", "x"), nil)
	if rec.Code != http.StatusUnauthorized || body["error"] != "invalid_client" {
		t.Errorf("a public client with a secret: %d %s", rec.Code, rec.Body)
	}

	// None of these has used it up. Its second use ends what it was good for.
	got := w.tokens(withCode(code, verifier, "scope", gatewayAud+"/.default offline_access"))
	w.good("first use", text(got, "access_token"))
	w.noGrant("replayed", "invalid_grant", withCode(code, verifier))
	w.ends("the replay ends the session", text(got, "access_token"))
	w.noGrant("its refresh token", "invalid_grant", withRefresh(text(got, "refresh_token")))

	w.clock.Add(codeLife)
	w.noGrant("late", "invalid_grant", withCode(other, otherVerifier))
}

// Requests that are sent nowhere, since who asked is not known to be good, and
// those whose refusal goes back to the client.
func TestHostileAuthorizationRequests(t *testing.T) {
	w := newWorld(t, nil)
	shown := map[string][]string{
		"unknown client":      {"client_id", tenant},
		"no client":           {"client_id", ""},
		"managed identity":    {"client_id", w.identity(workspace).ClientID},
		"no redirect":         {"redirect_uri", ""},
		"to the outside":      {"redirect_uri", "https://evil.test/"},
		"http to the outside": {"redirect_uri", "http://evil.test:80/"},
		"name like localhost": {"redirect_uri", "http://localhost.evil.test/"},
		"user like localhost": {"redirect_uri", "http://localhost@evil.test/"},
		"address in a name":   {"redirect_uri", "http://127.0.0.1.evil.test/"},
		"private address":     {"redirect_uri", "http://10.0.0.1/"},
		"script":              {"redirect_uri", "javascript:alert(1)"},
		"fragment":            {"redirect_uri", "http://localhost/#x"},
		"backslash":           {"redirect_uri", `http://localhost\@evil.test/`},
		"line end":            {"redirect_uri", "http://localhost/\r\nSet-Cookie: a=b"},
		"long state":          {"state", strings.Repeat("x", maxState+1)},
	}
	for name, change := range shown {
		query, _ := asked(change...)
		rec := w.browser().do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil)
		if rec.Code != http.StatusBadRequest || rec.Header().Get("Location") != "" || len(rec.Result().Cookies()) > 0 || len(hidden(rec.Body.String())) > 0 {
			t.Errorf("%s: %d %v", name, rec.Code, rec.Header())
		}
	}
	query, _ := asked()
	if rec := w.browser().do("GET", at("/oauth2/v2.0/authorize?")+query.Encode()+"&redirect_uri=http://localhost/2", nil); rec.Code != http.StatusBadRequest {
		t.Errorf("two redirects: %d", rec.Code)
	}
	returned := map[string]struct {
		change []string
		error  string
	}{
		"implicit":         {[]string{"response_type", "token"}, "unsupported_response_type"},
		"hybrid":           {[]string{"response_type", "code id_token"}, "unsupported_response_type"},
		"no PKCE":          {[]string{"code_challenge", ""}, "invalid_request"},
		"plain PKCE":       {[]string{"code_challenge_method", "plain"}, "invalid_request"},
		"no method":        {[]string{"code_challenge_method", ""}, "invalid_request"},
		"short challenge":  {[]string{"code_challenge", "abc"}, "invalid_request"},
		"fragment mode":    {[]string{"response_mode", "fragment"}, "invalid_request"},
		"two resources":    {[]string{"scope", baseURL + "/.default " + gatewayAud + "/.default"}, "invalid_scope"},
		"foreign resource": {[]string{"scope", "https://graph.microsoft.com/.default"}, "invalid_resource"},
		"without a person": {[]string{"prompt", "none"}, "login_required"},
	}
	for name, tt := range returned {
		query, _ := asked(tt.change...)
		rec := w.browser().do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil)
		to := mustParse(t, rec.Header().Get("Location"))
		if rec.Code != http.StatusFound || to.Host != "localhost:54321" || to.Query().Get("error") != tt.error || to.Query().Get("state") != "st&te" || to.Query().Get("code") != "" {
			t.Errorf("%s: %d %v", name, rec.Code, to)
		}
	}
	for _, ok := range []string{"http://localhost", "http://127.0.0.1:1/x", "http://[::1]:9/"} {
		if !loopback(ok) {
			t.Errorf("%s is refused", ok)
		}
	}
	// Whatever a stranger puts into the page is text there.
	query, _ = asked("login_hint", `"><script>alert(1)</script>`)
	if rec := w.browser().do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil); strings.Contains(rec.Body.String(), "<script>") {
		t.Errorf("the page runs a stranger's script: %s", rec.Body)
	}
}

// The form counts only from the browser and the page it was made for.
func TestTheSignInFormCannotBeForged(t *testing.T) {
	w := newWorld(t, nil)
	w.user("anna")
	query, _ := asked()
	victim, attacker := w.browser(), w.browser()
	fill := func(b *browser) url.Values {
		form := hidden(b.do("GET", at("/oauth2/v2.0/authorize?")+query.Encode(), nil).Body.String())
		form.Set("username", "anna")
		form.Set("password", goodPass)
		return form
	}
	theirs, own := fill(victim), fill(attacker)
	refused := func(when string, rec *httptest.ResponseRecorder) {
		t.Helper()
		if rec.Code < 400 || rec.Header().Get("Location") != "" {
			t.Errorf("%s: %d %s", when, rec.Code, rec.Header())
		}
	}
	refused("the attacker's form in the victim's browser", victim.do("POST", at("/signin"), own))
	mixed := url.Values{"signin": theirs["signin"], "token": own["token"], "username": {"anna"}, "password": {goodPass}}
	refused("with the attacker's token", victim.do("POST", at("/signin"), mixed))
	mixed.Del("token")
	refused("without a token", victim.do("POST", at("/signin"), mixed))
	refused("from another site", victim.do("POST", at("/signin"), theirs, func(r *http.Request) { r.Header.Set("Origin", "https://evil.test") }))
	refused("cross-site", victim.do("POST", at("/signin"), theirs, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }))
	refused("by GET", victim.do("GET", at("/signin?")+theirs.Encode(), nil))
	stranger := w.browser()
	refused("without the cookie", stranger.do("POST", at("/signin"), theirs))
	for name, c := range victim.cookies {
		c.Value = c.Value[:len(c.Value)-4] + "AAAA"
		victim.cookies[name] = c
	}
	refused("with a changed cookie", victim.do("POST", at("/signin"), theirs))
	late := w.browser()
	form := fill(late)
	w.clock.Add(signInLife)
	refused("late", late.do("POST", at("/signin"), form))

	b := w.browser()
	if rec := b.do("POST", at("/signin/cancel"), fill(b)); rec.Code != http.StatusFound || mustParse(t, rec.Header().Get("Location")).Query().Get("error") != "access_denied" {
		t.Errorf("canceled: %d %v", rec.Code, rec.Header())
	}
	if rec := b.do("POST", at("/signin"), form); rec.Code < 400 {
		t.Errorf("after it was canceled: %d", rec.Code)
	}
}

// Wrong passwords: told the same for every reason, limited by name and address.
func TestPasswordsAreLimited(t *testing.T) {
	w := newWorld(t, nil)
	w.user("anna")
	off := w.user("bert")
	item, err := store.Get[store.User](t.Context(), w.store, off.Key())
	if err != nil {
		t.Fatal(err)
	}
	off.Disabled = true
	w.commit(store.Update(off, item.Revision))
	query, _ := asked()
	pages := map[string]bool{}
	for n, try := range [][2]string{{"anna", "wrong password"}, {"nobody", goodPass}, {"bert", goodPass}, {"../anna", goodPass}, {"", goodPass}, {"anna", ""}, {"anna", strings.Repeat("x", MaxPassword+1)}} {
		b := w.browser()
		b.from = fmt.Sprintf("198.51.100.%d:1", n)
		rec := b.signIn(query, try[0], try[1])
		if rec.Code != http.StatusForbidden || rec.Header().Get("Location") != "" {
			t.Errorf("%q: %d %v", try, rec.Code, rec.Header())
		}
		_, alert, _ := strings.Cut(rec.Body.String(), `role="alert">`)
		alert, _, _ = strings.Cut(alert, "<")
		pages[html.UnescapeString(alert)] = true
	}
	if len(pages) != 1 {
		t.Errorf("the page tells the reasons apart: %v", pages)
	}
	// From many addresses, one name.
	limited := false
	for n := range 2 * nameBurst {
		b := w.browser()
		b.from = fmt.Sprintf("198.51.101.%d:1", n)
		if rec := b.signIn(query, "anna", "wrong password"); strings.Contains(rec.Body.String(), "too many wrong passwords") {
			limited = true
			break
		}
	}
	if !limited {
		t.Error("a name can be tried without end")
	}
	b := w.browser()
	if rec := b.signIn(query, "Anna", goodPass); rec.Code != http.StatusForbidden {
		t.Errorf("the right password, while limited: %d", rec.Code)
	}
	w.user("carl")
	b.code(query, "carl")
	w.clock.Add(2 * nameEvery)
	b.code(query, "anna")
	for range 3 * nameBurst { // success is no failure
		b.code(query, "carl")
	}
}

// One refresh token is good at a time. A second use, by whomever, ends the whole
// family and every access token of it.
func TestAStolenRefreshTokenEndsTheFamily(t *testing.T) {
	w := newWorld(t, nil)
	w.user("anna", "platform")
	first := w.session("anna")
	untouched := w.session("anna")
	second := w.tokens(withRefresh(text(first, "refresh_token")))
	if text(second, "refresh_token") == text(first, "refresh_token") {
		t.Fatal("the refresh token did not change")
	}
	w.good("before", text(second, "access_token"))
	w.noGrant("the thief's, used before", "invalid_grant", withRefresh(text(first, "refresh_token")))
	w.noGrant("the owner's, good until then", "invalid_grant", withRefresh(text(second, "refresh_token")))
	w.ends("first access token", text(first, "access_token"))
	w.ends("second access token", text(second, "access_token"))
	w.good("another session of the same user", text(untouched, "access_token"))

	// By another client.
	w.noGrant("another client's", "invalid_grant", withRefresh(text(untouched, "refresh_token"), "client_id", otherCLI))
	w.noGrant("its owner's then", "invalid_grant", withRefresh(text(untouched, "refresh_token")))

	// Guesses end nothing.
	third := w.session("anna")
	token := text(third, "refresh_token")
	parts := strings.Split(strings.TrimPrefix(token, refreshPrefix), ".")
	for name, guess := range map[string]string{
		"empty": "", "no token": "x", "another family": refreshPrefix + parts[0] + "." + random(16) + "." + parts[2], "no family": refreshPrefix + parts[0] + ".." + parts[2],
		"another session": refreshPrefix + random(16) + "." + parts[1] + "." + parts[2], "a path": refreshPrefix + "../x." + parts[1] + "." + parts[2], "twice": token + token,
	} {
		w.noGrant(name, "invalid_grant", withRefresh(guess))
	}
	w.noGrant("a bad scope does not cost it", "invalid_resource", withRefresh(token, "scope", "https://other.test/.default"))
	// Two at once: one wins or both lose, and the family is over.
	var wins sync.Map
	var running sync.WaitGroup
	for n := range 4 {
		running.Go(func() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, at("/oauth2/v2.0/token"), strings.NewReader(withRefresh(token).Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			rec := httptest.NewRecorder()
			w.Handler().ServeHTTP(rec, r)
			if rec.Code == http.StatusOK {
				wins.Store(n, true)
			}
		})
	}
	running.Wait()
	won := 0
	wins.Range(func(any, any) bool { won++; return true })
	if won > 1 {
		t.Errorf("one refresh token was good %d times", won)
	}
	w.ends("after the race", text(third, "access_token"))
}

// Everything that must end a person's tokens does, open ones included.
func TestWhatEndsAPersonsSession(t *testing.T) {
	change := func(w *world, u store.User, f func(*store.User)) {
		item, err := store.Get[store.User](w.t.Context(), w.store, u.Key())
		if err != nil {
			w.t.Fatal(err)
		}
		f(&item.Value)
		w.commit(store.Update(item.Value, item.Revision))
	}
	for name, end := range map[string]func(w *world, u store.User, got map[string]any){
		"disabled": func(w *world, u store.User, _ map[string]any) {
			change(w, u, func(u *store.User) { u.Disabled = true })
		},
		"deleted": func(w *world, u store.User, _ map[string]any) { w.commit(store.Delete(u.Key(), 0)) },
		"made anew": func(w *world, u store.User, _ map[string]any) {
			change(w, u, func(u *store.User) { u.ObjectID = tenant })
		},
		"signed out": func(w *world, u store.User, _ map[string]any) {
			change(w, u, func(u *store.User) { u.SessionsFrom = w.clock.Now().Add(time.Second) })
		},
		"lost its group": func(w *world, u store.User, _ map[string]any) {
			change(w, u, func(u *store.User) { u.Groups = []string{"other"} })
		},
		"session revoked": func(w *world, _ store.User, got map[string]any) {
			rec := w.browser().do("POST", at("/oauth2/v2.0/revoke"), url.Values{"token": {text(got, "refresh_token")}, "client_id": {azureCLI}})
			if rec.Code != http.StatusOK {
				w.t.Errorf("revoke: %d %s", rec.Code, rec.Body)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			u := w.user("anna", "platform")
			got := w.session("anna")
			c := w.good("before", text(got, "access_token"))
			told := make(chan struct{}, 100)
			defer w.authn.Subscribe(func() { told <- struct{}{} })()
			end(w, u, got)
			w.ends(name, text(got, "access_token"))
			if w.authn.Current(&c) {
				t.Error("a stream of the caller would go on")
			}
			select {
			case <-told:
			case <-time.After(10 * time.Second):
				t.Error("nobody was told to look")
			}
			rec, body := w.post("", withRefresh(text(got, "refresh_token")), nil)
			if name == "lost its group" {
				if next := part(t, text(body, "access_token"), 1); rec.Code != http.StatusOK || fmt.Sprint(next["groups"]) != "[other]" {
					t.Errorf("refreshed: %d %v", rec.Code, next)
				}
				return
			}
			if rec.Code != http.StatusBadRequest || body["error"] != "invalid_grant" {
				t.Errorf("refreshed: %d %s", rec.Code, rec.Body)
			}
		})
	}
	w := newWorld(t, nil)
	w.user("anna")
	got := w.session("anna")
	w.clock.Add(builtInSession)
	w.noGrant("after a month", "invalid_grant", withRefresh(text(got, "refresh_token")))
	if err := w.forgetPeople(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _, err := store.List[store.Session](t.Context(), w.store, store.SessionPrefix); err != nil || len(left) != 0 {
		t.Errorf("%d sessions are kept, %v", len(left), err)
	}
}

func TestNothingOfASignInIsLogged(t *testing.T) {
	w := newWorld(t, nil)
	w.user("anna")
	query, verifier := asked()
	code := w.browser().code(query, "anna")
	w.browser().signIn(query, "anna", "wr0ng password")
	got := w.tokens(withCode(code, verifier))
	device, _ := w.post(at("/oauth2/v2.0/devicecode"), url.Values{"client_id": {azureCLI}, "scope": {baseURL + "/.default"}}, nil)
	var d map[string]any
	if err := json.Unmarshal(device.Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	logs := w.logs.String()
	for name, secret := range map[string]string{"code": code, "verifier": verifier, "password": goodPass, "wrong password": "wr0ng password", "refresh token": text(got, "refresh_token")[30:60], "access token": text(got, "access_token")[200:240],
		"device code": text(d, "device_code")[:40], "user code": text(d, "user_code")} {
		if strings.Contains(logs, secret) {
			t.Errorf("the %s is in the log", name)
		}
	}
	if !strings.Contains(logs, "person signed in") || !strings.Contains(logs, "sign-in refused") {
		t.Error("the log tells nothing of sign-ins")
	}
	all, _, err := store.List[store.Session](t.Context(), w.store, store.SessionPrefix)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d sessions, %v", len(all), err)
	}
	raw, err := json.Marshal(all[0].Value)
	if err != nil || strings.Contains(string(raw), strings.Split(text(got, "refresh_token"), ".")[2]) {
		t.Errorf("the store holds the refresh token, %v", err)
	}
}

func TestPasswordHashes(t *testing.T) {
	for _, bad := range []string{"", "short", strings.Repeat("x", MaxPassword+1), "\xff\xfe..............."} {
		if _, err := HashPassword(bad); trust.KindOf(err) != trust.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	hash, err := HashPassword(goodPass)
	again, err2 := HashPassword(goodPass)
	if err != nil || err2 != nil || hash == again || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") || !VerifyPassword(hash, goodPass) || VerifyPassword(hash, goodPass+"x") {
		t.Errorf("%s %s, %v %v", hash, again, err, err2)
	}
	for _, bad := range []string{"", goodPass, strings.Replace(hash, "m=19456", "m=8", 1), strings.Replace(hash, "argon2id", "argon2i", 1), hash + "$", hash[:len(hash)-4]} {
		if VerifyPassword(bad, goodPass) {
			t.Errorf("%s fits", bad)
		}
	}
	if VerifyPassword(nobody, "") || VerifyPassword(nobody, goodPass) {
		t.Error("nobody has a password")
	}
}

// FuzzAuthorize: whatever is asked, the browser is sent to this machine or
// nowhere, and gets no code without a password.
func FuzzAuthorize(f *testing.F) {
	query, _ := asked()
	f.Add(query.Encode(), "")
	for _, uri := range []string{"http://localhost@evil.test", "http://[::1%25eth0]/", "http://localhost:99999/", "http://localhost\\.evil.test", "//evil.test", "http://127.1/", "http://0x7f.1/"} {
		query, _ := asked("redirect_uri", uri, "prompt", "none")
		f.Add(query.Encode(), "signin=AAAAAAAAAAAA&token=x&username=a&password=b")
	}
	w := newWorld(f, nil)
	f.Fuzz(func(t *testing.T, query, body string) {
		w.clock.Add(failEvery)
		for _, path := range []string{"/oauth2/v2.0/authorize?", "/oauth2/authorize?", "/signin/provider?", "/signin/callback?"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, at(path), nil)
			r.URL.RawQuery = query
			rec := httptest.NewRecorder()
			w.Handler().ServeHTTP(rec, r)
			to, err := url.Parse(rec.Header().Get("Location"))
			host := ""
			if err == nil {
				host = to.Hostname()
			}
			if err != nil || rec.Code >= 500 || rec.Code == http.StatusFound && host != "localhost" && !strings.HasPrefix(host, "127.") && host != "::1" || strings.Contains(rec.Header().Get("Location"), "code=") {
				t.Fatalf("%s%s: %d %v", path, query, rec.Code, rec.Header())
			}
		}
		for _, path := range []string{"/signin", "/signin/cancel", "/device"} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, at(path), strings.NewReader(body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			rec := httptest.NewRecorder()
			w.Handler().ServeHTTP(rec, r)
			if rec.Code < 400 || rec.Code >= 500 {
				t.Fatalf("%s: %d", path, rec.Code)
			}
		}
	})
}

// FuzzSignInCookie: no cookie that we did not make begins anything.
func FuzzSignInCookie(f *testing.F) {
	w := newWorld(f, nil)
	f.Add("AAAAAAAAAAAA", "AAAA")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, id, value string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, at("/signin/callback"), nil)
		r.Header.Set("Cookie", cookieName+id+"="+value)
		if s, err := w.fromCookie(r, id); err == nil {
			t.Fatalf("%+v", s)
		}
		if _, ok := parseRefresh(value); ok && !strings.HasPrefix(value, refreshPrefix) {
			t.Fatalf("%q is no refresh token", value)
		}
	})
}
