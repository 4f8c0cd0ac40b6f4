package control

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/operation"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const (
	tenant       = "11111111-1111-4111-8111-111111111111"
	subscription = "22222222-2222-4222-8222-222222222222"
	base         = "https://control.test"
	issuer       = base + "/" + tenant + "/v2.0"

	subPath     = "/subscriptions/" + subscription
	groupPath   = subPath + "/resourceGroups/rg"
	clusterPath = groupPath + "/providers/Microsoft.ContainerService/managedClusters/blue"
	bindingPath = clusterPath + "/trustedAccessRoleBindings/b1"
	sourcePath  = groupPath + "/providers/Microsoft.MachineLearningServices/workspaces/w1"
	mlworkload  = "Microsoft.MachineLearningServices/workspaces/mlworkload"
	inference   = "Microsoft.MachineLearningServices/workspaces/inference-v1"
)

// world is a control plane on a real store, over real TLS.
type world struct {
	t       *testing.T
	store   *store.Store
	control *Control
	server  *httptest.Server
	client  *http.Client
	ca      *pki.CA
	signer  ed25519.PrivateKey
	first   store.Installation

	mu      sync.Mutex
	callers map[string]trust.Caller // by token
	skew    time.Duration
	secrets map[string][]Secret
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.skew)
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.skew += d
}

func (w *world) authenticate(_ context.Context, token string) (trust.Caller, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.callers[token]; ok {
		return c, nil
	}
	return trust.Caller{}, &trust.Error{Kind: trust.Unauthenticated, Code: arm.InvalidAuthenticationToken, Message: "The access token is invalid."}
}

