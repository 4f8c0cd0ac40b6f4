package main

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/internal/seal"
)

// A gateway that runs by itself holds no private key that could sign what
// agents are told, or certificates and tokens: it has not even the seal key.
func TestAGatewayAloneOpensNoSharedKey(t *testing.T) {
	dir := t.TempDir()
	config := func(roles ...string) *Config {
		c := &Config{ExternalURL: "https://127.0.0.1:1", DataDir: filepath.Join(dir, "data"), SealKeyFile: filepath.Join(dir, "seal.key"), Roles: roles}
		c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		return c
	}
	writeCertificate(t, filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	all := config(allRoles...)
	if err := all.complete(); err != nil {
		t.Fatal(err)
	}
	log, err := newLog(all, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(t.Context(), all, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	key, err := seal.Create(all.SealKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Config: all, log: log, metrics: prometheus.NewRegistry(), sealer: key, store: st}
	if err := s.compose(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.sink.Close()

	alone := config("gateway")
	alone.Store.Endpoints, alone.SealKeyFile = []string{"https://127.0.0.1:2"}, ""
	if err := alone.complete(); err != nil {
		t.Fatal(err)
	}
	g := &server{Config: alone, log: log, metrics: prometheus.NewRegistry(), store: st}
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
		c.Store.Endpoints, c.SealKeyFile = []string{"https://127.0.0.1:2"}, ""
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
