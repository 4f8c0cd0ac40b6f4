package gateway

import (
	"io"
	"net/http"
	"testing"
)

// BenchmarkGet is a small GET the whole way through gateway and tunnel, in this
// process, TLS included.
func BenchmarkGet(b *testing.B) {
	w := newWorld(b)
	w.agent.set(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header()["Content-Type"] = []string{"application/json"}
		_, _ = io.WriteString(rw, `{"ok":true}`)
	})
	token := w.token(nil)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, _ := http.NewRequestWithContext(b.Context(), "GET", w.url+"/clusters/"+string(clusterA)+"/api/v1/namespaces/n/pods/p", nil)
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := shared.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				b.Errorf("%d", resp.StatusCode)
				return
			}
		}
	})
}
