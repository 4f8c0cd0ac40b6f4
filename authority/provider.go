package authority

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// ProviderConfig is an OpenID provider that people are sent to.
type ProviderConfig struct {
	Issuer, ClientID, ClientSecret string
	Label                          string   // what the button says; default: the issuer's host
	Scopes                         []string // default: openid, profile, email
	// Claims of its id tokens. Default: sub, preferred_username, name, groups.
	UIDClaim, UserNameClaim, NameClaim, GroupsClaim string
	// BuiltInUsers lets users of the built-in authority sign in besides.
	BuiltInUsers bool
	// Private lets it be at an address that is not public.
	Private bool
	Roots   *x509.CertPool // nil: the system's
}

// maxGroups and maxGroupBytes are what a person's token may carry of groups.
const (
	maxGroups     = 200
	maxGroupBytes = 8 << 10
)

// provider is the client side of OpenID Connect's code flow (Core 1.0, 3.1), with
// state, nonce and PKCE.
type provider struct {
	conf ProviderConfig
	site *authn.Provider
	ring *authn.KeyRing
}

func newProvider(c Config) (*provider, error) {
	p := c.Provider
	if p.ClientID == "" {
		return nil, trust.Errorf(trust.Invalid, "the provider for sign-ins needs a client id")
	}
	for field, standard := range map[*string]string{&p.UIDClaim: "sub", &p.UserNameClaim: "preferred_username", &p.NameClaim: "name", &p.GroupsClaim: "groups"} {
		if *field == "" {
			*field = standard
		}
	}
	if len(p.Scopes) == 0 {
		p.Scopes = []string{"openid", "profile", "email"}
	}
	if !slices.Contains(p.Scopes, "openid") {
		p.Scopes = append([]string{"openid"}, p.Scopes...)
	}
	site, err := authn.NewProvider(authn.Discovery{Issuer: p.Issuer, Roots: p.Roots, PublicOnly: !p.Private})
	if err != nil {
		return nil, fmt.Errorf("the provider for sign-ins: %w", err)
	}
	if u, err := url.Parse(p.Issuer); err == nil && p.Label == "" {
		p.Label = u.Host
	}
	return &provider{conf: *p, site: site, ring: authn.NewKeyRing(p.Issuer, site, c.Now, c.Log)}, nil
}

// toProvider sends a person to the provider.
func (a *Authority) toProvider(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || a.provider == nil || !a.sameOrigin(r) {
		a.showError(w, http.StatusBadRequest, errNoSignIn.Message)
		return
	}
	q := r.URL.Query()
	s, err := a.underWay(r, q.Get("signin"), q.Get("token"))
	if err != nil {
		a.showFailure(w, err)
		return
	}
	at, err := a.provider.site.Endpoints(r.Context())
	if err != nil {
		a.conf.Log.Error("provider cannot be reached", "issuer", a.provider.conf.Issuer, "error", err)
		a.showError(w, http.StatusServiceUnavailable, "The sign-in provider cannot be reached now. Try again.")
		return
	}
	// The state names the sign-in, whose cookie holds the rest of it.
	s.ProviderState, s.ProviderNonce, s.ProviderVerifier = s.ID+"."+random(16), random(16), random(32)
	if err := a.keep(w, s); err != nil {
		a.showFailure(w, err)
		return
	}
	sum := sha256.Sum256([]byte(s.ProviderVerifier))
	u, err := url.Parse(at.Authorization)
	if err != nil {
		a.showFailure(w, err)
		return
	}
	ask := u.Query()
	for name, value := range map[string]string{
		"response_type": "code", "client_id": a.provider.conf.ClientID, "redirect_uri": a.callbackURL(), "scope": strings.Join(a.provider.conf.Scopes, " "),
		"state": s.ProviderState, "nonce": s.ProviderNonce, "code_challenge": base64.RawURLEncoding.EncodeToString(sum[:]), "code_challenge_method": "S256",
	} {
		ask.Set(name, value)
	}
	if s.Hint != "" {
		ask.Set("login_hint", s.Hint)
	}
	u.RawQuery = ask.Encode()
	a.headers(w, "")
	http.Redirect(w, r, u.String(), http.StatusFound)
}

func (a *Authority) callbackURL() string { return a.base + "/" + a.conf.Tenant + "/signin/callback" }

