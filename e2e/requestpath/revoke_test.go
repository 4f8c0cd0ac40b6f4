package requestpath

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
)

// TestRevocationTimes begins a watch and a silent shell, deletes the binding,
// and measures from the commit to the end at the API server's side and at the
// caller's, 200 times.
func TestRevocationTimes(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	api, server := newRecorder(t)
	w := newWorld(t, server)
	ended := make(chan time.Time, 2)
	api.set(func(rw http.ResponseWriter, r *http.Request) {
		defer func() { ended <- time.Now() }()
		if r.Header.Get("Upgrade") != "" {
			conn, brw, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
			_, _ = io.Copy(io.Discard, brw) // says nothing
			return
		}
		_, _ = io.WriteString(rw, "{}\n")
		_ = http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	})
	const runs = 200
	var far, near []time.Duration
	for range runs {
		w.commit(store.Put(w.binding()))
		w.eventually("allowed again", func() bool { return w.gw.Running() == 0 && w.allowed() })
		resp := w.open("GET", "/api/v1/namespaces/n/configmaps?watch=1", nil, nil)
		if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		shell := w.dial()
		fmt.Fprintf(shell, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n", w.path("/api/v1/namespaces/n/pods/p/exec?command=sh"), w.token())
		br := bufio.NewReader(shell)
		if up, err := http.ReadResponse(br, nil); err != nil || up.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(up, err)
		}
		w.commit(store.Delete(w.binding().Key(), 0))
		committed := time.Now()
		_, _ = io.Copy(io.Discard, resp.Body)
		_, _ = io.Copy(io.Discard, br)
		near = append(near, time.Since(committed))
		for range 2 {
			select {
			case at := <-ended:
				far = append(far, at.Sub(committed))
			case <-time.After(time.Minute):
				t.Fatal("still running at the API server")
			}
		}
		_ = resp.Body.Close()
		_ = shell.Close()
	}
	for side, times := range map[string][]time.Duration{"caller": near, "API server": far} {
		slices.Sort(times)
		at := func(p int) time.Duration { return times[(len(times)-1)*p/100].Round(10 * time.Microsecond) }
		t.Logf("%s: %d ends, p50 %v, p90 %v, p99 %v, longest %v", side, len(times), at(50), at(90), at(99), at(100))
		if at(100) > inTouch {
			t.Errorf("%s: the longest took %v", side, at(100))
		}
	}
}

// allowed asks something that the binding's base set covers and nothing records.
func (w *world) allowed() bool {
	resp, body := w.do("PUT", "/version", nil, nil)
	return resp.StatusCode == http.StatusForbidden && !strings.Contains(string(body), "no role binding")
}
