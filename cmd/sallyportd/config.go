package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/control"
)

// Config is the server's configuration file. Unknown keys are refused. Secrets
// are paths, never values. docs/sallyportd.yaml is the documented example, and
// a test reads it.
type Config struct {
	// ExternalURL is how callers, agents and people reach this server,
	// "https://host[:port]" without a path. It is part of every issuer and
	// audience: changing it later invalidates what was handed out.
	ExternalURL string `json:"externalURL"`
	// GatewayURL is where callers reach the gateways, when that is not
	// externalURL: written into kubeconfigs and into the certificates that
	// control issues to gateways. Default: externalURL.
	GatewayURL string `json:"gatewayURL"`
	// Listen is the address of the one public port. Default: all addresses, on
	// the port of externalURL.
	Listen string `json:"listen"`
	// ListenFile, if set, receives the address really listened on.
	ListenFile string `json:"listenFile"`
	// Location is the region of this server's gateways. Default: "local".
	Location string `json:"location"`
	// Locations are all regions that clusters may name. Default: Location.
	Locations []string `json:"locations"`
	// Roles that this process plays: control, authority, gateway, ml. Default:
	// all. Roles run apart only on an external store; ml goes with control.
	Roles []string `json:"roles"`

	// DataDir holds the embedded store and the server's own files.
	DataDir string `json:"dataDir"`
	// SealKeyFile is the key that seals private keys in the store. It is made at
	// first start, mode 0600, and must not lie in DataDir. A process that plays
	// gateway alone does not read it: do not put it there.
	SealKeyFile string `json:"sealKeyFile"`
	// AdminFile receives the first administrator's credential, mode 0600, at
	// first start. Default: admin.json beside the seal key.
	AdminFile string `json:"adminFile"`

	TLS     TLSConfig     `json:"tls"`
	Peers   PeersConfig   `json:"peers"`
	Store   StoreConfig   `json:"store"`
	Storage StorageConfig `json:"storage"`
	Audit   AuditConfig   `json:"audit"`
	Metrics MetricsConfig `json:"metrics"`
	Log     LogConfig     `json:"log"`

	// IssuersFile lists outside OIDC issuers whose tokens are accepted besides
	// the built-in authority's (authn.File, the form of Kubernetes' structured
	// AuthenticationConfiguration).
	IssuersFile string `json:"issuersFile"`
	// PrivateIssuers lets federated credentials name issuers at private and
	// loopback addresses. Keys that are handed over work without it.
	PrivateIssuers bool `json:"privateIssuers"`
	// SignIn says where people sign in.
	SignIn SignInConfig `json:"signIn"`
	// TrustedProxies are the addresses whose X-Forwarded-For is believed.
	TrustedProxies []string `json:"trustedProxies"`
	// DrainTimeout bounds how long open streams may go on after SIGTERM.
	// Default: 30s.
	DrainTimeout duration `json:"drainTimeout"`
	// MaxBindingsPerCluster limits bindings as Azure does (8). 0 means no limit.
	MaxBindingsPerCluster int `json:"maxBindingsPerCluster"`
	// SameSubscription demands that source and cluster share a subscription, as
	// Azure does.
	SameSubscription bool `json:"sameSubscription"`
	// DemandRegistration demands that a subscription registers a resource
	// provider before it uses it, as Azure does. Azure's clients do so by
	// themselves. By default everything is registered.
	DemandRegistration bool `json:"demandRegistration"`
	// Throttle limits each caller's requests to the control API in each
	// subscription; what is left out has its default.
	Throttle control.Throttle `json:"throttle"`
}

// PeersConfig is the listener on which gateway replicas hand requests to each
// other, for clusters whose tunnel another replica holds. It needs a store that
// they share; certificates come from control.
type PeersConfig struct {
	// Listen is the address. Default: nothing is handed over.
	Listen string `json:"listen"`
	// Address is where the other replicas reach it, host:port. Default: the
	// address by which this machine reaches the store, with Listen's port.
	Address string `json:"address"`
}

// TLSConfig names the user's own server certificate; without one, the server
// makes its own CA at first start, and a process that plays gateway alone gets a
// certificate of it from control. The files are read again when they change.
type TLSConfig struct {
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
}

// StoreConfig points at an etcd cluster; without endpoints etcd is embedded.
type StoreConfig struct {
	Endpoints    []string `json:"endpoints"`
	CAFile       string   `json:"caFile"`
	CertFile     string   `json:"certFile"`
	KeyFile      string   `json:"keyFile"`
	User         string   `json:"user"`
	PasswordFile string   `json:"passwordFile"`
}

