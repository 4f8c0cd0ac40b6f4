package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a self-signed certificate for both ends, made once.
var pair = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "tunnel test"},
		NotAfter:              time.Now().Add(time.Hour),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
})

func roots() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(pair().Leaf)
	return p
}

func clientTLS() *tls.Config {
	return &tls.Config{RootCAs: roots(), Certificates: []tls.Certificate{pair()}}
}

func serverTLS() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{pair()},
		ClientCAs:    roots(),
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{"h2", "http/1.1", ALPN},
		MinVersion:   tls.VersionTLS13,
	}
}

func testLog(t testing.TB) *slog.Logger {
	level := slog.LevelError
	if testing.Verbose() && os.Getenv("TUNNEL_LOG") != "" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

// gateway is a Hub behind a real http.Server with TLS, as the product has it.
type gateway struct {
	hub   *Hub
	addr  string
	srv   *http.Server
	ended chan error // what Hub.Serve returned
	term  Term       // of every connection; set before the first
}

const testCluster = "c1"

// newGateway starts one; front answers what is not the tunnel.
func newGateway(t testing.TB, c Config, front http.Handler) *gateway {
	t.Helper()
	if c.Log == nil {
		c.Log = testLog(t)
	}
	g := &gateway{hub: NewHub(c), ended: make(chan error, 10000)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	g.srv = &http.Server{
		Handler:   front,
		TLSConfig: serverTLS(),
		Protocols: new(http.Protocols), // without it TLSNextProto would turn HTTP/2 off
		ErrorLog:  slog.NewLogLogger(testLog(t).Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			ALPN: func(_ *http.Server, conn *tls.Conn, _ http.Handler) {
				g.ended <- g.hub.ServeUntil(context.Background(), conn, testCluster, g.term)
			},
		},
	}
	g.srv.Protocols.SetHTTP1(true)
	g.srv.Protocols.SetHTTP2(true)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() {
		g.hub.Close()
		_ = g.srv.Close()
		<-done
	})
	return g
}

// agent is one connection served by handler.
type agentConn struct {
	conn  net.Conn
	ended chan struct{}
	err   error
	stop  context.CancelFunc
}

func newAgent(t testing.TB, g *gateway, handler http.Handler, c ServeConfig) *agentConn {
	t.Helper()
	if c.Log == nil {
		c.Log = testLog(t)
	}
	before := g.hub.Live(testCluster)
	conn, err := Dial(t.Context(), DialConfig{Addr: g.addr, TLS: clientTLS()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &agentConn{conn: conn, ended: make(chan struct{}), stop: cancel}
	go func() {
		defer close(a.ended)
		a.err = Serve(ctx, conn, handler, c)
	}()
	t.Cleanup(func() { cancel(); <-a.ended })
	eventually(t, "tunnel live", func() bool { return g.hub.Live(testCluster) > before })
	return a
}

// eventually polls cond for ten seconds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func get(t testing.TB, h *Hub, path string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.RoundTrip(testCluster, req)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	return resp.StatusCode, string(b)
}

// echoRaw answers an upgrade by sending back what comes, and everything else
// with method, path, headers and body.
var echoRaw = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	h := NewHandle(w, r)
	defer h.Done()
	if !h.IsUpgrade() {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Got", r.Method+" "+r.Host+" "+r.URL.RequestURI())
		w.Header()["X-Headers"] = headerNames(r.Header)
		_, _ = w.Write(b)
		return
	}
	s, err := h.Upgrade(http.Header{"X-Echo": {r.Method + " " + r.Header.Get("Upgrade")}})
	if err != nil {
		return
	}
	_, _ = copyAll(s, s)
	_ = s.CloseWrite()
})

func headerNames(h http.Header) []string {
	var names []string
	for k, vs := range h {
		names = append(names, k+"="+strings.Join(vs, ","))
	}
	return names
}

func TestEcho(t *testing.T) {
	g := newGateway(t, Config{Replica: "r1"}, nil)
	newAgent(t, g, echoRaw, ServeConfig{})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://elsewhere/a%2Fb?q=1", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "k8s"
	req.Header.Set("X-Mine", "1")
	resp, err := g.hub.Cluster(testCluster).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if string(b) != "hello" || resp.Header.Get("X-Got") != "POST k8s /a%2Fb?q=1" {
		t.Errorf("answer %q, %q", b, resp.Header.Get("X-Got"))
	}
	for _, h := range resp.Header["X-Headers"] {
		if !strings.HasPrefix(h, "X-Mine=") && !strings.HasPrefix(h, "Content-Length=") {
			t.Errorf("the tunnel added header %s", h)
		}
	}
}
