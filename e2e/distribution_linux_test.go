package e2e

import (
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/client"
)

// The distribution of revocation times: a binding is deleted, and with it end a
// watch and, on a real node, a silent exec and a caller that does not read. 20
// runs; SALLYPORT_E2E_RUNS says how many.
func TestDistributionOfRevocation(t *testing.T) {
	w := start(t)
	runs := 20
	if n, err := strconv.Atoi(os.Getenv("SALLYPORT_E2E_RUNS")); err == nil && n > 0 {
		runs = n
	}
	var kinds []shape
	for _, s := range w.available() {
		switch s.kind {
		case "watch", "watch, stalled reader", "exec, silent", "logs -f, stalled reader":
			kinds = append(kinds, s)
		}
	}
	service, token, binding := w.service(t, deployer)
	took, answers := map[string][]time.Duration{}, []time.Duration{}
	for n := range runs {
		if n > 0 {
			if err := service.Bind(t.Context(), binding[len(client.BindingsPath(w.ClusterID()))+1:], deployer); err != nil {
				t.Fatal(err)
			}
		}
		streams := w.openAll(t, token, kinds)
		began := time.Now()
		op, err := w.Do(t.Context(), http.MethodDelete, binding, client.ContainerServiceVersion, nil)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, time.Since(began))
		for _, st := range streams {
			at, err := st.ended(5 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			took[st.kind] = append(took[st.kind], at.Sub(began))
			if d := at.Sub(began); d > answers[n]+inTouch+starved {
				t.Errorf("run %d: %s ended after %s", n, st.kind, d)
			}
		}
		if _, err := op.Wait(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d runs, from before the DELETE was sent to the end at the server, in ms", runs)
	print := func(name string, all []time.Duration) {
		slices.Sort(all)
		at := func(q float64) float64 { return ms(all[min(len(all)-1, int(q*float64(len(all))))]) }
		t.Logf("%-24s min %6.1f  p50 %6.1f  p90 %6.1f  p99 %6.1f  max %6.1f", name, ms(all[0]), at(.5), at(.9), at(.99), ms(all[len(all)-1]))
	}
	print("(the DELETE's answer)", answers)
	for _, s := range kinds {
		print(s.kind, took[s.kind])
	}
}
