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
	table  *table
	links  map[string]*link      // by router
	loads  map[string]*heardLoad // by deployment
	own    *mailbox              // of the link to its own router; nil: there is none
}

// link is the way to one router, from when it is dialled until it breaks.
type link struct {
	router string
	down   *mailbox
	joined bool
	said   []message // until it has joined
}

func newCoordinator(epoch int64, now func() time.Time) *coordinator {
	return &coordinator{now: now, epoch: epoch, ledger: newLedger(), table: &table{}, links: map[string]*link{}, loads: map[string]*heardLoad{}}
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
			c.load(m.Deployment).note(l.router, m.Busy, m.Queued, c.now())
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

// load is what was heard of a deployment's. Callers hold mu.
func (c *coordinator) load(uid string) *heardLoad {
	h := c.loads[uid]
	if h == nil {
		h = &heardLoad{since: c.now(), by: map[string]*routerLoad{}}
		c.loads[uid] = h
	}
	return h
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
	c.table = t
	c.forget()
}

// forget lets go of deployments that are gone, as far as nothing of them is held.
// Callers hold mu.
func (c *coordinator) forget() {
	c.ledger.drop(func(uid string) bool { return c.table.deployments[uid] != nil })
	for uid := range c.loads {
		if c.table.deployments[uid] == nil {
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

// beat tells every router that the coordinator is there, and forgets what it may.
func (c *coordinator) beat() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget()
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

// demand is how many requests of a deployment were busy and queued, at all
// routers, on average since it was last asked.
func (c *coordinator) demand(uid string) (busy, queued float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(uid).average(c.now())
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

// seated says by which mailbox its own router sits here, and gives the epoch.
func (c *coordinator) seated(own *mailbox) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = own
	return c.epoch
}

// vacates ends with a coordinator that was outranked, for its own router.
func (c *coordinator) vacates(s *seat, newer int64) {
	c.mu.Lock()
	own := c.own
	c.mu.Unlock()
	s.vacate(own, newer)
}

// local is the link of a router to itself, until ctx ends or another coordinator
// has taken it over (then it gives true).
func (r *Router) local(ctx context.Context, c *coordinator) (taken bool) {
	l, up := c.connect(r.Name), newMailbox()
	defer c.disconnect(l)
	if r.seat.attach(c.seated(up), up) != 0 {
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
		r.forget()
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
