package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/store"
)

// Writers, one watcher from the start and one from the middle: every
// transaction arrives whole, once, in order.
func TestWatchDeliversInOrder(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		before, err := s.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		const writers, each = 4, 40
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for n := range each {
					text := fmt.Sprintf("%d-%d", i, n)
					if _, err := s.Commit(t.Context(), store.Put(note{fmt.Sprintf("/n/%d", i), text}),
						store.Put(note{fmt.Sprintf("/n/%d/twin", i), text})); err != nil {
						t.Error(err)
					}
				}
			})
		}
		// Started while the writers write, so that it has to catch up.
		w := s.Watch(bounded(t, 30*time.Second), "/n/", before)
		next := map[string]int{}
		last := before
		for seen := 0; seen < writers*each; {
			b, ok := <-w.Batches()
			if !ok {
				t.Fatal(w.Err())
			}
			if b.Revision < last {
				t.Fatalf("revision %d after %d", b.Revision, last)
			}
			for i := 0; i < len(b.Events); i += 2 {
				one, two := b.Events[i], b.Events[i+1]
				if one.Revision != two.Revision || one.Revision <= last {
					t.Fatalf("transactions torn or repeated: %d and %d after %d", one.Revision, two.Revision, last)
				}
				last = one.Revision
				v, err := store.Decode[note](one.Value)
				if err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprintf("%s-%d", one.Key[len("/n/"):], next[one.Key]); v.Text != want {
					t.Fatalf("got %s, want %s", v.Text, want)
				}
				next[one.Key]++
				seen++
			}
			if b.Revision < last {
				t.Fatalf("batch at %d holds an event of %d", b.Revision, last)
			}
		}
		wg.Wait()
	})
}

func TestWatchTellsWhatWas(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		w := s.Watch(bounded(t, 20*time.Second), "/n/", 0)
		b := <-w.Batches() // the first progress: the watch is established
		start := b.Revision
		created := commit(t, s, store.Create(note{"/n/a", "1"}))
		updated := commit(t, s, store.Update(note{"/n/a", "2"}, created))
		deleted := commit(t, s, store.Delete("/n/a", updated))
		var got []store.Event
		for len(got) < 3 {
			b, ok := <-w.Batches()
			if !ok {
				t.Fatal(w.Err())
			}
			got = append(got, b.Events...)
		}
		one, two := []byte(`{"Path":"/n/a","Text":"1"}`), []byte(`{"Path":"/n/a","Text":"2"}`)
		want := []store.Event{
			{Type: store.EventPut, Key: "/n/a", Value: one, Revision: created, Created: created},
			{Type: store.EventPut, Key: "/n/a", Value: two, Prev: one, Revision: updated, Created: created},
			{Type: store.EventDelete, Key: "/n/a", Prev: two, Revision: deleted},
		}
		if d := cmp.Diff(want, got); d != "" || start >= created {
			t.Error(start, d)
		}
	})
}

// A store to which nobody writes is known to be fresh, by new watches too, and
// watches do not hold each other back.
func TestQuietStoreStaysFresh(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		commit(t, s, store.Create(note{"/n/a", ""}))
		rev, err := s.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx := bounded(t, 20*time.Second)
		s.Watch(ctx, "/n/", rev) // nobody reads it
		w := s.Watch(ctx, "/n/", rev)
		began := time.Now()
		for time.Since(began) < 1600*time.Millisecond {
			select {
			case b := <-w.Batches():
				if len(b.Events) > 0 || b.Revision != rev || b.Fresh.Before(began) {
					t.Errorf("%+v", b)
				}
			case <-time.After(3 * time.Second):
				t.Fatal("no progress for 3 s")
			}
		}
		if age := time.Since(w.LastProgress()); age > 3*time.Second {
			t.Errorf("last progress %s ago", age)
		}
	})
}

func TestCompactedWatchEnds(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		first := commit(t, s, store.Put(note{"/n/a", "1"}))
		commit(t, s, store.Put(note{"/n/a", "2"}))
		last := commit(t, s, store.Put(note{"/n/a", "3"}))
		if err := s.Compact(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		w := s.Watch(bounded(t, 10*time.Second), "/n/", first)
		for b := range w.Batches() {
			t.Errorf("%+v", b)
		}
		if !errors.Is(w.Err(), store.ErrCompacted) {
			t.Error(w.Err())
		}
	})
}

