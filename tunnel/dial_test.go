package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// connectProxy is an HTTP proxy that knows CONNECT and asks for user:secret.
type connectProxy struct {
	addr string
	seen chan string // targets
}

func newConnectProxy(t testing.TB, conf *tls.Config) *connectProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &connectProxy{addr: ln.Addr().String(), seen: make(chan string, 10)}
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return p
}

func (p *connectProxy) serve(conn net.Conn) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil || req.Method != http.MethodConnect {
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("user:secret"))
	if req.Header.Get("Proxy-Authorization") != want {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	p.seen <- req.Host
	target, err := net.Dial("tcp", req.Host)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	_, _, _ = Join(conn.(io.ReadWriteCloser), target)
}

func via(user, addr string) func(*url.URL) (*url.URL, error) {
	return func(target *url.URL) (*url.URL, error) {
		if target.Scheme != "https" {
			return nil, errors.New("asked for " + target.String())
		}
		return url.Parse("http://" + user + addr)
	}
}

func TestDialThroughProxy(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	p := newConnectProxy(t, nil)
	conn, err := Dial(t.Context(), DialConfig{Addr: g.addr, TLS: clientTLS(), Proxy: via("user:secret@", p.addr)})
	if err != nil {
		t.Fatal(err)
	}
	if got := waitFor(t, "the proxy", p.seen); got != g.addr {
		t.Errorf("CONNECT %s, want %s", got, g.addr)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = Serve(context.Background(), conn, echoRaw, ServeConfig{})
	}()
	eventually(t, "tunnel live", func() bool { return g.hub.Live(testCluster) == 1 })
	if code, _ := get(t, g.hub, "/"); code != http.StatusOK {
		t.Error(code)
	}
	g.hub.Cut(testCluster)
	<-ended

	_, err = Dial(t.Context(), DialConfig{Addr: g.addr, TLS: clientTLS(), Proxy: via("user:wrong@", p.addr)})
	if err == nil || !strings.Contains(err.Error(), "refused CONNECT: 407") {
		t.Errorf("wrong password: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "wrong") {
		t.Errorf("the password is in the error: %v", err)
	}
}

func TestDialFromEnvironment(t *testing.T) {
	// net/http reads the variables once per process and never uses a proxy
	// for the loopback; what is tested is that Dial asks it.
	c := DialConfig{Addr: "127.0.0.1:443"}
	if u, err := c.proxy(); u != nil || err != nil {
		t.Errorf("proxy for the loopback: %v, %v", u, err)
	}
}

func TestDialErrors(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	plain := newTLS(t, &tls.Config{Certificates: []tls.Certificate{pair()}})
	old := newTLS(t, &tls.Config{Certificates: []tls.Certificate{pair()}, NextProtos: []string{ALPN}, MaxVersion: tls.VersionTLS12})
	for name, c := range map[string]struct {
		conf DialConfig
		want string
	}{
		"address":              {DialConfig{Addr: "nowhere"}, "missing port"},
		"silent server":        {DialConfig{Addr: silent.Addr().String(), Timeout: 50 * time.Millisecond}, "deadline exceeded"},
		"silent proxy":         {DialConfig{Addr: g.addr, Proxy: via("", silent.Addr().String()), Timeout: 50 * time.Millisecond}, "deadline exceeded"},
		"SOCKS":                {DialConfig{Addr: g.addr, Proxy: func(*url.URL) (*url.URL, error) { return url.Parse("socks5://p:1") }}, "only http and https"},
		"no ALPN":              {DialConfig{Addr: plain, TLS: clientTLS()}, "does not offer " + ALPN},
		"TLS 1.2":              {DialConfig{Addr: old, TLS: clientTLS()}, "protocol version"},
		"unknown authority":    {DialConfig{Addr: g.addr, TLS: &tls.Config{}}, "unknown authority"},
		"proxy without a host": {DialConfig{Addr: g.addr, Proxy: func(*url.URL) (*url.URL, error) { return nil, errors.New("bad variable") }}, "bad variable"},
	} {
		conn, err := Dial(t.Context(), c.conf)
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: no error", name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// newTLS serves handshakes with conf.
func newTLS(t testing.TB, conf *tls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = tls.Server(conn, conf).Handshake()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

// What a proxy sends right after its answer belongs to the connection.
func TestConnectKeepsWhatFollows(t *testing.T) {
	near, far := tcpPair(t)
	go func() {
		_, _ = http.ReadRequest(bufio.NewReader(far))
		_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\n\r\nfirst bytes")
		_ = far.Close()
	}()
	conn, err := connect(near, nil, "x:443")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); string(b) != "first bytes" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func FuzzConnectAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\n\r\nrest")
	f.Add("HTTP/1.0 407 Proxy Authentication Required\r\nContent-Length: 3\r\n\r\nno\n")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello")
	f.Add("SSH-2.0-OpenSSH\r\n")
	f.Add("HTTP/1.1 200\r\nX: " + strings.Repeat("a", maxConnectAnswer) + "\r\n\r\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, in string) {
		br, err := readConnectAnswer(strings.NewReader(in))
		if err != nil {
			return
		}
		rest, err := io.ReadAll(io.LimitReader(br, int64(len(in))))
		if err != nil || !strings.HasSuffix(in, string(rest)) {
			t.Errorf("rest %q of %q, %v", rest, in, err)
		}
		if !strings.HasPrefix(in, "HTTP/") {
			t.Errorf("%q counts as an answer", in)
		}
	})
}
