package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
)

// composed is a server of all roles, made and not running.
func composed(t *testing.T, change func(*Config)) *server {
	t.Helper()
	dir := t.TempDir()
	c := &Config{ExternalURL: "https://127.0.0.1:1", DataDir: filepath.Join(dir, "data"), SealKeyFile: filepath.Join(dir, "seal.key")}
	if change != nil {
		change(c)
	}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	log, err := newLog(c, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	key, err := openSeal(c)
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(t.Context(), c, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	s := &server{Config: c, log: log, metrics: prometheus.NewRegistry(), sealer: key, store: st}
	if err := s.compose(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.sink.Close() })
	return s
}

// alone is the configuration of a process that plays roles on an outside store.
func alone(t *testing.T, roles ...string) *Config {
	t.Helper()
	c := &Config{ExternalURL: "https://127.0.0.1:1", DataDir: t.TempDir(), Roles: roles}
	c.Store.Endpoints = []string{"https://127.0.0.1:2"}
	return c
}

// A gateway that runs by itself holds no private key that could sign what
// agents are told, or certificates and tokens: it has not even the seal key.
func TestAGatewayAloneOpensNoSharedKey(t *testing.T) {
	s := composed(t, nil)
	conf := alone(t, "gateway")
	if err := conf.complete(); err != nil {
		t.Fatal(err)
	}
	if key, err := openSeal(conf); key != nil || err != nil {
		t.Fatalf("a seal key: %v, %v", key, err)
	}
	g := &server{Config: conf, log: s.log, metrics: prometheus.NewRegistry(), store: s.store}
	if err := g.compose(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer g.sink.Close()
	if g.control != nil || g.agents != nil || g.authority != nil || g.operations != nil || g.serverTLS != nil {
		t.Error("parts that hold private keys were made")
	}
	if !g.agentRoots.Equal(s.agents.Pool()) {
		t.Error("the gateway does not know the agents' CA")
	}

	for _, roles := range [][]string{{"control"}, {"authority"}, {"gateway", "control"}} {
		if err := alone(t, roles...).complete(); err == nil {
			t.Errorf("%v needs no seal key", roles)
		}
	}
}

// gatewayOf composes a gateway alone on the store of s and runs what asks for
// certificates, with control at work if it is given.
func gatewayOf(t *testing.T, s *server, change func(*Config)) (*server, context.Context) {
	t.Helper()
	conf := alone(t, "gateway")
	if change != nil {
		change(conf)
	}
	if err := conf.complete(); err != nil {
		t.Fatal(err)
	}
	g := &server{Config: conf, log: s.log, metrics: prometheus.NewRegistry(), store: s.store}
	if err := g.compose(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.control.Run(ctx) })
	if g.asked != nil {
		running.Go(func() { _ = g.asked.run(ctx) })
	}
	if g.peers != nil {
		running.Go(func() { _ = g.peers.asked.run(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		g.sink.Close()
		if g.peers != nil {
			_ = g.peers.listener.Close()
		}
	})
	return g, ctx
}

// What a gateway alone presents to callers and peers is issued by control, for
// names that control decides on.
func TestAGatewayAloneGetsItsCertificatesFromControl(t *testing.T) {
	s := composed(t, func(c *Config) { c.GatewayURL = "https://gateway.example.com" })
	g, ctx := gatewayOf(t, s, func(c *Config) {
		c.GatewayURL = "https://somewhere.example.com" // what it says of itself does not count
		c.Peers.Listen = "127.0.0.1:0"
	})
	if err := g.asked.wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.peers.asked.wait(ctx); err != nil {
		t.Fatal(err)
	}
	cert := g.certificate.Certificate().Leaf
	if _, err := cert.Verify(x509.VerifyOptions{Roots: s.serverTLS.Pool(), DNSName: "gateway.example.com", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Errorf("towards callers: %v", err)
	}
	if len(cert.DNSNames) != 1 || len(cert.IPAddresses) != 0 {
		t.Errorf("it names %v %v", cert.DNSNames, cert.IPAddresses)
	}
	peer := g.peers.asked.keeper.Certificate().Leaf
	if name, err := pki.ParseGateway(peer); err != nil || name != g.replica {
		t.Errorf("towards peers it names %q, %v", name, err)
	}
	if _, err := peer.Verify(x509.VerifyOptions{Roots: s.serverTLS.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the servers' CA issued the peers' certificate")
	}
	// Question and answer have gone once they were heard.
	for deadline := time.Now().Add(30 * time.Second); ; {
		left, _, err := store.List[store.GatewayCertificate](ctx, s.store, store.GatewayCertificatePrefix)
		if err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d certificates are left, %v", len(left), err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// Where control has no CA of its own for listeners, it says what to do.
func TestAGatewayAloneIsToldToBringACertificate(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	s := composed(t, func(c *Config) {
		c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	})
	g, ctx := gatewayOf(t, s, nil)
	if err := g.asked.wait(ctx); err == nil || !strings.Contains(err.Error(), "set tls.certFile and tls.keyFile") {
		t.Errorf("%v", err)
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	ca, err := pki.NewCA(pki.ServerTLS, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := pki.FromCA(ca, pki.Leaf{CommonName: "x", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Life: time.Hour}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert := keeper.Certificate()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := pki.WriteFile(file, pem.EncodeToMemory(block)); err != nil {
			t.Fatal(err)
		}
	}
}

// Behind a proxy every caller has one address: what one of them does wrong must
// not shut the token endpoint to all.
func TestTheTokenEndpointCountsFailuresOfTheCallerNotOfTheProxy(t *testing.T) {
	s := composed(t, func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8"} })
	ask := func(from string) int {
		r := httptest.NewRequest("POST", "/"+s.installation.TenantID+"/oauth2/v2.0/token", nil)
		r.RemoteAddr = "10.0.0.1:1"
		r.Header.Set("X-Forwarded-For", from)
		w := httptest.NewRecorder()
		s.authority.Handler().ServeHTTP(w, r)
		return w.Code
	}
	for n := 0; ask("192.0.2.1") != http.StatusTooManyRequests; n++ {
		if n > 1000 {
			t.Fatal("failures are not limited")
		}
	}
	if code := ask("192.0.2.2"); code != http.StatusBadRequest {
		t.Errorf("another caller: %d", code)
	}
}
