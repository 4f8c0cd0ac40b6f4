package store

import (
	"context"
	"errors"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Follow keeps a consumer's picture of a prefix true: it calls snapshot with
// everything below it, then changes with every batch after that, without gaps
// and without repeats. After a compaction that a slow or disconnected consumer
// fell behind, snapshot is called again with everything (compare it with what
// you have: deletions show as absence). It returns when ctx or the store ends,
// or with the first error of a callback. Callbacks are not called concurrently;
// while one runs, nothing newer arrives.
func Follow(ctx context.Context, s *Store, prefix string,
	snapshot func(all []KV, revision int64) error, changes func(Batch) error) error {
	for {
		all, rev, err := s.everything(ctx, prefix)
		if err != nil {
			return err
		}
		if err := snapshot(all, rev); err != nil {
			return err
		}
		if err := s.follow(ctx, prefix, rev, changes); !errors.Is(err, ErrCompacted) {
			return err
		}
		s.log.Info("listing again after a compaction", "prefix", prefix)
	}
}

// everything lists a prefix, again and again while the store is away.
func (s *Store) everything(ctx context.Context, prefix string) ([]KV, int64, error) {
	const first, most = 50 * time.Millisecond, time.Second
	for pause := first; ; pause = min(2*pause, most) {
		var all []KV
		rev, err := s.scan(ctx, prefix, "", func(kv KV) (bool, error) {
			all = append(all, kv)
			return true, nil
		})
		if err == nil {
			return all, rev, nil
		}
		if s.ctx.Err() != nil || ctx.Err() != nil || trust.KindOf(err) != trust.Unavailable {
			return nil, 0, err
		}
		s.log.Warn("list interrupted", "prefix", prefix, "error", err)
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// follow watches until the watch or the callback ends it, and waits for the
// watch.
func (s *Store) follow(ctx context.Context, prefix string, after int64, changes func(Batch) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := s.Watch(ctx, prefix, after)
	for b := range w.Batches() {
		if err := changes(b); err != nil {
			cancel()
			for range w.Batches() { // until the watch has ended
			}
			return err
		}
	}
	return w.Err()
}
