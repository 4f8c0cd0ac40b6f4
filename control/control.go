package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Config is what New needs. All fields without "default" in their comment are
// required.
type Config struct {
	Store *store.Store

	// Authenticate verifies a bearer token that was issued for the control API.
	// Errors are of kind Unauthenticated or Unavailable.
	Authenticate func(ctx context.Context, token string) (trust.Caller, error)

	// Providers are resource providers of other rooms. Default: none; any type
	// that is not control's is then a source.
	Providers []Provider

	// Seal seals protected settings of extensions. Default: none are taken.
	Seal *seal.Sealer

	// Secrets are the authority's client secrets. Default: none can be made.
	Secrets Secrets

	// HashPassword makes what is stored of a user's password: the authority's.
	// Errors are of kind Invalid for a password that will not do. Default: no
	// users can be made.
	HashPassword func(password string) (string, error)
	// VerifyPassword compares a password with what HashPassword made. Default:
	// nobody can change a password for the present one.
	VerifyPassword func(hash, password string) bool

	BaseURL   string   // "https://host:port", no slash at the end
	Issuer    string   // of the built-in authority; only its callers are known here
	Tenant    string   // GUID
	Location  string   // of this server
	Locations []string // all that clusters may name; default: Location
	Version   string   // of this program; default: unknown
	// GatewayBase is where gateways are reached. Default: BaseURL, which stays
	// part of every audience.
	GatewayBase string

	MandateKey ed25519.PrivateKey // signs what agents are told
	AgentCA    *pki.CA            // issues agents' certificates
	ServerCA   []byte             // PEM, for kubeconfigs and agents; default: the system's roots are meant
	ServerTLS  *pki.CA            // issues certificates for listeners of gateways that ask; default: they are refused
	GatewayCA  *pki.CA            // issues certificates by which gateways know each other; default: they are refused

	// Azure's limits, off by default.
	MaxBindingsPerCluster int  // 0: no limit
	SameSubscription      bool // source and cluster must share a subscription
	DemandRegistration    bool // resource providers must be registered before they are used

	Throttle Throttle // default, for each bucket that is zero: see Throttle

	ActivityAge  time.Duration // entries of the activity log are kept so long; default: 90 days
	ActivityMost int           // and so many of a subscription; default: 100,000
	// ClientAddress is where a request came from. Default: the TCP peer.
	ClientAddress func(*http.Request) netip.Addr

	// AgentBound is how long an agent that is out of touch may go on letting
	// requests through. Default: mandate.FreshBound and a margin for clocks.
	AgentBound time.Duration

	Now        func() time.Time      // default: time.Now
	Log        *slog.Logger          // default: slog.Default()
	Registerer prometheus.Registerer // default: no metrics
}

// Secrets makes and removes client secrets of identities: package authority's,
// as control sees it.
type Secrets interface {
	NewSecret(ctx context.Context, clientID string, life time.Duration) (Secret, error)
	Secrets(ctx context.Context, clientID string) ([]Secret, error)
	// RemoveSecret is of kind NotFound if there is none of that id.
	RemoveSecret(ctx context.Context, clientID, id string) error
}

// Secret is a client secret as it can be shown. Value is known once, in what
// NewSecret returns.
type Secret struct {
	ID, Hint, Value  string
	Created, Expires time.Time
}

// Control is the control plane of this process.
type Control struct {
	Config
	routes  []*route
	picture *picture
	metrics *metrics
	meters  *meters
}

// margin on AgentBound's default: agents' clocks are monotonic, control's may
// differ between replicas.
const margin = 2 * time.Second

// New checks the configuration.
func New(c Config) (*Control, error) {
	switch {
	case c.Store == nil, c.Authenticate == nil, c.AgentCA == nil:
		return nil, errors.New("control needs a store, an authenticator and the agents' CA")
	case len(c.MandateKey) != ed25519.PrivateKeySize:
		return nil, errors.New("control needs the key that signs mandates")
	case !strings.HasPrefix(c.BaseURL, "https://") || strings.HasSuffix(c.BaseURL, "/"):
		return nil, errors.New("control's base URL must begin with https:// and not end in /")
	case !arm.ValidGUID(c.Tenant) || c.Tenant != trust.Fold(c.Tenant) || c.Issuer == "" || c.Location == "":
		return nil, errors.New("control needs a tenant (a GUID in lower case), an issuer and a location")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if len(c.Locations) == 0 {
		c.Locations = []string{c.Location}
	}
	if c.GatewayBase == "" {
		c.GatewayBase = c.BaseURL
	}
	if c.AgentBound == 0 {
		c.AgentBound = freshBound + margin
	}
	if c.ActivityAge == 0 {
		c.ActivityAge = activityAge
	}
	if c.ActivityMost == 0 {
		c.ActivityMost = activityMost
	}
	if c.ClientAddress == nil {
		c.ClientAddress = func(r *http.Request) netip.Addr {
			peer, _ := netip.ParseAddrPort(r.RemoteAddr)
			return peer.Addr().Unmap()
		}
	}
	ctl := &Control{Config: c, picture: newPicture(), metrics: newMetrics(), meters: newMeters(c.Throttle)}
	ctl.routes = ctl.table()
	if c.Registerer != nil {
		if err := ctl.metrics.register(c.Registerer); err != nil {
			return nil, err
		}
	}
	return ctl, nil
}

// Handler serves the ARM API and the agents' API. The listener must take client
// certificates where they are given (pki.Server); which of them counts is
// decided here.
func (c *Control) Handler() http.Handler {
	// No ServeMux: it would redirect paths that it finds unclean without asking
	// who calls.
	agents := map[string]*agentRoute{}
	for _, rt := range c.agentRoutes() {
		agents[rt.path] = &rt
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, agentsPrefix) {
			c.serveAgent(w, r, agents[r.URL.Path])
			return
		}
		if metadataFor(r) {
			c.serveMetadata(w, r)
			return
		}
		c.serveARM(w, r)
	})
}

// Handlers are the operations that control knows, for operation.New.
func (c *Control) Handlers() map[string]operation.Handler {
	all := map[string]operation.Handler{
		opApply:         c.apply,
		opRemove:        c.remove,
		opClusterDelete: c.deleteCluster,
		opClusterPower:  c.power,
		opGroupDelete:   c.deleteGroup,

		opSubscriptionDelete: c.deleteSubscription,
		opExtensionApply:     c.applyExtension,
		opExtensionDelete:    c.deleteExtension,
	}
	for kind, run := range all {
		all[kind] = c.logged(run)
	}
	return all
}

// Run follows what agents and gateways say, wakes who waits for them, gives
// gateways the certificates they ask for, and trims the activity log, until ctx
// ends. State streams and operations make no progress without it.
func (c *Control) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.picture.run(ctx, c.Store) })
	g.Go(func() error { return c.certify(ctx) })
	g.Go(func() error { return c.forget(ctx) })
	return g.Wait()
}

// stamp is who made or changes a resource now.
func (c *Control) stamp(old store.Stamp, caller *trust.Caller) store.Stamp {
	return old.Touched(caller, c.Now())
}

// newUID is a new lower-case UUID.
func newUID() string { return uuid.NewString() }

// knownLocation finds a location by any of its spellings.
func (c *Control) knownLocation(s string) (string, bool) {
	for _, l := range c.Locations {
		if arm.SameLocation(l, s) {
			return arm.NormalLocation(l), true
		}
	}
	return "", false
}
