package authority

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Grants of people.
const (
	grantCode    = "authorization_code"
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code" // RFC 8628 3.4
	grantRefresh = "refresh_token"

	grantDeviceMSAL = "device_code" // as MSAL for Go and Azure's v1 endpoint have it
)

// knownClients are the public clients that ship with Azure's tools and SDKs,
// under whose ids they sign people in. None has a secret; what binds a sign-in
// to the program that began it is PKCE and a redirect to the same machine, or
// the person's own approval.
var knownClients = map[string]string{
	"04b07795-8ddb-461a-bbee-02f9e1bf7b46": "Azure CLI, or a program that uses Azure's SDKs",
	"1950a258-227b-4e31-a9cf-717495945fc2": "Azure PowerShell",
}

// publicClient names a client that may sign people in.
func (a *Authority) publicClient(id string) (name string, known bool) {
	id = trust.Fold(id)
	if name, known = a.conf.Clients[id]; !known {
		name, known = knownClients[id]
	}
	return name, known
}

// loopback reports whether a redirect URI leads to the machine that the browser
// runs on (RFC 8252, 7.3), which is the only place that codes are sent to. Any
// port and path will do.
func loopback(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil || len(uri) > 512 || u.Scheme != "http" || u.User != nil || u.Fragment != "" || u.Opaque != "" || strings.ContainsFunc(uri, func(c rune) bool { return c <= ' ' || c > '~' || c == '\\' }) {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback() && ip.Zone() == ""
}

// wanted is what a person's client asks for.
type wanted struct {
	resource        string
	life            time.Duration
	offline, openID bool
	scope           string // to be said in the answer
}

// personScope reads scope (v2) or resource (v1). Nothing named means the control
// API, which is what people come for.
func (a *Authority) personScope(get func(string) string, f form) (wanted, *oauthError) {
	w := wanted{scope: get("scope")}
	var rest []string
	for _, s := range strings.Fields(w.scope) {
		switch s {
		case "openid", "profile", "email":
			w.openID = true
		case "offline_access":
			w.offline = true
		default:
			rest = append(rest, s)
		}
	}
	switch {
	case f == formV1:
		w.resource, w.offline, w.openID = get("resource"), true, true
	case len(rest) == 1:
		var ok bool
		if w.resource, ok = strings.CutSuffix(rest[0], "/.default"); !ok {
			if w.resource, ok = strings.CutSuffix(rest[0], "/user_impersonation"); !ok {
				return w, invalidScope()
			}
		}
	case len(rest) > 1:
		return w, invalidScope()
	}
	if w.resource == "" {
		w.resource = a.base
	}
	var ok bool
	if w.life, ok = a.audience(w.resource); !ok {
		return w, a.unknownResource(w.resource)
	}
	return w, nil
}

func invalidScope() *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_scope", number: 70011, text: "The provided value for scope is not valid: ask for one resource, followed by /.default."}
}

// signedIn is a session with what its client gets now.
type signedIn struct {
	wanted
	session        store.Session
	created        int64 // revision of the session's creation
	revision       int64 // what our own Directory must have seen
	refresh, nonce string
}

// personToken exchanges a person's grant.
func (a *Authority) personToken(ctx context.Context, get func(string) string, f form) (*issued, *oauthError) {
	clientID := trust.Fold(get("client_id"))
	if _, known := a.publicClient(clientID); !known {
		return nil, unknownClient(clientID)
	}
	if get("client_secret") != "" || get("client_assertion") != "" {
		return nil, &oauthError{status: http.StatusUnauthorized, code: "invalid_client", number: 700025, text: "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."}
	}
	now := a.conf.Now()
	by := map[string]func(context.Context, func(string) string, form, string, time.Time) (signedIn, *oauthError){
		grantRefresh: a.byRefresh, grantCode: a.byCode, grantDevice: a.byDevice, grantDeviceMSAL: a.byDevice,
	}[get("grant_type")]
	s, oerr := by(ctx, get, f, clientID, now)
	if oerr != nil {
		return nil, oerr
	}
	return a.issueToPerson(ctx, s, now)
}

func (a *Authority) byRefresh(ctx context.Context, get func(string) string, f form, clientID string, _ time.Time) (signedIn, *oauthError) {
	// Read first: a bad scope must not cost the token.
	w, oerr := a.personScope(get, f)
	if oerr != nil {
		return signedIn{}, oerr
	}
	s, err := a.refresh(ctx, get("refresh_token"), clientID)
	if err != nil {
		return signedIn{}, badGrant(err)
	}
	s.wanted = w
	return s, nil
}

// byCode exchanges an authorization code, once: its end and the session are
// stored together.
func (a *Authority) byCode(ctx context.Context, get func(string) string, f form, clientID string, now time.Time) (signedIn, *oauthError) {
	code, err := a.checkCode(ctx, get, clientID, now)
	if err != nil {
		return signedIn{}, badGrant(err)
	}
	w, oerr := a.scopeOf(get, code.Value.Scope, f)
	if oerr != nil {
		return signedIn{}, oerr
	}
	s := signedIn{wanted: w, nonce: code.Value.Nonce}
	s.session, s.refresh = a.newSession(clientID, code.Value.Person, w.offline, now)
	used := code.Value
	used.Session = s.session.ID
	if s.revision, err = a.conf.Store.Commit(ctx, store.Update(used, code.Revision), store.Create(s.session)); errors.Is(err, store.ErrConflict) {
		return signedIn{}, badGrant(errNoGrant) // the other of two at once has it
	} else if err != nil {
		return signedIn{}, unavailable(err)
	}
	s.created = s.revision
	return s, nil
}

