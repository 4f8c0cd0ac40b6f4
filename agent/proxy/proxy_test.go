package proxy

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/rbac"
	wire "github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

var shared = devclustertest.Shared{Config: devcluster.Config{AuditLevel: "Metadata"}}

func TestMain(m *testing.M) {
	code := shared.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

const (
	clusterUID = trust.ClusterUID("11111111-1111-4111-8111-111111111111")
	bindingUID = trust.BindingUID("22222222-2222-4222-8222-222222222222")
	requestID  = "33333333-3333-4333-8333-333333333333"
)

// control is a control plane in this process: it signs what the test says.
type control struct {
	key   ed25519.PrivateKey
	mu    sync.Mutex
	state mandate.State
	sent  chan []byte
	quiet bool // answers no nonce
	said  []mandate.Floor
}

func (c *control) States(ctx context.Context, held func() mandate.Floor, take func([]byte) error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case signed := <-c.sent:
			_ = take(signed)
		}
	}
}

func (c *control) Ask(ctx context.Context, nonce string, applied mandate.Floor) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, applied)
	if c.quiet {
		return nil, errors.New("control plane is silent")
	}
	return mandate.SignAnswer(c.key, mandate.Answer{Cluster: clusterUID, Epoch: c.state.Epoch, Revision: c.state.Revision, Nonce: nonce})
}

// set signs a new state and sends it.
func (c *control) set(t testing.TB, stopped bool, bindings ...trust.Binding) {
	t.Helper()
	c.mu.Lock()
	c.state.Revision++
	c.state.Stopped, c.state.Bindings = stopped, bindings
	signed, err := mandate.Sign(c.key, c.state)
	c.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	c.sent <- signed
}

// world is a proxy behind a real tunnel in front of a real API server.
type world struct {
	*control
	proxy *Proxy
	hub   *tunnel.Hub
	kube  *devcluster.Cluster
	clock *clock
}

