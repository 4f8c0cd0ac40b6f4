package netenv

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
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

// BenchmarkCheck measures the time: under a second for ten thousand resources on
// two idle cores (go test ./netenv -run XXX -bench Check). What a busy machine
// cannot blur is held here: the memory, and that work grows with the input and
// not with its square.
func TestTenThousandResources(t *testing.T) {
	judge := func(n int) (g *Graph, allocated uint64) {
		files := many(t, n)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		g = readAll(files)
		r := Check(g, Options{Profile: Private, Now: testNow})
		runtime.ReadMemStats(&after)
		if f := r.Count(Fail); f != 0 {
			t.Errorf("%d failures in %d copies of a clean environment", f, n)
		}
		t.Logf("%d resources: %s", g.Len(), r.Line())
		return g, after.TotalAlloc - before.TotalAlloc
	}
	_, small := judge(2_500)
	g, large := judge(10_000)
	if large > 5*small {
		t.Errorf("four times the resources allocate %d times as much: %d and %d MiB", large/small, small>>20, large>>20)
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 200<<20 {
		t.Errorf("%d resources hold %d MiB", g.Len(), m.HeapAlloc>>20)
	}
	runtime.KeepAlive(g)
}
