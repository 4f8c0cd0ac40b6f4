package authn

import (
	"encoding/base64"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // case-sensitive, and refuses a member given twice

	"github.com/sallyport/sallyport/trust"
)

// Limits of a token, well above any real one.
const (
	MaxToken  = 16 << 10 // bytes, as sent
	maxKeyID  = 256
	maxClaim  = 4 << 10
	maxGroups = 1000
	leeway    = 60 * time.Second // on iat and nbf; exp has none
)

// algorithms is the closed list. Symmetric ones are absent on purpose: a public
// key must never serve as a shared secret.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256}

// Codes of refusals, as ARM names them.
const (
	codeInvalid = "InvalidAuthenticationToken"
	codeExpired = "ExpiredAuthenticationToken"
	codeTenant  = "InvalidAuthenticationTokenTenant"
	codeAud     = "InvalidAuthenticationTokenAudience"
)

func refuse(code, format string, args ...any) *trust.Error {
	e := trust.Errorf(trust.Unauthenticated, format, args...)
	e.Code = code
	return e
}

// Claims are the verified claims of a token.
type Claims struct {
	Issuer, Subject, Audience string // Audience: the only one
	KeyID, TokenID            string // TokenID: uti or jti, "" if none
	IssuedAt, Expires         time.Time

	all map[string]json.RawMessage
}

// Text returns a string claim, "" if it is absent or no string.
func (c *Claims) Text(name string) string {
	var s string
	if raw, ok := c.all[name]; !ok || json.Unmarshal(raw, &s) != nil || len(s) > maxClaim {
		return ""
	}
	return s
}

// List returns a claim that is a string or a list of strings; nil if it is
// anything else or too long.
func (c *Claims) List(name string) []string {
	raw, ok := c.all[name]
	if !ok {
		return nil
	}
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		if len(list) > maxGroups {
			return nil
		}
		return list
	}
	if s := c.Text(name); s != "" {
		return []string{s}
	}
	return nil
}

// Unmarshal decodes a claim of any shape; false if it is absent or does not fit.
func (c *Claims) Unmarshal(name string, into any) bool {
	raw, ok := c.all[name]
	return ok && json.Unmarshal(raw, into) == nil
}

// unverified is a token taken apart, before anything in it is believed.
type unverified struct {
	jws    *jose.JSONWebSignature
	keyID  string
	alg    string
	issuer string
}

// parse takes a compact JWS apart and checks everything about its form.
func parse(token string) (*unverified, error) {
	if len(token) > MaxToken {
		return nil, refuse(codeInvalid, "the token has %d bytes, the limit is %d", len(token), MaxToken)
	}
	head, err := parseHeader(token)
	if err != nil {
		return nil, err
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, refuse(codeInvalid, "the token is not a JSON Web Token signed with RS256 or ES256").Because(err)
	}
	var body struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &body); err != nil {
		return nil, refuse(codeInvalid, "the token's claims are not a JSON object").Because(err)
	}
	if body.Issuer == "" {
		return nil, refuse(codeInvalid, "the token names no issuer (claim iss)")
	}
	return &unverified{jws: jws, keyID: head.KeyID, alg: head.Algorithm, issuer: body.Issuer}, nil
}

type header struct{ Algorithm, KeyID string }

