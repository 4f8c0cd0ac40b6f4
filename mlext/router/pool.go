package router

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// pool is one router's part of a deployment: the slots that it holds, the
// requests that use them, and those that wait for one.
type pool struct {
	id  string // the deployment's uid
	now func() time.Time

	mu        sync.Mutex // guards what follows
	to        *mailbox   // the coordinator's; nil: there is none
	contended bool       // others wait: slots go back when they are free
	replicas  map[string]*replica
	ready     []*replica // those that take requests
	turn      int        // in ready
	first     *waiter    // in the order of coming
	last      *waiter
	waiting   int
	busy      int
	measured  measure
}

// replica is a pod of the deployment, at one address: it is another one when its
// sandbox is made anew.
type replica struct {
	id      string
	address string // of the model server: host:port; stays once it is known, as the id stands for one address

	// Guarded by the pool's mu.
	ready bool
	held  int       // slots of it that are this router's
	busy  int       // of them, in use
	rest  time.Time // it refused a connection: not before
	known time.Time // since when slots are held of a replica that is not ready; zero else
}

// waiter is a request in the queue.
type waiter struct {
	prev, next *waiter
	queued     bool
	got        chan *replica // has room for one
}

// measure adds up how much was going on.
type measure struct {
	since, from  time.Time
	busy, queued float64 // seconds
}

const (
	maxWaiting    = 1000             // per deployment and router: each may hold a body in memory
	restAfter     = time.Second      // a replica that refused a connection is left alone
	unknownFor    = 2 * time.Second  // slots of a replica that is not ready are kept, in case this router sees it late
	withoutAnyone = 15 * time.Second // a request waits for a coordinator, whatever its queue's wait
)

func newPool(id string, now func() time.Time) *pool {
	return &pool{id: id, now: now, replicas: map[string]*replica{}, measured: measure{since: now(), from: now()}}
}

// say sends to the coordinator. Callers hold mu.
func (p *pool) say(k kind, replica string, n int) {
	if p.to != nil {
		p.to.put(message{Kind: k, Deployment: p.id, Replica: replica, N: n})
	}
}

// count keeps the measure, before busy or waiting change. Callers hold mu.
func (p *pool) count(now time.Time) {
	if d := now.Sub(p.measured.since).Seconds(); d > 0 {
		p.measured.busy += float64(p.busy) * d
		p.measured.queued += float64(p.waiting) * d
		p.measured.since = now
	}
}

// load is how many requests were busy and queued on average since the last call.
func (p *pool) load(now time.Time) (busy, queued float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(now)
	m := p.measured
	p.measured = measure{since: now, from: now}
	if d := now.Sub(m.from).Seconds(); d > 0 {
		return m.busy / d, m.queued / d
	}
	return float64(p.busy), float64(p.waiting)
}

// current is what is going on now, for metrics.
func (p *pool) current() (ready, held, busy, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.replicas {
		held += r.held
	}
	return len(p.ready), held, p.busy, p.waiting
}

// free is the replica that the next request goes to: in turn, the least busy one
// of those with a free slot. Callers hold mu.
func (p *pool) free(now time.Time) *replica {
	var best *replica
	at := 0
	for i := range p.ready {
		n := (p.turn + i) % len(p.ready)
		r := p.ready[n]
		if r.busy >= r.held || !r.rest.IsZero() && now.Before(r.rest) {
			continue
		}
		if best == nil || r.busy < best.busy {
			if best, at = r, n; r.busy == 0 {
				break
			}
		}
	}
	if best != nil {
		p.turn = at + 1
	}
	return best
}

// patience is how long a request waits for a slot.
type patience struct {
	wait    time.Duration
	settled func() bool // whether slots are given out at all
}

// take waits for a slot. done must follow without an error. Errors are of kind
// Unavailable, or the context's.
func (p *pool) take(ctx context.Context, how patience) (*replica, error) {
	now := p.now()
	p.mu.Lock()
	if p.first == nil && !p.contended {
		if r := p.free(now); r != nil {
			p.count(now)
			r.busy++
			p.busy++
			p.mu.Unlock()
			return r, nil
		}
	}
	if p.waiting >= maxWaiting {
		p.mu.Unlock()
		return nil, trust.Errorf(trust.Unavailable, "more than %d requests wait already", maxWaiting)
	}
	w := &waiter{got: make(chan *replica, 1)}
	p.count(now)
	p.enqueue(w)
	p.say(want, "", 1)
	p.mu.Unlock()
	return p.wait(ctx, w, how, now)
}

