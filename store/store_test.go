package store

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/sallyport/sallyport/trust"
)

func TestEmbeddedSmoke(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	start := time.Now()
	s, err := Open(ctx, Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("open", time.Since(start))
	w := s.Watch(ctx, "/operations/", 0)
	rev, err := s.Commit(ctx, Create(Operation{ID: "A"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(ctx, Create(Operation{ID: "A"})); !errors.Is(err, ErrConflict) || trust.KindOf(err) != trust.Conflict {
		t.Fatal(err)
	}
	for b := range w.Batches() {
		t.Logf("%+v", b)
		if b.Revision >= rev && !b.Fresh.IsZero() {
			break
		}
	}
	start = time.Now()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Log("close", time.Since(start), w.Err())
}
