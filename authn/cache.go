package authn

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// entry is a verified token. What can change after the verification (time,
// keys, the identity's standing, which audience is wanted) is checked at each
// use, so a stale entry is harmless.
type entry struct {
	caller   trust.Caller
	issuer   *issuer
	key      *Key
	audience string // which of our audiences the token's stands for
}

type digest = [sha256.Size]byte

// cache holds verified tokens by their SHA-256, at most max of them, and sees to
// it that one token is verified once at a time.
type cache struct {
	max int

	mu      sync.RWMutex // guards both maps
	entries map[digest]*entry
	flights map[digest]chan struct{}
}

func newCache(max int) *cache {
	return &cache{max: max, entries: map[digest]*entry{}, flights: map[digest]chan struct{}{}}
}

func (c *cache) get(d digest) *entry {
	c.mu.RLock()
	e := c.entries[d]
	c.mu.RUnlock()
	return e
}

// begin makes the caller the one who verifies d (wait is nil; call end), or
// says what to wait for, or finds an entry made meanwhile.
func (c *cache) begin(d digest) (e *entry, wait <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[d]; e != nil {
		return e, nil
	}
	if flight := c.flights[d]; flight != nil {
		return nil, flight
	}
	c.flights[d] = make(chan struct{})
	return nil, nil
}

// end stores the result, nil for a failure, and lets the others go on.
func (c *cache) end(d digest, e *entry, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e != nil {
		if len(c.entries) >= c.max {
			c.evict(now)
		}
		c.entries[d] = e
	}
	close(c.flights[d])
	delete(c.flights, d)
}

// evict makes room: first what has expired, then an eighth of the rest in the
// map's random order. Verifying a token again costs little, keeping order on
// every request would cost more.
func (c *cache) evict(now time.Time) {
	for d, e := range c.entries {
		if !now.Before(e.caller.Expires) {
			delete(c.entries, d)
		}
	}
	excess := len(c.entries) - c.max + c.max/8 + 1
	for d := range c.entries {
		if excess <= 0 || len(c.entries) < c.max {
			return
		}
		delete(c.entries, d)
		excess--
	}
}

// drop removes one entry.
func (c *cache) drop(d digest) {
	c.mu.Lock()
	delete(c.entries, d)
	c.mu.Unlock()
}

// clear empties the cache.
func (c *cache) clear() {
	c.mu.Lock()
	clear(c.entries)
	c.mu.Unlock()
}

func (c *cache) len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.entries)
}
