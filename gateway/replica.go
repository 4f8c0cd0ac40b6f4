package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// replica keeps this replica's records in the store, under a lease: that it is
// alive, up to which revision it has applied changes and ended what they take
// away, and which clusters' tunnels it holds. A removal counts as done when
// every such record has reached its revision or is gone; so a replica that has
// lost its lease refuses everything until it has another one.
type replica struct {
	g       *Gateway
	started time.Time
	held    atomic.Bool
	poke    chan struct{} // capacity 1

	mu      sync.Mutex // guards what follows
	done    int64      // newest applied revision
	tunnels map[string]int
	lease   *store.Lease
}

func newReplica(g *Gateway) *replica {
	return &replica{g: g, started: g.now(), poke: make(chan struct{}, 1), tunnels: map[string]int{}}
}

// ready is nil while the lease is held.
func (r *replica) ready() error {
	if !r.held.Load() {
		return trust.Errorf(trust.Unavailable, "this gateway has no lease in the store, so nothing is let through")
	}
	return nil
}

// applied notes that changes up to a revision are applied and what they took
// away has ended.
func (r *replica) applied(revision int64) {
	r.mu.Lock()
	r.done = max(r.done, revision)
	r.mu.Unlock()
	r.wake()
}

// tunnelsChanged is told by the hub; it does not block.
func (r *replica) tunnelsChanged(cluster string, live int) {
	r.mu.Lock()
	r.tunnels[cluster] = live
	r.mu.Unlock()
	r.wake()
}

func (r *replica) wake() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

const retryLease = 500 * time.Millisecond

// run holds a lease and writes the records, until ctx ends.
func (r *replica) run(ctx context.Context) error {
	for ctx.Err() == nil {
		lease, err := r.g.config.Store.Lease(ctx, leaseTTL)
		if err != nil {
			if ctx.Err() == nil {
				r.g.log.WarnContext(ctx, "gateway gets no lease", "error", err)
			}
			pause(ctx, retryLease)
			continue
		}
		r.mu.Lock()
		r.lease = lease
		r.mu.Unlock()
		r.hold(ctx, lease)
		if ctx.Err() != nil {
			return nil // close revokes it, after what runs has ended
		}
		r.held.Store(false)
		r.g.sweepSoon()
		_ = lease.Close()
	}
	return nil
}

// hold writes what changed until the lease is lost or ctx ends.
func (r *replica) hold(ctx context.Context, lease *store.Lease) {
	var written int64 = -1
	told := map[string]bool{}
	for {
		if err := r.write(ctx, lease, &written, told); err != nil {
			if ctx.Err() != nil {
				return
			}
			r.g.log.WarnContext(ctx, "gateway cannot write its records", "error", err)
			select {
			case <-lease.Lost():
				return
			case <-ctx.Done():
				return
			case <-time.After(retryLease):
			}
			continue
		}
		select {
		case <-lease.Lost():
			r.g.log.WarnContext(ctx, "gateway lost its lease")
			return
		case <-ctx.Done():
			return
		case <-r.poke:
		}
	}
}

// write brings the records up to date. The first one goes out only when the
// bindings have been read: before that this replica lets nothing through, and
// nobody need wait for it.
func (r *replica) write(ctx context.Context, lease *store.Lease, written *int64, told map[string]bool) error {
	r.mu.Lock()
	done := r.done
	var ops []store.Op
	if done > 0 && done > *written {
		ops = append(ops, store.Under(lease, store.Put(store.Gateway{
			Replica: r.g.config.Replica, Address: r.g.peers.address(), Location: first(r.g.config.Locations), Applied: done, Started: r.started,
		})))
	}
	var news []string
	for cluster, live := range r.tunnels {
		record := store.Tunnel{Cluster: trust.ClusterUID(cluster), Replica: r.g.config.Replica, Address: r.g.peers.address()}
		switch {
		case live > 0 && !told[cluster]:
			ops, news = append(ops, store.Under(lease, store.Put(record))), append(news, cluster)
		case live == 0 && told[cluster]:
			ops, news = append(ops, store.Delete(record.Key(), 0)), append(news, cluster)
		case live == 0:
			delete(r.tunnels, cluster)
		}
		if len(ops) >= 64 {
			r.wake()
			break
		}
	}
	r.mu.Unlock()
	if len(ops) == 0 {
		return nil
	}
	if _, err := r.g.config.Store.Commit(ctx, ops...); err != nil {
		return err
	}
	if done > *written {
		*written = done
	}
	for _, c := range news {
		told[c] = !told[c]
	}
	if done > 0 {
		r.held.Store(true)
	}
	return nil
}

// close gives the lease back.
func (r *replica) close() {
	r.held.Store(false)
	r.mu.Lock()
	lease := r.lease
	r.lease = nil
	r.mu.Unlock()
	if lease != nil {
		_ = lease.Close() // or it ends by itself
	}
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
