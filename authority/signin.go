package authority

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	signInLife = 15 * time.Minute    // from the page to the code
	codeLife   = time.Minute         // of an authorization code
	maxState   = 1024                // bytes of a client's state, nonce or hint
	cookieName = "__Host-sallyport-" // and the sign-in's id
)

// userName is what names of built-in users look like; PUT checks it too.
var userName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._@+-]{0,62}[A-Za-z0-9])?$`)

// signIn is a sign-in under way in one browser. It lies sealed in a cookie of
// that browser and nowhere else, so that strangers who only begin cost nothing.
type signIn struct {
	ID      string // names the cookie
	Token   string // in every form and link of it (CSRF)
	Expires int64

	ClientID string
	// Of an authorization request; Redirect is "" for a device sign-in.
	Redirect, State, Nonce, Challenge, Scope, Hint string
	Post                                           bool // response_mode=form_post
	// Of a device sign-in: key of the record.
	Device string

	// Towards the provider.
	ProviderState, ProviderNonce, ProviderVerifier string
}

const signInPath = "/sign-in" // what the seal is bound to

// keep writes the sign-in into its cookie.
func (a *Authority) keep(w http.ResponseWriter, s *signIn) error {
	plain, err := json.Marshal(s)
	if err != nil {
		return err
	}
	sealed, err := a.conf.Seal.Seal(signInPath, 0, plain)
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName + s.ID, Value: base64.RawURLEncoding.EncodeToString(sealed), Path: "/", MaxAge: int(signInLife / time.Second),
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode, // lax: the provider sends the browser back
	})
	return nil
}

// drop takes the cookie away.
func drop(w http.ResponseWriter, s *signIn) {
	http.SetCookie(w, &http.Cookie{Name: cookieName + s.ID, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// begin makes a sign-in and its cookie.
func (a *Authority) begin(w http.ResponseWriter, s signIn) (*signIn, error) {
	s.ID, s.Token, s.Expires = random(9), random(16), a.conf.Now().Add(signInLife).Unix()
	return &s, a.keep(w, &s)
}

// underWay finds the sign-in that a request belongs to: its browser has the
// cookie, its form or link the token.
func (a *Authority) underWay(r *http.Request, id, token string) (*signIn, error) {
	s, err := a.fromCookie(r, id)
	if err != nil {
		return nil, err
	}
	if token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(s.Token)) != 1 {
		return nil, errNoSignIn
	}
	return s, nil
}

func (a *Authority) fromCookie(r *http.Request, id string) (*signIn, error) {
	if len(id) != 12 {
		return nil, errNoSignIn
	}
	c, err := r.Cookie(cookieName + id)
	if err != nil {
		return nil, errNoSignIn
	}
	sealed, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return nil, errNoSignIn
	}
	plain, err := a.conf.Seal.Open(signInPath, 0, sealed)
	var s signIn
	if err != nil || json.Unmarshal(plain, &s) != nil || s.ID != id || a.conf.Now().Unix() >= s.Expires {
		return nil, errNoSignIn
	}
	return &s, nil
}

var errNoSignIn = trust.Errorf(trust.Invalid, "This sign-in was not begun in this browser, or has expired. Begin again.")

// authorize is the authorization endpoint (RFC 6749 3.1, with PKCE). Until client
// and redirect URI are known to be good, errors are shown and sent nowhere.
func (a *Authority) authorize(w http.ResponseWriter, r *http.Request, f form) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		a.showError(w, http.StatusMethodNotAllowed, "The endpoint accepts GET and POST requests.")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		a.showError(w, http.StatusBadRequest, "The request cannot be read.")
		return
	}
	for name, values := range r.Form {
		if len(values) > 1 {
			a.showError(w, http.StatusBadRequest, "The parameter '"+printable(name)+"' is given twice.")
			return
		}
	}
	get := r.Form.Get
	s := signIn{ClientID: trust.Fold(get("client_id")), Redirect: get("redirect_uri"), State: get("state"), Nonce: get("nonce"), Challenge: get("code_challenge"), Scope: get("scope"), Hint: get("login_hint")}
	if _, known := a.publicClient(s.ClientID); !known {
		a.showError(w, http.StatusBadRequest, unknownClient(s.ClientID).text)
		return
	}
	if !loopback(s.Redirect) {
		a.showError(w, http.StatusBadRequest, "The redirect URI does not lead back to this machine: http://localhost, http://127.0.0.1 and http://[::1] are taken, with any port.")
		return
	}
	if len(s.State) > maxState || len(s.Nonce) > maxState || len(s.Scope) > maxScope || len(s.Hint) > 256 {
		a.showError(w, http.StatusBadRequest, "A parameter of the request is too long.")
		return
	}
	switch get("response_mode") {
	case "", "query":
	case "form_post":
		s.Post = true
	default:
		a.toClient(w, r, &s, url.Values{"error": {"invalid_request"}, "error_description": {"response_mode may be query or form_post"}})
		return
	}
	_, oerr := a.personScope(get, f)
	switch {
	case get("response_type") != "code":
		a.toClient(w, r, &s, url.Values{"error": {"unsupported_response_type"}, "error_description": {"response_type must be code"}})
	case get("code_challenge_method") != "S256" || !codeChallenge.MatchString(s.Challenge):
		a.toClient(w, r, &s, url.Values{"error": {"invalid_request"}, "error_description": {"PKCE is required: code_challenge with code_challenge_method=S256"}})
	case oerr != nil:
		a.toClient(w, r, &s, url.Values{"error": {oerr.code}, "error_description": {oerr.text}})
	case get("prompt") == "none":
		a.toClient(w, r, &s, url.Values{"error": {"login_required"}, "error_description": {"nobody is signed in without being asked"}})
	default:
		if f == formV1 {
			s.Scope = get("resource") + "/.default openid offline_access"
		}
		begun, err := a.begin(w, s)
		if err != nil {
			a.showError(w, http.StatusServiceUnavailable, "The sign-in cannot be begun now.")
			return
		}
		a.showSignIn(w, begun, nil, "")
	}
}

var codeChallenge = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`) // S256

