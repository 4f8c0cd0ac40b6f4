package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/sallyport/sallyport/audit"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

const (
	base      = "https://gateway.test"
	issuerURL = base + "/11111111-1111-1111-1111-111111111111/v2.0"
	people    = "https://people.test"
	tenant    = "11111111-1111-1111-1111-111111111111"
	oid       = "22222222-2222-2222-2222-222222222222"
	clusterA  = trust.ClusterUID("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")
	clusterB  = trust.ClusterUID("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb")
	bindingA  = trust.BindingUID("cccccccc-cccc-4ccc-8ccc-cccccccccccc")
	groupID   = "/subscriptions/33333333-3333-3333-3333-333333333333/resourceGroups/Rg"
	clusterID = groupID + "/providers/Microsoft.ContainerService/managedClusters/Prod"
	sourceID  = groupID + "/providers/Microsoft.MachineLearningServices/workspaces/Train"
	peopleID  = groupID + "/providers/Sallyport.Identity/groups/Ops"
	roleName  = trust.RoleName("Microsoft.MachineLearningServices/workspaces/reader")
)

// TestMain looks for goroutines that outlive the tests: the gateway's own, the
// tunnel's and the audit log's.
func TestMain(m *testing.M) {
	code := m.Run()
	shared.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// world is a gateway with a real store, real authentication and a hand-written
// agent on the far side of a real tunnel.
type world struct {
	t     testing.TB
	store *store.Store
	gw    *Gateway
	url   string
	key   *ecdsa.PrivateKey
	other *ecdsa.PrivateKey // the people's issuer
	agent *agent
	sink  *lines
	audit *audit.Log
	stop  context.CancelFunc
	ran   chan struct{} // closed when Run has returned

	standing sync.Map // oid → false: no longer
	changed  func()
}

// agent answers what comes through the tunnel, and notes it.
type agent struct {
	mu      sync.Mutex
	handler http.HandlerFunc
	seen    []seen
}

type seen struct {
	method, uri string
	header      http.Header
	body        string
	upgrade     bool
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	h := a.handler
	a.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	a.note(r, string(body))
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"ok":true}`)
}

func (a *agent) note(r *http.Request, body string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, seen{r.Method, r.RequestURI, r.Header.Clone(), body, r.Header.Get("Upgrade") != ""})
}

func (a *agent) set(h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handler = h
}

func (a *agent) take() []seen {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.seen
	a.seen = nil
	return s
}

// lines is an audit sink.
type lines struct {
	mu   sync.Mutex
	b    bytes.Buffer
	dead bool
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return 0, io.ErrShortWrite
	}
	return l.b.Write(p)
}

func (l *lines) setDead(dead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = dead
}

func (l *lines) events(t *testing.T) []auditv1.Event {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []auditv1.Event
	for s := bufio.NewScanner(bytes.NewReader(l.b.Bytes())); s.Scan(); {
		var e auditv1.Event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, s.Bytes())
		}
		all = append(all, e)
	}
	return all
}

// option changes the configuration of a world.
type option func(*Config)

func newWorld(t testing.TB, options ...option) *world {
	t.Helper()
	w := &world{t: t, agent: &agent{}, sink: &lines{}, ran: make(chan struct{})}
	var err error
	quiet := slog.New(slog.DiscardHandler)
	if w.store, err = store.Open(t.Context(), store.Config{Dir: t.TempDir(), Log: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	w.key, w.other = newKey(t), newKey(t)
	auth := w.authenticator(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	w.audit = audit.New(audit.Config{Sink: w.sink, Queue: 64})
	auditCtx, endAudit := context.WithCancel(context.WithoutCancel(t.Context()))
	running.Go(func() { _ = w.audit.Run(auditCtx) })
	running.Go(func() { _ = auth.Run(auditCtx) })

	c := Config{
		Store: w.store, Authn: auth, Audit: w.audit, Base: base, Locations: []string{"westeurope"}, Replica: "r1",
		LocalIssuers: []string{issuerURL}, DrainTimeout: 2 * time.Second,
	}
	for _, o := range options {
		o(&c)
	}
	if w.gw, err = New(c); err != nil {
		t.Fatal(err)
	}
	w.stop = cancel
	go func() { defer close(w.ran); _ = w.gw.Run(ctx) }()
	w.seed()
	w.url = w.listen(w.gw.Handler())
	t.Cleanup(func() {
		cancel()
		<-w.ran
		endAudit()
		running.Wait()
	})
	w.eventually("the gateway is ready", func() bool { return w.gw.Ready() == nil && w.gw.table.known(clusterA) })
	w.connect(w.gw, clusterA, w.agent)
	return w
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (w *world) authenticator(t testing.TB) *authn.Authenticator {
	t.Helper()
	key := func(k *ecdsa.PrivateKey) authn.StaticKeys {
		pub, err := authn.NewKey("k1", &k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		return authn.StaticKeys{pub}
	}
	a, err := authn.New(authn.Config{
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Issuers: []authn.Issuer{
			{URL: issuerURL, Keys: key(w.key), Tenants: []string{tenant}, Scopes: []string{"/"},
				Claims: authn.ClaimNames{Name: "preferred_username", Groups: "groups", GroupIssuer: "idp"}, // as the built-in authority's
				Stands: func(c *trust.Caller) error {
					if _, gone := w.standing.Load(c.Object); gone {
						return trust.Errorf(trust.Unauthenticated, "the identity was removed")
					}
					return nil
				},
				Subscribe: func(f func()) func() { w.changed = f; return func() {} }},
			{URL: people, Keys: key(w.other), Tenants: []string{tenant}, Claims: authn.ClaimNames{Tenant: "-", Object: "sub", Name: "email", Groups: "groups"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// claims of a good token, changed by those given.
func (w *world) token(change map[string]any) string {
	w.t.Helper()
	return w.sign(w.key, map[string]any{
		"iss": issuerURL, "sub": oid, "oid": oid, "tid": tenant, "aud": base + "/gateways/westeurope", "uti": "tok-1", "idtyp": "app", "appid": "44444444-4444-4444-4444-444444444444",
		"xms_mirid": sourceID, "iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}, change)
}

func (w *world) person(change map[string]any) string {
	w.t.Helper()
	return w.sign(w.other, map[string]any{
		"iss": people, "sub": "alice", "email": "alice@people.test", "groups": []string{"ops"}, "aud": base + "/gateways/westeurope",
		"iat": time.Now().Unix(), "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}, change)
}

func (w *world) sign(key *ecdsa.PrivateKey, claims, change map[string]any) string {
	w.t.Helper()
	maps.Copy(claims, change)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

func reading() []trust.Rule {
	return []trust.Rule{
		{Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/log", "configmaps"}},
		{Verbs: []string{"create"}, APIGroups: []string{""}, Resources: []string{"pods/exec", "pods/portforward"}},
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods/attach"}}, // which is not enough to attach
		{Verbs: []string{"get", "create"}, APIGroups: []string{""}, Resources: []string{"services/proxy"}},
		{Verbs: []string{"create", "update", "patch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
	}
}

func (w *world) binding() store.Binding {
	return store.Binding{
		ID: clusterID + "/trustedAccessRoleBindings/Train", UID: bindingA, ClusterID: clusterID, ClusterUID: clusterA, SourceID: sourceID,
		Source: trust.Principal{Issuer: issuerURL, Tenant: tenant, Object: oid},
		Grants: []trust.Grant{{Role: roleName, Revision: trust.RevisionOf(reading()), Rules: reading()}},
	}
}

func (w *world) cluster() store.Cluster {
	return store.Cluster{ID: clusterID, UID: clusterA, Location: "westeurope", State: "Succeeded", Enrolment: &store.Enrolment{ServiceAccountIssuer: "https://kubernetes.default.svc"}}
}

func (w *world) source() store.Source {
	return store.Source{ID: sourceID, Identity: &store.SystemIdentity{PrincipalID: oid, TenantID: tenant}}
}

func (w *world) seed() {
	w.commit(
		store.Put(store.Subscription{ID: groupID[:strings.Index(groupID, "/resourceGroups")], State: "Enabled"}),
		store.Put(store.Group{ID: groupID}), store.Put(w.cluster()), store.Put(w.source()), store.Put(w.binding()))
}

// commit changes the store and returns the revision.
func (w *world) commit(ops ...store.Op) int64 {
	w.t.Helper()
	rev, err := w.store.Commit(w.t.Context(), ops...)
	if err != nil {
		w.t.Fatal(err)
	}
	return rev
}

// applied waits until the gateway has said in the store that it has applied rev.
func (w *world) applied(rev int64) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("revision %d is applied", rev), func() bool {
		r, err := store.Get[store.Gateway](w.t.Context(), w.store, store.Gateway{Replica: "r1"}.Key())
		return err == nil && r.Value.Applied >= rev
	})
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			w.t.Fatalf("in vain: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// listen serves over TLS, HTTP/1.1 and HTTP/2.
func (w *world) listen(h http.Handler) string {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ConnContext = ConnContext
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	w.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

// connect gives a gateway a tunnel to an agent.
func (w *world) connect(gw *Gateway, cluster trust.ClusterUID, h http.Handler) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			w.t.Error(err)
			return
		}
		_ = tunnel.Serve(ctx, conn, h, tunnel.ServeConfig{})
	})
	conn, err := ln.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	running.Go(func() { _ = gw.ServeTunnel(ctx, conn, cluster, tunnel.Term{}) })
	w.t.Cleanup(func() { cancel(); running.Wait() })
	w.eventually("the tunnel is live", func() bool { return gw.Tunnels(cluster) > 0 })
}

func client(protocols string) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(strings.Contains(protocols, "1"))
	p.SetHTTP2(strings.Contains(protocols, "2"))
	return &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: p, DisableCompression: true}, // the test's own server
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

var shared = client("2")

// do sends a request to a cluster's path with a good token, changed by edit.
func (w *world) do(method, path string, edit func(*http.Request)) (*http.Response, string) {
	w.t.Helper()
	resp := w.open(shared, method, path, nil, edit)
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

func (w *world) open(c *http.Client, method, path string, body io.Reader, edit func(*http.Request)) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+"/clusters/"+string(clusterA)+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.token(nil))
	if edit != nil {
		edit(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

// status reads a refusal.
func status(t *testing.T, body string) request.Status {
	t.Helper()
	var s request.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil || s.Kind != "Status" || s.APIVersion != "v1" || s.Status != "Failure" {
		t.Fatalf("not a Status: %q", body)
	}
	return s
}
