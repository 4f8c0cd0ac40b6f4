package control

import (
	"sync"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
)

// touching writes a record again and again, unchanged, as operations do when
// they end, until stop is called.
func touching[T store.Record](w *world, path string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if item, err := store.Get[T](w.t.Context(), w.store, store.ResourceKey(path)); err == nil {
				_, _ = w.store.Commit(w.t.Context(), store.Update(item.Value, item.Revision)) // may lose, too
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// What takes access away does not fail because something else about the same
// resource was just written: Terraform deletes without waiting for its update.
func TestTakingAwayLosesNoRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t).scene()
	for _, name := range []string{"a", "b", "c"} {
		path := clusterPath + "/trustedAccessRoleBindings/" + name
		w.must(201, "PUT", path, wants(sourcePath, mlworkload))
		stop := touching[store.Binding](w, path)
		w.must(202, "DELETE", path, nil)
		stop()
	}
	stop := touching[store.Cluster](w, clusterPath)
	for range 15 {
		w.must(202, "POST", clusterPath+"/stop", nil)
		w.must(202, "POST", clusterPath+"/start", nil)
	}
	w.must(202, "DELETE", clusterPath, nil)
	stop()
}
