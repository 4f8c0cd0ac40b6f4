package requestpath

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/sallyport/sallyport/agent/proxy"
	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/gateway"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

const (
	base       = "https://gateway.test"
	tenant     = "11111111-1111-1111-1111-111111111111"
	issuer     = base + "/" + tenant + "/v2.0"
	oid        = "22222222-2222-2222-2222-222222222222"
	clusterUID = trust.ClusterUID("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
	bindingUID = trust.BindingUID("cccccccc-cccc-4ccc-8ccc-cccccccccccc")
	group      = "/subscriptions/33333333-3333-3333-3333-333333333333/resourceGroups/rg"
	clusterID  = group + "/providers/Microsoft.ContainerService/managedClusters/prod"
	sourceID   = group + "/providers/Contoso.Deployer/deployers/ci"
	role       = trust.RoleName("Contoso.Deployer/deployers/deployer")
)

// rules of the one role: what a deployer needs, and no Secrets, nodes or RBAC.
func rules() []trust.Rule {
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	return []trust.Rule{
		{Verbs: all, APIGroups: []string{""}, Resources: []string{"configmaps", "pods", "services"}},
		{Verbs: all, APIGroups: []string{"apps"}, Resources: []string{"deployments"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods/log", "namespaces"}},
		{Verbs: []string{"get", "create"}, APIGroups: []string{""}, Resources: []string{"pods/exec", "pods/attach", "pods/portforward", "services/proxy", "pods/proxy"}},
	}
}

// apiServer is what a world stands in front of.
type apiServer struct {
	url   string
	roots *x509.CertPool
	agent http.RoundTripper // as the proxy agent's own ServiceAccount
}

// world is everything between a caller and an API server, in this process.
type world struct {
	t      *testing.T
	store  *store.Store
	gw     *gateway.Gateway
	front  *httptest.Server
	client *http.Client
	key    *ecdsa.PrivateKey
	state  *control
	audit  *lines
	logs   *lines // what every room logs, debug included
}

func newWorld(t *testing.T, api apiServer) *world {
	t.Helper()
	w := &world{t: t, audit: &lines{}, logs: &lines{}}
	log := slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if w.store, err = store.Open(t.Context(), store.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	public, err := authn.NewKey("k1", &w.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := authn.New(authn.Config{Now: time.Now, Log: log, Issuers: []authn.Issuer{
		{URL: issuer, Keys: authn.StaticKeys{public}, Tenants: []string{tenant}, Scopes: []string{"/"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	records := audit.New(audit.Config{Sink: w.audit, Log: log})
	if w.gw, err = gateway.New(gateway.Config{
		Store: w.store, Authn: auth, Audit: records, Base: base, Locations: []string{"home"}, Replica: "r1",
		LocalIssuers: []string{issuer}, DrainTimeout: time.Second, Log: log,
	}); err != nil {
		t.Fatal(err)
	}
	agent := w.newAgent(api, log)
	w.commit(store.Put(store.Cluster{ID: clusterID, UID: clusterUID, Enrolment: &store.Enrolment{}}), store.Put(store.Source{ID: sourceID, Identity: &store.SystemIdentity{PrincipalID: oid}}), store.Put(w.binding()))

	outside, inside := tcpPair(t)
	run(t, func(ctx context.Context) { _ = records.Run(ctx) })
	run(t, func(ctx context.Context) { _ = auth.Run(ctx) })
	run(t, func(ctx context.Context) { _ = agent.Run(ctx) })
	run(t, func(ctx context.Context) { _ = w.gw.Run(ctx) })
	run(t, func(ctx context.Context) { _ = tunnel.Serve(ctx, inside, agent, tunnel.ServeConfig{}) })
	w.state.set(t, w.binding())
	w.eventually("gateway and agent are ready", func() bool { return w.gw.Ready() == nil && agent.Ready() == nil })
	run(t, func(ctx context.Context) { _ = w.gw.ServeTunnel(ctx, outside, clusterUID, tunnel.Term{}) })
	w.eventually("the tunnel is live", func() bool { return w.gw.Tunnels(clusterUID) == 1 })

	w.front = httptest.NewUnstartedServer(w.gw.Handler())
	w.front.EnableHTTP2 = true
	w.front.Config.ConnContext = gateway.ConnContext
	w.front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.front.StartTLS()
	t.Cleanup(func() { w.front.CloseClientConnections(); w.front.Close() })
	w.speak(2)
	return w
}

// run keeps f running until the test ends.
func run(t *testing.T, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func (w *world) newAgent(api apiServer, log *slog.Logger) *proxy.Proxy {
	w.t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.state = &control{key: key, sent: make(chan []byte, 4), state: mandate.State{Cluster: clusterUID, Epoch: 1, Revision: 1}}
	target, err := url.Parse(api.url)
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := proxy.New(proxy.Config{
		Cluster: clusterUID, MandateKey: public, Control: w.state, APIServer: target, Agent: api.agent, Log: log,
		TLS: &tls.Config{RootCAs: api.roots, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) binding() store.Binding {
	grants := []trust.Grant{{Role: role, Revision: trust.RevisionOf(rules()), Rules: rules()}}
	return store.Binding{
		ID: clusterID + "/trustedAccessRoleBindings/ci", UID: bindingUID, ClusterID: clusterID, ClusterUID: clusterUID, SourceID: sourceID,
		Source: trust.Principal{Issuer: issuer, Tenant: tenant, Object: oid}, Grants: grants, Desired: grants,
	}
}

func (w *world) commit(ops ...store.Op) {
	w.t.Helper()
	if _, err := w.store.Commit(w.t.Context(), ops...); err != nil {
		w.t.Fatal(err)
	}
}

// control is a control plane that signs what the test says.
type control struct {
	key  ed25519.PrivateKey
	sent chan []byte

	mu    sync.Mutex
	state mandate.State
}

// States implements proxy.Control.
func (c *control) States(ctx context.Context, _ func() mandate.Floor, take func([]byte) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case signed := <-c.sent:
			if err := take(signed); err != nil {
				return err
			}
		}
	}
}

// Ask implements proxy.Control.
func (c *control) Ask(_ context.Context, nonce string, _ mandate.Floor) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return mandate.SignAnswer(c.key, mandate.Answer{Cluster: clusterUID, Epoch: c.state.Epoch, Revision: c.state.Revision, Nonce: nonce})
}

func (c *control) set(t *testing.T, bindings ...store.Binding) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Revision++
	c.state.Bindings = nil
	for _, b := range bindings {
		c.state.Bindings = append(c.state.Bindings, trust.Binding{ID: b.ID, UID: b.UID, Cluster: b.ClusterUID, SourceID: b.SourceID, Source: b.Source, Grants: b.Desired})
	}
	signed, err := mandate.Sign(c.key, c.state)
	if err != nil {
		t.Fatal(err)
	}
	c.sent <- signed
}

// lines is an audit sink.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// text is everything written so far.
func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// find returns the records that ok accepts.
func (l *lines) find(t *testing.T, ok func(*auditv1.Event) bool) []auditv1.Event {
	t.Helper()
	var found []auditv1.Event
	for line := range strings.Lines(l.text()) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if ok(&e) {
			found = append(found, e)
		}
	}
	return found
}

func (w *world) token() string {
	w.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: w.key, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		w.t.Fatal(err)
	}
	now := time.Now()
	token, err := jwt.Signed(s).Claims(map[string]any{
		"iss": issuer, "sub": oid, "oid": oid, "tid": tenant, "aud": base + "/gateways/home", "xms_mirid": sourceID, "uti": "t1", "idtyp": "app",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}).Serialize()
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func (w *world) url(path string) string {
	return w.front.URL + "/clusters/" + string(clusterUID) + path
}

// do sends a request with a good token.
func (w *world) do(method, path string, body io.Reader, edit func(*http.Request)) (*http.Response, []byte) {
	w.t.Helper()
	resp := w.open(method, path, body, edit)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, data
}

func (w *world) open(method, path string, body io.Reader, edit func(*http.Request)) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url(path), body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token())
	if edit != nil {
		edit(req)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// speak makes the world's client speak HTTP/1.1 or HTTP/2 and add nothing of
// its own.
func (w *world) speak(major int) {
	p := new(http.Protocols)
	p.SetHTTP1(major == 1)
	p.SetHTTP2(major == 2)
	transport := &http.Transport{TLSClientConfig: w.front.Client().Transport.(*http.Transport).TLSClientConfig.Clone(), Protocols: p, DisableCompression: true}
	transport.TLSClientConfig.NextProtos = nil
	w.t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// inTouch is I3's bound, a second, and what a machine with other work adds.
const inTouch = 3 * time.Second

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("in vain: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// kubeconfig is a caller's, with a token in it.
func (w *world) kubeconfig() string {
	w.t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.front.Certificate().Raw})
	doc := map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "c",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": w.url(""), "certificate-authority-data": ca}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": w.token()}}},
		"contexts": []any{map[string]any{"name": "c", "context": map[string]any{"cluster": "c", "user": "u"}}},
	}
	data, err := json.Marshal(doc)
	if err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// kubectl prepares kubectl as the bound source, through the gateway.
func (w *world) kubectl(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.t.TempDir(), "KUBECONFIG=" + w.kubeconfig(), "KUBERC=off"}
	return cmd
}

func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return b, a
}

// recorder is an API server that writes down what arrives and gives tokens.
type recorder struct {
	t       *testing.T
	noToken atomic.Bool // the binding's identity is gone

	mu      sync.Mutex
	handler http.HandlerFunc
	seen    []arrived
}

type arrived struct {
	Method, URI, Host, Body string
	Header                  http.Header
	Trailer                 http.Header
}

const bindingToken = "the-bindings-own-token"

func newRecorder(t *testing.T) (*recorder, apiServer) {
	r := &recorder{t: t}
	s := httptest.NewUnstartedServer(r)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return r, apiServer{url: s.URL, roots: roots, agent: s.Client().Transport}
}

// ServeHTTP implements http.Handler.
func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/api/v1/namespaces/"+rbac.BindingsNamespace+"/serviceaccounts/"+rbac.Account(bindingUID)+"/token" {
		if r.noToken.Load() {
			http.NotFound(w, req)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","status":{"token":%q,"expirationTimestamp":%q}}`, bindingToken, time.Now().Add(10*time.Minute).UTC().Format(time.RFC3339))
		return
	}
	r.mu.Lock()
	h := r.handler
	r.mu.Unlock()
	if h == nil {
		body, _ := io.ReadAll(req.Body)
		r.note(req, string(body))
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		return
	}
	h(w, req)
}

func (r *recorder) note(req *http.Request, body string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, arrived{req.Method, req.RequestURI, req.Host, body, req.Header.Clone(), req.Trailer.Clone()})
}

func (r *recorder) set(h http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handler = h
}

func (r *recorder) take() []arrived {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.seen
	r.seen = nil
	return s
}

// status reads a refusal.
func status(t *testing.T, body []byte) request.Status {
	t.Helper()
	var s request.Status
	if err := json.Unmarshal(body, &s); err != nil || s.Kind != "Status" {
		t.Fatalf("not a Status: %q", body)
	}
	return s
}