// caller makes a token for an object id.
func (w *world) caller(token, object string, change func(*trust.Caller)) string {
	c := trust.Caller{Principal: trust.Principal{Issuer: issuer, Tenant: tenant, Object: object}, ClientID: object, Audience: base + "/", Expires: time.Now().Add(time.Hour)}
	if change != nil {
		change(&c)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.callers[token] = c
	return token
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	ctx := t.Context()
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(ctx, store.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, store: s, callers: map[string]trust.Caller{}, secrets: map[string][]Secret{}}
	if w.first, _, err = Bootstrap(ctx, s, w.now, First{Tenant: tenant, Subscription: subscription}); err != nil {
		t.Fatal(err)
	}
	admin, err := store.Get[store.Identity](ctx, s, store.Identity{ClientID: w.first.AdminClientID}.Key())
	if err != nil {
		t.Fatal(err)
	}
	w.caller("admin", admin.Value.ObjectID, nil)
	w.caller("stranger", "99999999-0000-4000-8000-000000000000", nil)
	if w.ca, err = pki.NewCA(pki.Agents, w.now); err != nil {
		t.Fatal(err)
	}
	_, w.signer, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := seal.New(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		Store: s, Seal: sealer, Authenticate: w.authenticate, Secrets: w, BaseURL: base, Issuer: issuer, Tenant: tenant, Location: "local",
		Locations: []string{"local", "West Europe"}, MandateKey: w.signer, AgentCA: w.ca, Now: w.now, Log: log,
	}
	for _, c := range change {
		c(&config)
	}
	if w.control, err = New(config); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewUnstartedServer(w.control.Handler())
	w.server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.client = w.server.Client()
	runner := operation.New(operation.Config{Store: s, Handlers: w.control.Handlers(), Replica: "test", Log: log, Now: w.now})
	w.background(runner.Run, w.control.Run)
	return w
}

// background runs parts until the test ends, and waits for them.
func (w *world) background(parts ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, run := range parts {
		wg.Go(func() {
			if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// The secrets of an authority that keeps them in memory.

func (w *world) NewSecret(_ context.Context, clientID string, life time.Duration) (Secret, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := Secret{ID: newUID(), Hint: "abc", Value: "abcdef", Created: time.Now(), Expires: time.Now().Add(life)}
	shown := s
	shown.Value = ""
	w.secrets[clientID] = append(w.secrets[clientID], shown)
	return s, nil
}

func (w *world) Secrets(_ context.Context, clientID string) ([]Secret, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.secrets[clientID], nil
}

func (w *world) RemoveSecret(_ context.Context, clientID, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.secrets[clientID] {
		if s.ID == id {
			w.secrets[clientID] = append(w.secrets[clientID][:i:i], w.secrets[clientID][i+1:]...)
			return nil
		}
	}
	return trust.Errorf(trust.NotFound, "no such secret")
}

// reply is an answer of the control API.
type reply struct {
	status int
	header http.Header
	raw    []byte
	body   map[string]any
}

// at finds a member by a path like "properties.roles".
func (r *reply) at(path string) any {
	var v any = r.body
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (r *reply) text(path string) string {
	s, _ := r.at(path).(string)
	return s
}

// version is what a path's provider is asked with.
func version(path string) string {
	p := trust.Fold(path)
	switch {
	case strings.Contains(p, "/sallyport."):
		return arm.SallyportVersion
	case strings.HasSuffix(p, "/microsoft.kubernetes/connectedclusters"), strings.Contains(p, "/microsoft.kubernetes/connectedclusters/") && !strings.Contains(p, "/microsoft.kubernetesconfiguration/"):
		return "2024-01-01"
	case strings.Contains(p, "/microsoft.kubernetesconfiguration/"):
		return "2023-05-01"
	case strings.Contains(p, "/microsoft.authorization/locks"):
		return "2016-09-01"
	case strings.Contains(p, "/microsoft.authorization/"):
		return "2022-04-01"
	case strings.Contains(p, "/microsoft.insights/eventtypes"):
		return "2015-04-01"
	case strings.Contains(p, "/microsoft.features/"):
		return "2021-07-01"
	case strings.Contains(p, "/microsoft.containerservice/"):
		return "2025-02-01"
	}
	return "2021-04-01"
}

// call makes a request; path may bring its own query.
func (w *world) call(token, method, path string, body any, headers ...string) *reply {
	w.t.Helper()
	r, err := w.try(token, method, path, body, headers...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) try(token, method, path string, body any, headers ...string) (*reply, error) {
	return w.send(w.client, token, method, path, body, headers...)
}

func (w *world) send(client *http.Client, token, method, path string, body any, headers ...string) (*reply, error) {
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		in = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(raw)
	}
	path = strings.TrimPrefix(path, base)
	if !strings.Contains(path, "?") {
		path += "?api-version=" + version(path)
	}
	req, err := http.NewRequest(method, w.server.URL+path, in)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	r := &reply{status: res.StatusCode, header: res.Header}
	if r.raw, err = io.ReadAll(res.Body); err != nil {
		return nil, err
	}
	if len(r.raw) > 0 {
		err = json.Unmarshal(r.raw, &r.body)
	}
	return r, err
}

// must is a call of the administrator's that must be answered with the status.
func (w *world) must(status int, method, path string, body any, headers ...string) *reply {
	w.t.Helper()
	r := w.call("admin", method, path, body, headers...)
	if r.status != status {
		w.t.Fatalf("%s %s: %d, want %d: %s", method, path, r.status, status, r.raw)
	}
	return r
}

// refused is a call that must fail with status and code.
func (w *world) refused(status int, code, method, path string, body any, headers ...string) *reply {
	w.t.Helper()
	r := w.call("admin", method, path, body, headers...)
	if r.status != status || r.text("error.code") != code || r.header.Get("x-ms-error-code") != code {
		w.t.Errorf("%s %s: %d %s, want %d %s", method, path, r.status, r.raw, status, code)
	}
	return r
}

func props(kv ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(kv); i += 2 {
		m[kv[i].(string)] = kv[i+1]
	}
	return map[string]any{"properties": m}
}

func wants(source string, roles ...string) map[string]any {
	return props("sourceResourceId", source, "roles", roles)
}

// base makes a group, a cluster and a source with an identity.
func (w *world) scene() *world {
	w.t.Helper()
	w.must(201, "PUT", groupPath, map[string]any{"location": "local"})
	w.must(201, "PUT", clusterPath, map[string]any{"location": "local", "properties": map[string]any{}})
	w.must(200, "PUT", sourcePath, map[string]any{"location": "local", "identity": map[string]any{"type": "SystemAssigned"}})
	return w
}

// eventually polls a condition.
func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			w.t.Fatalf("not in 15 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// finished follows an operation to its end by the URL in Azure-AsyncOperation.
func (w *world) finished(r *reply) *reply {
	w.t.Helper()
	url := r.header.Get("Azure-AsyncOperation")
	if url == "" {
		w.t.Fatalf("no Azure-AsyncOperation in %d %v", r.status, r.header)
	}
	var end *reply
	w.eventually("operation "+url, func() bool {
		end = w.must(200, "GET", url, nil)
		return end.text("status") != arm.InProgress
	})
	return end
}

func (w *world) cluster(path string) store.Cluster {
	w.t.Helper()
	c, err := store.Get[store.Cluster](w.t.Context(), w.store, store.ResourceKey(path))
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Value
}

func (w *world) binding(path string) store.Item[store.Binding] {
	w.t.Helper()
	b, err := store.Get[store.Binding](w.t.Context(), w.store, store.ResourceKey(path))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// kube is a cluster's signer of ServiceAccount tokens.
type kube struct {
	t      *testing.T
	issuer string
	key    *ecdsa.PrivateKey
	jwks   json.RawMessage
}

func newKube(t *testing.T) *kube {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	return &kube{t: t, issuer: "https://kubernetes.default.svc", key: key, jwks: set}
}

func (k *kube) token(claims map[string]any) string {
	k.t.Helper()
	all := map[string]any{"iss": k.issuer, "iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range claims {
		all[name] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k.key, KeyID: "k1"}}, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		k.t.Fatal(err)
	}
	signed, err := signer.Sign(raw)
	if err != nil {
		k.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		k.t.Fatal(err)
	}
	return text
}

// connect hands the keys of a made-up cluster over.
func (w *world) connect(path string) *kube {
	w.t.Helper()
	k := newKube(w.t)
	w.must(201, "PUT", path+"/providers/Sallyport.Access/connections/default", props("serviceAccountIssuer", k.issuer, "serviceAccountKeys", k.jwks))
	return k
}

// fakeAgent is an agent's side of the agents' API.
type fakeAgent struct {
	w       *world
	uid     trust.ClusterUID
	name    string
	client  *http.Client
	held    mandate.State
	process string
}

// enrolled enrols an agent as a real one does.
func (w *world) enrolled(k *kube, uid trust.ClusterUID, name string) *fakeAgent {
	w.t.Helper()
	csr, key, err := pki.NewRequest()
	if err != nil {
		w.t.Fatal(err)
	}
	token := k.token(map[string]any{"aud": enrolAudience(uid), "sub": agentSubjects[name]})
	r := w.call("", "POST", "/agents/v1/enrol", map[string]any{"cluster": uid, "agent": name, "token": token, "csr": string(csr)})
	if r.status != 200 {
		w.t.Fatalf("enrol: %d %s", r.status, r.raw)
	}
	return w.agent(uid, name, []byte(r.text("certificate")), key)
}

func (w *world) agent(uid trust.ClusterUID, name string, certPEM []byte, key *ecdsa.PrivateKey) *fakeAgent {
	w.t.Helper()
	cert, err := tls.X509KeyPair(certPEM, keyPEM(w.t, key))
	if err != nil {
		w.t.Fatal(err)
	}
	conf := w.client.Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.Certificates = []tls.Certificate{cert}
	transport := &http.Transport{TLSClientConfig: conf}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &fakeAgent{w: w, uid: uid, name: name, client: &http.Client{Transport: transport}, process: name + "-1"}
}

func (a *fakeAgent) call(method, path string, body any) *reply {
	a.w.t.Helper()
	r, err := a.w.send(a.client, "", method, path, body)
	if err != nil {
		a.w.t.Fatal(err)
	}
	return r
}

// ask sends a nonce, which says what the agent has applied.
func (a *fakeAgent) ask() mandate.Answer {
	a.w.t.Helper()
	nonce := mandate.NewNonce()
	r := a.call("POST", "/agents/v1/nonce", map[string]any{"nonce": nonce, "epoch": a.held.Epoch, "revision": a.held.Revision, "instance": a.process, "version": "test"})
	if r.status != 200 {
		a.w.t.Fatalf("nonce: %d %s", r.status, r.raw)
	}
	var out struct{ Answer []byte }
	if err := json.Unmarshal(r.raw, &out); err != nil {
		a.w.t.Fatal(err)
	}
	answer, err := mandate.OpenAnswer(a.w.signer.Public().(ed25519.PublicKey), a.uid, nonce, out.Answer)
	if err != nil {
		a.w.t.Fatal(err)
	}
	return answer
}
