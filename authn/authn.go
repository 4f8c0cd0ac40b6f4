package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/trust"
)

// Issuer is one issuer of tokens, what it may speak for, and the keys that
// belong to it.
type Issuer struct {
	URL  string // iss, byte for byte
	Keys KeySource

	// Tenants it may speak for, at least one (lower case). Scopes are the ARM
	// scopes whose managed identities it may speak for: "/subscriptions/…", or
	// "/" for all; none means that its tokens name no resources.
	Tenants []string
	Scopes  []string

	Claims  ClaimNames
	Require map[string]string // further claims and the value each must have

	// Audiences, if any are given, are the only ones taken from this issuer;
	// StandsFor says which of our own audiences a foreign one stands for.
	Audiences []string
	StandsFor map[string]string

	// Stands, if set, refuses a caller whose identity or credential does not
	// exist any more. It is asked on every request: it must be quick, safe for
	// concurrent use, and must not block. Its errors are trust errors of kind
	// Unauthenticated, or Unavailable if it cannot know.
	Stands func(*trust.Caller) error
	// Subscribe, if set, has f called whenever Keys or Stands may answer
	// differently, until cancel is called. f does not block.
	Subscribe func(f func()) (cancel func())
}

// ClaimNames say which claims identify a caller. Object "" is "oid", and Tenant
// "" is "tid", the names of Entra ID; Tenant "-" means that the tokens carry no
// tenant and the issuer's only one is meant. Name and Groups are for people and
// unused when empty. GroupIssuer is for an issuer that may speak for others'
// groups, as the built-in authority does: the claim says whose they are.
type ClaimNames struct {
	Object, Tenant, Name, Groups, GroupIssuer string
}

// Audiences is what an endpoint takes: a token for any one of them.
type Audiences []string

// Config is what New needs.
type Config struct {
	Issuers    []Issuer
	Now        func() time.Time
	Log        *slog.Logger
	CacheSize  int                   // verified tokens kept; 0 is 10,000
	Registerer prometheus.Registerer // nil: no metrics
}

// Authenticator verifies tokens of its issuers. It is safe for concurrent use.
// Run must be running for keys to be refreshed in time.
type Authenticator struct {
	now     func() time.Time
	log     *slog.Logger
	issuers map[string]*issuer // by URL
	cache   *cache

	hits, misses, refused prometheus.Counter

	mu          sync.Mutex // guards what follows
	subscribers map[int]func()
	nextID      int
}

type issuer struct {
	Issuer
	ring *KeyRing
}

// New checks the configuration and makes an Authenticator. It fetches nothing.
func New(c Config) (*Authenticator, error) {
	if c.CacheSize <= 0 {
		c.CacheSize = 10_000
	}
	a := &Authenticator{now: c.Now, log: c.Log, issuers: map[string]*issuer{}, cache: newCache(c.CacheSize), subscribers: map[int]func(){}}
	for _, i := range c.Issuers {
		if err := i.check(); err != nil {
			return nil, fmt.Errorf("issuer %q: %w", i.URL, err)
		}
		if a.issuers[i.URL] != nil {
			return nil, fmt.Errorf("issuer %q is configured twice", i.URL)
		}
		ring := NewKeyRing(i.URL, i.Keys, c.Now, c.Log)
		ring.gone = a.vanished
		a.issuers[i.URL] = &issuer{Issuer: i, ring: ring}
	}
	return a, a.register(c.Registerer)
}

func (a *Authenticator) register(to prometheus.Registerer) error {
	tokens := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_authn_tokens_total",
		Help: "Tokens presented, by result: cached, verified, refused.",
	}, []string{"result"})
	a.hits, a.misses, a.refused = tokens.WithLabelValues("cached"), tokens.WithLabelValues("verified"), tokens.WithLabelValues("refused")
	if to == nil {
		return nil
	}
	return to.Register(tokens)
}

