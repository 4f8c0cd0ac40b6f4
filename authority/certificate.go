package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RFC 7515 4.1.7: x5t names a certificate, it proves nothing
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json" // case-sensitive, and refuses a member given twice
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Limits of an assertion that a client signs for itself (RFC 7523, 3). MSAL
// makes them good for 10 minutes.
const (
	assertionLife   = time.Hour
	assertionLeeway = time.Minute
	maxTokenID      = 256
)

// selfSigned tells an assertion that the client itself made, whose iss is its
// client id, from one of another issuer, whose iss is a URL. Nothing about it is
// verified by that.
func selfSigned(assertion, clientID string) bool {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var body struct {
		Issuer string `json:"iss"`
	}
	return err == nil && json.Unmarshal(payload, &body) == nil && body.Issuer != "" && trust.Fold(body.Issuer) == trust.Fold(clientID)
}

// byCertificate finds the certificate of an identity whose key signed an
// assertion: for this authority, in time. used is what spend is to be given before a token leaves.
func (a *Authority) byCertificate(ctx context.Context, clientID, assertion string) (name string, revision int64, used *store.UsedAssertion, err error) {
	jws, thumbprint, err := parseAssertion(assertion)
	if err != nil {
		return "", 0, nil, err
	}
	items, _, err := store.List[store.Certificate](ctx, a.conf.Store, store.CertificatePrefix+trust.Fold(clientID)+"/")
	if err != nil {
		return "", 0, nil, err
	}
	now := a.conf.Now()
	for _, i := range items {
		if !thumbprint.names(i.Value.DER) {
			continue
		}
		payload, err := verifyWith(i.Value.DER, jws, now)
		if err != nil {
			return "", 0, nil, err
		}
		used, err := a.checkClaims(payload, clientID, now)
		if err != nil {
			return "", 0, nil, err
		}
		return certificateName(&i.Value, i.Created), i.Revision, &used, nil
	}
	return "", 0, nil, refusal("no certificate of the identity has the assertion's thumbprint %s", thumbprint)
}

// thumbprint names a certificate (RFC 7515 4.1.7 and 4.1.8); exactly one field
// is set.
type thumbprint struct{ sha1, sha256 []byte }

func (t thumbprint) names(der []byte) bool {
	if t.sha256 != nil {
		sum := sha256.Sum256(der)
		return subtle.ConstantTimeCompare(sum[:], t.sha256) == 1
	}
	sum := sha1.Sum(der) //nolint:gosec // the signature is checked against that certificate's key
	return subtle.ConstantTimeCompare(sum[:], t.sha1) == 1
}

func (t thumbprint) String() string {
	if t.sha256 != nil {
		return hex.EncodeToString(t.sha256)
	}
	return hex.EncodeToString(t.sha1)
}

// parseAssertion takes an assertion apart and finds out which certificate it
// names. What it brings along (x5c) is not looked at; what would choose another
// key is refused.
func parseAssertion(assertion string) (*jose.JSONWebSignature, thumbprint, error) {
	bad := func(format string, args ...any) (*jose.JSONWebSignature, thumbprint, error) {
		return nil, thumbprint{}, refusal(format, args...)
	}
	if len(assertion) > maxForm || strings.ContainsFunc(assertion, notCompact) {
		return bad("the assertion is not a JSON Web Token")
	}
	head, _, _ := strings.Cut(assertion, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(head)
	var fields map[string]json.RawMessage
	if err != nil || json.Unmarshal(decoded, &fields) != nil {
		return bad("the assertion's header is not a JSON object")
	}
	for _, name := range []string{"jwk", "jku", "x5u", "crit", "b64", "zip", "enc"} {
		if _, given := fields[name]; given {
			return bad("the assertion's header %s is not accepted", name)
		}
	}
	var t thumbprint
	for name, into := range map[string]*[]byte{"x5t": &t.sha1, "x5t#S256": &t.sha256} {
		raw, given := fields[name]
		if !given {
			continue
		}
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return bad("the assertion's header %s is not a string", name)
		}
		// MSAL for Go writes the other alphabet of base64, with padding.
		text = strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(text)
		if *into, err = base64.RawURLEncoding.DecodeString(text); err != nil {
			return bad("the assertion's header %s is not base64url", name)
		}
	}
	switch {
	case len(t.sha256) == sha256.Size:
	case t.sha256 == nil && len(t.sha1) == sha1.Size:
	default:
		return bad("the assertion does not name its certificate (header x5t or x5t#S256)")
	}
	jws, err := jose.ParseSignedCompact(assertion, []jose.SignatureAlgorithm{jose.PS256, jose.RS256, jose.ES256})
	if err != nil {
		return bad("the assertion is not signed with PS256, RS256 or ES256")
	}
	return jws, t, nil
}

