package ml

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/bucket"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
)

// Namespace of the provider, and the type of its tracked resources.
const (
	Namespace = "Microsoft.MachineLearningServices"
	Tracked   = "workspaces"
)

// role is what a workspace must be bound to.
const role = Namespace + "/workspaces/mlworkload"

// Config is what New needs. All fields without "default" are required.
type Config struct {
	Store  *store.Store
	Base   string             // "https://host:port" of the authority
	Trust  client.ServerTrust // of its certificate and the gateways'
	Tenant string
	// Gateway is where gateways are reached. Default: Base, which stays part of
	// every audience.
	Gateway string
	Key     *ecdsa.PrivateKey // P-256: ml's own, the proof with which it is its workspaces
	Seal    *seal.Sealer      // of endpoints' keys and registries' credentials
	// Storage is where workspaces keep what is theirs. nil: nowhere.
	Storage   *bucket.Bucket
	Retention time.Duration // of what a job left, after its end; 0: for ever

	Now func() time.Time // default: time.Now
	Log *slog.Logger     // default: slog.Default()
}

// ML is the service in this process. Run must be running for what had stopped
// to be taken up again.
type ML struct {
	Config
	keyID   string
	again   time.Duration // between two tries of what may only be away for a moment
	silence time.Duration // after which nothing is known of a job
	http    *http.Client

	mu          sync.Mutex                             // guards what follows
	credentials map[string]*client.AuthorityCredential // by client id
	handed      map[string]handedOver                  // by audience: what was last handed over
}

// New checks the configuration.
func New(c Config) (*ML, error) {
	if c.Store == nil || c.Seal == nil || c.Key == nil || c.Key.Curve != elliptic.P256() || c.Tenant == "" || !strings.HasPrefix(c.Base, "https://") {
		return nil, errors.New("ml needs a store, a seal key, a P-256 key, a tenant and the server's URL")
	}
	if c.Gateway == "" {
		c.Gateway = c.Base
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	m := &ML{Config: c, again: attachPause, silence: unknownFor, credentials: map[string]*client.AuthorityCredential{}, handed: map[string]handedOver{}}
	var err error
	if m.keyID, err = thumbprint(c.Key); err != nil {
		return nil, err
	}
	conf, err := c.Trust.TLS(c.Base)
	if err != nil {
		return nil, err
	}
	conf.ServerName = "" // each host by its own name
	m.http = &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second,
		ResponseHeaderTimeout: time.Minute, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 16},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return m, nil
}

// Handlers are the operations that ml knows, for operation.New.
func (m *ML) Handlers() map[string]operation.Handler {
	return map[string]operation.Handler{opAttach: m.orForget("/computes/", m.attach), opDetach: m.detach, opFollow: m.orForget("/jobs/", m.follow), opCancel: m.cancel, opRemove: m.removeJob, opTell: m.tell,
		opEndpoint: m.orForget("/endpoints/", m.provideEndpoint), opEndpointDelete: m.removeEndpoint, opDeployment: m.orForget("/deployments/", m.provideDeployment), opDeploymentDelete: m.removeDeployment}
}

// issuer of ml's own assertions. Nothing is served there: the public key is
// handed over in the federated credential.
func (m *ML) issuer() string { return wire.Issuer(m.Base) }

const (
	credentialName   = "sallyport-ml"
	exchangeAudience = "api://AzureADTokenExchange"
)

// Federate is the credential with which ml is a workspace: its own signature.
func (m *ML) Federate(s *store.Source) store.Federated {
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: m.Key.Public(), KeyID: m.keyID, Algorithm: string(jose.ES256), Use: "sig"}}})
	if err != nil {
		set = nil // a public key encodes; without it the credential is good for nothing
	}
	return store.Federated{ClientID: s.Identity.ClientID, Name: credentialName, Issuer: m.issuer(), Subject: s.Identity.PrincipalID,
		Audiences: []string{exchangeAudience}, JWKS: set, Stamp: s.Stamp}
}

// assertion is ml's signature for one workspace's identity, good for minutes.
func (m *ML) assertion(principal string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		now := m.Now()
		return m.sign(map[string]any{"iss": m.issuer(), "sub": principal, "aud": exchangeAudience, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()})
	}
}

func (m *ML) sign(claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: m.Key, KeyID: m.keyID}}, nil)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}