// tls is the configuration towards etcd; nil for plain endpoints.
func (c *StoreConfig) tls() (*tls.Config, error) {
	if c.CAFile == "" && c.CertFile == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("store.caFile: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("store.caFile: %s holds no certificate", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("store.certFile: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// AuditConfig says where the gateway's audit lines go.
type AuditConfig struct {
	// File is appended to. Default: audit.jsonl in DataDir.
	File string `json:"file"`
	// ReadsWithoutAudit lets get, list and watch through while the sink is dead.
	ReadsWithoutAudit bool `json:"readsWithoutAudit"`
}

// MetricsConfig says where /metrics is served. Default: nowhere.
type MetricsConfig struct {
	Listen string `json:"listen"`
}

// LogConfig says how logs are written.
type LogConfig struct {
	Level  string `json:"level"`  // debug, info (default), warn, error
	Format string `json:"format"` // text (default on a terminal) or json
}

// duration reads "30s".
type duration time.Duration

// UnmarshalJSON reads a Go duration string.
func (d *duration) UnmarshalJSON(b []byte) error {
	v, err := time.ParseDuration(strings.Trim(string(b), `"`))
	if err != nil || v < 0 {
		return fmt.Errorf("%s is not a duration like 30s", b)
	}
	*d = duration(v)
	return nil
}

func readConfig(file string) (*Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c Config
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &c, nil
}

var allRoles = []string{"control", "authority", "gateway", "ml"}

// plays reports whether this process has the role.
func (c *Config) plays(role string) bool { return slices.Contains(c.Roles, role) }

// seals reports whether this process needs the seal key: it signs tokens,
// certificates or what agents are told.
func (c *Config) seals() bool { return c.plays("control") || c.plays("authority") }

// complete fills in defaults and refuses what does not fit together.
func (c *Config) complete() error {
	if err := c.completeAddresses(); err != nil {
		return err
	}
	if c.DataDir == "" {
		return fmt.Errorf("dataDir is missing: a folder that only this server writes, for example /var/lib/sallyport")
	}
	if c.Audit.File == "" {
		c.Audit.File = filepath.Join(c.DataDir, "audit.jsonl")
	}
	if c.Location == "" {
		c.Location = "local"
	}
	if len(c.Locations) == 0 {
		c.Locations = []string{c.Location}
	}
	if !slices.Contains(c.Locations, c.Location) {
		return fmt.Errorf("location %q is not among locations %v", c.Location, c.Locations)
	}
	if len(c.Roles) == 0 {
		c.Roles = allRoles
	}
	for _, r := range c.Roles {
		if !slices.Contains(allRoles, r) {
			return fmt.Errorf("role %q is unknown: control, authority, gateway and ml are known", r)
		}
	}
	if c.plays("ml") && !c.plays("control") {
		return fmt.Errorf("role ml is a resource provider behind control: play both in one process")
	}
	if len(c.Store.Endpoints) == 0 && !(c.plays("control") && c.plays("authority") && c.plays("gateway")) {
		return fmt.Errorf("roles run apart only on an external store: set store.endpoints, or let this process play all of %v", allRoles)
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		return fmt.Errorf("tls.certFile and tls.keyFile go together")
	}
	if err := errors.Join(c.completeSeal(), c.Storage.complete(c)); err != nil {
		return err
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = duration(30 * time.Second)
	}
	if c.MaxBindingsPerCluster < 0 {
		return fmt.Errorf("maxBindingsPerCluster is %d: 0 means no limit", c.MaxBindingsPerCluster)
	}
	for _, b := range []control.Bucket{c.Throttle.Reads, c.Throttle.Writes, c.Throttle.Deletes} {
		if b.Burst < 0 || b.PerSecond < 0 || (b.Burst == 0) != (b.PerSecond == 0) {
			return fmt.Errorf("throttle: burst %d and perSecond %g go together, both above 0", b.Burst, b.PerSecond)
		}
	}
	for _, p := range c.TrustedProxies {
		if _, err := netip.ParsePrefix(p); err != nil {
			return fmt.Errorf("trustedProxies: %q is not a range like 10.0.0.0/8", p)
		}
	}
	return nil
}

// completeAddresses reads the URLs and fills in where to listen.
func (c *Config) completeAddresses() error {
	external, err := baseURL("externalURL", c.ExternalURL)
	if err != nil {
		return err
	}
	c.ExternalURL = "https://" + external.Host
	if c.GatewayURL == "" {
		c.GatewayURL = c.ExternalURL
	}
	gateway, err := baseURL("gatewayURL", c.GatewayURL)
	if err != nil {
		return err
	}
	c.GatewayURL = "https://" + gateway.Host
	if c.Listen == "" {
		own := external
		if len(c.Roles) == 1 && c.plays("gateway") {
			own = gateway
		}
		port := own.Port()
		if port == "" {
			port = "443"
		}
		c.Listen = net.JoinHostPort("", port)
	}
	return c.Peers.complete(c)
}

func baseURL(key, value string) (*url.URL, error) {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("%s %q must read https://host[:port]", key, value)
	}
	return u, nil
}

// complete refuses what cannot be reached.
func (p *PeersConfig) complete(c *Config) error {
	if p.Listen == "" {
		if p.Address != "" {
			return fmt.Errorf("peers.address is set and peers.listen is not: nothing would listen there")
		}
		return nil
	}
	if len(c.Store.Endpoints) == 0 {
		return fmt.Errorf("peers.listen is set, but the store is embedded: gateways that hand over share an external store, so set store.endpoints")
	}
	if _, _, err := net.SplitHostPort(p.Listen); err != nil {
		return fmt.Errorf("peers.listen %q must read [host]:port", p.Listen)
	}
	if p.Address == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(p.Address); err != nil || host == "" || port == "" || port == "0" {
		return fmt.Errorf("peers.address %q must read host:port", p.Address)
	}
	return nil
}

// completeSeal fills in where the seal key and the first administrator's
// credential lie. A process without need of them gets neither.
func (c *Config) completeSeal() error {
	if !c.seals() {
		return nil
	}
	if c.SealKeyFile == "" {
		return fmt.Errorf("sealKeyFile is missing: a file outside dataDir, for example /etc/sallyport/seal.key; it is made at first start")
	}
	if inside(c.SealKeyFile, c.DataDir) {
		return fmt.Errorf("sealKeyFile %s lies in dataDir: a copy of the data must not hold the key that opens it", c.SealKeyFile)
	}
	if c.AdminFile == "" {
		c.AdminFile = filepath.Join(filepath.Dir(c.SealKeyFile), "admin.json")
	}
	return nil
}

func inside(file, dir string) bool {
	f, err1 := filepath.Abs(file)
	d, err2 := filepath.Abs(dir)
	rel, err3 := filepath.Rel(d, f)
	return err1 == nil && err2 == nil && err3 == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}