// toClient sends the browser back to the client's program on the same machine.
func (a *Authority) toClient(w http.ResponseWriter, r *http.Request, s *signIn, with url.Values) {
	if s.State != "" {
		with.Set("state", s.State)
	}
	with.Set("iss", a.issuer) // RFC 9207
	if s.Post {
		a.showPost(w, s.Redirect, with)
		return
	}
	u, err := url.Parse(s.Redirect)
	if err != nil { // it was checked
		a.showError(w, http.StatusBadRequest, "The redirect URI cannot be read.")
		return
	}
	q := u.Query()
	for name, values := range with {
		q[name] = values
	}
	u.RawQuery = q.Encode()
	a.headers(w, "")
	http.Redirect(w, r, u.String(), http.StatusFound)
}

// password is the form in which a built-in user signs in.
func (a *Authority) password(w http.ResponseWriter, r *http.Request) {
	s, ok := a.posted(w, r)
	if !ok {
		return
	}
	name := strings.TrimSpace(r.PostForm.Get("username"))
	p, err := a.checkPassword(r, name, r.PostForm.Get("password"))
	if err != nil {
		var e *trust.Error
		if !errors.As(err, &e) {
			a.conf.Log.Error("sign-in failed", "error", err)
			e = trust.Errorf(trust.Unavailable, "The sign-in cannot be checked now. Try again.")
		}
		a.conf.Log.Info("sign-in refused", "user", printable(name), "address", a.conf.ClientAddress(r).String(), "client", s.ClientID, "reason", e.Message)
		s.Hint = name
		a.showSignIn(w, s, a.waiting(r.Context(), s), e.Message)
		return
	}
	a.finish(w, r, s, *p)
}

// checkPassword is builtIn under the limits of address and name.
func (a *Authority) checkPassword(r *http.Request, name, password string) (*store.Person, error) {
	from := network(a.conf.ClientAddress(r))
	if wait := max(a.limit.retryAfter(from), a.names.retryAfter(trust.Fold(name))); wait > 0 {
		return nil, trust.Errorf(trust.Throttled, "There were too many wrong passwords. Try again in %s.", (wait + time.Second).Truncate(time.Second))
	}
	// Counted before, so that many at once are no way around it.
	a.names.failed(trust.Fold(name))
	p, err := a.builtIn(r.Context(), name, password)
	if err != nil {
		a.limit.failed(from)
		return nil, err
	}
	a.names.forgive(trust.Fold(name))
	return p, nil
}

// posted reads a form of a sign-in under way; if it is none, it has answered.
func (a *Authority) posted(w http.ResponseWriter, r *http.Request) (*signIn, bool) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		a.showError(w, http.StatusMethodNotAllowed, "This page is reached from the sign-in page.")
		return nil, false
	}
	if !a.sameOrigin(r) {
		a.showError(w, http.StatusForbidden, "The form was sent from another site.")
		return nil, false
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		a.showError(w, http.StatusBadRequest, "The form cannot be read.")
		return nil, false
	}
	s, err := a.underWay(r, r.PostForm.Get("signin"), r.PostForm.Get("token"))
	if err != nil {
		a.showError(w, http.StatusBadRequest, errNoSignIn.Message)
		return nil, false
	}
	return s, true
}

// sameOrigin refuses what browsers say comes from elsewhere. The token is what
// protects; this is for browsers that would lose it.
func (a *Authority) sameOrigin(r *http.Request) bool {
	if o := r.Header.Get("Origin"); o != "" && o != "null" && o != a.base {
		return false
	}
	site := r.Header.Get("Sec-Fetch-Site")
	return site == "" || site == "same-origin" || site == "none"
}

