package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sallyport/sallyport/trust"
)

// Lease holds what must vanish with this process: keys put Under it go at most
// its time (plus etcd's check, under a second) after the process stops keeping
// it alive.
type Lease struct {
	store  *Store
	id     clientv3.LeaseID
	ttl    time.Duration
	lost   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{} // the keeper has returned
	close  sync.Once
	closed error
}

// Lease takes a lease of ttl, whole seconds (rounded up; etcd may give more),
// and keeps it alive until Close or the store's end. ctx bounds only the taking.
func (s *Store) Lease(ctx context.Context, ttl time.Duration) (*Lease, error) {
	if err := s.room(); err != nil {
		return nil, fmt.Errorf("take lease: %w", err)
	}
	seconds := int64((ttl + time.Second - 1) / time.Second)
	if seconds < 1 {
		return nil, trust.Errorf(trust.Internal, "take lease: %s is no time to live", ttl)
	}
	cctx, done := s.call(ctx)
	defer done()
	start := time.Now()
	resp, err := s.client.Grant(cctx, seconds)
	if err != nil {
		return nil, s.failed(ctx, "take lease", err)
	}
	l := &Lease{
		store: s, id: resp.ID, ttl: time.Duration(resp.TTL) * time.Second,
		lost: make(chan struct{}), ended: make(chan struct{}),
	}
	kctx, cancel := context.WithCancel(s.ctx)
	l.cancel = cancel
	s.wg.Go(func() {
		defer close(l.ended)
		l.keep(kctx, start)
	})
	return l, nil
}

// Lost is closed when the lease has ended, or may have: by this process's own
// clock, no answer came for the lease's time, counted from the last answered
// question. Whoever relies on the lease stops before another can take its place.
// It is closed after Close too.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// TTL is the time that etcd gave.
func (l *Lease) TTL() time.Duration { return l.ttl }

// keep renews the lease until ctx ends or it is lost. renewed is when the last
// answered question was put.
func (l *Lease) keep(ctx context.Context, renewed time.Time) {
	defer close(l.lost)
	every := l.ttl / 4
	for {
		pause := every
		if left := time.Until(renewed.Add(l.ttl)); left < pause {
			pause = max(left, 0)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		deadline := renewed.Add(l.ttl)
		asked := time.Now()
		if !asked.Before(deadline) {
			l.store.log.Warn("lease lost", "reason", "not renewed in time")
			return
		}
		actx, cancel := context.WithDeadline(ctx, minTime(deadline, asked.Add(2*every)))
		resp, err := l.store.client.KeepAliveOnce(actx, l.id)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && resp.TTL > 0:
			renewed = asked
		case err == nil || isLeaseLost(err):
			l.store.log.Warn("lease lost", "reason", "ended by the store")
			return
		}
	}
}

// Close revokes the lease, and with it every key under it. When the store
// cannot be reached the keys vanish when the time is over.
func (l *Lease) Close() error {
	l.close.Do(func() {
		l.cancel()
		<-l.ended
		s := l.store
		if s.ctx.Err() != nil {
			return
		}
		cctx, done := s.call(s.ctx)
		defer done()
		if _, err := s.client.Revoke(cctx, l.id); err != nil && !isLeaseLost(err) {
			l.closed = s.failed(s.ctx, "revoke lease", err)
		}
	})
	return l.closed
}

func isLeaseLost(err error) bool { return errors.Is(translate(err), ErrLeaseLost) }

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
