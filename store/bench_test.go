package store_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sallyport/sallyport/store"
)

// How long a commit takes to be on disk, and how long until a watcher has it:
//
//	go test ./store -run '^$' -bench . -benchtime 2s
//
// Both print p50 and p99 in microseconds beside the mean.

func BenchmarkCommit(b *testing.B) {
	s := benchStore(b)
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := s.Commit(b.Context(), store.Put(note{"/n/a", "text"})); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	percentiles(b, took)
}

// Commits at once share etcd's fsync.
func BenchmarkCommitConcurrently(b *testing.B) {
	s := benchStore(b)
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		key := fmt.Sprintf("/n/%p", pb)
		for pb.Next() {
			if _, err := s.Commit(b.Context(), store.Put(note{key, "text"})); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkWatch(b *testing.B) {
	s := benchStore(b)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	w := s.Watch(ctx, "/n/", 0)
	<-w.Batches()
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := s.Commit(b.Context(), store.Put(note{"/n/a", "text"}))
			done <- err
		}()
		for batch := range w.Batches() {
			if len(batch.Events) > 0 {
				break
			}
		}
		took = append(took, time.Since(start))
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	percentiles(b, took)
}

func BenchmarkGet(b *testing.B) {
	s := benchStore(b)
	if _, err := s.Commit(b.Context(), store.Put(note{"/n/a", "text"})); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := store.Get[note](b.Context(), s, "/n/a"); err != nil {
			b.Fatal(err)
		}
	}
}

func benchStore(b *testing.B) *store.Store {
	b.Helper()
	s, err := store.Open(b.Context(), store.Config{Dir: b.TempDir(), Log: quiet})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
