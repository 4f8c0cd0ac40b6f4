package ml

import (
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
)

// News of the cluster, written while a client asks for something, fail no request.
func TestRequestsLoseNoRaceAgainstNews(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	path := workspace + "/jobs/busy"
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if item, err := store.Get[store.Provided](w.t.Context(), w.st, store.ProvidedKey(path)); err == nil {
				_, _ = w.st.Commit(w.t.Context(), store.Update(item.Value, item.Revision)) // may lose, too
			}
		}
	})
	defer wg.Wait()
	defer close(done)
	for range 20 {
		w.must(201, "PUT", path, command())
		w.must(202, "POST", path+"/cancel", nil)
		w.end(w.must(202, "DELETE", path, nil))
	}
}
