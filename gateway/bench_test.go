package gateway

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// getter returns a small GET the whole way through gateway and tunnel, in this
// process, TLS included.
func getter(tb testing.TB) (get func() error) {
	w := newWorld(tb)
	w.agent.set(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header()["Content-Type"] = []string{"application/json"}
		_, _ = io.WriteString(rw, `{"ok":true}`)
	})
	token := w.token(nil)
	return func() error {
		req, err := http.NewRequest("GET", w.url+"/clusters/"+string(clusterA)+"/api/v1/namespaces/n/pods/p", nil)
		if err != nil {
			return err
		}
		req.Header["Authorization"] = []string{"Bearer " + token}
		resp, err := shared.Transport.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("HTTP %d", resp.StatusCode)
		}
		return nil
	}
}

func BenchmarkGet(b *testing.B) {
	get := getter(b)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := get(); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// A whole request through gateway and tunnel, caller, audit record and both ends
// of the tunnel included, allocates this much and no more.
func TestAllocationsOfARequest(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("allocation counts only without -race and -short")
	}
	get := getter(t)
	const most = 187
	if n := testing.AllocsPerRun(1000, func() {
		if err := get(); err != nil {
			t.Fatal(err)
		}
	}); n > most {
		t.Errorf("%v allocations, want at most %d", n, most)
	} else {
		t.Logf("%v allocations", n)
	}
}
