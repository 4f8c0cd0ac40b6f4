package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a hand-moved clock.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now()} }
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}
func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newCA(t *testing.T, p Purpose, now func() time.Time) *CA {
	t.Helper()
	ca, err := NewCA(p, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func localLeaf() Leaf {
	return Leaf{CommonName: "server", DNS: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Life: 90 * 24 * time.Hour}
}

// handshake runs one handshake over an in-memory connection, then one byte each
// way so that a server's refusal of a TLS 1.3 client certificate is seen.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	_, far, err := handshakeBoth(t, server, client)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	return *far, nil
}

// handshakeBoth gives the client's and the server's view of a connection.
func handshakeBoth(t *testing.T, server, client *tls.Config) (near, far *tls.ConnectionState, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	state := make(chan tls.ConnectionState, 1)
	go func() {
		defer a.Close()
		defer close(state)
		s := tls.Server(a, server)
		if s.HandshakeContext(ctx) != nil {
			return
		}
		if _, err := s.Write([]byte{1}); err != nil {
			return
		}
		state <- s.ConnectionState()
	}()
	c := tls.Client(b, client)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return nil, nil, err
	}
	mine, theirs := c.ConnectionState(), <-state
	return &mine, &theirs, nil
}

func TestACSRGivesOnlyItsKey(t *testing.T) {
	c := newClock()
	ca := newCA(t, Agents, c.Now)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	evil, _ := url.Parse("sallyport://clusters/11111111-1111-1111-1111-111111111111/proxy")
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:masters", Organization: []string{"system:masters"}}, DNSNames: []string{"control"},
		URIs: []*url.URL{evil}, EmailAddresses: []string{"a@b"}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := AgentLeaf("22222222-2222-2222-2222-222222222222", ProxyAgent)
	if err != nil {
		t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	certPEM, err := ca.IssueCSR(csr, leaf)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseOne(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	uid, agent, err := ParseAgent(cert)
	if err != nil || uid != "22222222-2222-2222-2222-222222222222" || agent != ProxyAgent {
		t.Errorf("ParseAgent = %q, %q, %v", uid, agent, err)
	}
	if len(cert.Subject.Organization) != 0 || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) != 0 || cert.IsCA {
		t.Errorf("the certificate took names from the request: %v %v", cert.Subject, cert.DNSNames)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("usages %v, want client only", cert.ExtKeyUsage)
	}
	if d := cert.NotAfter.Sub(c.Now()); d > time.Hour || d < 59*time.Minute {
		t.Errorf("lasts %v, want 1 h", d)
	}

	der[len(der)-1] ^= 1
	forged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	for name, bad := range map[string][]byte{"forged": forged, "empty": nil, "not PEM": []byte("x"), "two": append(csr, csr...), "huge": make([]byte, maxCSR+1)} {
		if _, err := ca.IssueCSR(bad, leaf); err == nil {
			t.Errorf("%s request was signed", name)
		}
	}
}

func TestAgentNames(t *testing.T) {
	for _, bad := range [][2]string{{"", "proxy"}, {"22222222-2222-2222-2222-222222222222", "admin"}, {"22222222-2222-2222-2222-222222222222/proxy/..", "proxy"}, {"A2222222-2222-2222-2222-222222222222", "proxy"}} {
		if _, err := AgentLeaf(bad[0], bad[1]); err == nil {
			t.Errorf("AgentLeaf(%q) was made", bad)
		}
	}
	good := "sallyport://clusters/22222222-2222-2222-2222-222222222222/reconciler"
	for raw, ok := range map[string]bool{
		good: true, good + "?x=1": false, good + "#f": false, "https" + good[9:]: false, strings.Replace(good, "clusters", "u@clusters", 1): false,
		strings.Replace(good, "clusters", "clusters:1", 1): false, good + "/": false,
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ParseAgent(&x509.Certificate{URIs: []*url.URL{u}}); (err == nil) != ok {
			t.Errorf("ParseAgent(%s) = %v, want taken: %v", raw, err, ok)
		}
	}
	u, _ := url.Parse(good)
	for name, cert := range map[string]*x509.Certificate{"none": nil, "no URI": {}, "two URIs": {URIs: []*url.URL{u, u}}, "a DNS name": {URIs: []*url.URL{u}, DNSNames: []string{"x"}}} {
		if _, _, err := ParseAgent(cert); err == nil {
			t.Errorf("a certificate with %s names an agent", name)
		}
	}
}

func TestMutualTLSByProtocol(t *testing.T) {
	c := newClock()
	serverCA, agentCA, gatewayCA := newCA(t, ServerTLS, c.Now), newCA(t, Agents, c.Now), newCA(t, Gateways, c.Now)
	k, err := FromCA(serverCA, localLeaf(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	server := Server(k, []string{"h2", "http/1.1"}, agentCA.Pool(), "tunnel/1")
	leaf, err := AgentLeaf("22222222-2222-2222-2222-222222222222", ProxyAgent)
	if err != nil {
		t.Fatal(err)
	}
	client := func(ca *CA, life time.Duration, protocols ...string) *tls.Config {
		t.Helper()
		conf, err := Client(Trust{Roots: serverCA.Pool()}, "localhost", protocols, c.Now)
		if err != nil {
			t.Fatal(err)
		}
		if ca != nil {
			l := leaf
			l.Life = life
			k, err := FromCA(ca, l, quiet)
			if err != nil {
				t.Fatal(err)
			}
			conf.GetClientCertificate = k.GetClientCertificate
		}
		return conf
	}
	old := client(serverCA, time.Hour, "h2")
	old.MaxVersion = tls.VersionTLS12
	old.MinVersion = tls.VersionTLS12
	past := newClock()
	past.Add(-48 * time.Hour)
	oldAgents, err := ParseCA(Agents, agentCA.PEM(), mustKey(t, agentCA), past.Now)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		client *tls.Config
		ok     bool
		proto  string
		known  bool
	}{
		{"no certificate on the API", client(nil, 0, "h2"), true, "h2", false},
		{"agent on the API", client(agentCA, time.Hour, "h2"), true, "h2", true},
		{"agent on the tunnel", client(agentCA, time.Hour, "tunnel/1"), true, "tunnel/1", true},
		{"no certificate on the tunnel", client(nil, 0, "tunnel/1"), false, "", false},
		{"no certificate, tunnel among others", client(nil, 0, "h2", "tunnel/1"), false, "", false},
		{"gateway's certificate on the tunnel", client(gatewayCA, time.Hour, "tunnel/1"), false, "", false},
		{"server CA's certificate on the tunnel", client(serverCA, time.Hour, "tunnel/1"), false, "", false},
		{"expired agent", client(oldAgents, time.Hour, "tunnel/1"), false, "", false},
		{"TLS 1.2", old, false, "", false},
		{"unknown protocol", client(nil, 0, "spdy/3"), false, "", false},
	}
	for _, tt := range tests {
		state, err := handshake(t, server, tt.client)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v, want success: %v", tt.name, err, tt.ok)
			continue
		}
		if tt.ok && (state.NegotiatedProtocol != tt.proto || (len(state.VerifiedChains) > 0) != tt.known || state.Version != tls.VersionTLS13) {
			t.Errorf("%s: protocol %q, %d chains, version %x", tt.name, state.NegotiatedProtocol, len(state.VerifiedChains), state.Version)
		}
	}
}

func mustKey(t *testing.T, ca *CA) []byte {
	t.Helper()
	_, key, err := ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestThePin(t *testing.T) {
	c := newClock()
	ca, other := newCA(t, ServerTLS, c.Now), newCA(t, ServerTLS, c.Now)
	keeper := func(ca *CA, l Leaf) *Keeper {
		k, err := FromCA(ca, l, quiet)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	// A thief with a certificate of another CA who puts our CA in the chain.
	mixed := keeper(other, localLeaf())
	stolen := *mixed.current.Load()
	stolen.Certificate = append(stolen.Certificate[:1:1], ca.Cert.Raw)
	mixed.current.Store(&stolen)
	agents := newCA(t, Agents, c.Now)

	tests := []struct {
		name, pin, host string
		server          *Keeper
		ok              bool
	}{
		{"ours", ca.Hash(), "localhost", keeper(ca, localLeaf()), true},
		{"by address", ca.Hash(), "127.0.0.1", keeper(ca, localLeaf()), true},
		{"another name", ca.Hash(), "elsewhere", keeper(ca, localLeaf()), false},
		{"another CA", ca.Hash(), "localhost", keeper(other, localLeaf()), false},
		{"our CA beside a foreign leaf", ca.Hash(), "localhost", mixed, false},
		{"a client's certificate as server", agents.Hash(), "localhost", keeper(agents, localLeaf()), false},
	}
	for _, tt := range tests {
		conf, err := Client(Trust{Pin: tt.pin}, tt.host, []string{"h2"}, c.Now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := handshake(t, Server(tt.server, []string{"h2"}, nil), conf); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want success: %v", tt.name, err, tt.ok)
		}
	}
	late := newClock()
	late.Add(91 * 24 * time.Hour)
	conf, err := Client(Trust{Pin: ca.Hash()}, "localhost", nil, late.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := handshake(t, Server(keeper(ca, localLeaf()), nil, nil), conf); err == nil {
		t.Error("an expired server was believed")
	}
	for _, bad := range []Trust{{}, {Roots: ca.Pool(), Pin: ca.Hash()}, {Pin: "sha256:ab"}, {Pin: strings.ToUpper(ca.Hash())}, {Pin: strings.TrimPrefix(ca.Hash(), "sha256:")}} {
		if _, err := Client(bad, "localhost", nil, c.Now); err == nil {
			t.Errorf("trust %+v was taken", bad)
		}
	}
}

func TestFetchCA(t *testing.T) {
	c := newClock()
	ca := newCA(t, ServerTLS, c.Now)
	k, err := FromCA(ca, localLeaf(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", Server(k, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	defer func() { l.Close(); <-done }()
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).HandshakeContext(t.Context())
			conn.Close()
		}
	}()
	got, err := FetchCA(t.Context(), l.Addr().String(), ca.Hash(), c.Now)
	if err != nil || string(got) != string(ca.PEM()) {
		t.Errorf("FetchCA = %q, %v", got, err)
	}
	if _, err := FetchCA(t.Context(), l.Addr().String(), newCA(t, ServerTLS, c.Now).Hash(), c.Now); err == nil {
		t.Error("a CA that is not pinned was fetched")
	}
}

func TestTheUsersCertificateIsReloaded(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	pair := func(ca *CA) (cert, key []byte) {
		k, err := FromCA(ca, localLeaf(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(k.Certificate().PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		return encodeCert(k.Certificate().Certificate[0]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	write := func(file string, data []byte) {
		if err := WriteFile(file, data); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := FromFiles(certFile, keyFile, c.Now, quiet); err == nil {
		t.Fatal("missing files were taken")
	}
	cert1, key1 := pair(newCA(t, ServerTLS, c.Now))
	cert2, key2 := pair(newCA(t, ServerTLS, c.Now))
	write(certFile, cert1)
	write(keyFile, key1)
	k, err := FromFiles(certFile, keyFile, c.Now, quiet)
	if err != nil {
		t.Fatal(err)
	}
	is := func(when string, want []byte) {
		t.Helper()
		if got := encodeCert(k.Certificate().Certificate[0]); string(got) != string(want) {
			t.Errorf("%s: the wrong certificate is in use", when)
		}
	}
	is("at start", cert1)
	write(certFile, cert2)
	c.Add(LookAgain)
	is("certificate without its key", cert1)
	write(keyFile, key2)
	is("before it looks again", cert1)
	c.Add(LookAgain)
	is("both", cert2)
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	c.Add(LookAgain)
	is("file gone", cert2)
	if info, err := os.Stat(keyFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v, %v", info.Mode(), err)
	}
}

func TestOurOwnCertificateIsRenewed(t *testing.T) {
	c := newClock()
	k, err := FromCA(newCA(t, ServerTLS, c.Now), localLeaf(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	first := k.Certificate()
	c.Add(59 * 24 * time.Hour)
	if k.Certificate() != first {
		t.Error("renewed too early")
	}
	c.Add(2 * 24 * time.Hour)
	if second := k.Certificate(); second == first || second.Leaf.NotAfter.Sub(c.Now()) < 89*24*time.Hour {
		t.Error("not renewed after two thirds of its life")
	}
}

func TestFolderKeepsTheCA(t *testing.T) {
	c := newClock()
	dir := filepath.Join(t.TempDir(), "pki")
	first, err := Folder(dir, Agents, c.Now)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Folder(dir, Agents, c.Now)
	if err != nil || second.Hash() != first.Hash() || !second.Cert.Equal(first.Cert) {
		t.Fatalf("second start: %v", err)
	}
	if pool, err := PoolFile(filepath.Join(dir, "agents-ca.crt")); err != nil || !pool.Equal(first.Pool()) {
		t.Errorf("the clients' file: %v", err)
	}
	path := filepath.Join(dir, "agents-ca.pem")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode: %v, %v", info.Mode(), err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server-ca.pem"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Folder(dir, ServerTLS, c.Now); err == nil {
		t.Error("the agents' CA was taken as the servers'")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Folder(dir, Agents, c.Now); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a readable CA key: %v", err)
	}
}

// A renewal is proved by the new certificate's key, on one connection only.
func TestRenewalIsProvedOnItsConnection(t *testing.T) {
	c := newClock()
	serverCA, agents := newCA(t, ServerTLS, c.Now), newCA(t, Agents, c.Now)
	k, err := FromCA(serverCA, localLeaf(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	keeper := func(ca *CA) *Keeper {
		leaf, err := AgentLeaf("22222222-2222-2222-2222-222222222222", ProxyAgent)
		if err != nil {
			t.Fatal(err)
		}
		k, err := FromCA(ca, leaf, quiet)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	connect := func() (near, far *tls.ConnectionState) {
		conf, err := Client(Trust{Roots: serverCA.Pool()}, "localhost", []string{"tunnel/1"}, c.Now)
		if err != nil {
			t.Fatal(err)
		}
		conf.GetClientCertificate = keeper(agents).GetClientCertificate
		near, far, err = handshakeBoth(t, Server(k, []string{"h2"}, agents.Pool(), "tunnel/1"), conf)
		if err != nil {
			t.Fatal(err)
		}
		return near, far
	}
	near, far := connect()
	_, elsewhere := connect()
	renewed := keeper(agents).Certificate()
	proof, err := ProveRenewal(near, renewed)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := CheckRenewal(far, proof, agents.Pool(), c.Now())
	if err != nil || !cert.Equal(renewed.Leaf) {
		t.Fatalf("%v", err)
	}
	if strings.ContainsAny(proof, " \n") || len(proof) > 2<<10 {
		t.Errorf("a proof of %d bytes: %q", len(proof), proof)
	}
	stolen := *renewed // the certificate is public, its key is not
	stolen.PrivateKey = keeper(agents).Certificate().PrivateKey
	forged, err := ProveRenewal(near, &stolen)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := ProveRenewal(near, keeper(newCA(t, Agents, c.Now)).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]func() error{
		"another connection": func() error { _, err := CheckRenewal(elsewhere, proof, agents.Pool(), c.Now()); return err },
		"another key":        func() error { _, err := CheckRenewal(far, forged, agents.Pool(), c.Now()); return err },
		"another CA":         func() error { _, err := CheckRenewal(far, foreign, agents.Pool(), c.Now()); return err },
		"after its end":      func() error { _, err := CheckRenewal(far, proof, agents.Pool(), c.Now().Add(2*time.Hour)); return err },
		"cut":                func() error { _, err := CheckRenewal(far, proof[:len(proof)-4], agents.Pool(), c.Now()); return err },
		"nothing":            func() error { _, err := CheckRenewal(far, "", agents.Pool(), c.Now()); return err },
		"too long": func() error {
			_, err := CheckRenewal(far, strings.Repeat("A", 4000), agents.Pool(), c.Now())
			return err
		},
		"the server's own leaf": func() error {
			p, _ := ProveRenewal(near, k.Certificate())
			_, err := CheckRenewal(far, p, agents.Pool(), c.Now())
			return err
		},
	} {
		if err := check(); err == nil {
			t.Errorf("%s: it was believed", name)
		}
	}
}

func FuzzCheckRenewal(f *testing.F) {
	ca, err := NewCA(Agents, time.Now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("a.b")
	f.Add(".")
	f.Fuzz(func(t *testing.T, proof string) {
		if _, err := CheckRenewal(&tls.ConnectionState{Version: tls.VersionTLS13}, proof, ca.Pool(), time.Now()); err == nil {
			t.Errorf("%q was believed", proof)
		}
	})
}
