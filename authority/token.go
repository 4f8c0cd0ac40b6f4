package authority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	maxForm                = 64 << 10
	grantClientCredentials = "client_credentials"
	assertionType          = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 2.2
	catchUp                = 2 * time.Second                                          // to see in our own Directory what the store just told
)

// form is which of the two token endpoints was called: they differ in how the
// resource is named and in the answer.
type form uint8

const (
	formV1 form = iota // resource=, numbers as strings
	formV2             // scope=<resource>/.default
)

// request is a token request of a client for itself, read and checked.
type request struct {
	clientID, secret, assertion string
	resource                    string
	life                        time.Duration
}

// grant is what a credential was good for.
type grant struct {
	identity   store.Identity
	credential string // its name, see credentialName
	assertion  bool   // it was no secret
}

// issued is an access token with what is said of it, and what a person's client
// gets besides.
type issued struct {
	client, object, credential string
	token, resource            string
	life                       time.Duration

	scope, refresh, idToken, clientInfo string
}

// token is the token endpoint (RFC 6749 3.2). A request without a credential
// that the identity holds gets nothing, whoever sends it; people says that it
// names no tenant, in which alone an identity can be looked for.
func (a *Authority) token(w http.ResponseWriter, r *http.Request, f form, people bool) {
	now := a.conf.Now()
	out, oerr := a.exchange(w, r, f, people, now)
	if oerr != nil {
		a.fail(w, r, oerr)
		return
	}
	key, _, _ := strings.Cut(out.credential, "#")
	a.conf.Log.Info("token issued", "client", out.client, "object", out.object, "audience", out.resource, "credential", key, "address", a.conf.ClientAddress(r).String())
	a.issued.WithLabelValues("issued").Inc()
	a.answer(w, f, out, now)
}

// exchange reads the request and exchanges what it brings. Failures are counted
// by address.
func (a *Authority) exchange(w http.ResponseWriter, r *http.Request, f form, people bool, now time.Time) (*issued, *oauthError) {
	client := a.conf.ClientAddress(r)
	if oerr := a.limited(client); oerr != nil {
		return nil, oerr
	}
	get, oerr := a.readForm(w, r)
	var out *issued
	if oerr == nil {
		switch grant := get("grant_type"); {
		case grant == grantClientCredentials && people:
			oerr = &oauthError{status: http.StatusBadRequest, code: "invalid_request", number: 50059,
				text: "No tenant-identifying information found in the request. Client credentials are good at their own tenant's endpoint alone, not at 'common' or 'organizations'."}
		case grant == grantClientCredentials:
			out, oerr = a.clientToken(r, get, f, now)
		case grant == grantCode, grant == grantDevice, grant == grantDeviceMSAL, grant == grantRefresh:
			out, oerr = a.personToken(r.Context(), get, f)
		case grant == "":
			oerr = &oauthError{status: http.StatusBadRequest, code: "invalid_request", number: 900144, text: "The request body must contain the following parameter: 'grant_type'."}
		default:
			oerr = &oauthError{status: http.StatusBadRequest, code: "unsupported_grant_type", number: 70003, text: "The app requested an unsupported grant type '" + printable(get("grant_type")) + "'."}
		}
	}
	if oerr != nil && oerr.code != devicePending {
		if oerr.status < http.StatusInternalServerError {
			a.limit.failed(network(client))
		}
		id := ""
		if get != nil {
			id = get("client_id")
		}
		a.conf.Log.Info("token refused", "client", printable(id), "address", client.String(), "error", oerr.code, "code", oerr.number, "cause", oerr.cause)
	}
	return out, oerr
}

// limited refuses an address with too many failures.
func (a *Authority) limited(client netip.Addr) *oauthError {
	if wait := a.limit.retryAfter(network(client)); wait > 0 {
		return &oauthError{status: http.StatusTooManyRequests, code: "temporarily_unavailable", number: 90055, text: "Too many failed requests from this address.", retry: wait}
	}
	return nil
}

// clientToken is the grant of clients for themselves (RFC 6749 4.4).
func (a *Authority) clientToken(r *http.Request, get func(string) string, f form, now time.Time) (*issued, *oauthError) {
	req, oerr := a.readClient(r, get, f)
	if oerr != nil {
		return nil, oerr
	}
	g, oerr := a.authenticate(r.Context(), req)
	if oerr != nil {
		return nil, oerr
	}
	token, err := a.sign(req, g, now)
	if err != nil {
		return nil, unavailable(err)
	}
	return &issued{client: g.identity.ClientID, object: g.identity.ObjectID, credential: g.credential, token: token, resource: req.resource, life: req.life}, nil
}