// finish is where a person is known: a code for the client, or an approval for
// the device.
func (a *Authority) finish(w http.ResponseWriter, r *http.Request, s *signIn, p store.Person) {
	ctx := r.Context()
	if err := a.welcome(ctx, p); err != nil {
		a.showError(w, http.StatusForbidden, err.Error())
		return
	}
	drop(w, s)
	address := a.conf.ClientAddress(r).String()
	if s.Device != "" {
		err := a.settleDevice(ctx, s.Device, func(d *store.Device) { d.Person = &p })
		if err != nil {
			a.showFailure(w, err)
			return
		}
		a.conf.Log.Info("person signed in", "object", p.ObjectID, "issuer", p.Issuer, "client", s.ClientID, "for", "device", "address", address)
		a.showDone(w, "You have signed in", "You may close this page and go back to the program that gave you the code.")
		return
	}
	code := random(32)
	c := store.Code{ID: codeID(code), ClientID: s.ClientID, RedirectURI: s.Redirect, Challenge: s.Challenge, Scope: s.Scope, Nonce: s.Nonce, Person: p, Expires: a.conf.Now().Add(codeLife)}
	if _, err := a.conf.Store.Commit(ctx, store.Create(c)); err != nil {
		a.showFailure(w, err)
		return
	}
	a.conf.Log.Info("person signed in", "object", p.ObjectID, "issuer", p.Issuer, "client", s.ClientID, "for", "code", "address", address)
	a.toClient(w, r, s, url.Values{"code": {code}})
}

// welcome refuses a provider's person who is shut out here.
func (a *Authority) welcome(ctx context.Context, p store.Person) error {
	if p.User != "" {
		return nil // builtIn has looked
	}
	user, err := store.Get[store.User](ctx, a.conf.Store, store.User{Name: p.ObjectID}.Key())
	switch {
	case trust.KindOf(err) == trust.NotFound:
		return nil
	case err != nil:
		return trust.Errorf(trust.Unavailable, "The sign-in cannot be checked now. Try again.")
	case user.Value.Disabled:
		return trust.Errorf(trust.Forbidden, "This person may not sign in here.")
	}
	return nil
}

// devicePage is where a person types the code that a program showed.
func (a *Authority) devicePage(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		begun, err := a.begin(w, signIn{})
		if err != nil {
			a.showFailure(w, err)
			return
		}
		a.showDevice(w, begun, "")
		return
	}
	s, ok := a.posted(w, r)
	if !ok {
		return
	}
	from := network(a.conf.ClientAddress(r))
	if wait := a.limit.retryAfter(from); wait > 0 {
		a.showDevice(w, s, fmt.Sprintf("There were too many wrong codes. Try again in %s.", (wait+time.Second).Truncate(time.Second)))
		return
	}
	key := userCodeID(r.PostForm.Get("code"))
	item, err := store.Get[store.Device](r.Context(), a.conf.Store, store.Device{UserCode: key}.Key())
	d := &item.Value
	switch {
	case err != nil && trust.KindOf(err) != trust.NotFound:
		a.showFailure(w, err)
		return
	case err != nil || d.Person != nil || d.Denied || !a.conf.Now().Before(d.Expires):
		a.limit.failed(from)
		a.showDevice(w, s, errNoDevice.Message)
		return
	}
	s.Device, s.ClientID, s.Scope = key, d.ClientID, d.Scope
	if err := a.keep(w, s); err != nil {
		a.showFailure(w, err)
		return
	}
	a.showSignIn(w, s, d, "")
}

// waiting is the device sign-in that a person is about to approve, nil if it is
// none.
func (a *Authority) waiting(ctx context.Context, s *signIn) *store.Device {
	if s.Device == "" {
		return nil
	}
	item, err := store.Get[store.Device](ctx, a.conf.Store, store.Device{UserCode: s.Device}.Key())
	if err != nil {
		return &store.Device{ClientID: s.ClientID}
	}
	return &item.Value
}

// cancel is the other button: nobody is signed in, and the program is told.
func (a *Authority) cancel(w http.ResponseWriter, r *http.Request) {
	s, ok := a.posted(w, r)
	if !ok {
		return
	}
	drop(w, s)
	if s.Redirect != "" {
		a.toClient(w, r, s, url.Values{"error": {"access_denied"}, "error_description": {"the person canceled"}})
		return
	}
	if s.Device != "" {
		if err := a.settleDevice(r.Context(), s.Device, func(d *store.Device) { d.Denied = true }); err != nil {
			a.showFailure(w, err)
			return
		}
	}
	a.showDone(w, "Canceled", "Nobody was signed in. The program that asked has been told.")
}