// Follow's picture equals the store after writes that a compaction hid from it,
// deletions included.
func TestFollowListsAgainAfterCompaction(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		commit(t, s, store.Put(note{"/n/kept", "1"}), store.Put(note{"/n/gone", "1"}))
		ctx, cancel := context.WithCancel(bounded(t, 20*time.Second))
		defer cancel()
		picture := map[string]string{}
		lists, target := 0, int64(0)
		err := store.Follow(ctx, s, "/n/", func(all []store.KV, _ int64) error {
			clear(picture)
			for _, kv := range all {
				picture[kv.Key] = string(kv.Value)
			}
			if lists++; lists == 1 {
				// Between the list and the watch.
				commit(t, s, store.Delete("/n/gone", 0), store.Put(note{"/n/kept", "2"}))
				if err := s.Compact(t.Context(), commit(t, s, store.Put(note{"/n/new", "1"}))); err != nil {
					return err
				}
			} else {
				target = commit(t, s, store.Put(note{"/n/last", "1"}))
			}
			return nil
		}, func(b store.Batch) error {
			for _, e := range b.Events {
				if e.Type == store.EventDelete {
					delete(picture, e.Key)
				} else {
					picture[e.Key] = string(e.Value)
				}
			}
			if target > 0 && b.Revision >= target {
				cancel()
			}
			return nil
		})
		if !errors.Is(err, context.Canceled) || lists != 2 {
			t.Errorf("%d lists, %v", lists, err)
		}
		want := map[string]string{}
		all, _, lerr := store.List[note](t.Context(), s, "/n/")
		if lerr != nil {
			t.Fatal(lerr)
		}
		for _, i := range all {
			want[i.Value.Path] = fmt.Sprintf(`{"Path":%q,"Text":%q}`, i.Value.Path, i.Value.Text)
		}
		if len(want) != 3 || !maps.Equal(want, picture) {
			t.Error(cmp.Diff(want, picture))
		}
	})
}

func TestFollowEndsWithItsConsumer(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		mine := errors.New("mine")
		ignore := func([]store.KV, int64) error { return nil }
		if err := store.Follow(t.Context(), s, "/n/", func([]store.KV, int64) error { return mine }, nil); !errors.Is(err, mine) {
			t.Error(err)
		}
		if err := store.Follow(t.Context(), s, "/n/", ignore, func(store.Batch) error { return mine }); !errors.Is(err, mine) {
			t.Error(err)
		}
	})
}

func TestLease(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *store.Store) {
		gone := func(key string) func() bool {
			return func() bool {
				all, _, err := store.List[note](t.Context(), s, key)
				return err == nil && len(all) == 0
			}
		}
		// Closed: gone at once.
		closed, err := s.Lease(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, store.Under(closed, store.Create(note{"/n/closed", ""})))
		if err := closed.Close(); err != nil {
			t.Fatal(err)
		}
		<-closed.Lost()
		if !gone("/n/closed")() {
			t.Error("the key outlives its closed lease")
		}
		if _, err := s.Commit(t.Context(), store.Under(closed, store.Create(note{"/n/closed", ""}))); !errors.Is(err, store.ErrLeaseLost) {
			t.Errorf("put under a closed lease: %v", err)
		}

		// Kept: there after more than its time.
		kept, err := s.Lease(t.Context(), 2*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, store.Under(kept, store.Create(note{"/n/kept", ""})))
		select {
		case <-kept.Lost():
			t.Fatal("lost")
		case <-time.After(3700 * time.Millisecond):
		}
		if gone("/n/kept")() {
			t.Fatal("the key is gone although its lease is kept")
		}

		// Taken away: its holder is told.
		if err := kept.RevokeByForce(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-kept.Lost():
		case <-time.After(3 * time.Second):
			t.Error("a lease ended by the store is not lost")
		}
	})
}