// clock runs with the machine's and can be moved ahead.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func newWorld(t *testing.T) *world {
	t.Helper()
	kube := shared.Cluster(t)
	prepare(t, kube)
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{control: &control{key: key, sent: make(chan []byte), state: mandate.State{Cluster: clusterUID, Epoch: 1, Revision: 1}}, kube: kube, clock: &clock{}}
	api, err := url.Parse(kube.URL())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(kube.CA())
	w.proxy, err = New(Config{
		Cluster: clusterUID, MandateKey: pub, Control: w.control, APIServer: api,
		TLS:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		Agent: agentTransport(t, kube, roots),
		Now:   w.clock.now, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Recheck: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	w.hub = tunnel.NewHub(tunnel.Config{})
	outside, inside := tcpPair(t)
	running.Go(func() { _ = w.hub.Serve(ctx, outside, "c") })
	running.Go(func() { _ = tunnel.Serve(ctx, inside, w.proxy, tunnel.ServeConfig{}) })
	running.Go(func() {
		if err := w.proxy.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait(); w.hub.Close() })
	eventually(t, "the tunnel is live", func() bool { return w.hub.Live("c") == 1 })
	return w
}

// prepare makes what connecting and reconciling would: the namespaces, the
// agent's identity and rights, one binding's identity and role.
func prepare(t *testing.T, kube *devcluster.Cluster) {
	t.Helper()
	account := rbac.Account(bindingUID)
	manifest := strings.NewReplacer("SYSTEM", rbac.SystemNamespace, "BINDINGS", rbac.BindingsNamespace, "PROXY", rbac.ProxyAccount, "ACCOUNT", account).Replace(`
apiVersion: v1
kind: Namespace
metadata: {name: SYSTEM}
---
apiVersion: v1
kind: Namespace
metadata: {name: BINDINGS}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: PROXY, namespace: SYSTEM}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ACCOUNT, namespace: BINDINGS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: proxy, namespace: BINDINGS}
rules: [{verbs: [create], apiGroups: [""], resources: [serviceaccounts/token]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: proxy, namespace: BINDINGS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: proxy}
subjects: [{kind: ServiceAccount, name: PROXY, namespace: SYSTEM}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{verbs: [get, list, watch, create, delete], apiGroups: [""], resources: [configmaps, namespaces]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: ACCOUNT}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: ACCOUNT, namespace: BINDINGS}]
`)
	if err := kube.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

func agentTransport(t *testing.T, kube *devcluster.Cluster, roots *x509.CertPool) http.RoundTripper {
	t.Helper()
	token, err := kube.Kubectl(t.Context(), "create", "token", rbac.ProxyAccount, "-n", rbac.SystemNamespace)
	if err != nil {
		t.Fatal(err)
	}
	next := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(next.CloseIdleConnections)
	return bearer{strings.TrimSpace(token), next}
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

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func reader(verbs string) trust.Binding {
	rules := []trust.Rule{{Verbs: strings.Fields(verbs), APIGroups: []string{""}, Resources: []string{"configmaps", "namespaces", "secrets"}}}
	return trust.Binding{ID: "/b", UID: bindingUID, Cluster: clusterUID, Grants: []trust.Grant{{Role: "T/t/reader", Revision: trust.RevisionOf(rules), Rules: rules}}}
}

// ask sends one request as a gateway would and returns status and body.
func (w *world) ask(t *testing.T, method, path string, change func(http.Header)) (int, string, http.Header) {
	t.Helper()
	resp := w.open(t, t.Context(), method, path, change)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

func (w *world) open(t *testing.T, ctx context.Context, method, path string, change func(http.Header)) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://tunnel"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	wire.Envelope{Binding: bindingUID, Revision: 1, RequestID: requestID}.Write(req.Header)
	if change != nil {
		change(req.Header)
	}
	resp, err := w.hub.RoundTrip("c", req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (w *world) ready(t *testing.T) {
	t.Helper()
	eventually(t, "the proxy is fresh and lets the binding through", func() bool {
		code, _, _ := w.ask(t, "GET", "/api/v1/namespaces/default/configmaps", nil)
		return code == http.StatusOK
	})
}

func TestOnlyWhatTheSignedStateAllowsReachesTheAPIServer(t *testing.T) {
	w := newWorld(t)
	if code, body, _ := w.ask(t, "GET", "/api/v1/namespaces/default/configmaps", nil); code != http.StatusServiceUnavailable {
		t.Errorf("before any state: %d %s, want 503", code, body)
	}
	w.set(t, false, reader("get list watch create delete"))
	w.ready(t)
	other := "44444444-4444-4444-8444-444444444444"
	tests := []struct {
		name, method, path string
		change             func(http.Header)
		want               int
		says               string
	}{
		{"allowed", "GET", "/api/v1/namespaces/default/configmaps", nil, 200, "ConfigMapList"},
		{"base set", "GET", "/version", nil, 200, "gitVersion"},
		{"outside the role", "GET", "/api/v1/nodes", nil, 403, "roles do not allow"},
		{"in the state, not in the cluster's RBAC", "GET", "/api/v1/namespaces/default/secrets", nil, 403, "cannot list resource"},
		{"another binding", "GET", "/api/v1/namespaces", func(h http.Header) { h.Set("Sallyport-Binding", other) }, 403, "binding was deleted"},
		{"no binding named", "GET", "/api/v1/namespaces", func(h http.Header) { h.Del("Sallyport-Binding") }, 400, "no binding"},
		{"impersonation", "GET", "/api/v1/namespaces", func(h http.Header) { h.Set("Impersonate-User", "system:admin") }, 403, "impersonation"},
		{"path tricks", "GET", "/api/v1/namespaces/default/configmaps/%2e%2e/secrets", nil, 400, ""},
		{"exec is create", "GET", "/api/v1/namespaces/default/pods/x/exec?command=sh", nil, 403, "roles do not allow"},
	}
	for _, tt := range tests {
		if code, body, _ := w.ask(t, tt.method, tt.path, tt.change); code != tt.want || !strings.Contains(body, tt.says) {
			t.Errorf("%s: %d %s, want %d and %q", tt.name, code, body, tt.want, tt.says)
		}
	}
}

func TestTheRequestRunsAsTheBindingAndNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.set(t, false, reader("get list watch"))
	w.ready(t)
	const marked = "/api/v1/namespaces/default/configmaps?labelSelector=who%3Dami"
	code, body, header := w.ask(t, "GET", marked, func(h http.Header) {
		h.Set("Authorization", "Bearer "+w.kube.AdminToken())
		h.Set("X-Remote-User", "system:admin")
		h.Set("X-Remote-Group", "system:masters")
		h.Set("Cookie", "a=b")
		h.Set("X-Forwarded-For", "1.2.3.4")
		h.Set("Audit-Id", "mine")
	})
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for name := range header {
		if strings.HasPrefix(name, "Audit") {
			t.Errorf("the answer carries %s", name)
		}
	}
	type event struct {
		AuditID, RequestURI string
		User                struct{ Username string }
		SourceIPs           []string
	}
	var found *event
	eventually(t, "the API server's audit log has the request", func() bool {
		data, err := os.ReadFile(w.kube.AuditLogPath())
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(data)) {
			var e event
			if json.Unmarshal([]byte(line), &e) == nil && e.RequestURI == marked {
				found = &e
			}
		}
		return found != nil
	})
	if want := rbac.Username(rbac.BindingsNamespace, rbac.Account(bindingUID)); found.User.Username != want || found.AuditID != requestID || len(found.SourceIPs) != 1 || found.SourceIPs[0] != "127.0.0.1" {
		t.Errorf("the API server saw %+v, want user %s, audit id %s, source 127.0.0.1", found, want, requestID)
	}
}

// watchLines opens a watch and returns a channel that closes when it ends.
func (w *world) watch(t *testing.T, path string) (ended <-chan struct{}) {
	t.Helper()
	resp := w.open(t, t.Context(), "GET", path, nil)
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("watch: %d %s", resp.StatusCode, body)
	}
	first := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		if lines.Scan() {
			close(first)
		}
		for lines.Scan() {
		}
	}()
	select {
	case <-first:
	case <-time.After(10 * time.Second):
		t.Fatal("the watch said nothing")
	}
	return done
}

const watchNamespaces = "/api/v1/namespaces?watch=true"

func TestWhatTakesARightAwayEndsStreams(t *testing.T) {
	tests := []struct {
		name  string
		act   func(t *testing.T, w *world)
		bound time.Duration
		after int // what the same request gets then
	}{
		{"binding deleted", func(t *testing.T, w *world) { w.set(t, false) }, time.Second, 403},
		{"role narrowed", func(t *testing.T, w *world) { w.set(t, false, reader("get list")) }, time.Second, 403},
		{"cluster stopped", func(t *testing.T, w *world) { w.set(t, true, reader("get list watch")) }, time.Second, 503},
		{"control plane silent for 30 s", func(t *testing.T, w *world) {
			w.mu.Lock()
			w.quiet = true
			w.mu.Unlock()
			w.clock.advance(mandate.FreshBound + time.Second)
			w.set(t, false, reader("get list watch")) // a state alone does not make it fresh
		}, 30 * time.Second, 503},
		{"owner removed the role binding", func(t *testing.T, w *world) {
			if _, err := w.kube.Kubectl(t.Context(), "delete", "clusterrolebinding", rbac.Account(bindingUID)); err != nil {
				t.Fatal(err)
			}
		}, 10 * time.Second, 403},
		{"owner deleted the identity", func(t *testing.T, w *world) {
			if _, err := w.kube.Kubectl(t.Context(), "delete", "serviceaccount", "-n", rbac.BindingsNamespace, rbac.Account(bindingUID)); err != nil {
				t.Fatal(err)
			}
		}, 15 * time.Second, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.set(t, false, reader("get list watch"))
			w.ready(t)
			ended := w.watch(t, watchNamespaces)
			began := time.Now()
			tt.act(t, w)
			select {
			case <-ended:
				t.Logf("ended after %v", time.Since(began))
			case <-time.After(tt.bound + 5*time.Second):
				t.Fatal("the watch goes on")
			}
			if tt.after == 0 {
				return
			}
			if code, body, _ := w.ask(t, "GET", watchNamespaces, nil); code != tt.after {
				t.Errorf("then: %d %s, want %d", code, body, tt.after)
			}
		})
	}
}

