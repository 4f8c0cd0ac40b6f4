package authority

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Lives of tokens.
const (
	TokenLife        = time.Hour
	ClusterTokenLife = 15 * time.Minute // for the audience of one cluster
)

// Config is what New needs.
type Config struct {
	Store     *store.Store
	Directory *Directory // running
	Seal      *seal.Sealer
	Base      string // https://host:port
	Tenant    string // GUID, lower case
	Algorithm string // RS256 (also "") or ES256; fixed once keys were made

	// Audiences are taken besides the base URL, its gateways and its clusters.
	Audiences []string
	// PrivateIssuers lets federated credentials name issuers at addresses that
	// are not public. Keys handed over work without it.
	PrivateIssuers bool
	IssuerRoots    *x509.CertPool // believed for such issuers' sites; nil: the system's
	// Clients are public clients that may sign people in, by id (GUID, lower
	// case): their names. Azure's own are known.
	Clients map[string]string
	// Provider is where people are sent to sign in; nil: the built-in users sign
	// in here.
	Provider *ProviderConfig
	// ClientAddress says who calls, for limits and the log; nil: the TCP peer.
	ClientAddress func(*http.Request) netip.Addr

	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Authority issues tokens. It is safe for concurrent use.
type Authority struct {
	conf   Config
	base   string // without trailing slash
	issuer string
	rings  *rings
	limit  *limiter[netip.Prefix] // failures by address
	names  *limiter[string]       // failures by user name
	polls  polls
	issued *prometheus.CounterVec

	provider *provider     // nil: none
	hashing  chan struct{} // a place for each password being checked

	mu       sync.Mutex // guards what follows
	opened   jose.Signer
	openedID string
}

var guid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// New checks the configuration and makes an Authority. Run must run.
func New(c Config) (*Authority, error) {
	if c.Algorithm == "" {
		c.Algorithm = string(jose.RS256)
	}
	if c.Algorithm != string(jose.RS256) && c.Algorithm != string(jose.ES256) {
		return nil, trust.Errorf(trust.Invalid, "tokens are signed with RS256 or ES256, not %q", c.Algorithm)
	}
	if !guid.MatchString(c.Tenant) {
		return nil, trust.Errorf(trust.Invalid, "tenant %q is not a GUID in lower case", c.Tenant)
	}
	base := strings.TrimSuffix(c.Base, "/")
	if u, err := url.Parse(base); err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, trust.Errorf(trust.Invalid, "base URL %q must read https://host[:port]", c.Base)
	}
	if c.ClientAddress == nil {
		c.ClientAddress = peer
	}
	a := &Authority{conf: c, base: base, issuer: IssuerURL(base, c.Tenant), limit: newLimiter[netip.Prefix](c.Now, failBurst, failEvery),
		names: newLimiter[string](c.Now, nameBurst, nameEvery), hashing: make(chan struct{}, hashersAtOnce)}
	a.rings = newRings(a)
	if c.Provider != nil {
		var err error
		if a.provider, err = newProvider(c); err != nil {
			return nil, err
		}
	}
	a.issued = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sallyport_authority_token_requests_total",
		Help: "Token requests by result: issued, or the OAuth error.",
	}, []string{"result"})
	if c.Registerer != nil {
		if err := c.Registerer.Register(a.issued); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return a, nil
}

// Run makes the first signing key and rotates keys when it is time, until ctx
// ends. A wrong algorithm ends it at
// once; a store that is away does not.
func (a *Authority) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	condemned := make(chan struct{}, 1)
	defer a.conf.Directory.Subscribe(func() {
		if a.conf.Directory.condemned() {
			select {
			case condemned <- struct{}{}:
			default:
			}
		}
	})()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-condemned:
		case <-timer.C:
		}
		next := keyCheck
		if err := a.tend(ctx); trust.KindOf(err) == trust.Invalid {
			return err
		} else if err != nil && ctx.Err() == nil {
			a.conf.Log.Warn("signing keys not looked after", "error", err)
			next = time.Second
		}
		timer.Reset(next)
	}
}

func (a *Authority) tend(ctx context.Context) error {
	if err := a.destroyRevoked(ctx); err != nil {
		return err
	}
	if err := a.rotate(ctx); err != nil {
		return err
	}
	// A clock that was put back leaves only keys for later.
	if err := a.promote(ctx); err != nil {
		return err
	}
	if err := a.forgetAssertions(ctx); err != nil {
		return err
	}
	return a.forgetPeople(ctx)
}

// KeepSecrets removes client secrets that nobody needs, until ctx ends. It runs
// where secrets are made, which is with control: the authority only reads them.
func (a *Authority) KeepSecrets(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := a.forgetSecrets(ctx); err != nil && ctx.Err() == nil {
			a.conf.Log.Warn("client secrets not looked after", "error", err)
		}
		timer.Reset(keyCheck)
	}
}

// Ready is nil when tokens can be issued.
func (a *Authority) Ready() error {
	_, err := a.signer()
	return err
}

// Issuer is the iss of every token.
func (a *Authority) Issuer() string { return a.issuer }

// audience reports whether tokens may be issued for a resource, and for how
// long. What may be done with one is decided where it is presented.
func (a *Authority) audience(resource string) (life time.Duration, ok bool) {
	if resource == a.base || resource == a.base+"/" {
		return TokenLife, true
	}
	if uid, found := strings.CutPrefix(resource, a.base+"/clusters/"); found {
		return ClusterTokenLife, guid.MatchString(uid)
	}
	if location, found := strings.CutPrefix(resource, a.base+"/gateways/"); found {
		return TokenLife, locationName.MatchString(location)
	}
	if uid, found := strings.CutPrefix(resource, a.base+"/extensions/"); found {
		return ClusterTokenLife, guid.MatchString(uid)
	}
	for _, more := range a.conf.Audiences {
		if resource == more {
			return TokenLife, true
		}
	}
	return 0, false
}

var locationName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
