package client

import (
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
)

// testServer is an HTTPS server with a CA of its own, as sallyportd has.
type testServer struct {
	URL   string
	trust ServerTrust
	ca    *pki.CA
}

func newTestServer(t *testing.T, h http.Handler, clients *x509.CertPool) *testServer {
	t.Helper()
	ca, err := pki.NewCA(pki.ServerTLS, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := pki.FromCA(ca, pki.Leaf{CommonName: "test", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Life: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, TLSConfig: pki.Server(keeper, []string{"h2", "http/1.1"}, clients), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.ServeTLS(listener, "", "") // returns when closed
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return &testServer{URL: "https://" + listener.Addr().String(), trust: ServerTrust{CA: string(ca.PEM())}, ca: ca}
}
