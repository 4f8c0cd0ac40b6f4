package gateway

import (
	"errors"
	"net/netip"

	"github.com/sallyport/sallyport/trust"
)

// Why a running request is ended.
var (
	errRemoved  = trust.Errorf(trust.Forbidden, "the role binding was removed")
	errNotYet   = trust.Errorf(trust.Forbidden, "the role binding is not in effect: none of its roles is applied in the cluster")
	errNarrowed = trust.Errorf(trust.Forbidden, "the role binding no longer covers the request")
	errCluster  = trust.Errorf(trust.Forbidden, "the cluster was removed")
	errExpired  = trust.Errorf(trust.Unauthenticated, "the token has expired")
	errIdentity = trust.Errorf(trust.Unauthenticated, "the caller's identity, credential or signing key was withdrawn")
	errStale    = trust.Errorf(trust.Unavailable, "the gateway lost touch with the store")
	errLease    = trust.Errorf(trust.Unavailable, "the gateway lost its lease")
	errAgent    = trust.Errorf(trust.Unavailable, "the cluster's agent ended it")
	errShutdown = trust.Errorf(trust.Unavailable, "the gateway is shutting down")
)

// decide finds the binding that covers a flight's request and notes it there,
// while the table's lock is held: a change that comes later finds the flight
// with its binding, one that came earlier was seen here. The flight must be
// registered.
func (t *table) decide(f *flight, found []*bound, from netip.Addr) (trust.Decision, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var why error
	for _, b := range found {
		now := t.current(b)
		if now == nil {
			why = errRemoved
			continue
		}
		if err := t.stands(now, from); err != nil {
			why = err
			continue
		}
		if d := now.policy.Decide(f.attributes); d.Allowed {
			f.bound.Store(now)
			return d, nil
		}
		if why == nil {
			why = errUncovered
		}
	}
	if why == nil {
		why = errUncovered
	}
	return trust.Decision{}, why
}

// decidePeer is decide for a request that a peer has decided on: its binding is
// named. One that is not known here is not known yet, or not any more.
func (t *table) decidePeer(f *flight, uid trust.BindingUID) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b := t.byUID[uid]
	if b == nil || b.Binding.Cluster != f.cluster {
		return trust.Errorf(trust.Unavailable, "the gateway that holds the cluster's tunnel does not know the role binding")
	}
	if err := t.standsFor(f, b); err != nil {
		return err
	}
	if !b.policy.Decide(f.attributes).Allowed {
		return errNarrowed
	}
	f.bound.Store(b)
	return nil
}

// errUncovered: bindings stand, and none of their roles covers the request.
var errUncovered = errors.New("no role covers the request")
