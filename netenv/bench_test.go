package netenv

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// many repeats the private environment under other resource groups and names
// until there are about n resources.
func many(tb testing.TB, n int) map[string][]byte {
	w := load(&testing.T{}, "private")
	per := w.graph().Len()
	copies := max(1, n/per)
	out := map[string][]byte{}
	for file, v := range w.files {
		rows, ok := v.([]any)
		if !ok {
			continue
		}
		data, err := json.Marshal(rows)
		if err != nil {
			tb.Fatal(err)
		}
		one := strings.TrimSuffix(strings.TrimPrefix(string(data), "["), "]")
		if one == "" {
			continue
		}
		var b strings.Builder
		b.WriteByte('[')
		for i := range copies {
			if i > 0 {
				b.WriteByte(',')
			}
			text := strings.ReplaceAll(one, "ml-prod", fmt.Sprintf("ml-%d", i))
			b.WriteString(strings.NewReplacer("fraudlake", fmt.Sprintf("fraudlake%d", i), "fraudstore", fmt.Sprintf("fraudstore%d", i), "a0000000-", fmt.Sprintf("a%07d-", i)).Replace(text))
		}
		b.WriteByte(']')
		out[file] = []byte(b.String())
	}
	return out
}

func readAll(files map[string][]byte) *Graph {
	r := NewReader()
	for name, data := range files {
		r.Add(name, data, Export{})
	}
	return r.Graph()
}

func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		files := many(b, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				g := readAll(files)
				r := Check(g, Options{Profile: Private})
				if r.Count(Pass) == 0 {
					b.Fatal("nothing passed")
				}
				b.ReportMetric(float64(g.Len()), "resources")
				b.ReportMetric(float64(r.Count(Fail)), "failures")
			}
		})
	}
}

// Ten thousand resources take well under a second on an idle machine; the test
// leaves room for a busy one.
func TestTenThousandResources(t *testing.T) {
	files := many(t, 10_000)
	begin := time.Now()
	g := readAll(files)
	r := Check(g, Options{Profile: Private, Now: testNow})
	took := time.Since(begin)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	t.Logf("%d resources in %s, %d MiB held; %s", g.Len(), took, m.HeapAlloc>>20, r.Line())
	if took > 8*time.Second || m.HeapAlloc > 200<<20 {
		t.Errorf("%d resources took %s and hold %d MiB", g.Len(), took, m.HeapAlloc>>20)
	}
	if n := r.Count(Fail); n != 0 {
		t.Errorf("%d failures in copies of a clean environment", n)
	}
	runtime.KeepAlive(g)
}
