package authn

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// How often keys are looked at.
const (
	KeyRefresh   = 5 * time.Minute  // the whole set is replaced
	KeySpacing   = 10 * time.Second // between two fetches for an unknown kid, or after a failure
	KeyMaxAge    = time.Hour        // no set is believed longer without a fetch
	fetchTimeout = 15 * time.Second
)

// KeyRing is an issuer with its keys: tokens of the issuer verify against these
// keys and no others. It is safe for concurrent use.
type KeyRing struct {
	issuer string
	source KeySource
	now    func() time.Time
	log    *slog.Logger
	gone   func() // called after a key vanished; may be nil

	set  atomic.Pointer[keySet]
	kept atomic.Bool // somebody refreshes it in the background

	mu     sync.Mutex // guards what follows
	tried  time.Time  // start of the last fetch
	failed error      // why it failed, nil if it did not
	flight chan struct{}
}

type keySet struct {
	keys    map[string]*Key
	fetched time.Time
}

var errSpacing = errors.New("fetched a moment ago")

// NewKeyRing binds an issuer (its iss, byte for byte) to the source of its
// keys. Nothing is fetched before it is needed.
func NewKeyRing(issuer string, source KeySource, now func() time.Time, log *slog.Logger) *KeyRing {
	return &KeyRing{issuer: issuer, source: source, now: now, log: log}
}

// Verify checks a token of this issuer: form, signature, dates, exactly one
// audience (which one is the caller's to compare). Errors are trust errors of
// kind Unauthenticated, or Unavailable if the keys cannot be had.
func (r *KeyRing) Verify(ctx context.Context, token string) (*Claims, error) {
	u, err := parse(token)
	if err != nil {
		return nil, err
	}
	c, _, err := r.verify(ctx, u)
	return c, err
}

func (r *KeyRing) verify(ctx context.Context, u *unverified) (*Claims, *Key, error) {
	if u.issuer != r.issuer {
		return nil, nil, refuse(codeInvalid, "the token's issuer is %.200q, want %q", u.issuer, r.issuer)
	}
	key, err := r.key(ctx, u.keyID)
	if err != nil {
		return nil, nil, err
	}
	c, err := u.verified(key, r.now())
	if err != nil {
		return nil, nil, err
	}
	return c, key, nil
}

// key finds the key named kid, fetching when the set is old or does not have it.
func (r *KeyRing) key(ctx context.Context, kid string) (*Key, error) {
	set := r.set.Load()
	switch {
	case set == nil || set.keys[kid] == nil || r.now().Sub(set.fetched) >= KeyMaxAge:
		// A failure may not matter: the set that is there may still be good.
		if err := r.refresh(ctx, KeySpacing); err != nil && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	case r.now().Sub(set.fetched) >= KeyRefresh && !r.kept.Load():
		// What is there is good for now: one caller fetches, no other waits.
		r.mu.Lock()
		if r.flight == nil {
			_ = r.fetch(ctx, KeySpacing)
		} else {
			r.mu.Unlock()
		}
	}
	set = r.set.Load()
	if set == nil || r.now().Sub(set.fetched) >= KeyMaxAge {
		r.mu.Lock()
		cause := r.failed
		r.mu.Unlock()
		return nil, trust.Errorf(trust.Unavailable, "the signing keys of issuer %s cannot be had", r.issuer).Because(cause)
	}
	key := set.keys[kid]
	if key == nil {
		return nil, refuse(codeInvalid, "the token is signed with key %.80q, which issuer %s does not have (any more)", kid, r.issuer)
	}
	return key, nil
}

// fresh reports whether key is in a set that may still be believed. It is the
// check on every request, so it takes no lock.
func (r *KeyRing) fresh(key *Key, now time.Time) bool {
	set := r.set.Load()
	return set != nil && now.Sub(set.fetched) < KeyMaxAge && set.keys[key.ID] == key
}

// has is fresh by kid.
func (r *KeyRing) has(kid string, now time.Time) bool {
	set := r.set.Load()
	return set != nil && now.Sub(set.fetched) < KeyMaxAge && set.keys[kid] != nil
}

// refresh replaces the whole set, unless the last fetch began less than spacing
// ago (errSpacing). Concurrent calls share one fetch, which its first caller
// sees through (15 s at most) even if its own context ends.
func (r *KeyRing) refresh(ctx context.Context, spacing time.Duration) error {
	r.mu.Lock()
	if flight := r.flight; flight != nil {
		r.mu.Unlock()
		if err := wait(ctx, flight); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.failed
	}
	return r.fetch(ctx, spacing)
}

// refreshAfter is refresh by a fetch that begins after the call, for who knows
// that something has changed just now.
func (r *KeyRing) refreshAfter(ctx context.Context) error {
	r.mu.Lock()
	for r.flight != nil {
		flight := r.flight
		r.mu.Unlock()
		if err := wait(ctx, flight); err != nil {
			return err
		}
		r.mu.Lock()
	}
	return r.fetch(ctx, 0)
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fetch is called with r.mu held and no fetch under way; it releases r.mu.
func (r *KeyRing) fetch(ctx context.Context, spacing time.Duration) error {
	if err := ctx.Err(); err != nil {
		r.mu.Unlock()
		return err
	}
	now := r.now()
	if !r.tried.IsZero() && now.Sub(r.tried) < spacing {
		r.mu.Unlock()
		return errSpacing
	}
	flight := make(chan struct{})
	r.tried, r.flight = now, flight
	r.mu.Unlock()

	// A caller who leaves must neither fail the others nor get around the
	// spacing, so the fetch ends only by itself.
	fetch, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	keys, err := r.source.Keys(fetch)
	vanished := err == nil && r.replace(keys, now)

	r.mu.Lock()
	r.failed, r.flight = err, nil
	close(flight)
	r.mu.Unlock()
	if err != nil {
		r.log.Warn("issuer's keys not fetched", "issuer", r.issuer, "error", err)
	}
	if vanished && r.gone != nil {
		r.gone()
	}
	return err
}

// replace puts a new set in place and reports whether a key vanished. A kid
// that now names another key counts as vanished, and is left out until the next
// fetch: whoever was let in by the old key must be gone before the new one is
// believed.
func (r *KeyRing) replace(keys []*Key, fetched time.Time) (vanished bool) {
	next := &keySet{keys: make(map[string]*Key, len(keys)), fetched: fetched}
	var before map[string]*Key
	if old := r.set.Load(); old != nil {
		before = old.keys
	}
	for _, k := range keys {
		switch old := before[k.ID]; {
		case old == nil:
			next.keys[k.ID] = k
		case old.same(k):
			next.keys[k.ID] = old // one pointer per key: cached tokens compare it
		default:
			r.log.Error("issuer uses the name of a key for another key", "issuer", r.issuer, "kid", k.ID)
		}
	}
	for id := range before {
		if next.keys[id] == nil {
			vanished = true
			r.log.Info("signing key vanished", "issuer", r.issuer, "kid", id)
		}
	}
	r.set.Store(next)
	return vanished
}
