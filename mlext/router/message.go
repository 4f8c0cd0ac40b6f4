package router

import "sync"

// kind of a message between a router and the coordinator.
type kind string

const (
	// To a router.
	hello     kind = "hello"     // first: who coordinates, and since when (Name, Epoch)
	grant     kind = "grant"     // N slots of Replica are yours
	contended kind = "contended" // On: give every slot of Deployment back when it is free, somebody else waits
	settled   kind = "settled"   // slots are given out

	// To the coordinator. What a router has comes first, then joined.
	stale  kind = "stale"  // Epoch is a newer coordinator's: you are none any more
	have   kind = "have"   // I hold N slots of Replica
	joined kind = "joined" // that was all
	want   kind = "want"   // N more requests wait; less than 0: fewer
	back   kind = "back"   // N slots of Replica
	load   kind = "load"   // of Deployment here: Busy and Queued, averages since the last
)

// message is one of these; one JSON document a line between processes.
type message struct {
	Kind       kind    `json:"k"`
	Name       string  `json:"name,omitempty"`
	Epoch      int64   `json:"e,omitempty"`
	Deployment string  `json:"d,omitempty"` // uid
	Replica    string  `json:"p,omitempty"` // uid of a pod
	N          int     `json:"n,omitempty"`
	On         bool    `json:"on,omitempty"`
	Busy       float64 `json:"b,omitempty"`
	Queued     float64 `json:"q,omitempty"`
}

// mailbox is a queue without an end: putting never waits, so it may be done
// under a lock. One reader takes all there is.
type mailbox struct {
	mu     sync.Mutex // guards items
	items  []message
	signal chan struct{} // has one when there may be some
}

func newMailbox() *mailbox { return &mailbox{signal: make(chan struct{}, 1)} }

func (b *mailbox) put(m message) {
	b.mu.Lock()
	b.items = append(b.items, m)
	b.mu.Unlock()
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

// take empties the box into buf.
func (b *mailbox) take(buf []message) []message {
	b.mu.Lock()
	defer b.mu.Unlock()
	buf = append(buf, b.items...)
	b.items = b.items[:0]
	return buf
}
