package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

// The routes of the agents' API, below the server's URL.
const (
	EnrolPath  = "/agents/v1/enrol"
	StatePath  = "/agents/v1/state"
	NoncePath  = "/agents/v1/nonce"
	ReportPath = "/agents/v1/report"
	ProbePath  = "/agents/v1/probe"

	WantedPath    = "/agents/v1/extensions"
	InstalledPath = "/agents/v1/extensions/report"
)

// Messages of the agents' API, JSON both ways. []byte travels as base64.
type (
	// EnrolRequest exchanges a cluster's token for a certificate.
	EnrolRequest struct {
		Cluster trust.ClusterUID `json:"cluster"`
		Agent   string           `json:"agent"` // "proxy", "reconciler" or "installer"
		Token   string           `json:"token"` // projected ServiceAccount token, audience EnrolAudience
		CSR     string           `json:"csr"`   // PEM, RFC 2986
	}
	// EnrolAnswer is a certificate of one hour.
	EnrolAnswer struct {
		Certificate string `json:"certificate"` // PEM
		CA          string `json:"ca"`          // PEM, the agents' CA
	}
	// StateLine is one line of the state stream; an empty one is a heartbeat.
	StateLine struct {
		State []byte `json:"state,omitempty"` // what mandate.Open reads
	}
	// NonceRequest asks for a signed answer, and says what the agent has applied.
	NonceRequest struct {
		Nonce    string `json:"nonce"`
		Epoch    int64  `json:"epoch"`
		Revision int64  `json:"revision"`
		Instance string `json:"instance"`
		Version  string `json:"version"`
		Leaving  bool   `json:"leaving,omitempty"` // this process ends; no answer is signed
	}
	// NonceAnswer carries what mandate.Watchdog.Hear reads.
	NonceAnswer struct {
		Answer []byte `json:"answer"`
	}
)

// EnrolAudience is the audience of the tokens that agents of a cluster enrol
// with.
func EnrolAudience(cluster trust.ClusterUID) string { return "sallyport:enrol:" + string(cluster) }

const (
	heartbeatLimit = 25 * time.Second // the server sends a line at least every 10 s
	agentTimeout   = 8 * time.Second  // of one short call; nonces are due every 10 s
	maxStateLine   = mandate.MaxSize/3*4 + 64
)

// AgentConfig is what an agent needs to be known to the control plane.
type AgentConfig struct {
	Server string // base URL
	Trust  ServerTrust

	Cluster trust.ClusterUID
	Name    string // "proxy", "reconciler" or "installer"
	// Token gets a fresh enrolment token; see TokenFile.
	Token func(context.Context) (string, error)

	Instance string // of this process, to tell replicas apart
	Version  string
	Log      *slog.Logger
	Now      func() time.Time // nil means time.Now
}

// TokenFile reads a projected token anew at each call: the kubelet replaces it.
func TokenFile(path string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		if token := strings.TrimSpace(string(data)); token != "" {
			return token, nil
		}
		return "", fmt.Errorf("read token: %s is empty", path)
	}
}

// Agent is one agent's side of the agents' API. Its private keys stay in
// memory. Run must be running for the calls to get a certificate; all methods
// are safe for concurrent use.
type Agent struct {
	c    AgentConfig
	base string
	tls  *tls.Config // without a client certificate

	mu    sync.Mutex // guards what follows
	pair  *tls.Certificate
	http  *http.Client  // uses pair
	ready chan struct{} // closed and replaced when pair changes
}