func (i *Issuer) check() error {
	if i.URL == "" || i.Keys == nil {
		return errors.New("it needs a URL and keys")
	}
	if len(i.Tenants) == 0 || slices.Contains(i.Tenants, "") {
		return errors.New("say which tenants it may speak for")
	}
	for _, t := range i.Tenants {
		if t != trust.Fold(t) {
			return fmt.Errorf("tenant %q must be written in lower case", t)
		}
	}
	if i.Claims.Tenant == "-" && len(i.Tenants) != 1 {
		return errors.New("tokens without a tenant need exactly one tenant that they stand for")
	}
	for _, s := range i.Scopes {
		if !strings.HasPrefix(s, "/") || (s != "/" && strings.HasSuffix(s, "/")) {
			return fmt.Errorf("scope %q must begin with / and not end with it", s)
		}
	}
	return nil
}

// Authenticate says who presents the token, which must be for one of the wanted
// audiences. Errors are trust errors of kind Unauthenticated, or Unavailable if
// the issuer's keys cannot be had; or ctx's.
func (a *Authenticator) Authenticate(ctx context.Context, token string, want Audiences) (trust.Caller, error) {
	if token == "" {
		return trust.Caller{}, refuse("AuthenticationFailed", "no token was presented: send Authorization: Bearer <token>")
	}
	if len(token) > MaxToken {
		a.refused.Inc()
		return trust.Caller{}, refuse(codeInvalid, "the token has %d bytes, the limit is %d", len(token), MaxToken)
	}
	d := sum(token)
	e := a.cache.get(d)
	if e != nil && !e.issuer.ring.fresh(e.key, a.now()) {
		// Verified again, the keys may be fetched again: after a machine has
		// slept they are old, and the background has not noticed yet.
		a.cache.drop(d)
		e = nil
	}
	if e != nil {
		a.hits.Inc()
	} else {
		var err error
		if e, err = a.verifyOnce(ctx, d, token); err != nil {
			a.refused.Inc()
			return trust.Caller{}, err
		}
	}
	if err := e.check(a.now(), want); err != nil {
		if trust.KindOf(err) != trust.Unavailable && !errors.Is(err, errAudience) {
			a.cache.drop(d)
		}
		a.refused.Inc()
		return trust.Caller{}, err
	}
	return e.caller, nil
}

// buffers spare the request path the copy of a token on the heap that hashing a
// string would make.
var buffers = sync.Pool{New: func() any { return new([MaxToken]byte) }}

func sum(token string) digest {
	b := buffers.Get().(*[MaxToken]byte)
	d := sha256.Sum256(b[:copy(b[:], token)])
	clear(b[:len(token)]) // no token outlives its request in here
	buffers.Put(b)
	return d
}

var errAudience = errors.New("audience")

// check is everything that can differ between two uses of a verified token.
func (e *entry) check(now time.Time, want Audiences) error {
	if !now.Before(e.caller.Expires) {
		return expired(e.caller.Expires)
	}
	if !e.issuer.ring.fresh(e.key, now) {
		return refuse(codeInvalid, "the key that signed the token was withdrawn or can no longer be checked with its issuer")
	}
	if e.issuer.Stands != nil {
		if err := e.issuer.Stands(&e.caller); err != nil {
			return err
		}
	}
	for _, w := range want {
		if w == e.audience {
			return nil
		}
	}
	return refuse(codeAud, "the token is for %.200q, this needs one for %s", e.caller.Audience, strings.Join(want, " or ")).Because(errAudience)
}