// byDevice exchanges a device code that its person has approved, once.
func (a *Authority) byDevice(ctx context.Context, get func(string) string, f form, clientID string, now time.Time) (signedIn, *oauthError) {
	d, oerr := a.checkDevice(ctx, get, clientID, now)
	if oerr != nil {
		return signedIn{}, oerr
	}
	w, oerr := a.scopeOf(get, d.Value.Scope, f)
	if oerr != nil {
		return signedIn{}, oerr
	}
	s := signedIn{wanted: w}
	s.session, s.refresh = a.newSession(clientID, *d.Value.Person, w.offline, now)
	var err error
	if s.revision, err = a.conf.Store.Commit(ctx, store.Delete(d.Value.Key(), d.Revision), store.Create(s.session)); errors.Is(err, store.ErrConflict) {
		return signedIn{}, badDeviceCode()
	} else if err != nil {
		return signedIn{}, unavailable(err)
	}
	s.created = s.revision
	return s, nil
}

// scopeOf is the scope of a token request, or of the sign-in before it where the
// request names none.
func (a *Authority) scopeOf(get func(string) string, signIn string, f form) (wanted, *oauthError) {
	return a.personScope(func(name string) string {
		v := get(name)
		if v == "" && name == "scope" {
			v = signIn
		}
		return v
	}, f)
}

// checkCode finds an authorization code that is good for the request. One that
// is shown again ends the session it was exchanged for (RFC 6749, 4.1.2).
func (a *Authority) checkCode(ctx context.Context, get func(string) string, clientID string, now time.Time) (store.Item[store.Code], error) {
	presented := get("code")
	if len(presented) != 43 {
		return store.Item[store.Code]{}, errNoGrant
	}
	item, err := store.Get[store.Code](ctx, a.conf.Store, store.Code{ID: codeID(presented)}.Key())
	if trust.KindOf(err) == trust.NotFound {
		return item, errNoGrant
	}
	if err != nil {
		return item, err
	}
	c := &item.Value
	if c.Session != "" {
		return item, a.endSession(ctx, store.Session{ID: c.Session, Person: c.Person, ClientID: c.ClientID}, "its authorization code was used a second time")
	}
	verifier := get("code_verifier")
	sum := sha256.Sum256([]byte(verifier))
	switch {
	case trust.Fold(c.ClientID) != clientID:
		return item, refusal("the code was issued to another client")
	case get("redirect_uri") != c.RedirectURI:
		return item, refusal("the redirect_uri is not the one that the code was sent to")
	case !codeVerifier.MatchString(verifier) || subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(c.Challenge)) != 1:
		return item, refusal("the code_verifier does not match the code_challenge")
	case !now.Before(c.Expires):
		return item, errGrantExpired
	}
	return item, nil
}

var codeVerifier = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`) // RFC 7636 4.1

func codeID(code string) string {
	return base64.RawURLEncoding.EncodeToString(hashText("authorization code", code))
}

// badGrant is a refused code or refresh token. Its holder may know why.
func badGrant(err error) *oauthError {
	var e *trust.Error
	if !errors.As(err, &e) || e.Kind != trust.Unauthenticated {
		return unavailable(err)
	}
	number := 70000
	if errors.Is(err, errGrantExpired) {
		number = 70008
	}
	return &oauthError{status: http.StatusBadRequest, code: "invalid_grant", number: number, text: "The provided grant is not good: " + e.Message + ". Sign in again.", cause: err}
}

func unknownClient(id string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "unauthorized_client", number: 700016, text: "Application with identifier '" + printable(id) + "' is not one that may sign people in here."}
}

// issueToPerson makes the tokens of a session.
func (a *Authority) issueToPerson(ctx context.Context, in signedIn, now time.Time) (*issued, *oauthError) {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := a.conf.Directory.wait(ctx, store.SessionPrefix, in.revision); err != nil {
		return nil, unavailable(err)
	}
	s, w, p := in.session, in.wanted, in.session.Person
	if left := s.Expires.Sub(now); left < w.life {
		w.life = left
	}
	c := a.personClaims(s, now)
	c.Audience, c.Expires, c.Scope = w.resource, now.Add(w.life).Unix(), "user_impersonation"
	c.Groups, c.Credential = p.Groups, sessionName(&s, in.created)
	out := &issued{client: s.ClientID, object: p.ObjectID, credential: c.Credential, resource: w.resource, life: w.life, scope: w.scope, refresh: in.refresh}
	var err error
	if out.token, err = a.signClaims(c); err != nil {
		return nil, unavailable(err)
	}
	if w.openID {
		id := a.personClaims(s, now)
		id.Audience, id.Expires, id.Nonce = s.ClientID, now.Add(TokenLife).Unix(), in.nonce
		id.AppID, id.AppIDACR, id.AZP, id.AZPACR, id.IDType = "", "", "", "", ""
		if out.idToken, err = a.signClaims(id); err != nil {
			return nil, unavailable(err)
		}
	}
	info, err := json.Marshal(map[string]string{"uid": p.ObjectID, "utid": a.conf.Tenant})
	if err != nil {
		return nil, unavailable(err)
	}
	out.clientInfo = base64.RawURLEncoding.EncodeToString(info)
	return out, nil
}

// personClaims are those that access and id tokens share.
func (a *Authority) personClaims(s store.Session, now time.Time) claims {
	p := s.Person
	return claims{
		Issuer: a.issuer, IssuedAt: now.Unix(), NotBefore: now.Unix(), AppID: s.ClientID, AppIDACR: "0", AZP: s.ClientID, AZPACR: "0",
		IDP: p.Issuer, IDType: "user", ObjectID: p.ObjectID, Subject: p.ObjectID, Tenant: a.conf.Tenant, TokenID: random(16), Version: "2.0",
		Name: p.Display, UserName: p.Name,
	}
}
