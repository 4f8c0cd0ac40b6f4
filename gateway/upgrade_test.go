package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/tunnel"
)

func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return s.TLS.Certificates[0]
}

// echo upgrades and sends back what it gets, then says goodbye.
func echo(w http.ResponseWriter, r *http.Request) {
	h := tunnel.NewHandle(w, r)
	defer h.Done()
	s, err := h.Upgrade(http.Header{"Upgrade": {r.Header.Get("Upgrade")}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io"}, "Set-Cookie": {"a=b"}})
	if err != nil {
		return
	}
	_, _ = io.Copy(s, s)
	_, _ = io.WriteString(s, "bye")
	_ = s.CloseWrite()
}

func TestUpgradePassesBytesBothWays(t *testing.T) {
	w := newWorld(t)
	w.agent.set(func(rw http.ResponseWriter, r *http.Request) { w.agent.note(r, ""); echo(rw, r) })
	for _, proto := range []string{"SPDY/3.1", "websocket"} {
		conn, br := w.upgrade(w.url, "/api/v1/namespaces/n/pods/p/exec?command=sh&command=secret", proto)
		sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
		go func() { _, _ = conn.Write(sent); _ = conn.CloseWrite() }()
		got, err := io.ReadAll(br)
		if err != nil || !bytes.Equal(got, append(sent, "bye"...)) {
			t.Fatalf("%s: %d bytes, %v", proto, len(got), err)
		}
		_ = conn.Close()
		s := w.agent.take()
		if len(s) != 1 || s[0].method != "POST" || !s[0].upgrade || s[0].uri != "/api/v1/namespaces/n/pods/p/exec?command=sh&command=secret" || s[0].header.Get("Upgrade") != proto || s[0].header.Get("Authorization") != "" {
			t.Errorf("%+v", s)
		}
	}
	w.eventually("four records", func() bool { return len(w.sink.events(t)) == 4 })
	e := w.sink.events(t)
	if e[0].Stage != "ResponseStarted" || e[0].ResponseStatus.Code != 101 || e[1].Annotations["sallyport.dev/ended"] != "complete" || e[1].Annotations["sallyport.dev/bytes-in"] != fmt.Sprint(1<<20) || e[1].Verb != "create" {
		t.Errorf("%+v\n%+v", e[0], e[1])
	}
	if strings.Contains(w.sink.b.String(), "secret") {
		t.Error("a command in the audit log")
	}
}

// A failed upgrade must not leave a raw, authenticated way behind it
// (CVE-2018-1002105).
func TestAFailedUpgradeLeavesNothingOpen(t *testing.T) {
	w := newWorld(t)
	w.agent.set(func(rw http.ResponseWriter, r *http.Request) {
		w.agent.note(r, "")
		rw.Header().Set("Content-Type", "text/plain")
		rw.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(rw, "no such pod")
	})
	conn, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) // the test's own server
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /clusters/%s/api/v1/namespaces/n/pods/p/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n", clusterA, w.token(nil))
	// A second request on the same connection is one of its own: it carries no token.
	fmt.Fprintf(conn, "GET /clusters/%s/api/v1/namespaces/n/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", clusterA)
	all, _ := io.ReadAll(conn)
	if !bytes.Contains(all, []byte("403 Forbidden")) || !bytes.Contains(all, []byte("no such pod")) || !bytes.Contains(all, []byte("401 Unauthorized")) {
		t.Errorf("%s", all)
	}
	if s := w.agent.take(); len(s) != 1 {
		t.Errorf("%d requests reached the agent", len(s))
	}
	w.eventually("nothing runs", func() bool { return w.gw.Running() == 0 })
}

func TestUpgradesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		headers string
		code    string
	}{
		"unknown protocol": {"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n", "405"},
		"without upgrade":  {"Connection: Upgrade\r\nContent-Length: 0\r\n", "400"},
		"with a body":      {"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", "400"},
		"chunked":          {"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", "400"},
		"trailers":         {"Trailer: Impersonate-User\r\nTransfer-Encoding: chunked\r\n", "400"},
		"absolute-form":    {"", "404"},
	} {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}) // the test's own server
		if err != nil {
			t.Fatal(err)
		}
		prefix := ""
		if name == "absolute-form" {
			prefix = "http://elsewhere"
		}
		fmt.Fprintf(conn, "POST %s/clusters/%s/api/v1/namespaces/n/pods/p/exec HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n", prefix, clusterA, w.token(nil), c.headers)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		line := make([]byte, 12)
		_, _ = io.ReadFull(conn, line)
		if got := string(line[9:]); got != c.code {
			t.Errorf("%s: %s", name, line)
		}
		_ = conn.Close()
	}
	if s := w.agent.take(); len(s) != 0 {
		t.Errorf("%+v", s)
	}
}

