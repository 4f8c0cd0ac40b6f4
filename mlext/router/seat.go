package router

import (
	"sync"
	"sync/atomic"
	"time"
)

// seat is where a router sits towards its coordinator: one at a time, the newest.
// What an earlier one still says is not heard.
type seat struct {
	settled atomic.Bool // the coordinator gives slots out

	mu    sync.RWMutex // guards what follows; held while pools are attached
	epoch int64        // of the newest coordinator that was heard of
	to    *mailbox     // its; nil: it is away
	pools map[string]*pool
}

// ready tells whether slots are given out.
func (s *seat) ready() bool { return s.settled.Load() }

// pool is a deployment's, made when first asked for.
func (s *seat) pool(uid string, now func() time.Time) *pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[uid]
	if p == nil {
		if s.pools == nil {
			s.pools = map[string]*pool{}
		}
		p = newPool(uid, now)
		s.pools[uid] = p
		p.attach(s.to)
	}
	return p
}

// keep forgets pools of deployments that are gone, once nothing runs in them.
func (s *seat) keep(there func(uid string) bool) (gone []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, p := range s.pools {
		if there(uid) {
			continue
		}
		p.set(nil)
		if _, held, busy, waiting := p.current(); held+busy+waiting == 0 {
			delete(s.pools, uid)
			gone = append(gone, uid)
		}
	}
	return gone
}

// each is the pools there are now.
func (s *seat) each() []*pool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*pool, 0, len(s.pools))
	for _, p := range s.pools {
		all = append(all, p)
	}
	return all
}

// attach takes a coordinator, unless a newer one was there: then it gives that
// one's epoch. The coordinator gets all that is held and waits, and then joined.
func (s *seat) attach(epoch int64, to *mailbox) (newer int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch < s.epoch {
		return s.epoch
	}
	s.epoch, s.to = epoch, to
	s.settled.Store(false)
	for _, p := range s.pools {
		p.attach(to)
	}
	to.put(message{Kind: joined})
	return 0
}

// detach ends with a coordinator, if it is still this one. What is held stays.
func (s *seat) detach(to *mailbox) { s.vacate(to, 0) }

// vacate is detach from a coordinator that other routers have left for a newer
// one, which alone is heard from now on.
func (s *seat) vacate(to *mailbox, newer int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = max(s.epoch, newer)
	if to == nil || s.to != to {
		return
	}
	s.to = nil
	s.settled.Store(false)
	for _, p := range s.pools {
		p.attach(nil)
	}
}

// hear does what a coordinator says; false if it is not this router's any more.
func (s *seat) hear(from *mailbox, m message) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.to != from {
		return false
	}
	p := s.pools[m.Deployment]
	switch m.Kind {
	case settled:
		s.settled.Store(true)
	case grant:
		if p == nil { // gone here: it is of no use
			s.to.put(message{Kind: back, Deployment: m.Deployment, Replica: m.Replica, N: m.N})
			break
		}
		p.granted(m.Replica, m.N)
	case contended:
		if p != nil {
			p.yield(m.On)
		}
	}
	return true
}

// newest is the epoch of the newest coordinator that was heard of.
func (s *seat) newest() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.epoch
}
