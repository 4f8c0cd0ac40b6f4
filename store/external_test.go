package store_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const clusterLease = 10 * time.Second

// outside starts an etcd cluster in a process of its own, on a unix socket.
func outside(t *testing.T) (dir string, p *process, s *store.Store) {
	t.Helper()
	// Socket paths are short; t.TempDir's are not.
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p = startChild(t, "etcd", dir)
	if got := p.line(); got != "serves" {
		t.Fatal(got)
	}
	return dir, p, openStore(t, store.Config{Endpoints: []string{"unix://" + filepath.Join(dir, "s")}, Timeout: time.Second})
}

// etcd freezes, thaws, is killed and comes back: calls fail as Unavailable
// within their time, a watch shows its age and then delivers what it missed,
// and leases are lost by the holder's own clock.
func TestEtcdGone(t *testing.T) {
	t.Parallel()
	dir, p, s := outside(t)
	ctx, cancel := context.WithCancel(t.Context())
	w := s.Watch(ctx, "/n/", 0)
	seen := make(chan string, 100)
	var reader sync.WaitGroup
	reader.Go(func() { // has time for every batch
		for b := range w.Batches() {
			for _, e := range b.Events {
				seen <- e.Key
			}
		}
	})
	t.Cleanup(func() { cancel(); reader.Wait() })
	next := func(key string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != key {
				t.Fatalf("got %s, want %s", got, key)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s does not come: %v", key, w.Err())
		}
	}
	fails := func(what string) {
		t.Helper()
		for name, call := range map[string]func() error{
			"commit":   func() error { _, err := s.Commit(t.Context(), store.Put(note{"/n/lost", ""})); return err },
			"get":      func() error { _, err := store.Get[note](t.Context(), s, "/n/a"); return err },
			"revision": func() error { _, err := s.Revision(bounded(t, 200*time.Millisecond)); return err },
		} {
			start := time.Now()
			if err := call(); trust.KindOf(err) != trust.Unavailable {
				t.Errorf("%s: %s: %v", what, name, err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("%s: %s took %s", what, name, took)
			}
		}
	}
	fresh := func() bool { return time.Since(w.LastProgress()) < 1500*time.Millisecond }
	eventually(t, 5*time.Second, "established", func() bool { return !w.LastProgress().IsZero() })
	commit(t, s, store.Put(note{"/n/a", ""}))
	next("/n/a")
	eventually(t, 3*time.Second, "fresh", fresh)
	lease, err := s.Lease(t.Context(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}

	p.freeze()
	frozen := time.Now()
	fails("frozen")
	select {
	case <-lease.Lost():
		if took := time.Since(frozen); took > 3500*time.Millisecond {
			t.Errorf("lost after %s", took)
		}
	case <-time.After(5 * time.Second):
		t.Error("a lease of 2 s is not lost after 5 s")
	}
	if fresh() {
		t.Error("a watch of a frozen etcd looks fresh")
	}
	p.signal(syscall.SIGCONT)
	eventually(t, 10*time.Second, "writing again", func() bool {
		_, err := s.Commit(t.Context(), store.Put(note{"/m/thawed", ""}))
		return err == nil
	})
	eventually(t, 5*time.Second, "fresh again", fresh)
	all, _, err := store.List[note](t.Context(), s, "/n/lost")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) > 0 { // the commit that got no answer was stored after all
		next("/n/lost")
	}
	commit(t, s, store.Put(note{"/n/b", ""}))
	next("/n/b")

	p.kill()
	fails("killed")
	p = startChild(t, "etcd", dir)
	if got := p.line(); got != "serves" {
		t.Fatal(got)
	}
	eventually(t, 10*time.Second, "reading again", func() bool {
		_, err := s.Revision(t.Context())
		return err == nil
	})
	commit(t, s, store.Put(note{"/n/c", ""}))
	next("/n/c")
}

// After etcd was away and came back, a watch of a store to which nobody writes
// is fresh again soon.
func TestQuietAfterReconnect(t *testing.T) {
	t.Parallel()
	dir, p, s := outside(t)
	w := s.Watch(bounded(t, 30*time.Second), "/n/", 0)
	<-w.Batches()
	p.kill()
	p = startChild(t, "etcd", dir)
	if got := p.line(); got != "serves" {
		t.Fatal(got)
	}
	back := time.Now()
	for b := range w.Batches() {
		if b.Fresh.After(back) {
			t.Logf("fresh %s after the return", time.Since(back))
			if took := time.Since(back); took > 5*time.Second {
				t.Errorf("fresh only after %s", took)
			}
			return
		}
	}
	t.Fatal(w.Err())
}

// A process that dies without a word: what it held goes with the lease's time.
func TestLeaseExpires(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "")
	dying, other := c.open(t, rootUser, rootPassword), c.open(t, rootUser, rootPassword)
	lease, err := dying.Lease(t.Context(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, dying, store.Under(lease, store.Create(note{"/n/live", ""})))
	w := other.Watch(bounded(t, 20*time.Second), "/n/", 0)
	<-w.Batches()
	if err := dying.Close(); err != nil { // revokes nothing
		t.Fatal(err)
	}
	died := time.Now()
	for b := range w.Batches() {
		if len(b.Events) == 0 {
			continue
		}
		e, took := b.Events[0], time.Since(died)
		if e.Type != store.EventDelete || e.Key != "/n/live" || took > 4*time.Second {
			t.Errorf("%+v after %s", e, took)
		}
		t.Logf("gone %s after its holder", took)
		return
	}
	t.Fatal(w.Err())
}
