package tunnel

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"
)

// Term is how long a connection may carry requests: as long as what its agent
// proved itself with when it dialled, and longer with each new proof. The zero
// value has no end.
type Term struct {
	Until time.Time
	// Renew reads a proof that the agent gave on this connection, and returns
	// until when it holds now.
	Renew func(proof string) (until time.Time, err error)
}

// After its term a connection takes TermMargin more, for clocks that differ; then
// it carries nothing new and its agent is told to dial again. What runs has
// TermGrace to end before the connection is closed.
const (
	TermMargin = time.Minute
	TermGrace  = 10 * time.Minute
)

var errTerm = errors.New("the term of the connection is over, and its agent gave no new proof")

// ServeUntil is Serve for a connection with a term; see Sweep.
func (h *Hub) ServeUntil(ctx context.Context, conn net.Conn, cluster string, t Term) error {
	return h.serve(ctx, conn, cluster, t)
}

// Sweep takes connections whose term is over by now out of use. It must be called
// regularly, by one goroutine, and does not block.
func (h *Hub) Sweep(now time.Time) {
	h.mu.RLock()
	var over []*link
	for _, links := range h.links {
		for _, l := range links {
			if u := l.until.Load(); u != 0 && now.UnixNano() > u+int64(TermMargin) {
				over = append(over, l)
			}
		}
	}
	h.mu.RUnlock()
	for _, l := range over {
		switch {
		case !l.lapsed.Load():
			h.lapse(l)
		case l.cc.InFlight() <= 1, now.UnixNano() > l.until.Load()+int64(TermMargin+TermGrace):
			l.fail(errTerm)
		}
	}
}

// lapse stops new requests over a connection and tells the agent to dial again.
func (h *Hub) lapse(l *link) {
	l.lapsed.Store(true)
	h.change(l.cluster, func() {
		l.draining.Store(true)
		for _, o := range h.links[l.cluster] {
			if o == l { // bye, which waits for this, comes after it was removed
				l.reading.Go(func() { l.notify(noticeDrain) })
			}
		}
	})
	h.log.Warn("tunnel carries nothing new: its term is over", "cluster", l.cluster)
}

// renew takes an agent's proof.
func (l *link) renew(proof string) {
	if l.term.Renew == nil {
		return
	}
	until, err := l.term.Renew(proof)
	if err != nil {
		l.hub.log.Warn("proof of renewal refused", "cluster", l.cluster, "error", err)
		return
	}
	if !l.lapsed.Load() {
		l.until.Store(until.UnixNano())
	}
	l.hub.log.Debug("tunnel's term renewed", "cluster", l.cluster, "until", until)
}

// proveWhenAsked says the proofs that the owner gives, as long as the connection
// lasts. One that comes before the hello was answered is not needed: the
// certificate of the handshake is as new.
func (s *session) proveWhenAsked() {
	for {
		select {
		case proof := <-s.config.Proofs:
			if err := s.notify(noticeRenew + proof); err != nil && !errors.Is(err, net.ErrClosed) {
				s.log.Debug("proof not sent", "error", err)
			}
		case <-s.ended:
			return
		}
	}
}

// Prove has each live connection say a proof that is made for it from the
// connection that Dial gave. One that a proof cannot be made for goes on until
// its term is over.
func (k *Keeper) Prove(proof func(net.Conn) (string, error)) {
	k.mu.Lock()
	live := make([]*keptConn, 0, len(k.live))
	for c := range k.live {
		live = append(live, c)
	}
	k.mu.Unlock()
	for _, c := range live {
		word, err := proof(c.raw)
		if err != nil || strings.ContainsAny(word, " \n") || len(word)+len(noticeRenew) >= maxNotice {
			k.log.Warn("no proof of renewal", "error", err)
			continue
		}
		select { // the newest counts
		case <-c.proofs:
		default:
		}
		select {
		case c.proofs <- word:
		case <-c.ended:
		}
	}
}
