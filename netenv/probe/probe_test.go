package probe

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRunReportsWhatAnswersAndWhatDoesNot(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	_, portText, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	at := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	p := Prober{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, Timeout: 5 * time.Second, Now: func() time.Time { return at }}
	r := p.Run(t.Context(), "/c", []Target{{"127.0.0.1", port}, {"not a name", 443}}, strings.NewReader("search x\nnameserver 10.0.0.10\n"))
	if r.Kind != Kind || r.Cluster != "/c" || !r.Time.Equal(at) || len(r.DNSServers) != 1 || r.DNSServers[0] != "10.0.0.10" {
		t.Errorf("report: %+v", r)
	}
	if c := r.Connections[0]; c.Error != "" || c.TLS <= 0 || c.Port != port || len(r.Names[0].Addresses) != 1 {
		t.Errorf("good: %+v %+v", r.Names[0], c)
	}
	if n, c := r.Names[1], r.Connections[1]; n.Error == "" || !strings.HasPrefix(c.Error, "resolve: ") {
		t.Errorf("bad name: %+v %+v", n, c)
	}
}

func TestATLSFailureIsNamed(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	_, portText, _ := net.SplitHostPort(s.Listener.Addr().String())
	port, _ := strconv.Atoi(portText)
	r := Prober{Timeout: 5 * time.Second}.Run(t.Context(), "/c", []Target{{"127.0.0.1", port}}, nil)
	if c := r.Connections[0]; !strings.HasPrefix(c.Error, "TLS: ") || c.TCP <= 0 {
		t.Errorf("%+v", c)
	}
}

// Behind a proxy, what it reaches is what is seen; its refusal is named, and its
// password is in no report.
func TestThroughAProxy(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	_, portText, _ := net.SplitHostPort(s.Listener.Addr().String())
	port, _ := strconv.Atoi(portText)
	asked := make(chan *http.Request, 2)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r
		if user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); user != "u" || password != "s3cret" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		out, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer in.Close()
		if _, err := io.WriteString(in, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			t.Error(err)
		}
		go func() { defer out.Close(); _, _ = io.Copy(out, in) }()
		_, _ = io.Copy(in, out)
	}))
	defer proxy.Close()
	roots := s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for password, want := range map[string]string{"s3cret": "", "wrong": "connect: the proxy refused: 407"} {
		u, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("u", password)
		p := Prober{TLS: &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12}, Timeout: 5 * time.Second, Proxy: u}
		r := p.Run(t.Context(), "/c", []Target{{"127.0.0.1", port}}, nil)
		if c := r.Connections[0]; c.Error != want || want == "" && c.TLS <= 0 {
			t.Errorf("%s: %+v", password, c)
		}
		if got := <-asked; got.Method != http.MethodConnect || got.Host != net.JoinHostPort("127.0.0.1", portText) {
			t.Errorf("the proxy was asked %s %s", got.Method, got.Host)
		}
	}
}
