package authority

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/store"
)

// asks begins a device sign-in.
func (w *world) asks(kv ...string) map[string]any {
	w.t.Helper()
	form := url.Values{"client_id": {azureCLI}, "scope": {gatewayAud + "/.default openid offline_access"}}
	for n := 0; n+1 < len(kv); n += 2 {
		form.Set(kv[n], kv[n+1])
	}
	rec, body := w.post(at("/oauth2/v2.0/devicecode"), form, func(r *http.Request) { r.RemoteAddr = "192.0.2.77:1" })
	if rec.Code != http.StatusOK {
		w.t.Fatalf("device code: %d %s", rec.Code, rec.Body)
	}
	return body
}

func withDevice(d map[string]any, kv ...string) url.Values {
	form := url.Values{"grant_type": {grantDevice}, "client_id": {azureCLI}, "device_code": {text(d, "device_code")}}
	for n := 0; n+1 < len(kv); n += 2 {
		form.Set(kv[n], kv[n+1])
	}
	return form
}

// types enters a user code and returns the page that follows.
func (b *browser) types(code string) (page string, form url.Values) {
	b.t.Helper()
	form = hidden(b.do("GET", at("/device"), nil).Body.String())
	form.Set("code", code)
	page = b.do("POST", at("/device"), form).Body.String()
	return page, hidden(page)
}

func (b *browser) approves(code, name string) {
	b.t.Helper()
	_, form := b.types(code)
	form.Set("username", name)
	form.Set("password", goodPass)
	if rec := b.do("POST", at("/signin"), form); rec.Code != http.StatusOK || !strings.Contains(rec.Body.String(), "You have signed in") {
		b.t.Fatalf("approved: %d %s", rec.Code, rec.Body)
	}
}

func TestADeviceSignIn(t *testing.T) {
	w := newWorld(t, nil)
	u := w.user("anna", "platform")
	d := w.asks()
	code := text(d, "user_code")
	if !regexp.MustCompile(`^[`+userCodeLetters+`]{8}$`).MatchString(code) || d["verification_uri"] != baseURL+at("/device") || d["interval"] != float64(5) || d["expires_in"] != float64(900) ||
		d["message"] != "To sign in, use a web browser to open the page "+baseURL+at("/device")+" and enter the code "+code+" to authenticate." {
		t.Errorf("%v", d)
	}
	w.noGrant("before", devicePending, withDevice(d))
	w.clock.Add(-failEvery) // noGrant moves it
	w.noGrant("at once again", "slow_down", withDevice(d))
	w.clock.Add(deviceInterval)
	w.noGrant("in time", devicePending, withDevice(d))

	// The person sees who asks, from where, before anything is typed.
	b := w.browser()
	page, form := b.types(strings.ToLower(code[:4] + "-" + code[4:]))
	for _, says := range []string{"Azure CLI", "192.0.2.77", "and approve", "Decline"} {
		if !strings.Contains(page, says) {
			t.Errorf("the page does not say %q: %s", says, page)
		}
	}
	form.Set("username", "anna")
	form.Set("password", "wrong password")
	if rec := b.do("POST", at("/signin"), form); rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), "192.0.2.77") {
		t.Errorf("wrong password: %d %s", rec.Code, rec.Body)
	}
	w.clock.Add(deviceInterval)
	w.noGrant("after a wrong password", devicePending, withDevice(d))
	form.Set("password", goodPass)
	if rec := b.do("POST", at("/signin"), form); rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	// The code is the client's that asked.
	w.noGrant("another client's", "invalid_grant", withDevice(d, "client_id", otherCLI))
	got := w.tokens(withDevice(d))
	c := w.good("approved", text(got, "access_token"))
	if c.Object != u.ObjectID || text(got, "refresh_token") == "" || text(got, "id_token") == "" {
		t.Errorf("%+v %v", c, got)
	}
	w.noGrant("replayed", "bad_verification_code", withDevice(d))
	w.good("the replay ends nothing", text(got, "access_token"))
	if page, _ := w.browser().types(code); !strings.Contains(page, "No sign-in waits for this code") {
		t.Errorf("the user code is good again: %s", page)
	}
	// v1, whose parameter is named code.
	rec, body := w.post(at("/oauth2/devicecode"), url.Values{"client_id": {azureCLI}, "resource": {gatewayAud}}, nil)
	if rec.Code != http.StatusOK || body["verification_url"] == nil {
		t.Fatalf("v1: %d %s", rec.Code, rec.Body)
	}
	w.browser().approves(text(body, "user_code"), "anna")
	if rec, body := w.post(at("/oauth2/token"), url.Values{"grant_type": {"device_code"}, "client_id": {azureCLI}, "code": {text(body, "device_code")}, "resource": {gatewayAud}}, nil); rec.Code != http.StatusOK || body["refresh_token"] == nil {
		t.Errorf("v1: %d %s", rec.Code, rec.Body)
	}
}

