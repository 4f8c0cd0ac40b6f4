package router

import (
	"context"
	"sync"
	"time"
)

// coordinator is the ledger at work: routers are linked to it, its own one too.
// It serves as long as no newer one has taken the routers over; whether it holds
// the Lease is not asked, so that slots are given out while the API server is
// away.
type coordinator struct {
	now func() time.Time

	mu     sync.Mutex // guards what follows
	epoch  int64
	ledger *ledger
	links  map[string]*link // by router
	loads  map[string]map[string]sample
}

// link is the way to one router, from when it is dialled until it breaks.
type link struct {
	router string
	down   *mailbox
	joined bool
	said   []message // until it has joined
}

// sample is what a router said of a deployment's load.
type sample struct {
	busy, queued float64
	at           time.Time
}

// sampleLife is how long a router's word on its load counts.
const sampleLife = 3 * time.Second

func newCoordinator(epoch int64, now func() time.Time) *coordinator {
	return &coordinator{now: now, epoch: epoch, ledger: newLedger(), links: map[string]*link{}, loads: map[string]map[string]sample{}}
}

// connect begins a link, in place of any to the same router.
func (c *coordinator) connect(router string) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &link{router: router, down: newMailbox()}
	c.links[router] = l
	c.post(c.ledger.quit(router))
	return l
}

// disconnect ends a link: what its router holds it may be using.
func (c *coordinator) disconnect(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.links[l.router] == l {
		delete(c.links, l.router)
		c.post(c.ledger.quit(l.router))
	}
}

// leave frees what a router held whose process is gone.
func (c *coordinator) leave(router string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.post(c.ledger.leave(router))
}

// hear takes a message from a link.
func (c *coordinator) hear(l *link, m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.links[l.router] != l:
	case m.Kind == load:
		if m.Deployment != "" {
			c.note(l.router, m)
		}
	case m.Kind == joined:
		said := l.said
		l.joined, l.said = true, nil
		if c.ledger.settled {
			l.down.put(message{Kind: settled})
		}
		c.post(c.ledger.join(l.router, said))
	case !l.joined:
		l.said = append(l.said, m)
	default:
		c.post(c.ledger.hear(l.router, m))
	}
}

func (c *coordinator) note(router string, m message) {
	by := c.loads[m.Deployment]
	if by == nil {
		by = map[string]sample{}
		c.loads[m.Deployment] = by
	}
	by[router] = sample{m.Busy, m.Queued, c.now()}
}

// post sends orders. Callers hold mu.
func (c *coordinator) post(orders []order) {
	for _, o := range orders {
		if l := c.links[o.to]; l != nil && l.joined {
			l.down.put(o.message)
		}
	}
}

// update takes a new table.
func (c *coordinator) update(t *table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid, d := range t.deployments {
		ids := make([]string, 0, len(d.ready))
		for id := range d.ready {
			ids = append(ids, id)
		}
		c.post(c.ledger.set(uid, d.concurrent, ids))
	}
	c.ledger.drop(func(uid string) bool { return t.deployments[uid] != nil })
	for uid := range c.loads {
		if t.deployments[uid] == nil {
			delete(c.loads, uid)
		}
	}
}

// settle lets grants begin, and tells so.
func (c *coordinator) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ledger.settled {
		return
	}
	orders := c.ledger.settle()
	for _, l := range c.links {
		if l.joined {
			l.down.put(message{Kind: settled})
		}
	}
	c.post(orders)
}

// beat tells every router that the coordinator is there.
func (c *coordinator) beat() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ledger.settled {
		return
	}
	for _, l := range c.links {
		if l.joined {
			l.down.put(message{Kind: settled})
		}
	}
}

// missing are those of the routers that have not joined.
func (c *coordinator) missing(routers []string) (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range routers {
		if l := c.links[name]; l == nil || !l.joined {
			names = append(names, name)
		}
	}
	return names
}

// demand is what all routers say of a deployment.
func (c *coordinator) demand(uid string) (busy, queued float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.loads[uid] {
		if c.now().Sub(s.at) <= sampleLife {
			busy, queued = busy+s.busy, queued+s.queued
		}
	}
	return busy, queued
}

// outranked is told that routers follow a newer coordinator. The holder of the
// Lease goes above it; anybody else is none any more.
func (c *coordinator) outranked(newer int64, leads bool) (stays bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if newer < c.epoch {
		return true
	}
	if leads {
		c.epoch = newer + 1
	}
	return leads
}

func (c *coordinator) current() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// local is the link of a router to itself, until ctx ends or another coordinator
// has taken it over (then it gives true).
func (r *Router) local(ctx context.Context, c *coordinator) (taken bool) {
	l, up := c.connect(r.Name), newMailbox()
	defer c.disconnect(l)
	if r.seat.attach(c.current(), up, r.Name) != 0 {
		return true
	}
	defer r.seat.detach(up)
	var buf []message
	for {
		select {
		case <-ctx.Done():
			return false
		case <-up.signal:
			buf = up.take(buf[:0])
			for _, m := range buf {
				c.hear(l, m)
			}
		case <-l.down.signal:
			buf = l.down.take(buf[:0])
			for _, m := range buf {
				if !r.seat.hear(up, m) {
					return true
				}
			}
		}
	}
}

// report says each half second how much goes on here; that a router says
// anything at all tells the coordinator that it is there.
func (r *Router) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := r.Now()
		for _, p := range r.seat.each() {
			p.tick(now)
			busy, queued := p.load(now)
			r.seat.say(message{Kind: load, Deployment: p.id, Busy: busy, Queued: queued})
		}
		r.seat.say(message{Kind: load})
	}
}

const reportEvery = 500 * time.Millisecond

// say sends to the coordinator, if there is one.
func (s *seat) say(m message) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.to != nil {
		s.to.put(m)
	}
}
