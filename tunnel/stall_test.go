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

// zeros is an endless body; read tells the sender's progress.
type zeros struct{ read chan<- int }

func (z zeros) Read(p []byte) (int, error) {
	clear(p)
	select {
	case z.read <- len(p):
	default:
	}
	return len(p), nil
}

// stallHandler answers probes, and stalls downloads (/down writes for ever)
// and uploads (/up reads nothing).
func stallHandler(stalled chan<- struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/up", func(w http.ResponseWriter, r *http.Request) {
		h := NewHandle(w, r)
		defer h.Done()
		_ = http.NewResponseController(w).Flush()
		stalled <- struct{}{}
		<-h.Context().Done()
	})
	mux.HandleFunc("/down", func(w http.ResponseWriter, r *http.Request) {
		h := NewHandle(w, r)
		defer h.Done()
		stalled <- struct{}{}
		chunk := make([]byte, 16<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/probe", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		_, _ = w.Write(b)
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "ok")
		}
	})
	return mux
}

// probe sends small GETs and uploads and downloads of a megabyte, each of
// which must end soon.
func probe(t *testing.T, h *Hub) {
	t.Helper()
	for range 20 {
		if _, got := get(t, h, "/probe"); got != "ok" {
			t.Fatalf("probe: %q", got)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	want := strings.Repeat("0123456789abcdef", 1<<16)
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/probe", strings.NewReader(want))
	resp, err := h.RoundTrip(testCluster, req)
	if err != nil {
		t.Fatalf("upload: %v", err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
		t.Fatalf("1 MiB there and back: %d bytes, %v", len(got), err)
	}
}

// start opens n requests and returns their answers, unread.
func start(t *testing.T, h *Hub, n int, method, path string, body func() io.Reader) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var bodies []io.Closer
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var b io.Reader
			if body != nil {
				b = body()
			}
			req, _ := http.NewRequestWithContext(ctx, method, "http://x"+path, b)
			resp, err := h.RoundTrip(testCluster, req)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			bodies = append(bodies, resp.Body)
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		cancel()
		for _, b := range bodies {
			_ = b.Close()
		}
	})
}

func TestStalledDownloads(t *testing.T) {
	for _, n := range []int{1, 64, 300} {
		stalled := make(chan struct{}, n)
		g := newGateway(t, Config{}, nil)
		newAgent(t, g, stallHandler(stalled), ServeConfig{})
		start(t, g.hub, n, http.MethodGet, "/down", nil)
		for range n {
			<-stalled
		}
		probe(t, g.hub)
	}
}

// The guard of connectionWindow: with Go's defaults eight are enough to
// freeze the connection. All places but one stall, the last one must work.
func TestStalledUploads(t *testing.T) {
	for _, n := range []int{1, 8, 64, maxBodies - 1} {
		stalled := make(chan struct{}, n)
		progress := make(chan int, 1)
		g := newGateway(t, Config{}, nil)
		newAgent(t, g, stallHandler(stalled), ServeConfig{})
		start(t, g.hub, n, http.MethodPost, "/up", func() io.Reader { return zeros{progress} })
		for range n {
			<-stalled
		}
		quiet(progress) // every window is full
		probe(t, g.hub)
	}
}

// quiet returns when nothing was read for 100 ms.
func quiet(progress <-chan int) {
	for {
		select {
		case <-progress:
		case <-time.After(100 * time.Millisecond):
			return
		}
	}
}

func TestBodyPlaces(t *testing.T) {
	stalled := make(chan struct{}, maxBodies)
	g := newGateway(t, Config{}, nil)
	newAgent(t, g, stallHandler(stalled), ServeConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var answers []io.Closer
	for range maxBodies {
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/up", zeros{})
		resp, err := g.hub.RoundTrip(testCluster, req)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, resp.Body)
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/probe", strings.NewReader("x"))
	if _, err := g.hub.RoundTrip(testCluster, req); !errors.Is(err, ErrBusy) {
		t.Errorf("one body too many: %v", err)
	}
	if _, _, err := g.hub.OpenRaw(testCluster, upgradeRequest(t)); !errors.Is(err, ErrBusy) {
		t.Errorf("one raw stream too many: %v", err)
	}
	if _, got := get(t, g.hub, "/probe"); got != "ok" {
		t.Errorf("a GET needs no place: %q", got)
	}
	// Places come back by Close, by the context alone, and by the end of the answer.
	_ = answers[0].Close()
	eventually(t, "place after Close", func() bool { return bodiesTaken(g.hub) == maxBodies-1 })
	cancel()
	eventually(t, "places after cancel", func() bool { return bodiesTaken(g.hub) == 0 })
	for _, a := range answers {
		_ = a.Close()
	}
	probe(t, g.hub)
	if n := bodiesTaken(g.hub); n != 0 {
		t.Errorf("%d places are lost", n)
	}
}

func upgradeRequest(t testing.TB) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/exec", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Upgrade", "SPDY/3.1")
	return req
}

func TestManyStreams(t *testing.T) {
	const n = maxStreams - 1 // the hello is one
	g := newGateway(t, Config{}, nil)
	release := make(chan struct{})
	newAgent(t, g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "ok")
	}), ServeConfig{})
	var wg sync.WaitGroup
	open := make(chan struct{}, n)
	for range n {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/wait", nil)
			resp, err := g.hub.RoundTrip(testCluster, req)
			open <- struct{}{}
			if err != nil {
				t.Errorf("request: %v", err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	for range n {
		<-open
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
	if _, err := g.hub.RoundTrip(testCluster, req); !errors.Is(err, ErrBusy) {
		t.Errorf("one stream too many: %v", err)
	}
	// A second connection takes what the first one cannot.
	newAgent(t, g, stallHandler(nil), ServeConfig{})
	probe(t, g.hub)
	close(release)
	wg.Wait()
}