// fromProvider is where the provider sends the person back to.
func (a *Authority) fromProvider(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || a.provider == nil {
		a.showError(w, http.StatusBadRequest, errNoSignIn.Message)
		return
	}
	q := r.URL.Query()
	id, _, _ := strings.Cut(q.Get("state"), ".")
	s, err := a.fromCookie(r, id)
	if err != nil || s.ProviderState == "" || subtle.ConstantTimeCompare([]byte(s.ProviderState), []byte(q.Get("state"))) != 1 {
		a.showError(w, http.StatusBadRequest, errNoSignIn.Message)
		return
	}
	if iss := q.Get("iss"); iss != "" && iss != a.provider.conf.Issuer { // RFC 9207: another provider's answer
		a.showError(w, http.StatusBadRequest, "The answer is of another provider.")
		return
	}
	code := q.Get("code")
	nonce, verifier := s.ProviderNonce, s.ProviderVerifier
	s.ProviderState, s.ProviderNonce, s.ProviderVerifier = "", "", "" // not again
	if err := a.keep(w, s); err != nil {
		a.showFailure(w, err)
		return
	}
	if code == "" {
		a.showSignIn(w, s, a.waiting(r.Context(), s), "The provider signed nobody in: "+printable(q.Get("error")))
		return
	}
	p, err := a.provider.person(r.Context(), code, verifier, nonce, a.callbackURL())
	if err != nil {
		a.conf.Log.Warn("provider's answer refused", "issuer", a.provider.conf.Issuer, "error", err)
		if trust.KindOf(err) == trust.Internal {
			err = trust.Errorf(trust.Unavailable, "The provider's answer cannot be checked now. Begin again.")
		}
		a.showFailure(w, err)
		return
	}
	a.finish(w, r, s, *p)
}

// person exchanges the provider's code and reads whom its id token is of.
func (p *provider) person(ctx context.Context, code, verifier, nonce, redirect string) (*store.Person, error) {
	at, err := p.site.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	form := url.Values{"grant_type": {grantCode}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}, "client_id": {p.conf.ClientID}}
	if p.conf.ClientSecret != "" {
		form.Set("client_secret", p.conf.ClientSecret)
	}
	body, err := p.site.Post(ctx, at.Token, form)
	if err != nil {
		return nil, fmt.Errorf("exchange the provider's code: %w", err)
	}
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.IDToken == "" {
		return nil, trust.Errorf(trust.Unauthenticated, "The provider gave no id token.")
	}
	c, err := p.ring.Verify(ctx, answer.IDToken)
	if err != nil {
		return nil, err
	}
	uid := c.Text(p.conf.UIDClaim)
	switch {
	case c.Audience != p.conf.ClientID:
		return nil, trust.Errorf(trust.Unauthenticated, "The provider's id token is for another client.")
	case subtle.ConstantTimeCompare([]byte(c.Text("nonce")), []byte(nonce)) != 1:
		return nil, trust.Errorf(trust.Unauthenticated, "The provider's id token is of another sign-in.")
	case uid == "":
		return nil, trust.Errorf(trust.Unauthenticated, "The provider's id token does not say whom it is of (claim %s).", p.conf.UIDClaim)
	}
	person := &store.Person{ObjectID: objectID(p.conf.Issuer, uid), Issuer: p.conf.Issuer, Name: c.Text(p.conf.UserNameClaim), Display: c.Text(p.conf.NameClaim), Groups: c.List(p.conf.GroupsClaim)}
	if person.Name == "" {
		person.Name = uid
	}
	size := 0
	for _, g := range person.Groups {
		size += len(g)
	}
	if len(person.Groups) > maxGroups || size > maxGroupBytes || len(person.Name) > 256 || len(person.Display) > 256 {
		return nil, trust.Errorf(trust.Unauthenticated, "The provider names %d groups of this person; a token has room for %d. Have it name only groups that matter here.", len(person.Groups), maxGroups)
	}
	return person, nil
}

// objectID is the oid that a provider's person has here: always the same, and
// nobody else's. A custom UUID (RFC 9562, version 8).
func objectID(issuer, uid string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "sallyport person\x00%d:%s%s", len(issuer), issuer, uid))
	u := uuid.UUID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return u.String()
}
