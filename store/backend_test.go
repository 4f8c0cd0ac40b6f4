package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/sallyport/sallyport/store"
)

func TestMain(m *testing.M) {
	child()
	flag.Parse()
	// These tests wait more than they compute.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m,
		// Started by package initialisation or kept for the process's life by
		// etcd and its libraries, not per store.
		goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
	)
}

var quiet = slog.New(slog.DiscardHandler)

// note is a record for tests.
type note struct{ Path, Text string }

func (n note) Key() string { return n.Path }

// backends are the two kinds of store that must not differ.
var backends = map[string]func(*testing.T) *store.Store{
	"embedded": func(t *testing.T) *store.Store { return openDir(t, t.TempDir()) },
	"external": func(t *testing.T) *store.Store { return startCluster(t, "").open(t, rootUser, rootPassword) },
}

// onBoth runs a test on both.
func onBoth(t *testing.T, test func(*testing.T, *store.Store)) {
	t.Helper()
	for name, open := range backends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func openStore(t *testing.T, cfg store.Config) *store.Store {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = quiet
	}
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openDir(t *testing.T, dir string) *store.Store {
	t.Helper()
	return openStore(t, store.Config{Dir: dir})
}

const rootUser, rootPassword = "root", "root-password"

// cluster is an etcd of its own, reached over TLS, that checks users.
type cluster struct {
	endpoint string
	tls      *tls.Config
	dir      string
	etcd     *embed.Etcd
}

// startCluster starts an etcd on a free port of the loopback, or, to start it
// again, on the address of before.
func startCluster(t *testing.T, dir string) *cluster {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	c := &cluster{dir: dir}
	cert, key := certificate(t)
	c.tls = &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	c.tls.RootCAs.AppendCertsFromPEM(cert)
	c.start(t, "127.0.0.1:0", write(t, "cert.pem", cert), write(t, "key.pem", key))
	c.enableUsers(t)
	return c
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *cluster) start(t *testing.T, address, cert, key string) {
	t.Helper()
	etcd, err := embed.StartEtcd(clusterConfig(c.dir, url.URL{Scheme: "https", Host: address},
		transport.TLSInfo{CertFile: cert, KeyFile: key}))
	if err != nil {
		t.Fatal(err)
	}
	c.etcd = etcd
	t.Cleanup(etcd.Close)
	<-etcd.Server.ReadyNotify()
	c.endpoint = "https://" + etcd.Clients[0].Addr().String()
}

// clusterConfig is how an etcd for Sallyport is run, with less waiting.
func clusterConfig(dir string, listen url.URL, info transport.TLSInfo) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Name = "outside"
	cfg.Dir = dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, []url.URL{listen}
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:1"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ClientTLSInfo = info
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.MaxTxnOps = 4096
	cfg.BcryptCost = 4
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	return cfg
}

func (c *cluster) enableUsers(t *testing.T) {
	t.Helper()
	s := c.open(t, "", "")
	ctx, client := t.Context(), s.Client()
	if _, err := client.UserAdd(ctx, rootUser, rootPassword); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RoleAdd(ctx, "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.UserGrantRole(ctx, rootUser, "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AuthEnable(ctx); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) open(t *testing.T, user, password string) *store.Store {
	t.Helper()
	return openStore(t, c.config(user, password))
}

func (c *cluster) config(user, password string) store.Config {
	return store.Config{
		Endpoints: []string{c.endpoint}, TLS: c.tls, Username: user, Password: password,
		Timeout: 3 * time.Second, Log: quiet,
	}
}

// certificate makes a self-signed certificate for the loopback, in PEM.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd of a test"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// commit commits or ends the test.
func commit(t *testing.T, s *store.Store, ops ...store.Op) int64 {
	t.Helper()
	rev, err := s.Commit(t.Context(), ops...)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

// eventually polls until ok or the deadline.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("%s: not within %s", what, within)
		}
		<-time.After(5 * time.Millisecond)
	}
	return time.Since(start)
}

func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
