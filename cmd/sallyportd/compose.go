package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authority"
	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/bucket/folder"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/control"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/internal/logs"
	"github.com/sallyport/sallyport/internal/logs/grpclogs"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/ml"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
)

// serve is where the server's rooms meet: it opens the store, makes what the
// first start makes, runs the parts that this process plays, and on ctx's end
// drains the gateway before anything that could revoke stops.
func serve(ctx context.Context, c *Config, stderr io.Writer) error {
	// Never touched, so it costs no memory; it sets the collector's pace, which
	// what lives here would set too fast for the garbage that requests leave.
	defer runtime.KeepAlive(make([]byte, 64<<20))
	log, err := newLog(c, stderr)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("dataDir: %w", err)
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	sealer, err := openSeal(c)
	if err != nil {
		return err
	}
	st, err := openStore(ctx, c, log, metrics)
	if err != nil {
		return err
	}
	defer func() {
		if err := st.Close(); err != nil {
			log.Error("store did not close cleanly", "error", err)
		}
	}()
	s := &server{Config: c, log: log, metrics: metrics, sealer: sealer, store: st}
	if err := s.compose(ctx); err != nil {
		return err
	}
	defer s.sink.Close()
	return s.run(ctx)
}

// server is the parts of one process.
type server struct {
	*Config
	log     *slog.Logger
	metrics *prometheus.Registry
	sealer  *seal.Sealer // nil in a process that needs none
	store   *store.Store

	installation  store.Installation
	agents        *pki.CA        // of control alone, as control and operations are
	agentRoots    *x509.CertPool // the same CA without its key
	certificate   *pki.Keeper    // the listener's
	asked         *asked         // of a gateway alone: where that comes from
	serverTLS     *pki.CA        // nil where there is no seal key, or the certificate is the user's own
	serverCA      []byte         // PEM; empty when the certificate is the user's own
	peers         *peering       // nil: nothing is handed over
	directory     *authority.Directory
	authenticator *authn.Authenticator
	authority     *authority.Authority
	control       *control.Control
	operations    *operation.Runner
	ml            *ml.ML         // nil in a process that does not play it
	bucket        *bucket.Bucket // nil: workspaces have no store
	folder        *folder.Store  // nil: it is not served here
	sink          *audit.File
	records       *audit.Log
	gateway       *gateway.Gateway
	replica       string // this process, among all
	started       time.Time
}

func newLog(c *Config, stderr io.Writer) (*slog.Logger, error) {
	level := slog.LevelInfo
	if c.Log.Level != "" {
		var err error
		if level, err = logs.ParseLevel(c.Log.Level); err != nil {
			return nil, fmt.Errorf("log.level: %w", err)
		}
	}
	log, err := logs.New(stderr, logs.Options{Level: level, Format: c.Log.Format})
	if err != nil {
		return nil, fmt.Errorf("log.format: %w", err)
	}
	grpclogs.Install(log)
	return log, nil
}

// openSeal loads or makes the seal key, for processes that need it. The
// others get nil: what they do not hold cannot be stolen there.
func openSeal(c *Config) (*seal.Sealer, error) {
	if !c.seals() {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.SealKeyFile), 0o700); err != nil {
		return nil, fmt.Errorf("sealKeyFile: %w", err)
	}
	return seal.LoadOrCreate(c.SealKeyFile, filepath.Join(c.DataDir, "store"))
}

func openStore(ctx context.Context, c *Config, log *slog.Logger, metrics prometheus.Registerer) (*store.Store, error) {
	conf := store.Config{Log: log, Registerer: metrics}
	if len(c.Store.Endpoints) == 0 {
		conf.Dir = filepath.Join(c.DataDir, "store")
		return store.Open(ctx, conf)
	}
	conf.Endpoints, conf.Username = c.Store.Endpoints, c.Store.User
	if c.Store.PasswordFile != "" {
		password, err := os.ReadFile(c.Store.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("store.passwordFile: %w", err)
		}
		conf.Password = strings.TrimSpace(string(password))
	}
	var err error
	if conf.TLS, err = c.Store.tls(); err != nil {
		return nil, err
	}
	return store.Open(ctx, conf)
}