func TestHostileDeviceSignIns(t *testing.T) {
	w := newWorld(t, nil)
	w.user("anna")
	d := w.asks()
	other := w.asks()
	secret, key, _ := strings.Cut(text(d, "device_code"), ".")
	_, otherKey, _ := strings.Cut(text(other, "device_code"), ".")
	for name, code := range map[string]string{"none": "", "the user code": text(d, "user_code"), "a guess": random(32) + "." + key, "another's record": secret + "." + otherKey, "no record": secret, "a path": secret + ".../../users/anna"} {
		w.noGrant(name, "bad_verification_code", withDevice(d, "device_code", code))
	}
	w.noGrant("unknown client", "unauthorized_client", withDevice(d, "client_id", tenant))

	// Declined is final.
	b := w.browser()
	_, form := b.types(text(d, "user_code"))
	if rec := b.do("POST", at("/signin/cancel"), form); rec.Code != http.StatusOK {
		t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	w.noGrant("declined", "authorization_declined", withDevice(d))
	form.Set("username", "anna")
	form.Set("password", goodPass)
	if rec := b.do("POST", at("/signin"), form); rec.Code < 400 {
		t.Errorf("approved after it was declined: %d", rec.Code)
	}
	w.noGrant("still declined", "authorization_declined", withDevice(d))

	// An approval needs the page of the same browser.
	b = w.browser()
	_, form = b.types(text(other, "user_code"))
	form.Set("username", "anna")
	form.Set("password", goodPass)
	if rec := w.browser().do("POST", at("/signin"), form); rec.Code < 400 {
		t.Errorf("approved from another browser: %d", rec.Code)
	}
	// It expires, for the person and the program.
	w.clock.Add(deviceLife)
	w.noGrant("expired", "expired_token", withDevice(other))
	if page, _ := w.browser().types(text(other, "user_code")); !strings.Contains(page, "No sign-in waits") {
		t.Errorf("an expired code is taken: %s", page)
	}
	if err := w.forgetPeople(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.Add(2 * codeLife)
	if err := w.forgetPeople(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _, err := store.List[store.Device](t.Context(), w.store, store.DevicePrefix); err != nil || len(left) != 0 {
		t.Errorf("%d device sign-ins are kept, %v", len(left), err)
	}
	// Bad beginnings.
	for name, form := range map[string]url.Values{
		"unknown client":   {"client_id": {tenant}, "scope": {baseURL + "/.default"}},
		"unknown resource": {"client_id": {azureCLI}, "scope": {"https://other.test/.default"}},
		"long scope":       {"client_id": {azureCLI}, "scope": {strings.Repeat("x", maxScope+1)}},
	} {
		if rec, _ := w.post(at("/oauth2/v2.0/devicecode"), form, nil); rec.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, rec.Code, rec.Body)
		}
	}
}

func TestDeviceSignInsAreLimited(t *testing.T) {
	w := newWorld(t, nil)
	form := url.Values{"client_id": {azureCLI}, "scope": {baseURL + "/.default"}}
	n := 0
	for ; n < 3*failBurst; n++ {
		if rec, _ := w.post(at("/oauth2/v2.0/devicecode"), form, func(r *http.Request) { r.RemoteAddr = "192.0.2.1:1" }); rec.Code == http.StatusTooManyRequests {
			break
		}
	}
	if n > failBurst+1 {
		t.Errorf("one address began %d device sign-ins", n)
	}
	b := w.browser()
	guessed := 0
	for ; guessed < 3*failBurst; guessed++ {
		if page, _ := b.types(fmt.Sprintf("BBBB%04d", guessed)); strings.Contains(page, "too many wrong codes") {
			break
		}
	}
	if guessed > failBurst+1 {
		t.Errorf("one address guessed %d user codes", guessed)
	}
	// All addresses together.
	var waiting []store.Op
	for n := range maxDevices {
		waiting = append(waiting, store.Put(store.Device{UserCode: fmt.Sprint(n), Expires: w.clock.Now().Add(deviceLife)}))
		if len(waiting) == 100 {
			w.commit(waiting...)
			waiting = nil
		}
	}
	if rec, _ := w.post(at("/oauth2/v2.0/devicecode"), form, func(r *http.Request) { r.RemoteAddr = "192.0.2.2:1" }); rec.Code != http.StatusTooManyRequests || rec.Header().Get("Retry-After") == "" {
		t.Errorf("more than there is room for: %d", rec.Code)
	}
}