func TestForgedForeignAndOldStatesAreRefused(t *testing.T) {
	w := newWorld(t)
	w.set(t, false, reader("get list watch"))
	w.ready(t)
	_, thief, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	wide := reader("get list watch create delete")
	sign := func(key ed25519.PrivateKey, s mandate.State) []byte {
		signed, err := mandate.Sign(key, s)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	foreign := wide
	foreign.Cluster = "55555555-5555-4555-8555-555555555555"
	for name, signed := range map[string][]byte{
		"forged":  sign(thief, mandate.State{Cluster: clusterUID, Epoch: 1, Revision: 99, Bindings: []trust.Binding{wide}}),
		"old":     sign(w.key, mandate.State{Cluster: clusterUID, Epoch: 1, Revision: 1, Bindings: []trust.Binding{wide}}),
		"foreign": sign(w.key, mandate.State{Cluster: foreign.Cluster, Epoch: 1, Revision: 99, Bindings: []trust.Binding{foreign}}),
	} {
		if err := w.proxy.take(signed); err == nil {
			t.Errorf("%s state was taken", name)
		}
	}
	if code, _, _ := w.ask(t, "POST", "/api/v1/namespaces/default/configmaps", nil); code != http.StatusForbidden {
		t.Errorf("a refused state allowed something: %d", code)
	}
}

func TestControlLearnsAtOnceWhatWasApplied(t *testing.T) {
	w := newWorld(t)
	w.set(t, false, reader("get"))
	eventually(t, "the applied revision was said", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.said) > 0 && w.said[len(w.said)-1].Revision == w.state.Revision
	})
}

func TestRefusesToRunWithRightsItDoesNotNeed(t *testing.T) {
	w := newWorld(t)
	if err := w.proxy.CheckRights(t.Context()); err != nil {
		t.Errorf("with its own rights: %v", err)
	}
	if _, err := w.kube.Kubectl(t.Context(), "create", "clusterrolebinding", "too-much", "--clusterrole=view", "--serviceaccount="+rbac.SystemNamespace+":"+rbac.ProxyAccount); err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.CheckRights(t.Context()); err != nil {
		t.Errorf("view holds nothing forbidden: %v", err)
	}
	if _, err := w.kube.Kubectl(t.Context(), "create", "clusterrolebinding", "far-too-much", "--clusterrole=cluster-admin", "--serviceaccount="+rbac.SystemNamespace+":"+rbac.ProxyAccount); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = w.kube.Kubectl(context.WithoutCancel(t.Context()), "delete", "clusterrolebinding", "too-much", "far-too-much")
	})
	eventually(t, "cluster-admin is refused", func() bool { return trust.KindOf(w.proxy.CheckRights(t.Context())) == trust.Forbidden })
}
