package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// openRaw opens an upgrade and fails the test if it is not one.
func openRaw(t testing.TB, ctx context.Context, h *Hub) *Stream {
	t.Helper()
	resp, s := tryRaw(t, ctx, h, http.MethodGet, "SPDY/3.1")
	if resp.StatusCode != http.StatusSwitchingProtocols || s == nil {
		t.Fatalf("answer %s, stream %v", resp.Status, s)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func tryRaw(t testing.TB, ctx context.Context, h *Hub, method, proto string) (*http.Response, *Stream) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://x/exec?command=sh", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", proto)
	resp, s, err := h.OpenRaw(testCluster, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp, s
}

func TestRawEcho(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, echoRaw, ServeConfig{})
	resp, s := tryRaw(t, t.Context(), g.hub, http.MethodDelete, "websocket")
	defer s.Close()
	if got := resp.Header.Get("X-Echo"); got != "DELETE websocket" {
		t.Errorf("agent saw %q", got)
	}
	if resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Connection") != "Upgrade" {
		t.Errorf("answer's header: %v", resp.Header)
	}
	if hasReserved(resp.Header) {
		t.Errorf("the tunnel's own headers reach the caller: %v", resp.Header)
	}
	// A keystroke comes back before anything else is sent.
	one := make([]byte, 1)
	for _, b := range []byte("ls\n") {
		if _, err := s.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, one); err != nil || one[0] != b {
			t.Fatalf("sent %q, got %q, %v", b, one, err)
		}
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(s); err != nil || len(rest) != 0 {
		t.Errorf("after CloseWrite: %q, %v", rest, err)
	}
}

func TestRawBulk(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, echoRaw, ServeConfig{})
	s := openRaw(t, t.Context(), g.hub)
	data := make([]byte, 8<<20+12345)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := copyAll(s, bytes.NewReader(data))
		sent <- errors.Join(err, s.CloseWrite())
	}()
	sum := sha256.New()
	n, err := copyAll(sum, s)
	if err != nil || n != int64(len(data)) {
		t.Fatalf("%d bytes came back, %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("the bytes are others")
	}
}

// The far side ends its direction first and goes on reading.
func TestRawHalfCloseByAgent(t *testing.T) {
	got := make(chan string, 1)
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := NewHandle(w, r)
		defer h.Done()
		s, err := h.Upgrade(nil)
		if err != nil {
			got <- err.Error()
			return
		}
		_, _ = io.WriteString(s, "bye")
		_ = s.CloseWrite()
		b, err := io.ReadAll(s)
		if err != nil {
			b = []byte(err.Error())
		}
		got <- string(b)
	}), ServeConfig{})
	s := openRaw(t, t.Context(), g.hub)
	if b, err := io.ReadAll(s); err != nil || string(b) != "bye" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := io.WriteString(s, "still here"); err != nil {
		t.Fatal(err)
	}
	_ = s.CloseWrite()
	if b := <-got; b != "still here" {
		t.Errorf("agent read %q", b)
	}
}

func TestRawRefused(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(headerStatus, "101") // a server that pretends
		w.Header().Set(headerUpgrade, "x")
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = io.WriteString(w, "no")
	}), ServeConfig{})
	for method, want := range map[string]int{http.MethodGet: 403, http.MethodPost: 200} {
		resp, s := tryRaw(t, t.Context(), g.hub, method, "SPDY/3.1")
		b, err := io.ReadAll(resp.Body)
		if resp.StatusCode != want || s != nil || string(b) != "no" || err != nil {
			t.Errorf("%s: %s, %v, %q, %v", method, resp.Status, s, b, err)
		}
		_ = resp.Body.Close()
	}
	eventually(t, "places given back", func() bool { return bodiesTaken(g.hub) == 0 })
}

// bodiesTaken sums the places of requests with a body.
func bodiesTaken(h *Hub) (n int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for _, links := range h.links {
		for _, l := range links {
			n += int(l.bodies.Load())
		}
	}
	return n
}

func TestRawCutIsNoEnd(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := NewHandle(w, r)
		defer h.Done()
		if s, err := h.Upgrade(nil); err == nil {
			_, _ = io.WriteString(s, "half a sen")
		}
	}), ServeConfig{})
	s := openRaw(t, t.Context(), g.hub)
	if b, err := io.ReadAll(s); err == nil {
		t.Errorf("a handler that returned without CloseWrite reads as a clean end: %q", b)
	}
}

func TestReservedHeaders(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, echoRaw, ServeConfig{})
	for _, name := range []string{headerMethod, "sallyport-tunnel-upgrade", "SALLYPORT-TUNNEL-X"} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/", strings.NewReader("x"))
		req.Header[name] = []string{"GET"}
		if _, err := g.hub.RoundTrip(testCluster, req); !errors.Is(err, ErrReservedHeader) {
			t.Errorf("RoundTrip with %s: %v", name, err)
		}
		req.Header["Upgrade"] = []string{"x"}
		if _, _, err := g.hub.OpenRaw(testCluster, req); !errors.Is(err, ErrReservedHeader) {
			t.Errorf("OpenRaw with %s: %v", name, err)
		}
	}
}

// What the agent does with an upgrade that a broken gateway sent.
func TestMalformedUpgrade(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, echoRaw, ServeConfig{})
	g.hub.mu.RLock()
	l := g.hub.links[testCluster][0]
	g.hub.mu.RUnlock()
	for name, mutate := range map[string]func(*http.Request){
		"not POST":     func(r *http.Request) { r.Method = http.MethodGet },
		"no upgrade":   func(r *http.Request) { delete(r.Header, headerUpgrade) },
		"two methods":  func(r *http.Request) { r.Header.Add(headerMethod, "PUT") },
		"bad method":   func(r *http.Request) { r.Header.Set(headerMethod, "G T") },
		"bad protocol": func(r *http.Request) { r.Header.Set(headerUpgrade, "a\"b") },
	} {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://tunnel/", nil)
		req.Header.Set(headerMethod, "GET")
		req.Header.Set(headerUpgrade, "SPDY/3.1")
		mutate(req)
		resp, err := l.cc.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

func TestJoin(t *testing.T) {
	// client <-> a == Join == b <-> server, over TCP so that half-close works.
	client, a := tcpPair(t)
	b, server := tcpPair(t)
	type result struct {
		ab, ba int64
		err    error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.ab, r.ba, r.err = Join(a, b)
		done <- r
	}()
	_, _ = io.WriteString(client, "question")
	_ = client.CloseWrite()
	if q, err := io.ReadAll(server); string(q) != "question" || err != nil {
		t.Fatalf("%q, %v", q, err)
	}
	_, _ = io.WriteString(server, "the answer")
	_ = server.Close()
	if q, err := io.ReadAll(client); string(q) != "the answer" || err != nil {
		t.Fatalf("%q, %v", q, err)
	}
	if r := <-done; r.ab != 8 || r.ba != 10 || r.err != nil {
		t.Errorf("Join: %+v", r)
	}

	// An error ends both directions.
	client, a = tcpPair(t)
	b, server = tcpPair(t)
	go func() {
		var r result
		r.ab, r.ba, r.err = Join(a, b)
		done <- r
	}()
	abortConn(server)
	_ = client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(client); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the other side stays open")
	}
	if r := <-done; r.err == nil {
		t.Error("Join hides the error")
	}
}

func tcpPair(t testing.TB) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}
