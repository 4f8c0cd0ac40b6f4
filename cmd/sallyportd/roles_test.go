package main

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/pki"
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

// A gateway that runs by itself holds no private key that could sign what
// agents are told, or certificates and tokens: it has not even the seal key.
func TestAGatewayAloneOpensNoSharedKey(t *testing.T) {
	s := composed(t, nil)
	dir := t.TempDir()
	writeCertificate(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	config := func(roles ...string) *Config {
		c := &Config{ExternalURL: "https://127.0.0.1:1", DataDir: dir, Roles: roles}
		c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		c.Store.Endpoints = []string{"https://127.0.0.1:2"}
		return c
	}
	alone := config("gateway")
	if err := alone.complete(); err != nil {
		t.Fatal(err)
	}
	g := &server{Config: alone, log: s.log, metrics: prometheus.NewRegistry(), store: s.store}
	if err := g.compose(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer g.sink.Close()
	if g.control != nil || g.agents != nil || g.authority != nil || g.operations != nil {
		t.Error("parts that hold private keys were made")
	}
	if !g.agentRoots.Equal(s.agents.Pool()) {
		t.Error("the gateway does not know the agents' CA")
	}

	for _, roles := range [][]string{{"control"}, {"authority"}, {"gateway", "control"}} {
		c := config(roles...)
		if err := c.complete(); err == nil {
			t.Errorf("%v needs no seal key", roles)
		}
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