func (p *pool) wait(ctx context.Context, w *waiter, how patience, began time.Time) (*replica, error) {
	timer := time.NewTimer(how.wait)
	defer timer.Stop()
	var failed error
	for failed == nil {
		select {
		case r := <-w.got:
			return r, nil
		case <-ctx.Done():
			failed = context.Cause(ctx)
		case <-timer.C:
			if !how.settled() && p.now().Sub(began) < withoutAnyone {
				timer.Reset(max(how.wait, 20*time.Millisecond))
				continue
			}
			failed = trust.Errorf(trust.Unavailable, "no replica had room within %v", how.wait)
		}
	}
	p.mu.Lock()
	if !w.queued { // it was given one meanwhile
		p.mu.Unlock()
		r := <-w.got
		if ctx.Err() == nil {
			return r, nil
		}
		p.done(r, false)
		return nil, failed
	}
	p.count(p.now())
	p.dequeue(w)
	p.say(want, "", -1)
	none := len(p.ready) == 0
	p.mu.Unlock()
	if none && ctx.Err() == nil {
		failed = trust.Errorf(trust.Unavailable, "the deployment has no replica that is ready")
	}
	return nil, failed
}

// done gives a slot back after use. refused says that the replica took no
// connection, so it is left alone for a while.
func (p *pool) done(r *replica, refused bool) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(now)
	r.busy--
	p.busy--
	if refused {
		r.rest = now.Add(restAfter)
	}
	if p.contended || !r.ready {
		p.giveBack(r, now)
		return
	}
	p.feed(now)
}

// giveBack returns the free slots of a replica. While it rests they stay, so that
// no other router runs into it. Callers hold mu.
func (p *pool) giveBack(r *replica, now time.Time) {
	if r.ready && now.Before(r.rest) {
		return
	}
	if n := r.held - r.busy; n > 0 {
		r.held -= n
		p.say(back, r.id, n)
	}
	if r.held == 0 && !r.ready {
		delete(p.replicas, r.id)
	}
}

// feed gives free slots to those who wait, who told the coordinator that they do.
// Callers hold mu.
func (p *pool) feed(now time.Time) {
	for p.first != nil {
		r := p.free(now)
		if r == nil {
			return
		}
		p.hand(r)
		p.say(want, "", -1)
	}
}

// hand gives a slot of r to the first who waits. Callers hold mu.
func (p *pool) hand(r *replica) {
	w := p.first
	p.dequeue(w)
	r.busy++
	p.busy++
	w.got <- r
}

// granted takes slots that the coordinator gave, which does not count the
// requests that waited for them any more.
func (p *pool) granted(id string, n int) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count(now)
	r := p.replicas[id]
	if r == nil {
		r = &replica{id: id}
		p.replicas[id] = r
	}
	r.held += n
	if !r.ready && r.known.IsZero() {
		r.known = now // its pod may be seen here a moment later
	}
	for r.ready && n > 0 && p.first != nil && !now.Before(r.rest) {
		p.hand(r)
		n--
	}
	if again := min(n, p.waiting); again > 0 {
		p.say(want, "", again)
	}
	if p.contended && r.ready {
		p.giveBack(r, now)
	}
}

// yield is the coordinator's word that others wait, or do not.
func (p *pool) yield(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.contended = on; !on {
		p.count(now)
		p.feed(now)
		return
	}
	for _, r := range p.replicas {
		p.giveBack(r, now)
	}
}

// set says which replicas take requests, address by id.
func (p *pool) set(ready map[string]string) {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, r := range p.replicas {
		if _, there := ready[id]; !there {
			r.ready = false
			p.giveBack(r, now)
		}
	}
	p.ready = p.ready[:0]
	for id, address := range ready {
		r := p.replicas[id]
		if r == nil {
			r = &replica{id: id}
			p.replicas[id] = r
		}
		if r.address == "" { // who has the replica reads it without mu
			r.address = address
		}
		r.ready, r.known = true, time.Time{}
		p.ready = append(p.ready, r)
	}
	slices.SortFunc(p.ready, func(a, b *replica) int { return strings.Compare(a.id, b.id) })
	p.count(now)
	if p.contended {
		for _, r := range p.ready {
			p.giveBack(r, now)
		}
		return
	}
	p.feed(now)
}

// tick gives back what is of no use, and wakes replicas that have rested.
func (p *pool) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.replicas {
		if !r.known.IsZero() && now.Sub(r.known) > unknownFor {
			p.giveBack(r, now)
		}
		if !r.rest.IsZero() && !now.Before(r.rest) {
			if r.rest = (time.Time{}); p.contended {
				p.giveBack(r, now)
			}
		}
	}
	if !p.contended {
		p.count(now)
		p.feed(now)
	}
}

// attach says to a coordinator what is held here and how many wait; nil: there
// is none. What is held goes on.
func (p *pool) attach(to *mailbox) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to, p.contended = nil, false
	p.count(p.now())
	p.feed(p.now())
	p.to = to
	for _, r := range p.replicas {
		if r.held > 0 {
			p.say(have, r.id, r.held)
		}
	}
	if p.waiting > 0 {
		p.say(want, "", p.waiting)
	}
}

// enqueue and dequeue keep the queue. Callers hold mu.
func (p *pool) enqueue(w *waiter) {
	w.queued, w.prev = true, p.last
	if p.last == nil {
		p.first = w
	} else {
		p.last.next = w
	}
	p.last = w
	p.waiting++
}

func (p *pool) dequeue(w *waiter) {
	if w.prev == nil {
		p.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		p.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	p.waiting--
}
