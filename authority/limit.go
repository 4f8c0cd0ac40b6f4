package authority

import (
	"net/netip"
	"sync"
	"time"
)

// Failures that one client address may have: failBurst at once, then one per
// failEvery. What is limited is the work that a stranger can cause; secrets are
// too long to be guessed.
const (
	failBurst  = 30
	failEvery  = 2 * time.Second
	maxClients = 10_000
)

// limiter counts failures by client address. It never limits a client without
// failures.
type limiter struct {
	now func() time.Time

	mu   sync.Mutex
	owed map[netip.Prefix]time.Time // when all failures are forgiven
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, owed: map[netip.Prefix]time.Time{}}
}

// retryAfter says how long the client has to wait; 0 means that it may try.
func (l *limiter) retryAfter(client netip.Addr) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, known := l.owed[network(client)]
	if !known {
		return 0
	}
	return max(0, until.Sub(l.now())-failBurst*failEvery)
}

// failed notes a failure.
func (l *limiter) failed(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, n := l.now(), network(client)
	if _, known := l.owed[n]; !known && len(l.owed) >= maxClients {
		l.forget(now)
	}
	from := l.owed[n]
	if from.Before(now) {
		from = now
	}
	l.owed[n] = from.Add(failEvery)
}

// forget makes room: those forgiven, or else anybody (in the map's random order).
func (l *limiter) forget(now time.Time) {
	for n, until := range l.owed {
		if !until.After(now) {
			delete(l.owed, n)
		}
	}
	for n := range l.owed {
		if len(l.owed) < maxClients {
			return
		}
		delete(l.owed, n)
	}
}

// network is what counts as one client: an IPv4 address, an IPv6 /64.
func network(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address known: all of those together
	}
	return p
}
