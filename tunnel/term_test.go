package tunnel

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// stream opens an answer that goes on until it is ended, and returns its body.
func stream(t *testing.T, g *gateway) io.ReadCloser {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.hub.RoundTrip(testCluster, req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp.Body
}

// streaming says a byte each time that more is sent to, on /stream.
func streaming(more <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stream" {
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-more:
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
}

func next(t *testing.T, more chan<- struct{}, body io.Reader) error {
	t.Helper()
	more <- struct{}{}
	_, err := io.ReadFull(body, make([]byte, 1))
	return err
}

// After its term a connection carries nothing new, what runs goes on, and the
// agent's keeper has another one; some time later what still runs is cut.
func TestAConnectionOutlivesNotItsTerm(t *testing.T) {
	began := time.Now()
	g := newGateway(t, Config{Replica: "r1"}, nil)
	g.term = Term{Until: began.Add(time.Hour)}
	more := make(chan struct{})
	keep(t, KeeperConfig{Connections: 1, Handler: streaming(more)}, addrs(g))
	eventually(t, "connected", func() bool { return g.hub.Live(testCluster) == 1 })
	first := g.hub.links[testCluster][0]
	body := stream(t, g)

	g.hub.Sweep(began.Add(time.Hour + TermMargin))
	if g.hub.Live(testCluster) != 1 {
		t.Fatal("over before its margin")
	}
	g.hub.Sweep(began.Add(time.Hour + TermMargin + time.Second))
	if !first.lapsed.Load() {
		t.Fatal("it goes on")
	}
	// The clock of a new connection begins anew; the test's term does not.
	eventually(t, "the agent has dialled again", func() bool { return g.hub.Live(testCluster) == 1 })
	if l, err := g.hub.reserve(testCluster, false, nil); err != nil || l == first {
		t.Errorf("a new request goes over %p, the one that is over is %p: %v", l, first, err)
	}
	if err := next(t, more, body); err != nil {
		t.Errorf("what runs was ended at once: %v", err)
	}
	first.until.Store(began.UnixNano())
	g.hub.Sweep(began.Add(TermMargin + TermGrace))
	if err := next(t, more, body); err != nil {
		t.Errorf("what runs was ended within the grace: %v", err)
	}
	g.hub.Sweep(began.Add(TermMargin + TermGrace + time.Second))
	if _, err := io.ReadFull(body, make([]byte, 1)); err == nil {
		t.Error("what runs goes on for ever")
	}
	if err := waitFor(t, "the end", g.ended); !errors.Is(err, errTerm) {
		t.Errorf("ended with %v", err)
	}
}

// A connection that is idle when its term is over is closed at the next look.
func TestAnIdleConnectionEndsWithItsTerm(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	g.term = Term{Until: time.Now()}
	a := newAgent(t, g, echoRaw, ServeConfig{})
	late := time.Now().Add(TermMargin + time.Second)
	g.hub.Sweep(late)
	if _, err := g.hub.RoundTrip(testCluster, newGet(t)); !errors.Is(err, ErrNoTunnel) {
		t.Errorf("a new request: %v", err)
	}
	eventually(t, "nothing is in flight", func() bool { g.hub.Sweep(late); return len(g.ended) > 0 })
	waitFor(t, "the agent's end", a.ended)
}

func newGet(t *testing.T) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A proof moves the term of the very connection that it was made for; one that
// is refused does not.
func TestAProofRenewsTheTerm(t *testing.T) {
	began := time.Now()
	g := newGateway(t, Config{Replica: "r1"}, nil)
	heard := make(chan string, 10)
	g.term = Term{Until: began, Renew: func(proof string) (time.Time, error) {
		heard <- proof
		if proof != "good" {
			return time.Time{}, errors.New("not so")
		}
		return began.Add(time.Hour), nil
	}}
	more := make(chan struct{})
	k, _ := keep(t, KeeperConfig{Connections: 1, Handler: streaming(more)}, addrs(g))
	eventually(t, "connected", func() bool { return g.hub.Live(testCluster) == 1 && k.Live() == 1 })
	body := stream(t, g)
	for _, proof := range []string{"bad", "two words", "good"} {
		k.Prove(func(conn net.Conn) (string, error) {
			if conn == nil {
				return "", errors.New("no connection")
			}
			return proof, nil
		})
		if proof == "two words" {
			continue
		}
		if got := waitFor(t, "the proof", heard); got != proof {
			t.Errorf("the gateway heard %q", got)
		}
	}
	l := g.hub.links[testCluster][0]
	eventually(t, "the term is renewed", func() bool { return l.until.Load() == began.Add(time.Hour).UnixNano() })
	g.hub.Sweep(began.Add(time.Hour))
	if l.lapsed.Load() || g.hub.Live(testCluster) != 1 {
		t.Error("the connection is over")
	}
	if err := next(t, more, body); err != nil {
		t.Errorf("what runs was ended: %v", err)
	}
}