// readForm reads a POSTed form. Parameters count from the body only (a URL ends
// up in logs) and only once.
func (a *Authority) readForm(w http.ResponseWriter, r *http.Request) (get func(string) string, oerr *oauthError) {
	bad := func(number int, format string, args ...any) (func(string) string, *oauthError) {
		return nil, &oauthError{status: http.StatusBadRequest, code: "invalid_request", number: number, text: fmt.Sprintf(format, args...)}
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		_, e := bad(900561, "The endpoint only accepts POST requests. Received a %s request.", printable(r.Method))
		e.status = http.StatusMethodNotAllowed
		return nil, e
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return bad(900144, "The request body must be of type application/x-www-form-urlencoded.")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return bad(900144, "The request body cannot be read as a form of at most %d bytes.", maxForm)
	}
	for name, values := range r.PostForm {
		if len(values) > 1 {
			return bad(9000411, "The request is not properly formatted. The parameter '%s' is duplicated.", printable(name))
		}
	}
	return r.PostForm.Get, nil
}

// readClient takes the request of a client for itself apart.
func (a *Authority) readClient(r *http.Request, get func(string) string, f form) (request, *oauthError) {
	var req request
	bad := func(number int, format string, args ...any) (request, *oauthError) {
		return req, &oauthError{status: http.StatusBadRequest, code: "invalid_request", number: number, text: fmt.Sprintf(format, args...)}
	}
	req.clientID, req.secret, req.assertion = get("client_id"), get("client_secret"), get("client_assertion")
	if id, secret, ok := basic(r); ok {
		if (req.clientID != "" && req.clientID != id) || req.secret != "" || req.assertion != "" {
			return bad(9002312, "The request has more than one client credential.")
		}
		req.clientID, req.secret = id, secret
	}
	switch {
	case !guid.MatchString(trust.Fold(req.clientID)):
		return bad(900144, "The request body must contain the following parameter: 'client_id', a GUID.")
	case req.secret == "" && req.assertion == "":
		return req, invalidClient(7000216, "'client_assertion' or 'client_secret' is required for the 'client_credentials' grant type.", nil)
	case req.secret != "" && req.assertion != "":
		return bad(9002312, "The request has more than one client credential.")
	case req.assertion != "" && get("client_assertion_type") != assertionType:
		return bad(900144, "The parameter 'client_assertion_type' must be '%s'.", assertionType)
	}
	return req, a.readResource(&req, get, f)
}

func (a *Authority) readResource(req *request, get func(string) string, f form) *oauthError {
	if f == formV1 {
		req.resource = get("resource")
		if req.resource == "" {
			return &oauthError{status: http.StatusBadRequest, code: "invalid_request", number: 900144, text: "The request body must contain the following parameter: 'resource'."}
		}
	} else {
		resource, ok := defaultScope(get("scope"))
		if !ok {
			return &oauthError{status: http.StatusBadRequest, code: "invalid_scope", number: 1002012, text: "The provided value for scope is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."}
		}
		req.resource = resource
	}
	var ok bool
	if req.life, ok = a.audience(req.resource); !ok {
		return a.unknownResource(req.resource)
	}
	return nil
}

func (a *Authority) unknownResource(resource string) *oauthError {
	return &oauthError{status: http.StatusBadRequest, code: "invalid_resource", number: 500011, text: "The resource principal named '" + printable(resource) +
		"' was not found. Ask for " + a.base + ", " + a.base + "/gateways/<location>, " + a.base + "/clusters/<uid> or " + a.base + "/extensions/<uid>."}
}

// defaultScope finds the one resource in a v2 scope. MSAL adds the scopes of
// OpenID Connect to whatever it asks for; they mean nothing for a client that is
// no person.
func defaultScope(scope string) (resource string, ok bool) {
	var rest []string
	for _, s := range strings.Split(scope, " ") {
		switch s {
		case "", "openid", "offline_access", "profile", "email":
		default:
			rest = append(rest, s)
		}
	}
	if len(rest) != 1 {
		return "", false
	}
	return strings.CutSuffix(rest[0], "/.default")
}

// basic reads client_secret_basic (RFC 6749 2.3.1).
func basic(r *http.Request) (id, secret string, ok bool) {
	user, password, ok := r.BasicAuth()
	if !ok {
		return "", "", false
	}
	id, err1 := url.QueryUnescape(user)
	secret, err2 := url.QueryUnescape(password)
	return id, secret, err1 == nil && err2 == nil
}

