package authn

import (
	"context"
	"sync"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// retryKeys is how soon a failed refresh is tried again in the background.
const retryKeys = 30 * time.Second

// Run refreshes every issuer's keys until ctx ends, every 5 minutes and when
// the issuer says that something changed, and tells subscribers. It always
// returns ctx's error, after all its goroutines have ended.
func (a *Authenticator) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, i := range a.issuers {
		running.Go(func() { a.keep(ctx, i) })
	}
	running.Wait()
	return ctx.Err()
}

func (a *Authenticator) keep(ctx context.Context, i *issuer) {
	i.ring.kept.Store(true)
	defer i.ring.kept.Store(false)
	poke := make(chan struct{}, 1)
	if i.Subscribe != nil {
		defer i.Subscribe(func() {
			select {
			case poke <- struct{}{}:
			default:
			}
		})()
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		poked := false
		select {
		case <-ctx.Done():
			return
		case <-poke:
			poked = true
		case <-timer.C:
		}
		next := KeyRefresh
		if err := i.ring.refreshAfter(ctx); err != nil {
			next = retryKeys
		}
		set := i.ring.set.Load()
		stale := set != nil && a.now().Sub(set.fetched) >= KeyMaxAge
		if stale || poked {
			a.notify()
		}
		timer.Reset(next)
	}
}

// Subscribe has f called, from another goroutine, after anything that may take
// a caller's authentication back: a key that vanished, an identity or
// credential removed, keys too old to be believed. f must be quick; it then
// asks Current for each caller it lets on. The order that leaves no gap is:
// register the stream, then ask Current.
func (a *Authenticator) Subscribe(f func()) (cancel func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := a.nextID
	a.nextID++
	a.subscribers[id] = f
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.subscribers, id)
	}
}

// Current reports whether a caller that was authenticated before would still
// be: its key in a set that may be believed, its identity and credential still
// there, its token not expired.
func (a *Authenticator) Current(c *trust.Caller) bool {
	i := a.issuers[c.Issuer]
	now := a.now()
	return i != nil && now.Before(c.Expires) && i.ring.has(c.KeyID, now) && (i.Stands == nil || i.Stands(c) == nil)
}

// Ready reports, by issuer, why its keys cannot be had now; issuers in order are
// absent.
func (a *Authenticator) Ready() map[string]error {
	broken := map[string]error{}
	for url, i := range a.issuers {
		set := i.ring.set.Load()
		if set != nil && a.now().Sub(set.fetched) < KeyMaxAge {
			continue
		}
		i.ring.mu.Lock()
		err := i.ring.failed
		i.ring.mu.Unlock()
		broken[url] = trust.Errorf(trust.Unavailable, "its signing keys were never fetched or are too old").Because(err)
	}
	return broken
}

// vanished empties the cache, since the token of a vanished key is in it only
// to be refused, and tells the subscribers.
func (a *Authenticator) vanished() {
	a.cache.clear()
	a.notify()
}

func (a *Authenticator) notify() {
	a.mu.Lock()
	tell := make([]func(), 0, len(a.subscribers))
	for _, f := range a.subscribers {
		tell = append(tell, f)
	}
	a.mu.Unlock()
	for _, f := range tell {
		f()
	}
}
