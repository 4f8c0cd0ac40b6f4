package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/trust"
)

// Get reads one record, linearizably. A missing one is an error of kind
// NotFound.
func Get[T Record](ctx context.Context, s *Store, key string) (Item[T], error) {
	var item Item[T]
	cctx, done := s.call(ctx)
	defer done()
	resp, err := s.client.Get(cctx, key)
	if err != nil {
		return item, s.failed(ctx, "read "+key, err)
	}
	if len(resp.Kvs) == 0 {
		return item, trust.Errorf(trust.NotFound, "%s does not exist", key)
	}
	kv := resp.Kvs[0]
	item.Revision, item.Created = kv.ModRevision, kv.CreateRevision
	item.Value, err = Decode[T](kv.Value)
	return item, err
}

// Find is Get where none is no error: the zero item, whose Revision is 0.
func Find[T Record](ctx context.Context, s *Store, key string) (Item[T], error) {
	item, err := Get[T](ctx, s, key)
	if trust.KindOf(err) == trust.NotFound {
		return Item[T]{}, nil
	}
	return item, err
}

// A ListOption narrows a List.
type ListOption func(*listing)

type listing struct {
	limit int
	after string
	match func(string) bool
}

// Limit returns at most n records. The next page is After the last one's key.
func Limit(n int) ListOption { return func(l *listing) { l.limit = n } }

// After returns only records whose key sorts after key.
func After(key string) ListOption { return func(l *listing) { l.after = key } }

// Match returns only records whose key match accepts.
func Match(match func(key string) bool) ListOption { return func(l *listing) { l.match = match } }

// List reads the records of kind T below prefix (a prefix without a trailing
// "/" means that key too), in key order, as they were together at the returned
// revision. Keys of other kinds below the prefix are left out where T has a
// method Owns(key string) bool.
func List[T Record](ctx context.Context, s *Store, prefix string, opts ...ListOption) ([]Item[T], int64, error) {
	var l listing
	for _, o := range opts {
		o(&l)
	}
	var zero T
	shape, isShaped := any(zero).(shaped)
	var items []Item[T]
	rev, err := s.scan(ctx, prefix, l.after, func(kv KV) (bool, error) {
		if isShaped && !shape.Owns(kv.Key) || l.match != nil && !l.match(kv.Key) {
			return true, nil
		}
		v, err := Decode[T](kv.Value)
		if err != nil {
			return false, err
		}
		items = append(items, Item[T]{Value: v, Revision: kv.Revision, Created: kv.Created})
		return l.limit <= 0 || len(items) < l.limit, nil
	})
	if err != nil {
		return nil, 0, err
	}
	return items, rev, nil
}

// page is how many keys one round trip of a scan reads.
const page = 500

// scan gives visit every key of prefix after the given key, in order, all at
// one revision, until visit says false or fails. A compaction between two
// pages is ErrCompacted; it takes a scan of more than five minutes.
func (s *Store) scan(ctx context.Context, prefix, after string, visit func(KV) (bool, error)) (int64, error) {
	from, end := span(prefix)
	if next := after + "\x00"; after != "" && next > from {
		from = next
	}
	if from >= end {
		return s.Revision(ctx)
	}
	var rev int64
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(page)}
		if rev != 0 {
			opts = append(opts, clientv3.WithRev(rev))
		}
		cctx, done := s.call(ctx)
		resp, err := s.client.Get(cctx, from, opts...)
		done()
		if err != nil {
			return 0, s.failed(ctx, "list "+prefix, err)
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			key := string(kv.Key)
			from = key + "\x00"
			if !within(prefix, key) {
				continue
			}
			more, err := visit(KV{Key: key, Value: kv.Value, Revision: kv.ModRevision, Created: kv.CreateRevision})
			if err != nil || !more {
				return rev, err
			}
		}
		if !resp.More {
			return rev, nil
		}
	}
}

// Revision is the store's newest revision, read linearizably: every change
// acknowledged before the call is at or below it.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	cctx, done := s.call(ctx)
	defer done()
	// Any key that every role may read will do: the revision is in the header.
	resp, err := s.client.Get(cctx, Installation{}.Key(), clientv3.WithCountOnly())
	if err != nil {
		return 0, s.failed(ctx, "read revision", err)
	}
	return resp.Header.Revision, nil
}

// Count is how many keys lie below a prefix.
func (s *Store) Count(ctx context.Context, prefix string) (int, error) {
	cctx, done := s.call(ctx)
	defer done()
	from, end := span(prefix)
	resp, err := s.client.Get(cctx, from, clientv3.WithRange(end), clientv3.WithCountOnly())
	if err != nil {
		return 0, s.failed(ctx, "count "+prefix, err)
	}
	return int(resp.Count), nil
}

// observe records how long a call took.
func (s *Store) observe(start time.Time) { s.metrics.commit.Observe(time.Since(start).Seconds()) }
