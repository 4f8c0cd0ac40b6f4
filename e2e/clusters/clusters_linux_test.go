package clusters

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/e2e/installation"
	"github.com/sallyport/sallyport/internal/devcluster"
	"github.com/sallyport/sallyport/internal/devcluster/devclustertest"
)

const (
	workspaces = "Microsoft.MachineLearningServices/workspaces"
	role       = workspaces + "/inference-v1"
)

func programs(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("SALLYPORT_E2E_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	if err := installation.Build(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// begin starts a server for a cluster; connect puts it and its agents together.
func begin(t *testing.T, c installation.Config) *installation.Installation {
	t.Helper()
	c.Bin, c.Dir = programs(t), t.TempDir()
	in, err := installation.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{installation.Proxy, installation.Reconciler} {
				if p := in.Process(name); p != nil {
					log, _ := os.ReadFile(p.Log)
					t.Logf("%s:\n%s", name, log[max(0, len(log)-2000):])
				}
			}
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	must(t, in.StartServer(t.Context()))
	must(t, in.Login(t.Context(), "home"))
	return in
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tell is the story: refused, bound, allowed, refused outside the role, cut.
func tell(t *testing.T, in *installation.Installation) {
	t.Helper()
	ctx := t.Context()
	s, err := in.NewService(ctx, workspaces, "vision")
	must(t, err)
	token, err := s.Token(ctx)
	must(t, err)
	hc := in.HTTP(2)
	defer hc.CloseIdleConnections()
	ask := func(path string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.URL+"/clusters/"+in.UID+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		return hc.Do(req)
	}
	expect := func(what, path string, want int) {
		t.Helper()
		resp, err := ask(path)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if resp.StatusCode != want {
			t.Errorf("%s: %s %s, want %d", what, resp.Status, body, want)
		}
	}
	const services = "/api/v1/namespaces/default/services/kubernetes"
	expect("unbound", services, http.StatusForbidden)
	must(t, s.Bind(ctx, "b", role))
	expect("bound", services, http.StatusOK)
	expect("outside the role", "/apis/networking.k8s.io/v1/ingresses", http.StatusForbidden)
	resp, err := ask("/api/v1/pods?watch=true")
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", resp.Status)
	}
	began := time.Now()
	_, err = in.Wait(ctx, http.MethodDelete, in.BindingID("b"), client.ContainerServiceVersion, nil)
	must(t, err)
	if _, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Error("the watch ended as if it were complete")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the watch ended after %s", took)
	}
	expect("unbound again", services, http.StatusForbidden)
}

var accept = []string{"--roles", role, "--outlives-revocation"}

func TestWithoutClientCertificates(t *testing.T) {
	kube := devclustertest.Start(t, devcluster.Config{NoClientCerts: true, Controllers: true})
	in := begin(t, installation.Config{Cluster: kube})
	must(t, in.Connect(t.Context(), "private", accept...))
	must(t, in.StartAgents(t.Context(), installation.Agents{}))
	tell(t, in)
}

// The owner is somebody of an OIDC issuer, and nobody is anonymous.
func TestWithOIDCAndNobodyAnonymous(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	mux := http.NewServeMux()
	issuer := httptest.NewTLSServer(mux)
	defer issuer.Close()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"%s/keys","id_token_signing_alg_values_supported":["ES256"],"response_types_supported":["id_token"],"subject_types_supported":["public"]}`, issuer.URL, issuer.URL)
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	})
	ca, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})))
	must(t, err)
	kube := devclustertest.Start(t, devcluster.Config{
		NoAnonymous: true, NoClientCerts: true, Controllers: true,
		AuthenticationConfig: fmt.Appendf(nil, "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: %q, audiences: [dev], certificateAuthority: %s}\n  claimMappings: {username: {claim: sub, prefix: \"oidc:\"}}\n", issuer.URL, ca),
	})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	must(t, err)
	token, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: issuer.URL, Subject: "jane", Audience: jwt.Audience{"dev"},
		IssuedAt: jwt.NewNumericDate(time.Now()), Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour))}).Serialize()
	must(t, err)
	_, err = kube.Kubectl(t.Context(), "create", "clusterrolebinding", "jane", "--clusterrole=cluster-admin", "--user=oidc:jane")
	must(t, err)
	data, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "dev",
		"clusters": []any{map[string]any{"name": "c", "cluster": map[string]any{"server": kube.URL(), "certificate-authority-data": kube.CA()}}},
		"users":    []any{map[string]any{"name": "u", "user": map[string]any{"token": token}}},
		"contexts": []any{map[string]any{"name": "dev", "context": map[string]any{"cluster": "c", "user": "u"}}},
	})
	must(t, err)
	owner := t.TempDir() + "/jane"
	must(t, os.WriteFile(owner, data, 0o600))
	must(t, installation.Eventually(t.Context(), "the API server knows jane", 3*time.Minute, func(ctx context.Context) error {
		_, err := kube.Kubectl(ctx, "--kubeconfig", owner, "get", "namespaces")
		return err
	}))
	in := begin(t, installation.Config{Cluster: kube, Owner: owner})
	must(t, in.Connect(t.Context(), "private", accept...))
	must(t, in.StartAgents(t.Context(), installation.Agents{}))
	tell(t, in)
}

// island is a network namespace with one link to this one.
type island struct {
	name         string
	inside, host netip.Addr // of the link
	beyond       netip.Addr // an address of this machine that the island has no route to
}

func newIsland(t *testing.T) island {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	pid := os.Getpid()
	third, fourth := byte(pid>>6), byte(pid<<2)
	i := island{
		name: fmt.Sprintf("spe2e%d", pid), host: netip.AddrFrom4([4]byte{198, 19, third, fourth | 1}),
		inside: netip.AddrFrom4([4]byte{198, 19, third, fourth | 2}), beyond: netip.AddrFrom4([4]byte{198, 19, ^third, fourth | 1}),
	}
	link := fmt.Sprintf("spe%d", pid%100000)
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v %s", strings.Join(args, " "), err, out)
		}
	}
	run("netns", "add", i.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", i.name).Run() })
	run("link", "add", link, "type", "veth", "peer", "name", "out", "netns", i.name)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", link).Run() })
	run("addr", "add", i.host.String()+"/30", "dev", link)
	run("addr", "add", i.beyond.String()+"/32", "dev", link)
	run("link", "set", link, "up")
	run("-n", i.name, "addr", "add", i.inside.String()+"/30", "dev", "out")
	run("-n", i.name, "link", "set", "out", "up")
	run("-n", i.name, "link", "set", "lo", "up")
	return i
}

// The API server listens on the loopback of a network namespace. Its agents run
// there and reach one thing: a CONNECT proxy. The cluster is connected by a
// bundle.
func TestNothingElseReachesTheAPIServer(t *testing.T) {
	i := newIsland(t)
	kube := devclustertest.Start(t, devcluster.Config{NetNS: i.name, Controllers: true})
	in := begin(t, installation.Config{Cluster: kube, Host: i.beyond.String()})
	if conn, err := net.DialTimeout("tcp", strings.TrimPrefix(kube.URL(), "https://"), time.Second); err == nil {
		conn.Close()
		t.Fatal("the API server is reachable from outside")
	}
	proxy, through := connectProxy(t, i.host)
	must(t, in.ConnectByBundle(t.Context(), "private", i.name, accept...))
	must(t, in.StartAgents(t.Context(), installation.Agents{NetNS: i.name, Env: []string{"HTTPS_PROXY=http://" + proxy}}))
	tell(t, in)
	if n := through.Load(); n < 3 {
		t.Errorf("%d connections through the proxy: two tunnels and control calls are more", n)
	}
}

// A packet filter in front of the API server admits one range, in which only the
// agents are.
func TestPacketFilterAdmitsOneRange(t *testing.T) {
	i := newIsland(t)
	for _, args := range [][]string{
		{"-A", "INPUT", "-i", "lo", "-j", "ACCEPT"},
		{"-A", "INPUT", "-m", "state", "--state", "ESTABLISHED", "-j", "ACCEPT"},
		{"-A", "INPUT", "-s", i.inside.String() + "/32", "-j", "ACCEPT"},
		{"-A", "INPUT", "-j", "DROP"},
	} {
		i.filter(t, args...)
	}
	kube := devclustertest.Start(t, devcluster.Config{NetNS: i.name, BindAddress: i.inside, Controllers: true})
	in := begin(t, installation.Config{Cluster: kube, Host: i.host.String()})
	if conn, err := net.DialTimeout("tcp", strings.TrimPrefix(kube.URL(), "https://"), time.Second); err == nil {
		conn.Close()
		t.Fatal("the filter lets this machine in")
	}
	must(t, in.ConnectByBundle(t.Context(), "private", i.name, accept...))
	must(t, in.StartAgents(t.Context(), installation.Agents{NetNS: i.name}))
	tell(t, in)
	t.Run("half-open tunnels", func(t *testing.T) { halfOpen(t, in, i) })
}

// connectProxy is a forward proxy that knows nothing but CONNECT.
func connectProxy(t *testing.T, host netip.Addr) (addr string, through *atomic.Int64) {
	t.Helper()
	through = new(atomic.Int64)
	l, err := net.Listen("tcp", netip.AddrPortFrom(host, 0).String())
	must(t, err)
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
			return
		}
		far, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer far.Close()
		near, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer near.Close()
		through.Add(1)
		fmt.Fprint(near, "HTTP/1.1 200 OK\r\n\r\n")
		done := make(chan struct{}, 2)
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			go func() { _, _ = io.Copy(way[0], way[1]); done <- struct{}{} }()
		}
		<-done
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String(), through
}
