package router

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// The Lease's times: what passes until another router coordinates when one is
// lost without a word. Slots that routers hold are used meanwhile, and requests
// that have none wait.
const (
	leaseLife   = 6 * time.Second
	renewWithin = 4 * time.Second
	renewEvery  = time.Second
)

// campaign works as coordinator and autoscaler whenever this process holds the
// Lease, until ctx ends or it drains.
func (r *Router) campaign(ctx context.Context, wg *sync.WaitGroup) {
	lock := &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: wire.Namespace, Name: mlext.RouterLease}, Client: r.Kube.CoordinationV1(),
		// The pod's name: a process that was started anew in it has the Lease still.
		LockConfig: resourcelock.ResourceLockConfig{Identity: r.Name},
	}
	for ctx.Err() == nil && !r.draining.Load() {
		term, cancel := context.WithCancel(ctx)
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: leaseLife, RenewDeadline: renewWithin, RetryPeriod: renewEvery, ReleaseOnCancel: true, Name: mlext.RouterLease,
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
		})
		if err != nil {
			r.Log.ErrorContext(ctx, "no coordinator", "error", err)
			cancel()
			return
		}
		// The elector starts its callback and does not wait for it: the work has a
		// goroutine of ours instead.
		var work sync.WaitGroup
		work.Go(func() {
			defer cancel()
			r.term(term, elector, wg, ctx)
		})
		elector.Run(term)
		cancel()
		work.Wait()
		r.leads.Store(false)
		wait(ctx, renewEvery) // whatever ended it may last
	}
}

// term waits for the Lease, coordinates, and scales until the term ends. The
// coordinator outlives it, until a newer one takes over.
func (r *Router) term(ctx context.Context, elector *leaderelection.LeaderElector, wg *sync.WaitGroup, life context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !elector.IsLeader() {
		select {
		case <-ctx.Done():
			return
		case <-r.drained:
			return
		case <-tick.C:
		}
	}
	// The elector's own lock is not for two: it keeps what it read.
	lease, err := r.Kube.CoordinationV1().Leases(wire.Namespace).Get(ctx, mlext.RouterLease, metav1.GetOptions{})
	if err != nil {
		r.Log.WarnContext(ctx, "lease not read", "error", err)
		return
	}
	record := resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)
	if record.HolderIdentity != r.Name {
		return
	}
	r.leads.Store(true)
	r.Log.InfoContext(ctx, "coordinating")
	r.coordinate(life, wg, int64(record.LeaderTransitions)+1)
	r.autoscale(ctx)
}

// coordinate starts a coordinator, unless this process's last one serves still.
func (r *Router) coordinate(ctx context.Context, wg *sync.WaitGroup, epoch int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.coordinator != nil && r.coordinator.current() >= epoch {
		return
	}
	c := newCoordinator(epoch, r.Now)
	c.update(r.table.Load())
	r.coordinator = c
	wg.Go(func() {
		r.preside(ctx, c)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.coordinator == c {
			r.coordinator = nil
		}
	})
}
