package tunnel

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// The agent drains: what runs ends well, new requests go elsewhere, and none
// of many that come all the time fails.
func TestAgentDrain(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	release := make(chan struct{})
	entered := make(chan struct{}, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			entered <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})
	drain := make(chan struct{})
	old := newAgent(t, g, handler, ServeConfig{Drain: drain})
	long := make(chan string, 1)
	go func() {
		_, body := get(t, g.hub, "/long")
		long <- body
	}()
	waitFor(t, "long request", entered)
	newAgent(t, g, handler, ServeConfig{})

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/", strings.NewReader("x"))
				resp, err := g.hub.RoundTrip(testCluster, req)
				if err != nil {
					t.Errorf("during drain: %v", err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	close(drain)
	eventually(t, "notice", func() bool { return g.hub.Live(testCluster) == 1 })
	select {
	case <-old.ended:
		t.Error("ended under a running request")
	case <-time.After(300 * time.Millisecond):
	}
	close(release)
	if got := waitFor(t, "long answer", long); got != "ok" {
		t.Errorf("long request: %q", got)
	}
	waitFor(t, "end", old.ended)
	if !errors.Is(old.err, ErrDrained) {
		t.Errorf("reason: %v", old.err)
	}
	if err := waitFor(t, "the gateway's end", g.ended); err != nil {
		t.Errorf("the gateway's reason: %v", err)
	}
	close(stop)
	wg.Wait()
}

func TestDrainTimeout(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	drain := make(chan struct{})
	entered := make(chan struct{})
	a := newAgent(t, g, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}), ServeConfig{Drain: drain, DrainTimeout: 300 * time.Millisecond})
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		_, _ = g.hub.RoundTrip(testCluster, req)
	}()
	waitFor(t, "request", entered)
	close(drain)
	waitFor(t, "end", a.ended)
}

func TestHubDrain(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	asked := make(chan struct{})
	entered := make(chan struct{})
	release := make(chan struct{})
	a := newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-release
		_, _ = io.WriteString(w, "ok")
	}), ServeConfig{OnDrain: func() { close(asked) }})
	answer := make(chan string, 1)
	go func() {
		_, body := get(t, g.hub, "/")
		answer <- body
	}()
	waitFor(t, "request", entered)
	drained := make(chan error, 1)
	go func() { drained <- g.hub.Drain(t.Context()) }()
	waitFor(t, "notice at the agent", asked)
	conn, err := Dial(t.Context(), DialConfig{Addr: g.addr, TLS: clientTLS()})
	if err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), conn, echoRaw, ServeConfig{}); err == nil {
		t.Error("no reason")
	}
	select {
	case err := <-drained:
		t.Fatalf("drained under a running request: %v", err)
	default:
	}
	close(release)
	if got := waitFor(t, "answer", answer); got != "ok" {
		t.Errorf("%q", got)
	}
	if err := waitFor(t, "drain", drained); err != nil {
		t.Error(err)
	}
	waitFor(t, "end at the agent", a.ended)
	if !errors.Is(a.err, ErrDrained) {
		t.Errorf("the agent's reason: %v", a.err)
	}

	// A drain that runs out of time cuts.
	g = newGateway(t, Config{}, nil)
	newAgent(t, g, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), ServeConfig{})
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
		_, _ = g.hub.RoundTrip(testCluster, req)
	}()
	eventually(t, "running", func() bool { _, _, n := g.hub.totals(); return n == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := g.hub.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late drain: %v", err)
	}
}
