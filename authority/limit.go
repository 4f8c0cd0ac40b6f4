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

// Failures that one user name may have, from everywhere: after nameBurst wrong
// passwords, one more per nameEvery. Nobody is locked out for good.
const (
	nameBurst = 10
	nameEvery = time.Minute
)

// limiter counts failures by who has them: a client's network, a user's name.
// It never limits who has none.
type limiter[K comparable] struct {
	now   func() time.Time
	burst int
	every time.Duration

	mu   sync.Mutex
	owed map[K]time.Time // when all failures are forgiven
}

func newLimiter[K comparable](now func() time.Time, burst int, every time.Duration) *limiter[K] {
	return &limiter[K]{now: now, burst: burst, every: every, owed: map[K]time.Time{}}
}

// retryAfter says how long one has to wait; 0 means that it may try.
func (l *limiter[K]) retryAfter(n K) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, known := l.owed[n]
	if !known {
		return 0
	}
	return max(0, until.Sub(l.now())-time.Duration(l.burst)*l.every)
}

// failed notes a failure.
func (l *limiter[K]) failed(n K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if _, known := l.owed[n]; !known && len(l.owed) >= maxClients {
		l.forget(now)
	}
	from := l.owed[n]
	if from.Before(now) {
		from = now
	}
	l.owed[n] = from.Add(l.every)
}

// forgive takes one failure back.
func (l *limiter[K]) forgive(n K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until, known := l.owed[n]; known {
		l.owed[n] = until.Add(-l.every)
	}
}

// forget makes room: those forgiven, or else anybody (in the map's random order).
func (l *limiter[K]) forget(now time.Time) {
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