// NewAgent checks the configuration; it makes no call.
func NewAgent(c AgentConfig) (*Agent, error) {
	conf, err := c.Trust.TLS(c.Server)
	if err != nil {
		return nil, err
	}
	if c.Cluster == "" || c.Name == "" || c.Token == nil {
		return nil, trust.Errorf(trust.Invalid, "an agent needs its cluster's uid, its name and a source of tokens")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Agent{c: c, base: strings.TrimSuffix(c.Server, "/"), tls: conf, ready: make(chan struct{})}, nil
}

// Run enrols and renews the certificate when two thirds of its life have
// passed, until ctx ends; then it returns ctx's error. A failed enrolment is
// logged and tried again, since a control plane may be away for a while and a
// cluster may be registered later.
func (a *Agent) Run(ctx context.Context) error {
	defer a.closeIdle()
	retry := newBackoff(time.Second, time.Minute)
	for {
		wait := retry.next()
		switch pair, err := a.enrol(ctx); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			a.c.Log.Warn("enrolment failed, trying again", "cluster", a.c.Cluster, "agent", a.c.Name, "error", err, "retry", wait)
		default:
			retry.reset()
			a.use(pair)
			now := a.c.Now()
			wait = max(jitter(pair.Leaf.NotAfter.Sub(now)*2/3), time.Second)
			a.c.Log.Info("enrolled", "cluster", a.c.Cluster, "agent", a.c.Name, "expires", pair.Leaf.NotAfter)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// enrol makes a new key and gets a certificate for it.
func (a *Agent) enrol(ctx context.Context) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	token, err := a.c.Token(ctx)
	if err != nil {
		return nil, err
	}
	transport := newTransport(a.tls)
	defer transport.CloseIdleConnections()
	var answer EnrolAnswer
	err = a.post(ctx, &http.Client{Transport: transport, CheckRedirect: noRedirect}, EnrolPath, EnrolRequest{Cluster: a.c.Cluster, Agent: a.c.Name, Token: token,
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}, &answer)
	if err != nil {
		return nil, err
	}
	leaf := firstCertificate(answer.Certificate)
	if leaf == nil || !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, trust.Errorf(trust.Internal, "the server answered the enrolment with a certificate for another key")
	}
	if !leaf.NotAfter.After(a.c.Now()) {
		return nil, trust.Errorf(trust.Internal, "the server answered the enrolment with a certificate that ended at %s; compare the clocks", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// use makes pair the certificate of new connections and wakes who waits.
func (a *Agent) use(pair *tls.Certificate) {
	conf := a.tls.Clone()
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	next := &http.Client{Transport: newTransport(conf), CheckRedirect: noRedirect}
	a.mu.Lock()
	old := a.http
	a.pair, a.http = pair, next
	close(a.ready)
	a.ready = make(chan struct{})
	a.mu.Unlock()
	if old != nil {
		old.CloseIdleConnections()
	}
}

func (a *Agent) closeIdle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.http != nil {
		a.http.CloseIdleConnections()
	}
}

// current waits for a certificate that has not ended. renewed is closed when
// the next one is there.
func (a *Agent) current(ctx context.Context) (client *http.Client, pair *tls.Certificate, renewed <-chan struct{}, err error) {
	for {
		a.mu.Lock()
		client, pair, renewed = a.http, a.pair, a.ready
		a.mu.Unlock()
		if pair != nil && pair.Leaf.NotAfter.After(a.c.Now()) {
			return client, pair, renewed, nil
		}
		select {
		case <-renewed:
		case <-ctx.Done():
			return nil, nil, nil, fmt.Errorf("wait for a certificate: %w", context.Cause(ctx))
		}
	}
}

// TLS waits for a certificate and gives a configuration for other connections
// of this agent to the same server, such as the tunnel's: one that always
// presents the newest certificate. renewed is closed when a new one is there.
func (a *Agent) TLS(ctx context.Context, protocols ...string) (conf *tls.Config, renewed <-chan struct{}, err error) {
	_, _, renewed, err = a.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	conf = a.tls.Clone()
	conf.NextProtos = protocols
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.pair, nil
	}
	return conf, renewed, nil
}

// leaveWithin bounds Leave: a process that was told to end must end.
const leaveWithin = 3 * time.Second

// Leave says that this process ends and lets nobody through any more, so that
// nobody waits for it to confirm anything. A control plane that does not hear it
// waits as for an agent that was lost; so there is no error to act on.
func (a *Agent) Leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWithin)
	defer cancel()
	a.mu.Lock()
	client := a.http
	a.mu.Unlock()
	if client == nil {
		return // it was never known
	}
	err := a.post(ctx, client, NoncePath, NonceRequest{Nonce: mandate.NewNonce(), Instance: a.c.Instance, Version: a.c.Version, Leaving: true}, nil)
	if err != nil {
		a.c.Log.Info("the control plane was not told that this agent ends", "error", err)
	}
	client.CloseIdleConnections()
}

// Ask sends a nonce with what the agent has applied, and returns the signed
// answer for mandate.Watchdog.Hear.
func (a *Agent) Ask(ctx context.Context, nonce string, applied mandate.Floor) ([]byte, error) {
	client, _, _, err := a.current(ctx)
	if err != nil {
		return nil, err
	}
	var answer NonceAnswer
	err = a.post(ctx, client, NoncePath, NonceRequest{Nonce: nonce, Epoch: applied.Epoch, Revision: applied.Revision, Instance: a.c.Instance, Version: a.c.Version}, &answer)
	return answer.Answer, err
}

// Report says what the reconciler found and did.
func (a *Agent) Report(ctx context.Context, r mandate.Report) error {
	client, _, _, err := a.current(ctx)
	if err != nil {
		return err
	}
	return a.post(ctx, client, ReportPath, r, nil)
}

// Probe says what the proxy agent saw of the names that its cluster's owner
// allows it to look at (netenv/probe.Report). The answer is not read: nobody
// outside tells an agent where to look.
func (a *Agent) Probe(ctx context.Context, report any) error {
	client, _, _, err := a.current(ctx)
	if err != nil {
		return err
	}
	return a.post(ctx, client, ProbePath, report, nil)
}

// post is one short call.
func (a *Agent) post(ctx context.Context, client *http.Client, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, agentTimeout, trust.Errorf(trust.Timeout, "%s did not answer within %s", a.base, agentTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "sallyport-agent/"+a.c.Version)
	res, err := client.Do(req)
	if err != nil {
		return unreachable(ctx, a.base, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return unreachable(ctx, a.base, err)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return failure(res, data)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return trust.Errorf(trust.Internal, "the answer of %s%s cannot be read", a.base, path).Because(err)
	}
	return nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func firstCertificate(text string) *x509.Certificate {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert
}
