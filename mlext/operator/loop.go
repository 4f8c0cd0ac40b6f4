package operator

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// loop has things reconciled, by uid, whenever something of theirs changes.
type loop struct {
	what      string // in the log: "job"
	log       *slog.Logger
	queue     workqueue.TypedRateLimitingInterface[string]
	informers []cache.SharedIndexInformer
	// reconcile makes one thing as it should be; again asks for another look.
	reconcile func(ctx context.Context, uid string) (again time.Duration, err error)
}

func newLoop(what string, log *slog.Logger) *loop {
	return &loop{what: what, log: log,
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, 30*time.Second))}
}

// follow has changes that an informer sees reconciled; uid says whose they are,
// "" nobody's.
func (l *loop) follow(i cache.SharedIndexInformer, uid func(any) string) error {
	enqueue := func(v any) {
		if t, ok := v.(cache.DeletedFinalStateUnknown); ok {
			v = t.Obj
		}
		if id := uid(v); id != "" {
			l.queue.Add(id)
		}
	}
	if _, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: enqueue, UpdateFunc: func(_, v any) { enqueue(v) }, DeleteFunc: enqueue}); err != nil {
		return err
	}
	l.informers = append(l.informers, i)
	return nil
}

// run works until ctx ends, and waits for what it started.
func (l *loop) run(ctx context.Context) {
	var wg sync.WaitGroup
	var synced []cache.InformerSynced
	for _, i := range l.informers {
		wg.Go(func() { i.RunWithContext(ctx) })
	}
	// The things themselves. What is made for them lies in other namespaces; one
	// that is away must not hold up the rest.
	if len(l.informers) > 0 {
		synced = append(synced, l.informers[0].HasSynced)
	}
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		for range 4 {
			wg.Go(func() { l.work(ctx) })
		}
		<-ctx.Done()
	}
	l.queue.ShutDown()
	wg.Wait()
}

func (l *loop) work(ctx context.Context) {
	for {
		uid, down := l.queue.Get()
		if down {
			return
		}
		again, err := l.reconcile(ctx, uid)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				l.log.WarnContext(ctx, "not reconciled", "what", l.what, "uid", uid, "error", err)
			}
			l.queue.AddRateLimited(uid)
		default:
			l.queue.Forget(uid)
			if again > 0 {
				l.queue.AddAfter(uid, again)
			}
		}
		l.queue.Done(uid)
	}
}