// authenticate finds the identity and checks that the request holds one of its
// credentials. It reads the store, not our memory of it: what is removed there
// must not be good here.
func (a *Authority) authenticate(ctx context.Context, req request) (grant, *oauthError) {
	identity, err := store.Get[store.Identity](ctx, a.conf.Store, store.Identity{ClientID: req.clientID}.Key())
	switch {
	case trust.KindOf(err) == trust.NotFound:
		return grant{}, wrongSecret(err)
	case err != nil:
		return grant{}, unavailable(err)
	case trust.Fold(identity.Value.TenantID) != a.conf.Tenant:
		return grant{}, wrongSecret(errors.New("identity of another tenant"))
	}
	g := grant{identity: identity.Value}
	prefix := store.SecretPrefix
	var revision int64
	var used *store.UsedAssertion
	if req.secret != "" {
		var expired bool
		g.credential, expired, revision, err = a.bySecret(ctx, req.clientID, req.secret)
		switch {
		case err != nil:
			return grant{}, unavailable(err)
		case expired:
			return grant{}, invalidClient(7000222, "The provided client secret keys are expired.", nil)
		case g.credential == "":
			return grant{}, wrongSecret(nil)
		}
	} else if g.assertion = true; selfSigned(req.assertion, req.clientID) {
		prefix = store.CertificatePrefix
		if g.credential, revision, used, err = a.byCertificate(ctx, req.clientID, req.assertion); err != nil {
			return grant{}, wrongCertificate(err)
		}
	} else {
		prefix = store.FederatedPrefix
		if g.credential, revision, err = a.byAssertion(ctx, req.clientID, req.assertion); err != nil {
			return grant{}, wrongAssertion(err)
		}
	}
	// The token must be good here as soon as it is out.
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := errors.Join(a.conf.Directory.wait(ctx, prefix, revision), a.conf.Directory.wait(ctx, store.IdentityPrefix, identity.Revision)); err != nil {
		return grant{}, unavailable(err)
	}
	if used != nil {
		if oerr := a.spend(ctx, *used); oerr != nil {
			return grant{}, oerr
		}
	}
	return g, nil
}

// claims of a token, those of an Entra managed identity's or user's (v2, with v1's
// appid beside azp since clients look for either).
type claims struct {
	Audience   string `json:"aud"`
	Issuer     string `json:"iss"`
	IssuedAt   int64  `json:"iat"`
	NotBefore  int64  `json:"nbf"`
	Expires    int64  `json:"exp"`
	AppID      string `json:"appid,omitempty"`
	AppIDACR   string `json:"appidacr,omitempty"` // how the client authenticated: 0 not at all, 1 secret, 2 assertion
	AZP        string `json:"azp,omitempty"`
	AZPACR     string `json:"azpacr,omitempty"`
	IDP        string `json:"idp"`             // who knows the caller
	IDType     string `json:"idtyp,omitempty"` // app or user; "" in id tokens
	ObjectID   string `json:"oid"`
	Subject    string `json:"sub"`
	Tenant     string `json:"tid"`
	TokenID    string `json:"uti"`
	Version    string `json:"ver"`
	Resource   string `json:"xms_mirid,omitempty"`
	Credential string `json:"sp_cred,omitempty"` // authn.CredentialClaim

	// Of people.
	UserName string   `json:"preferred_username,omitempty"`
	Name     string   `json:"name,omitempty"`
	Groups   []string `json:"groups,omitempty"` // of idp
	Scope    string   `json:"scp,omitempty"`
	Nonce    string   `json:"nonce,omitempty"`
}

func (a *Authority) sign(req request, g grant, now time.Time) (string, error) {
	acr := "1"
	if g.assertion {
		acr = "2"
	}
	c := claims{
		Audience: req.resource, Issuer: a.issuer, IssuedAt: now.Unix(), NotBefore: now.Unix(), Expires: now.Add(req.life).Unix(),
		AppID: g.identity.ClientID, AppIDACR: acr, AZP: g.identity.ClientID, AZPACR: acr, IDP: a.issuer, IDType: "app",
		ObjectID: g.identity.ObjectID, Subject: g.identity.ObjectID, Tenant: a.conf.Tenant, TokenID: random(16), Version: "2.0",
		Credential: g.credential,
	}
	if g.identity.Kind == kindManaged {
		c.Resource = mirid(g.identity.ResourceID)
	}
	return a.signClaims(c)
}

