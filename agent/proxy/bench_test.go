package proxy

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sallyport/sallyport/mandate"
	wire "github.com/sallyport/sallyport/request"
	"github.com/sallyport/sallyport/tunnel"
)

// minter answers the agent's own TokenRequests.
type minter struct{}

func (minter) RoundTrip(*http.Request) (*http.Response, error) {
	body, err := json.Marshal(authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
		Token: "header.e30.signature", ExpirationTimestamp: metav1.NewTime(time.Now().Add(tokenLife)),
	}})
	return &http.Response{StatusCode: http.StatusCreated, Body: io.NopCloser(bytes.NewReader(body))}, err
}

// before puts a proxy with one binding before api, behind a real tunnel, and
// returns the gateway's side of that. It needs no cluster: what a cluster does
// with a request is the other tests' matter.
func before(t testing.TB, protocols string, api http.HandlerFunc) *tunnel.Hub {
	t.Helper()
	server := httptest.NewUnstartedServer(api)
	server.EnableHTTP2 = protocols == "h2"
	server.StartTLS()
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := &control{key: key, sent: make(chan []byte), state: mandate.State{Cluster: clusterUID, Epoch: 1, Revision: 1}}
	p, err := New(Config{
		Cluster: clusterUID, MandateKey: pub, Control: c, APIServer: base, Agent: minter{},
		TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	hub := tunnel.NewHub(tunnel.Config{})
	running.Go(func() { _ = hub.Serve(ctx, near, "c") })
	running.Go(func() { _ = tunnel.Serve(ctx, far, p, tunnel.ServeConfig{}) })
	running.Go(func() { _ = p.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); hub.Close() })
	c.set(t, false, reader("get list watch create"))
	for deadline := time.Now().Add(10 * time.Second); hub.Live("c") == 0 || p.Ready() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the proxy is not ready")
		}
	}
	return hub
}

// through sends a request as a gateway would.
func through(hub *tunnel.Hub, method, path string, body io.Reader) (code int, header http.Header, answer []byte, err error) {
	req, err := http.NewRequest(method, "http://tunnel"+path, body)
	if err != nil {
		return 0, nil, nil, err
	}
	wire.Envelope{Binding: bindingUID, Revision: 1, RequestID: requestID}.Write(req.Header)
	req.Header["User-Agent"] = []string{"bench"}
	resp, err := hub.RoundTrip("c", req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, answer, err
}

func smallObject(w http.ResponseWriter, _ *http.Request) {
	w.Header()["Content-Type"] = []string{"application/json"}
	_, _ = w.Write(object)
}

var object = bytes.Repeat([]byte("x"), 1000)

const small = "/api/v1/namespaces/default/configmaps/small"

// BenchmarkGet is a small GET the whole way through tunnel and agent, API
// server's stand-in included.
func BenchmarkGet(b *testing.B) {
	hub := before(b, "h2", smallObject)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if code, _, _, err := through(hub, "GET", small, nil); code != http.StatusOK {
				b.Errorf("%d %v", code, err)
				return
			}
		}
	})
}

// A whole request through tunnel and agent, both ends of the tunnel and the API
// server's stand-in included, allocates this much and no more.
func TestAllocationsOfARequest(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("allocation counts only without -race and -short")
	}
	hub := before(t, "h2", smallObject)
	const most = 185
	if n := testing.AllocsPerRun(500, func() {
		if code, _, _, err := through(hub, "GET", small, nil); code != http.StatusOK {
			t.Fatalf("%d %v", code, err)
		}
	}); n > most {
		t.Errorf("%v allocations, want at most %d", n, most)
	} else {
		t.Logf("%v allocations", n)
	}
}
