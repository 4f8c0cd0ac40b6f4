package tunnel

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"testing"
)

// answer is about the size of a small object of a cluster.
var answer = make([]byte, 1<<10)

func benchPath(b *testing.B) *Hub {
	g := newGateway(b, Config{}, nil)
	newAgent(b, g, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bulk":
			chunk := make([]byte, 16<<10)
			for range 1024 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		case "/idle":
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/sink":
			_, _ = io.Copy(io.Discard, r.Body)
		default:
			w.Header()["Content-Type"] = []string{"application/json"}
			_, _ = w.Write(answer)
		}
	}), ServeConfig{})
	return g.hub
}

func fetch(b *testing.B, h *Hub, method, path string, body io.Reader) {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://x"+path, body)
	if err != nil {
		b.Fatal(err)
	}
	resp, err := h.RoundTrip(testCluster, req)
	if err != nil {
		b.Fatal(err)
	}
	_, _ = copyAll(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

func BenchmarkGet(b *testing.B) {
	h := benchPath(b)
	b.ReportAllocs()
	for b.Loop() {
		fetch(b, h, http.MethodGet, "/", nil)
	}
}

func BenchmarkGet64(b *testing.B) {
	h := benchPath(b)
	b.ReportAllocs()
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			fetch(b, h, http.MethodGet, "/", nil)
		}
	})
}

// BenchmarkDownload and BenchmarkUpload move 16 MiB on one stream.
func BenchmarkDownload(b *testing.B) {
	h := benchPath(b)
	b.SetBytes(16 << 20)
	for b.Loop() {
		fetch(b, h, http.MethodGet, "/bulk", nil)
	}
}

func BenchmarkUpload(b *testing.B) {
	h := benchPath(b)
	b.SetBytes(16 << 20)
	for b.Loop() {
		fetch(b, h, http.MethodPost, "/sink", io.LimitReader(zeros{}, 16<<20))
	}
}

// BenchmarkRaw moves 16 MiB there and back on an upgraded stream.
func BenchmarkRaw(b *testing.B) {
	g := newGateway(b, Config{}, nil)
	newAgent(b, g, echoRaw, ServeConfig{})
	b.SetBytes(32 << 20)
	for b.Loop() {
		s := openRaw(b, context.Background(), g.hub)
		go func() {
			_, _ = copyAll(s, io.LimitReader(zeros{}, 16<<20))
			_ = s.CloseWrite()
		}()
		if n, err := copyAll(io.Discard, s); n != 16<<20 || err != nil {
			b.Fatal(n, err)
		}
		_ = s.Close()
	}
}

// BenchmarkIdle reports the memory of an idle stream, both ends together: a
// silent watch, and an upgraded stream on which nothing flows.
func BenchmarkIdle(b *testing.B) {
	const n = maxBodies - 1
	for name, open := range map[string]func(*testing.B, *Hub) io.Closer{
		"watch": func(b *testing.B, h *Hub) io.Closer {
			ctx, cancel := context.WithCancel(context.Background())
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/idle", nil)
			resp, err := h.RoundTrip(testCluster, req)
			if err != nil {
				b.Fatal(err)
			}
			return &cancelOnClose{resp.Body, func(error) { cancel() }}
		},
		"raw": func(b *testing.B, h *Hub) io.Closer { return openRaw(b, context.Background(), h) },
	} {
		b.Run(name, func(b *testing.B) {
			var h *Hub
			if name == "watch" {
				h = benchPath(b)
			} else {
				g := newGateway(b, Config{}, nil)
				newAgent(b, g, echoRaw, ServeConfig{})
				h = g.hub
			}
			for b.Loop() {
				before := inUse()
				streams := make([]io.Closer, n)
				var wg sync.WaitGroup
				for i := range streams {
					wg.Go(func() { streams[i] = open(b, h) })
				}
				wg.Wait()
				b.ReportMetric(float64(inUse()-before)/n/1024, "KiB/stream")
				for _, s := range streams {
					_ = s.Close()
				}
			}
		})
	}
}

// inUse is heap and stacks after collection.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// What the tunnel itself adds to net/http's allocations stays small: a limit,
// so that a change shows.
func TestAllocations(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("allocation counts only without -race and -short")
	}
	r := testing.Benchmark(BenchmarkGet)
	if got := r.AllocsPerOp(); got > 75 {
		t.Errorf("%d allocations for a GET, both ends together", got)
	}
	fmt.Fprintln(t.Output(), r, r.MemString())
}
