package router

import "slices"

// ledger is what the coordinator knows about slots: who holds which, and who
// waits for one. It is pure: calls return what routers are to be told, in order.
//
// A slot that was granted stays with its router, which uses it for one request
// after the other, until somebody else waits and none is free: then every holder
// is told so, gives slots back as they become free, and those who wait get them
// in the order in which they asked. So the sum of what routers hold never exceeds
// what a replica takes, and nobody waits while another's slot is idle.
type ledger struct {
	settled     bool // grants may be made: whoever may hold slots has said so
	deployments map[string]*slots
}

// slots of one deployment.
type slots struct {
	capacity int // of each replica
	replicas map[string]*holding
	waiting  []claim         // in the order of asking
	told     map[string]bool // routers that were told that somebody waits
}

// holding says who holds how many slots of one replica.
type holding struct {
	ready bool // takes requests; else it only waits for its slots
	by    map[string]int
	sum   int
}

type claim struct {
	router string
	n      int
}

// order is a message to one router.
type order struct {
	to string
	message
}

func newLedger() *ledger { return &ledger{deployments: map[string]*slots{}} }

func (l *ledger) of(deployment string) *slots {
	s := l.deployments[deployment]
	if s == nil {
		s = &slots{replicas: map[string]*holding{}, told: map[string]bool{}}
		l.deployments[deployment] = s
	}
	return s
}

func (s *slots) of(replica string) *holding {
	h := s.replicas[replica]
	if h == nil {
		h = &holding{by: map[string]int{}}
		s.replicas[replica] = h
	}
	return h
}

func (h *holding) add(router string, n int) {
	n = max(n, -h.by[router]) // nobody gives back what it does not have
	if h.sum += n; h.by[router]+n == 0 {
		delete(h.by, router)
		return
	}
	h.by[router] += n
}

// set says which replicas of a deployment take requests, and how many each.
func (l *ledger) set(deployment string, capacity int, ready []string) []order {
	s := l.of(deployment)
	s.capacity = capacity
	for id, h := range s.replicas {
		if h.ready = slices.Contains(ready, id); !h.ready && h.sum == 0 {
			delete(s.replicas, id)
		}
	}
	for _, id := range ready {
		s.of(id).ready = true
	}
	return l.serve(deployment, s)
}

// drop forgets deployments that are not there any more, when nothing of them is
// held and nobody waits: who waits may have seen a deployment sooner.
func (l *ledger) drop(there func(deployment string) bool) {
	for id, s := range l.deployments {
		if there(id) {
			continue
		}
		for r, h := range s.replicas {
			if h.ready = false; h.sum == 0 {
				delete(s.replicas, r)
			}
		}
		if len(s.replicas)+len(s.waiting) == 0 {
			delete(l.deployments, id)
		}
	}
}

// join takes what a router says of itself, from its first word up to joined: it
// replaces what was known.
func (l *ledger) join(router string, said []message) []order {
	now := l.settled
	l.settled = false // nothing is given out in between
	l.leave(router)
	for _, m := range said {
		if m.Kind == have && m.N > 0 {
			l.of(m.Deployment).of(m.Replica).add(router, m.N)
			continue
		}
		l.hear(router, m)
	}
	if now {
		return l.settle()
	}
	return nil
}

// hear takes one message of a router.
func (l *ledger) hear(router string, m message) []order {
	switch m.Kind {
	case want:
		return l.want(router, m.Deployment, m.N)
	case back:
		return l.back(router, m.Deployment, m.Replica, m.N)
	}
	return nil
}

// settle lets grants begin.
func (l *ledger) settle() []order {
	l.settled = true
	var out []order
	for id, s := range l.deployments {
		out = append(out, l.serve(id, s)...)
	}
	return out
}

// want adds n requests of a router that wait; less than 0 takes the youngest away.
func (l *ledger) want(router, deployment string, n int) []order {
	s := l.of(deployment)
	if last := len(s.waiting) - 1; n > 0 && last >= 0 && s.waiting[last].router == router {
		s.waiting[last].n += n
	} else if n > 0 {
		s.waiting = append(s.waiting, claim{router, n})
	}
	for i := len(s.waiting) - 1; i >= 0 && n < 0; i-- {
		if c := &s.waiting[i]; c.router == router {
			less := min(c.n, -n)
			if n, c.n = n+less, c.n-less; c.n == 0 {
				s.waiting = slices.Delete(s.waiting, i, i+1)
			}
		}
	}
	return l.serve(deployment, s)
}

// back takes n slots of a replica from a router.
func (l *ledger) back(router, deployment, replica string, n int) []order {
	s := l.of(deployment)
	h := s.replicas[replica]
	if h == nil || n < 1 {
		return nil
	}
	if h.add(router, -n); !h.ready && h.sum == 0 {
		delete(s.replicas, replica)
	}
	return l.serve(deployment, s)
}

// quit takes away what a router waits for: it is not reached, and will say anew
// what it has. What it holds, it may be using.
func (l *ledger) quit(router string) []order {
	var out []order
	for id, s := range l.deployments {
		s.waiting = slices.DeleteFunc(s.waiting, func(c claim) bool { return c.router == router })
		delete(s.told, router)
		out = append(out, l.serve(id, s)...)
	}
	return out
}

// leave takes away all that a router held: its process is gone.
func (l *ledger) leave(router string) []order {
	for _, s := range l.deployments {
		for id, h := range s.replicas {
			if h.add(router, -h.by[router]); !h.ready && h.sum == 0 {
				delete(s.replicas, id)
			}
		}
	}
	return l.quit(router)
}

// serve gives free slots to those who wait, and tells holders whether others do.
func (l *ledger) serve(deployment string, s *slots) []order {
	if !l.settled {
		return nil
	}
	var out []order
	for len(s.waiting) > 0 {
		id, h := s.roomiest()
		if h == nil {
			break
		}
		c := &s.waiting[0]
		h.add(c.router, 1)
		if last := len(out) - 1; last >= 0 && out[last].to == c.router && out[last].Replica == id {
			out[last].N++
		} else {
			out = append(out, order{c.router, message{Kind: grant, Deployment: deployment, Replica: id, N: 1}})
		}
		if c.n--; c.n == 0 {
			s.waiting = slices.Delete(s.waiting, 0, 1)
		}
	}
	return append(out, s.tell(deployment)...)
}

// roomiest is the replica with the most free slots.
func (s *slots) roomiest() (id string, most *holding) {
	for i, h := range s.replicas {
		if !h.ready || h.sum >= s.capacity {
			continue
		}
		if most == nil || h.sum < most.sum || h.sum == most.sum && i < id {
			id, most = i, h
		}
	}
	return id, most
}

// tell says to holders that are to give back that they are, and when no more.
func (s *slots) tell(deployment string) []order {
	over := false
	holders := map[string]bool{}
	for _, h := range s.replicas {
		over = over || s.capacity > 0 && h.sum > s.capacity
		for r := range h.by {
			holders[r] = true
		}
	}
	var out []order
	for r := range s.told { // one without any must not keep what it gets later
		holders[r] = true
	}
	for r := range holders {
		on := over || slices.ContainsFunc(s.waiting, func(c claim) bool { return c.router != r })
		if on != s.told[r] {
			if out = append(out, order{r, message{Kind: contended, Deployment: deployment, On: on}}); on {
				s.told[r] = true
			} else {
				delete(s.told, r)
			}
		}
	}
	return out
}
