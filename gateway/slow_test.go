package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A server gives bodies a while, for those whom nobody knows; a caller who is
// known and bound may take longer.
func TestABoundCallersBodyMayTakeItsTime(t *testing.T) {
	w := newWorld(t)
	const while = 300 * time.Millisecond
	w.url = w.listen(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(rw).SetReadDeadline(time.Now().Add(while)); err != nil {
			t.Error(err)
		}
		w.gw.Handler().ServeHTTP(rw, r)
	}))
	for _, protocols := range []string{"1", "2"} {
		body, feed := io.Pipe()
		go func() {
			_, _ = io.WriteString(feed, "begin,")
			<-time.After(2 * while)
			_, _ = io.WriteString(feed, "end")
			_ = feed.Close()
		}()
		c := client(protocols)
		resp := w.open(c, "POST", "/api/v1/namespaces/n/configmaps", body, nil)
		_ = resp.Body.Close()
		c.CloseIdleConnections()
		if seen := w.agent.take(); resp.StatusCode != 200 || len(seen) != 1 || seen[0].body != "begin,end" {
			t.Errorf("HTTP/%s: %d, %+v", protocols, resp.StatusCode, seen)
		}
	}
}

// Whoever calls without a token writes into the audit log what they like, but
// not as much as they like.
func TestStrangersCannotFillTheAuditLog(t *testing.T) {
	w := newWorld(t)
	resp, _ := w.do("GET", "/"+strings.Repeat("p", 20<<10), func(r *http.Request) {
		r.Header.Del("Authorization")
		r.Header.Set("User-Agent", strings.Repeat("u", 20<<10))
	})
	if resp.StatusCode != 401 {
		t.Fatalf("%d", resp.StatusCode)
	}
	w.eventually("a record", func() bool { return len(w.sink.events(t)) > 0 })
	e := w.sink.events(t)[0]
	if len(e.UserAgent) > 2<<10 || len(e.RequestURI) > 2<<10 || !strings.HasPrefix(e.UserAgent, "uuu") || !strings.HasPrefix(e.RequestURI, "/ppp") {
		t.Errorf("%d bytes of user agent, %d of target", len(e.UserAgent), len(e.RequestURI))
	}
}