// parseHeader reads the header (RFC 7515 4.1) before the library does: it
// refuses one that brings its own key, points to one, or asks for more than is
// understood.
func parseHeader(token string) (header, error) {
	// The decoders skip line ends; a token with any is another string than the
	// one that was issued.
	if strings.ContainsFunc(token, notBase64URL) {
		return header{}, refuse(codeInvalid, "the token is not a JSON Web Token")
	}
	part, _, _ := strings.Cut(token, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil || len(decoded) == 0 {
		return header{}, refuse(codeInvalid, "the token is not a JSON Web Token")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(decoded, &fields); err != nil {
		return header{}, refuse(codeInvalid, "the token's header is not a JSON object").Because(err)
	}
	for _, name := range []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"} {
		if _, ok := fields[name]; ok {
			return header{}, refuse(codeInvalid, "the token's header %s is not accepted", name)
		}
	}
	text := func(name string) string {
		var s string
		if raw, ok := fields[name]; !ok || json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return s
	}
	h := header{Algorithm: text("alg"), KeyID: text("kid")}
	if !slices.Contains(algorithms, jose.SignatureAlgorithm(h.Algorithm)) {
		return header{}, refuse(codeInvalid, "the token is signed with %.20q: RS256 and ES256 are taken", h.Algorithm)
	}
	if h.KeyID == "" || len(h.KeyID) > maxKeyID {
		return header{}, refuse(codeInvalid, "the token does not name its key (header kid)")
	}
	if _, ok := fields["typ"]; ok {
		switch typ := text("typ"); strings.ToLower(typ) {
		case "jwt", "jose", "at+jwt", "application/at+jwt": // jose: SPIFFE
		default:
			return header{}, refuse(codeInvalid, "a token of type %.40q is not an access token", typ)
		}
	}
	return h, nil
}

func notBase64URL(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.')
}

// PeekIssuer reads which issuer a token claims to be of, so that its KeyRing can
// be found. Nothing about the token is verified by it.
func PeekIssuer(token string) (string, error) {
	u, err := parse(token)
	if err != nil {
		return "", err
	}
	return u.issuer, nil
}

// verified checks the signature with the key and then the claims that every
// token must have.
func (u *unverified) verified(key *Key, now time.Time) (*Claims, error) {
	// The key decides the algorithm, never the token alone.
	if u.alg != key.Algorithm {
		return nil, refuse(codeInvalid, "the token is signed with %s, its key is for %s", u.alg, key.Algorithm)
	}
	payload, err := u.jws.Verify(key.Public)
	if err != nil {
		return nil, refuse(codeInvalid, "the token's signature is wrong").Because(err)
	}
	c := &Claims{Issuer: u.issuer, KeyID: u.keyID}
	if err := json.Unmarshal(payload, &c.all); err != nil {
		return nil, refuse(codeInvalid, "the token's claims are not a JSON object").Because(err)
	}
	c.Subject = c.Text("sub")
	if c.TokenID = c.Text("uti"); c.TokenID == "" {
		c.TokenID = c.Text("jti")
	}
	switch aud := c.List("aud"); {
	case len(aud) == 0 || aud[0] == "":
		return nil, refuse(codeAud, "the token names no audience (claim aud)")
	case len(aud) > 1:
		return nil, refuse(codeAud, "the token has %d audiences: only tokens for one audience are taken", len(aud))
	default:
		c.Audience = aud[0]
	}
	return c, c.checkTimes(now)
}

func (c *Claims) checkTimes(now time.Time) error {
	var ok bool
	if c.Expires, ok = c.date("exp"); !ok {
		return refuse(codeInvalid, "the token does not say when it expires (claim exp)")
	}
	if !now.Before(c.Expires) {
		return expired(c.Expires)
	}
	if c.IssuedAt, ok = c.date("iat"); !ok {
		return refuse(codeInvalid, "the token does not say when it was issued (claim iat)")
	}
	if c.IssuedAt.After(now.Add(leeway)) {
		return refuse(codeInvalid, "the token was issued in the future, at %s: compare the clocks", c.IssuedAt.UTC().Format(time.RFC3339))
	}
	if _, given := c.all["nbf"]; given {
		nbf, ok := c.date("nbf")
		if !ok {
			return refuse(codeInvalid, "the token's claim nbf is not a date")
		}
		if nbf.After(now.Add(leeway)) {
			return refuse(codeInvalid, "the token is not valid before %s: compare the clocks", nbf.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

func expired(at time.Time) error {
	e := refuse(codeExpired, "the token expired at %s", at.UTC().Format(time.RFC3339))
	e.Hint = "get a new token"
	return e
}

// date reads a NumericDate (RFC 7519 2): seconds, a fraction is cut off.
func (c *Claims) date(name string) (time.Time, bool) {
	raw, ok := c.all[name]
	if !ok || len(raw) == 0 || raw[0] == '"' {
		return time.Time{}, false
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !(f > 0 && f < math.MaxInt32*100) {
		return time.Time{}, false
	}
	return time.Unix(int64(f), 0), true
}
