package mandate

import (
	"crypto/ed25519"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// NoncePeriod is how often an agent asks; FreshBound is how long an answer
// lasts, from the moment its nonce was made.
const (
	NoncePeriod = 10 * time.Second
	FreshBound  = 30 * time.Second
)

// Watchdog knows whether the state that an agent holds is known to be the
// newest, by the agent's own monotonic clock. An answer counts from the moment
// its nonce was made, since the control plane spoke at some time after that;
// and it counts only while the held state is at least as new as the answer
// says, so that holding back a state is noticed like silence.
//
// It is safe for concurrent use. Fresh takes no lock.
type Watchdog struct {
	cluster trust.ClusterUID
	pub     ed25519.PublicKey
	now     func() time.Time
	start   time.Time

	// until is the time since start at which the held state stops being fresh.
	until atomic.Int64

	mu      sync.Mutex // guards what follows
	asked   map[string]time.Time
	held    Floor
	holding bool
	newest  Floor     // that any answer spoke of
	at      time.Time // when the nonce of the answer that spoke of newest was made
}

// NewWatchdog makes a watchdog that holds nothing and is not fresh. now must
// return times with a monotonic reading, as time.Now does.
func NewWatchdog(cluster trust.ClusterUID, pub ed25519.PublicKey, now func() time.Time) *Watchdog {
	return &Watchdog{cluster: cluster, pub: pub, now: now, start: now(), asked: map[string]time.Time{}}
}

// Ask returns a new nonce to send.
func (w *Watchdog) Ask() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	for nonce, at := range w.asked {
		if now.Sub(at) >= FreshBound {
			delete(w.asked, nonce) // an answer to it would be worth nothing
		}
	}
	nonce := NewNonce()
	w.asked[nonce] = now
	return nonce
}

// Hear takes the answer to an earlier Ask. An answer to anything else, or one
// that speaks of an older revision than an answer before it, is refused.
func (w *Watchdog) Hear(data []byte) (Answer, error) {
	a, err := openAnswer(w.pub, w.cluster, data)
	if err != nil {
		return Answer{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.asked[a.Nonce]
	if !ok {
		return Answer{}, trust.Errorf(trust.Conflict, "the answer is to a nonce that this agent did not send, or was answered before")
	}
	delete(w.asked, a.Nonce)
	// Answers may overtake each other; one that was asked for later may not
	// speak of less.
	if a.Floor().Before(w.newest) && !at.Before(w.at) {
		return Answer{}, trust.Errorf(trust.Conflict, "the answer speaks of epoch %d, revision %d; an earlier one spoke of epoch %d, revision %d", a.Epoch, a.Revision, w.newest.Epoch, w.newest.Revision)
	}
	if at.After(w.at) || w.newest.Before(a.Floor()) {
		w.newest, w.at = a.Floor(), at
	}
	w.update()
	return a, nil
}

// Hold says which state the agent acts on from now on.
func (w *Watchdog) Hold(f Floor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held, w.holding = f, true
	w.update()
}

// Floor is the held state's: what to pass to Open. It is not raised by answers,
// since a state on its way may be older than an answer that overtook it; holding
// that state is harmless, because it is not fresh.
func (w *Watchdog) Floor() Floor {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held
}

// update extends freshness if the held state is what the newest answer spoke
// of. It never shortens it: what an earlier answer vouched for lasts its time.
func (w *Watchdog) update() {
	if !w.holding || w.at.IsZero() || w.held.Before(w.newest) {
		return
	}
	if until := int64(w.at.Sub(w.start) + FreshBound); until > w.until.Load() {
		w.until.Store(until)
	}
}

// Fresh says whether requests may be let through now.
func (w *Watchdog) Fresh() bool { return w.Left() > 0 }

// Left is how long the held state stays fresh without another answer: when to
// close streams. Zero or less means it is not fresh.
func (w *Watchdog) Left() time.Duration {
	return time.Duration(w.until.Load()) - w.now().Sub(w.start)
}
