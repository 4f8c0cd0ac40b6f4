package proxy

import (
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// table is one state, compiled.
type table struct {
	stopped  bool
	bindings map[trust.BindingUID]*trust.Policy
}

func newTable(s mandate.State) *table {
	t := &table{stopped: s.Stopped, bindings: make(map[trust.BindingUID]*trust.Policy, len(s.Bindings))}
	for _, b := range s.Bindings {
		if len(b.Grants) > 0 {
			t.bindings[b.UID] = trust.Compile(b.Grants)
		}
	}
	return t
}

// decide says whether the state lets a binding do this. A nil table, before the
// first state, lets nothing through.
func (t *table) decide(uid trust.BindingUID, a *trust.Attributes) error {
	switch {
	case t == nil:
		return trust.Errorf(trust.Unavailable, "the agent has not heard from its control plane yet")
	case t.stopped:
		return trust.Errorf(trust.Unavailable, "the cluster is stopped: nobody is let through")
	}
	policy, ok := t.bindings[uid]
	if !ok {
		return errRevoked
	}
	if !policy.Decide(a).Allowed {
		return trust.Errorf(trust.Forbidden, "the binding's roles do not allow this")
	}
	return nil
}

// request is one running request.
type request struct {
	handle     *tunnel.Handle
	binding    trust.BindingUID
	attributes *trust.Attributes // nil before they were read
	stream     bool
	as         atomic.Pointer[string] // the ServiceAccount's uid, once its token is there
}

// identity is the uid of the ServiceAccount that the request runs as, "" if it
// is not known.
func (q *request) identity() string {
	if as := q.as.Load(); as != nil {
		return *as
	}
	return ""
}

// running is the state in force and every request that runs under it. A request
// is let in and a state is applied under one lock, so that no request can slip
// in under a state that is being replaced.
type running struct {
	mu    sync.Mutex
	table *table
	live  map[*request]struct{}
}

// enter decides and, if allowed, takes the request in; leave must follow.
func (r *running) enter(q *request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.table.decide(q.binding, q.attributes); err != nil {
		return err
	}
	r.live[q] = struct{}{}
	return nil
}

func (r *running) leave(q *request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, q)
}

// apply puts a new state in force and ends what it does not allow. It returns
// how many it ended.
func (r *running) apply(t *table) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.table = t
	n := 0
	for q := range r.live {
		if err := t.decide(q.binding, q.attributes); err != nil {
			q.handle.End(err)
			n++
		}
	}
	return n
}

// endAll ends every running request.
func (r *running) endAll(cause error) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for q := range r.live {
		q.handle.End(cause)
	}
	return len(r.live)
}

// streams returns what is running long.
func (r *running) streams() []*request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*request
	for q := range r.live {
		if q.stream {
			all = append(all, q)
		}
	}
	return all
}
