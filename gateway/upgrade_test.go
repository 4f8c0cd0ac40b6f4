package gateway

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