func (a *Authority) signClaims(c claims) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	signer, err := a.signer()
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	token, err := jws.CompactSerialize()
	if err == nil && len(token) > authn.MaxToken {
		err = fmt.Errorf("token has %d bytes", len(token))
	}
	return token, err
}

const kindManaged = "ManagedIdentity" // store.Identity.Kind

// mirid writes a resource id as Entra writes it into xms_mirid: with
// "resourcegroups" in lower case, which readers look for literally.
func mirid(id string) string {
	parts := strings.Split(id, "/")
	for i, p := range parts {
		if trust.Fold(p) == "resourcegroups" && i == 3 {
			parts[i] = "resourcegroups"
		}
	}
	return strings.Join(parts, "/")
}

// answer writes the token (RFC 6749 5.1, with the fields Azure adds).
func (a *Authority) answer(w http.ResponseWriter, f form, out *issued, now time.Time) {
	seconds := int64(out.life / time.Second)
	body := map[string]any{"token_type": "Bearer", "access_token": out.token}
	if f == formV2 {
		body["expires_in"], body["ext_expires_in"] = seconds, seconds
	} else {
		n := func(i int64) string { return strconv.FormatInt(i, 10) }
		body["expires_in"], body["ext_expires_in"] = n(seconds), n(seconds)
		body["expires_on"], body["not_before"], body["resource"] = n(now.Unix()+seconds), n(now.Unix()), out.resource
	}
	for name, value := range map[string]string{"scope": out.scope, "refresh_token": out.refresh, "id_token": out.idToken, "client_info": out.clientInfo} {
		if value != "" {
			body[name] = value
		}
	}
	writeJSON(w, http.StatusOK, body)
}

// oauthError is a refusal (RFC 6749 5.2) with the number that Azure's clients
// know it by.
type oauthError struct {
	status int
	code   string
	number int
	text   string
	retry  time.Duration
	cause  error // for the log only
}

func invalidClient(number int, text string, cause error) *oauthError {
	return &oauthError{status: http.StatusUnauthorized, code: "invalid_client", number: number, text: text, cause: cause}
}

// wrongSecret is also the answer for an unknown client, so that nobody learns
// which there are.
func wrongSecret(cause error) *oauthError {
	return invalidClient(7000215, "Invalid client secret provided, or no such application in this tenant.", cause)
}

const noFederated = "No matching federated identity record found: "

// wrongAssertion explains what was wrong with an assertion: its holder knows
// what is in it.
func wrongAssertion(err error) *oauthError {
	var e *trust.Error
	switch {
	case !errors.As(err, &e) || e.Kind == trust.Internal:
		return unavailable(err)
	case e.Kind == trust.Unavailable:
		out := unavailable(err)
		out.text = "The assertion cannot be checked now: " + e.Message + "."
		return out
	}
	return invalidClient(70021, noFederated+e.Message+".", err)
}

// wrongCertificate is wrongAssertion for an assertion that the client made
// itself.
func wrongCertificate(err error) *oauthError {
	out := wrongAssertion(err)
	if out.code == "invalid_client" {
		out.number, out.text = 700027, "Client assertion failed signature validation or is not acceptable: "+strings.TrimPrefix(out.text, noFederated)
	}
	return out
}

func unavailable(cause error) *oauthError {
	return &oauthError{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", number: 90033, text: "A transient error has occurred. Please try again.", retry: time.Second, cause: cause}
}

// fail writes a refusal in Azure's shape.
func (a *Authority) fail(w http.ResponseWriter, r *http.Request, e *oauthError) {
	a.issued.WithLabelValues(e.code).Inc()
	correlation := trust.Fold(r.Header.Get("client-request-id"))
	if !guid.MatchString(correlation) {
		correlation = uuid.NewString()
	}
	traceID, at := uuid.NewString(), a.conf.Now().UTC().Format("2006-01-02 15:04:05Z")
	if e.retry > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((e.retry+time.Second-1)/time.Second), 10))
	}
	if e.status == http.StatusUnauthorized && r.Header.Get("Authorization") != "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="`+a.base+`"`) // RFC 6749 5.2
	}
	writeJSON(w, e.status, map[string]any{
		"error":             e.code,
		"error_description": fmt.Sprintf("AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s", e.number, e.text, traceID, correlation, at),
		"error_codes":       []int{e.number},
		"timestamp":         at,
		"trace_id":          traceID,
		"correlation_id":    correlation,
	})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nothing to do
}

// printable makes a stranger's string fit for a message: short printable ASCII.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '\'' || c == '<' || c == '>' {
			return '?'
		}
		return c
	}, s)
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}