// TestHandOver: a gateway without the tunnel sends through a peer that has it.
func TestHandOver(t *testing.T) {
	now := time.Now
	ca, err := pki.NewCA(pki.Gateways, now)
	if err != nil {
		t.Fatal(err)
	}
	conf := func(name string) *tls.Config { return gatewayTLS(t, ca, name) }
	peer := func(name, addr string) option {
		return func(c *Config) { c.Replica, c.Peers = name, &Peers{Address: addr, TLS: conf(name)} }
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, peer("r1", ln.Addr().String()))
	w.agent.set(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			echo(rw, r)
			return
		}
		w.agent.note(r, "")
		_, _ = io.WriteString(rw, "from the other side")
	})
	srv := &http.Server{Handler: w.gw.PeerHandler(), TLSConfig: conf("r1"), ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(ln, "", "") }()
	defer func() { _ = srv.Close(); <-done }()

	second := &world{t: t, key: w.key}
	c := w.gw.config
	c.Replica, c.Peers = "r2", &Peers{Address: "127.0.0.1:1", TLS: conf("r2")}
	gw2, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := newContext(t)
	ran := make(chan struct{})
	go func() { defer close(ran); _ = gw2.Run(ctx) }()
	defer func() { cancel(); <-ran }()
	second.gw, second.url = gw2, w.listen(gw2.Handler())
	second.eventually("the peer knows the tunnel", func() bool { _, ok := gw2.peers.holder(clusterA); return ok && gw2.Ready() == nil })

	resp, body := second.do("GET", "/api/v1/namespaces/n/services/s/proxy/a//b%2Fc?x=1", nil)
	if resp.StatusCode != 200 || body != "from the other side" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if s := w.agent.take(); len(s) != 1 || s[0].uri != "/api/v1/namespaces/n/services/s/proxy/a//b%2Fc?x=1" {
		t.Errorf("%+v", s)
	}
	conn, br := second.upgrade(second.url, "/api/v1/namespaces/n/pods/p/exec", "SPDY/3.1")
	_, _ = io.WriteString(conn, "hello")
	hello := make([]byte, 5)
	if _, err := io.ReadFull(br, hello); err != nil || string(hello) != "hello" {
		t.Fatalf("%q %v", hello, err)
	}
	start := time.Now()
	w.commit(store.Delete(w.binding().Key(), 0))
	if _, err := io.ReadAll(br); time.Since(start) > time.Second {
		t.Errorf("ended with %v after %v", err, time.Since(start))
	}
	_ = conn.Close()

	// Nobody but a gateway gets in.
	if resp, err := shared.Get("https://" + ln.Addr().String() + "/clusters/" + string(clusterA) + "/api"); err == nil {
		t.Errorf("without a certificate: %d", resp.StatusCode)
		_ = resp.Body.Close()
	}
}

// gatewayTLS is a gateway's certificate, to serve peers and to dial them.
func gatewayTLS(t *testing.T, ca *pki.CA, name string) *tls.Config {
	t.Helper()
	key := newKey(t)
	cert, err := ca.Issue(&key.PublicKey, pki.Leaf{CommonName: name, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}},
		RootCAs:      ca.Pool(), ClientCAs: ca.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

func newContext(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(t.Context()))
}
