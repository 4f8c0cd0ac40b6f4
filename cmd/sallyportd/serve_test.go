package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/tunnel"
)

// Anybody may begin a request and never send its body.
func TestABodyThatDoesNotComeIsNotWaitedForForEver(t *testing.T) {
	read := make(chan error, 1)
	s := httptest.NewTLSServer(inTime(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/reads" {
			_, err := io.ReadAll(r.Body)
			read <- err
		}
	}), 100*time.Millisecond))
	defer s.Close()
	for _, path := range []string{"/reads", "/refuses"} {
		conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}) // the test's own server
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx"); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, bufio.NewReader(conn)); err != nil {
			t.Errorf("%s: the connection is still open: %v", path, err)
		}
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("half a body was read as a whole one")
		}
	default:
		t.Error("the handler still reads")
	}
}

// A tunnel goes on with a newer certificate of the same agent and no other's.
func TestATunnelGoesOnWithACertificateOfTheSameAgent(t *testing.T) {
	agents, err := pki.NewCA(pki.Agents, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	servers, err := pki.NewCA(pki.ServerTLS, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	keeper := func(ca *pki.CA, leaf pki.Leaf, err error) *pki.Keeper {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		k, err := pki.FromCA(ca, leaf, quiet)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	agent := func(uid, name string) *pki.Keeper {
		leaf, err := pki.AgentLeaf(uid, name)
		return keeper(agents, leaf, err)
	}
	const mine, others = "22222222-2222-2222-2222-222222222222", "33333333-3333-3333-3333-333333333333"
	leaf, err := pki.HostLeaf("https://localhost", time.Hour)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	server := tls.Server(far, pki.Server(keeper(servers, leaf, err), []string{"h2"}, agents.Pool(), tunnel.ALPN))
	conf, err := pki.Client(pki.Trust{Roots: servers.Pool()}, "localhost", []string{tunnel.ALPN}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	conf.GetClientCertificate = agent(mine, pki.ProxyAgent).GetClientCertificate
	client := tls.Client(near, conf)
	go func() { _ = client.Handshake() }()
	if err := server.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	opened := server.ConnectionState().VerifiedChains[0][0]
	now := time.Now()
	l := term(server, opened, agents.Pool(), func() time.Time { return now })
	if !l.Until.Equal(opened.NotAfter) {
		t.Errorf("until %s, the certificate ends %s", l.Until, opened.NotAfter)
	}
	prove := func(k *pki.Keeper) string {
		t.Helper()
		state := client.ConnectionState()
		proof, err := pki.ProveRenewal(&state, k.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	renewed := agent(mine, pki.ProxyAgent)
	if until, err := l.Renew(prove(renewed)); err != nil || !until.Equal(renewed.Certificate().Leaf.NotAfter) {
		t.Errorf("%s, %v", until, err)
	}
	for name, k := range map[string]*pki.Keeper{"another cluster's agent": agent(others, pki.ProxyAgent), "the other agent": agent(mine, pki.ReconcilerAgent)} {
		if _, err := l.Renew(prove(k)); err == nil {
			t.Errorf("it goes on with the certificate of %s", name)
		}
	}
	now = now.Add(pki.AgentLife + time.Minute)
	if _, err := l.Renew(prove(renewed)); err == nil {
		t.Error("it goes on with a certificate that has ended")
	}
}