func notCompact(c rune) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.')
}

// verifyWith checks the signature with a registered certificate's key, which
// decides the algorithms that may have been used.
func verifyWith(der []byte, jws *jose.JSONWebSignature, now time.Time) ([]byte, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read registered certificate: %w", err)
	}
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return nil, refusal("the certificate is good from %s to %s only", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	fits := false
	switch alg := jose.SignatureAlgorithm(jws.Signatures[0].Protected.Algorithm); c.PublicKey.(type) {
	case *rsa.PublicKey:
		fits = alg == jose.PS256 || alg == jose.RS256
	case *ecdsa.PublicKey:
		fits = alg == jose.ES256
	}
	if !fits {
		return nil, refusal("the assertion's algorithm is not one of its certificate's key")
	}
	payload, err := jws.Verify(c.PublicKey)
	if err != nil {
		return nil, refusal("the assertion's signature is wrong").Because(err)
	}
	return payload, nil
}

// checkClaims checks whom an assertion is for, and when, and says how its second
// use is noticed.
func (a *Authority) checkClaims(payload []byte, clientID string, now time.Time) (store.UsedAssertion, error) {
	var c jwt.Claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return store.UsedAssertion{}, refusal("the assertion's claims cannot be read").Because(err)
	}
	at := a.base + "/" + a.conf.Tenant
	switch {
	case trust.Fold(c.Issuer) != trust.Fold(clientID) || trust.Fold(c.Subject) != trust.Fold(clientID):
		return store.UsedAssertion{}, refusal("the assertion's iss and sub must be the client's id")
	case len(c.Audience) != 1 || c.Audience[0] != at+"/oauth2/v2.0/token" && c.Audience[0] != at+"/oauth2/token" && c.Audience[0] != a.issuer:
		return store.UsedAssertion{}, refusal("the assertion's audience must be %s/oauth2/v2.0/token", at)
	case c.Expiry == nil || !now.Before(c.Expiry.Time()):
		return store.UsedAssertion{}, refusal("the assertion has expired, or does not say when it does")
	case c.Expiry.Time().After(now.Add(assertionLife + assertionLeeway)):
		return store.UsedAssertion{}, refusal("the assertion is good for more than %d minutes", int(assertionLife/time.Minute))
	case c.NotBefore != nil && c.NotBefore.Time().After(now.Add(assertionLeeway)), c.IssuedAt != nil && c.IssuedAt.Time().After(now.Add(assertionLeeway)):
		return store.UsedAssertion{}, refusal("the assertion is of the future: compare the clocks")
	case c.ID == "" || len(c.ID) > maxTokenID:
		return store.UsedAssertion{}, refusal("the assertion has no id of its own (claim jti)")
	}
	sum := sha256.Sum256([]byte(trust.Fold(clientID) + "\x00" + c.ID))
	return store.UsedAssertion{ID: hex.EncodeToString(sum[:]), Expires: c.Expiry.Time()}, nil
}

// spend notes that an assertion was used, last of all: a request that failed
// before may send it again.
func (a *Authority) spend(ctx context.Context, used store.UsedAssertion) *oauthError {
	_, err := a.conf.Store.Commit(ctx, store.Create(used))
	if errors.Is(err, store.ErrConflict) {
		return wrongCertificate(refusal("the assertion was used before (claim jti)"))
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// forgetAssertions removes what is known of assertions that have expired, which
// is refused by itself.
func (a *Authority) forgetAssertions(ctx context.Context) error {
	items, _, err := store.List[store.UsedAssertion](ctx, a.conf.Store, store.AssertionPrefix)
	if err != nil {
		return fmt.Errorf("list used assertions: %w", err)
	}
	now := a.conf.Now()
	for _, i := range items {
		if now.Before(i.Value.Expires) {
			continue
		}
		if _, err := a.conf.Store.Commit(ctx, store.Delete(i.Value.Key(), 0)); err != nil {
			return fmt.Errorf("forget used assertion: %w", err)
		}
	}
	return nil
}

func certificateName(c *store.Certificate, created int64) string {
	return credentialName(c.Key(), created, c.DER)
}
