package client

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
)

const testCluster trust.ClusterUID = "0b9f4b52-4a0c-4c0e-9a35-3c1f6a3f0001"

// agentServer is the agents' API of one cluster: it enrols whoever brings the
// token in tokens, and streams what is sent to states.
type agentServer struct {
	*testServer
	agents *pki.CA
	life   time.Duration
	states chan StateLine
	broken chan struct{} // one value ends the running stream

	mu      sync.Mutex
	tokens  []string // accepted
	serials []string // of certificates that called the state stream
	asked   []NonceRequest
	reports []mandate.Report
	floors  []string
}

func newAgentServer(t *testing.T) *agentServer {
	t.Helper()
	ca, err := pki.NewCA(pki.Agents, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s := &agentServer{agents: ca, life: time.Hour, states: make(chan StateLine), broken: make(chan struct{}), tokens: []string{"first"}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+EnrolPath, s.enrol)
	mux.HandleFunc("GET "+StatePath, s.identified(s.stream))
	mux.HandleFunc("POST "+NoncePath, s.identified(s.nonce))
	mux.HandleFunc("POST "+ReportPath, s.identified(func(w http.ResponseWriter, r *http.Request) {
		var report mandate.Report
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		s.reports = append(s.reports, report)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}))
	s.testServer = newTestServer(t, mux, ca.Pool())
	return s
}

func (s *agentServer) enrol(w http.ResponseWriter, r *http.Request) {
	var in EnrolRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	known := slices.Contains(s.tokens, in.Token) && in.Cluster == testCluster
	s.mu.Unlock()
	if !known {
		w.WriteHeader(http.StatusForbidden)
		w.Write([]byte(`{"error":{"code":"AuthorizationFailed","message":"no such token"}}`))
		return
	}
	leaf, err := pki.AgentLeaf(string(in.Cluster), in.Agent)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	leaf.Life = s.life
	cert, err := s.agents.IssueCSR([]byte(in.CSR), leaf)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	json.NewEncoder(w).Encode(EnrolAnswer{Certificate: string(cert), CA: string(s.agents.PEM())})
}

func (s *agentServer) identified(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "no certificate", http.StatusUnauthorized)
			return
		}
		if uid, agent, err := pki.ParseAgent(r.TLS.PeerCertificates[0]); err != nil || uid != string(testCluster) || agent != "proxy" {
			http.Error(w, "another agent", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

func (s *agentServer) stream(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.serials = append(s.serials, r.TLS.PeerCertificates[0].SerialNumber.String())
	s.floors = append(s.floors, r.URL.RawQuery)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Write([]byte("{}\n"))
	w.(http.Flusher).Flush()
	for {
		select {
		case line := <-s.states:
			json.NewEncoder(w).Encode(line)
			w.(http.Flusher).Flush()
		case <-s.broken:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (s *agentServer) nonce(w http.ResponseWriter, r *http.Request) {
	var in NonceRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.asked = append(s.asked, in)
	s.mu.Unlock()
	json.NewEncoder(w).Encode(NonceAnswer{Answer: []byte("to " + in.Nonce)})
}

// start makes an agent of s and runs it until the test ends.
func (s *agentServer) start(t *testing.T, token func(context.Context) (string, error)) *Agent {
	t.Helper()
	a, err := NewAgent(AgentConfig{Server: s.URL, Trust: s.trust, Cluster: testCluster, Name: "proxy", Token: token, Instance: "one", Version: "test",
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want the context's error", err)
		}
	})
	return a
}

func TestAgentEnrolsAsksAndReports(t *testing.T) {
	t.Parallel()
	s := newAgentServer(t)
	a := s.start(t, func(context.Context) (string, error) { return "first", nil })
	answer, err := a.Ask(t.Context(), "n1", mandate.Floor{Epoch: 1, Revision: 7})
	if err != nil || string(answer) != "to n1" {
		t.Fatalf("Ask = %q, %v", answer, err)
	}
	if err := a.Report(t.Context(), mandate.Report{Epoch: 1, Revision: 7, Nodes: 3}); err != nil {
		t.Fatal(err)
	}
	if want := (NonceRequest{Nonce: "n1", Epoch: 1, Revision: 7, Instance: "one", Version: "test"}); len(s.asked) != 1 || s.asked[0] != want {
		t.Errorf("asked %+v, want %+v", s.asked, want)
	}
	if len(s.reports) != 1 || s.reports[0].Nodes != 3 {
		t.Errorf("reports %+v", s.reports)
	}
	conf, _, err := a.TLS(t.Context(), "some-alpn")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := conf.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if uid, agent, err := pki.ParseAgent(pair.Leaf); err != nil || uid != string(testCluster) || agent != "proxy" || !slices.Equal(conf.NextProtos, []string{"some-alpn"}) {
		t.Errorf("TLS presents %s/%s (%v) for %q", uid, agent, err, conf.NextProtos)
	}
}

func TestAgentRereadsItsTokenAndKeepsTrying(t *testing.T) {
	t.Parallel()
	s := newAgentServer(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("stale\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := s.start(t, TokenFile(file))
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := a.Ask(short, "n", mandate.Floor{}); err == nil {
		t.Fatal("an agent that could not enrol got an answer")
	}
	if err := os.WriteFile(file, []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Ask(t.Context(), "n", mandate.Floor{}); err != nil {
		t.Fatal(err)
	}
}

func TestAgentRefusesAServerThatItDoesNotTrust(t *testing.T) {
	t.Parallel()
	s, other := newAgentServer(t), newAgentServer(t)
	a, err := NewAgent(AgentConfig{Server: s.URL, Trust: other.trust, Cluster: testCluster, Name: "proxy",
		Token: func(context.Context) (string, error) { return "first", nil }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.enrol(t.Context()); trust.KindOf(err) != trust.Unauthenticated {
		t.Errorf("enrolled: %v, want Unauthenticated", err)
	}
}

func TestStatesReconnectWithWhatIsHeldAndAfterRenewal(t *testing.T) {
	t.Parallel()
	s := newAgentServer(t)
	s.life = 3 * time.Second
	a := s.start(t, func(context.Context) (string, error) { return "first", nil })
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	state := func(revision int64) []byte {
		signed, err := mandate.Sign(key, mandate.State{Cluster: testCluster, Epoch: 1, Revision: revision})
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	var mu sync.Mutex
	var held mandate.Floor
	taken := make(chan int64)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- a.States(ctx, func() mandate.Floor { mu.Lock(); defer mu.Unlock(); return held }, func(signed []byte) error {
			mu.Lock()
			defer mu.Unlock()
			st, err := mandate.Open(key.Public().(ed25519.PublicKey), testCluster, held, signed)
			if err != nil {
				return err
			}
			held = st.Floor()
			select {
			case taken <- st.Revision:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	// A stream that is ending may swallow a line, as a real one does: what the
	// control plane has is sent again on the next one.
	take := func(revision int64) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case s.states <- StateLine{State: state(revision)}:
			case got := <-taken:
				if got == revision {
					return
				}
			case <-deadline:
				t.Fatalf("revision %d was not taken", revision)
			}
		}
	}
	take(4)
	s.broken <- struct{}{}
	take(5)
	s.states <- StateLine{State: []byte("forged")} // refused, and the stream is begun anew
	take(6)
	deadline := time.After(10 * time.Second)
	for { // the certificate is renewed, and the stream comes back with it
		s.mu.Lock()
		serials, floors := slices.Clone(s.serials), slices.Clone(s.floors)
		s.mu.Unlock()
		if n := len(serials); n > 3 && serials[n-1] != serials[0] {
			if !slices.Contains(floors, "epoch=1&revision=5") || !slices.Contains(floors, "epoch=1&revision=6") || floors[0] != "epoch=0&revision=0" {
				t.Errorf("streams were opened from %q", floors)
			}
			break
		}
		select {
		case <-deadline:
			t.Fatalf("no stream with a renewed certificate: %d streams", len(serials))
		case <-taken: // a line that was sent twice
		case <-time.After(10 * time.Millisecond):
		}
	}
	take(7)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("States returned %v", err)
	}
}

func TestBackoffGrowsToItsLimitAndStartsOver(t *testing.T) {
	t.Parallel()
	b := newBackoff(time.Second, 4*time.Second)
	for _, most := range []time.Duration{1, 2, 4, 4} {
		if d := b.next(); d > most*time.Second || d < most*time.Second*3/4 {
			t.Errorf("waits %s, want three quarters to all of %d s", d, most)
		}
	}
	b.reset()
	if d := b.next(); d > time.Second {
		t.Errorf("after reset waits %s", d)
	}
	if _, err := TokenFile(filepath.Join(t.TempDir(), "none"))(t.Context()); err == nil || !strings.Contains(err.Error(), "read token") {
		t.Errorf("missing token file: %v", err)
	}
}
