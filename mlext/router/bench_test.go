package router

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sallyport/sallyport/mlext/wire"
)

// answers carries a request nowhere: what is measured is the router alone.
type answers struct{ body []byte }

func (a answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, ContentLength: int64(len(a.body)), Body: io.NopCloser(bytes.NewReader(a.body))}, nil
}

type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d *discarded) WriteHeader(int)             {}

// scoring is one request, at a router that has what it needs.
func scoring(t *testing.T) func() {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 90, "green": 10}, "key", "other")
	for _, d := range []string{"blue", "green"} {
		w.deployment(d, d, "e", func(d *wire.Deployment) { d.Request.MaxConcurrent = 10 })
		w.pod(d, says("x"))
	}
	r, _ := w.router()
	w.change(nil)
	r.carrier = answers{bytes.Repeat([]byte("x"), 500)}
	body := bytes.Repeat([]byte("y"), 1000)
	return func() {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, at, bytes.NewReader(body))
		req.Header["Authorization"] = []string{"Bearer key"}
		r.ServeHTTP(&discarded{http.Header{}}, req)
	}
}

// What a request costs in the router, its stand-ins' own included. More than this
// is a change to look at, not a mistake.
func TestAllocations(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("allocation counts only without -race and -short")
	}
	once := scoring(t)
	once()
	if n := testing.AllocsPerRun(200, once); n > 45 {
		t.Errorf("%.0f allocations for a request, want at most 45", n)
	}
}