// verifyOnce verifies a token that is not cached, or waits for who does.
func (a *Authenticator) verifyOnce(ctx context.Context, d digest, token string) (*entry, error) {
	for {
		e, wait := a.cache.begin(d)
		if e != nil {
			return e, nil
		}
		if wait == nil {
			break
		}
		select {
		case <-wait: // it may have failed only because its caller left: try ourselves
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var e *entry
	defer func() { a.cache.end(d, e, a.now()) }()
	a.misses.Inc()
	var err error
	e, err = a.verify(ctx, token)
	return e, err
}

func (a *Authenticator) verify(ctx context.Context, token string) (*entry, error) {
	u, err := parse(token)
	if err != nil {
		return nil, err
	}
	i := a.issuers[u.issuer]
	if i == nil {
		return nil, refuse(codeInvalid, "the token's issuer %.200q is not one that this server believes", u.issuer)
	}
	c, key, err := i.ring.verify(ctx, u)
	if err != nil {
		return nil, err
	}
	caller, err := i.caller(c)
	if err != nil {
		return nil, err
	}
	e := &entry{caller: caller, issuer: i, key: key, audience: c.Audience}
	if len(i.Audiences) > 0 && !slices.Contains(i.Audiences, c.Audience) {
		return nil, refuse(codeAud, "tokens for %.200q are not taken from issuer %s", c.Audience, i.URL)
	}
	if ours, ok := i.StandsFor[c.Audience]; ok {
		e.audience = ours
	}
	return e, nil
}

// caller reads the identity out of verified claims and holds it against what
// the issuer may speak for.
func (i *issuer) caller(c *Claims) (trust.Caller, error) {
	object, tenant := i.Claims.Object, i.Tenants[0]
	if object == "" {
		object = "oid"
	}
	if name := i.Claims.Tenant; name != "-" {
		if name == "" {
			name = "tid"
		}
		tenant = trust.Fold(c.Text(name))
		if !slices.Contains(i.Tenants, tenant) {
			return trust.Caller{}, refuse(codeTenant, "issuer %s does not speak for tenant %.80q", i.URL, tenant)
		}
	}
	who := trust.Caller{
		Principal:  trust.Principal{Issuer: i.URL, Tenant: tenant, Object: c.Text(object)},
		ResourceID: c.Text("xms_mirid"),
		ClientID:   c.Text("appid"),
		Audience:   c.Audience,
		TokenID:    c.TokenID,
		KeyID:      c.KeyID,
		Credential: c.Text(CredentialClaim),
		Expires:    c.Expires,
	}
	if who.Object == "" {
		return trust.Caller{}, refuse(codeInvalid, "the token does not say whom it is for (claim %s)", object)
	}
	if azp := c.Text("azp"); who.ClientID == "" {
		who.ClientID = azp
	}
	if i.Claims.Name != "" {
		who.Name = c.Text(i.Claims.Name)
	}
	if i.Claims.Groups != "" {
		who.Groups = c.List(i.Claims.Groups)
	}
	if len(who.Groups) > 0 {
		if who.GroupIssuer = i.URL; i.Claims.GroupIssuer != "" {
			who.GroupIssuer = c.Text(i.Claims.GroupIssuer)
		}
	}
	for claim, value := range i.Require {
		if c.Text(claim) != value {
			return trust.Caller{}, refuse(codeInvalid, "issuer %s's tokens must have claim %s with the configured value", i.URL, claim)
		}
	}
	if _, given := c.all["xms_mirid"]; given && !i.speaksFor(who.ResourceID) {
		return trust.Caller{}, refuse(codeTenant, "issuer %s does not speak for resource %.200q", i.URL, who.ResourceID)
	}
	return who, nil
}

// CredentialClaim is the private claim in which the built-in authority names
// the credential that a token was exchanged for, so that removing the
// credential ends the token.
const CredentialClaim = "sp_cred"

// speaksFor reports whether a resource lies inside the issuer's scopes.
func (i *issuer) speaksFor(resource string) bool {
	if !wellFormedID(resource) {
		return false
	}
	id := trust.Fold(resource)
	for _, s := range i.Scopes {
		if scope := trust.Fold(s); scope == "/" || id == scope || strings.HasPrefix(id, scope+"/") {
			return true
		}
	}
	return false
}

// wellFormedID takes resource ids of printable ASCII without empty or dot
// segments: anything else could mean another resource to another reader.
func wellFormedID(id string) bool {
	if !strings.HasPrefix(id, "/") || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' || c == '\\' || c == '%' }) {
		return false
	}
	for _, segment := range strings.Split(id[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return true
}

// NamesResource is the cross-check of a caller against the resource that a
// binding names: the token's xms_mirid is there and is the same resource id,
// compared without regard to ASCII case. It adds to the comparison of
// principals and never replaces it: paths hold names that can be reused.
func NamesResource(c *trust.Caller, resourceID string) bool {
	return c.ResourceID != "" && trust.SameFold(c.ResourceID, resourceID)
}