// compose makes the parts, in the order in which they need each other. Nothing
// runs yet.
func (s *server) compose(ctx context.Context) (err error) {
	if s.installation, _, err = control.Bootstrap(ctx, s.store, time.Now, control.First{}); err != nil {
		return fmt.Errorf("first start: %w", err)
	}
	keys := sharedKeys{store: s.store, sealer: s.sealer, now: time.Now}
	if s.plays("control") {
		if s.agents, err = keys.ca(ctx, keyAgentsCA, pki.Agents); err != nil {
			return err
		}
	}
	if s.agentRoots, err = keys.roots(ctx, keyAgentsCA); err != nil {
		return err
	}
	s.replica, s.started = rand.Text(), time.Now()
	if err = s.ownCertificate(ctx, keys); err != nil {
		return err
	}

	issuer := authority.IssuerURL(s.ExternalURL, s.installation.TenantID)
	s.directory = authority.NewDirectory(authority.DirectoryConfig{
		Store: s.store, Issuer: issuer, Tenant: s.installation.TenantID, Now: time.Now, Log: s.log,
	})
	issuers, err := s.issuers()
	if err != nil {
		return err
	}
	if s.authenticator, err = authn.New(authn.Config{Issuers: issuers, Now: time.Now, Log: s.log, Registerer: s.metrics}); err != nil {
		return err
	}
	proxies, err := s.trustedProxies()
	if err != nil {
		return err
	}
	if s.plays("control") || s.plays("authority") {
		provider, err := s.provider()
		if err != nil {
			return err
		}
		clients, err := s.publicClients()
		if err != nil {
			return err
		}
		if s.authority, err = authority.New(authority.Config{
			Store: s.store, Directory: s.directory, Seal: s.sealer, Base: s.ExternalURL, Tenant: s.installation.TenantID,
			PrivateIssuers: s.PrivateIssuers, Provider: provider, Clients: clients, ClientAddress: gateway.ClientAddress(proxies), Now: time.Now, Log: s.log, Registerer: s.metrics,
		}); err != nil {
			return err
		}
	}
	if s.plays("control") {
		if err := s.composeControl(ctx, keys, issuer, proxies); err != nil {
			return err
		}
	}
	if s.sink, err = audit.OpenFile(s.Audit.File); err != nil {
		return err
	}
	s.records = audit.New(audit.Config{Sink: s.sink, LetReads: s.Audit.ReadsWithoutAudit, Log: s.log, Registerer: s.metrics})
	if s.peers, err = s.composePeers(ctx, keys); err != nil {
		return err
	}
	s.gateway, err = gateway.New(gateway.Config{
		Store: s.store, Authn: s.authenticator, Audit: s.records, Base: s.ExternalURL, Locations: []string{s.Location},
		Replica: s.replica, Peers: s.peers.config(), LocalIssuers: []string{issuer}, TrustedProxies: proxies,
		DrainTimeout: time.Duration(s.DrainTimeout), Log: s.log, Registerer: s.metrics,
	})
	return err
}

// composeControl makes the control plane, which alone holds the key that signs
// what agents are told.
func (s *server) composeControl(ctx context.Context, keys sharedKeys, issuer string, proxies []netip.Prefix) error {
	mandateKey, err := keys.mandate(ctx)
	if err != nil {
		return err
	}
	handlers, providers := map[string]operation.Handler{}, []control.Provider(nil)
	if s.plays("ml") {
		if err := s.composeStorage(ctx, keys); err != nil {
			return err
		}
		if s.ml, err = s.composeML(ctx, keys); err != nil {
			return err
		}
		maps.Copy(handlers, s.ml.Handlers())
		providers = append(providers, control.Provider{Namespace: ml.Namespace, Tracked: ml.Tracked, Versions: arm.MachineLearning, Types: ml.Types(),
			Serve: s.ml.Serve, Complete: s.ml.Complete, Federate: s.ml.Federate})
	}
	gateways, err := keys.ca(ctx, keyGatewaysCA, pki.Gateways)
	if err != nil {
		return err
	}
	if s.control, err = control.New(control.Config{
		Store: s.store, Providers: providers, Secrets: secrets{s.authority}, HashPassword: authority.HashPassword, VerifyPassword: authority.VerifyPassword, Authenticate: s.authenticateControl,
		BaseURL: s.ExternalURL, Issuer: issuer, Tenant: s.installation.TenantID, Location: s.Location, Locations: s.Locations, Version: version(),
		MandateKey: mandateKey, AgentCA: s.agents, GatewayCA: gateways, ServerTLS: s.serverTLS, ServerCA: s.serverCA, GatewayBase: s.GatewayURL,
		MaxBindingsPerCluster: s.MaxBindingsPerCluster, SameSubscription: s.SameSubscription, DemandRegistration: s.DemandRegistration,
		Seal: s.sealer, Throttle: s.Throttle, ClientAddress: gateway.ClientAddress(proxies),
		Now: time.Now, Log: s.log, Registerer: s.metrics,
	}); err != nil {
		return err
	}
	maps.Copy(handlers, s.control.Handlers())
	s.operations = operation.New(operation.Config{Store: s.store, Handlers: handlers, Replica: s.replica, Log: s.log, Now: time.Now})
	return nil
}

// composeML makes the ML service: towards clusters a client of the authority
// and the gateway at this installation's own URL, wherever they run.
func (s *server) composeML(ctx context.Context, keys sharedKeys) (*ml.ML, error) {
	key, err := keys.ml(ctx)
	if err != nil {
		return nil, err
	}
	return ml.New(ml.Config{Store: s.store, Base: s.ExternalURL, Gateway: s.GatewayURL, Trust: client.ServerTrust{CA: string(s.serverCA)}, Tenant: s.installation.TenantID,
		Storage: s.bucket, Retention: time.Duration(s.Storage.Retention), Key: key, Seal: s.sealer, Now: time.Now, Log: s.log})
}
