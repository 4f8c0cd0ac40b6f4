package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// KeeperConfig is what an agent's Keeper needs.
type KeeperConfig struct {
	Log     *slog.Logger
	Handler http.Handler // answers the requests of all connections
	// Gateways names the addresses to dial, asked before every dial. One
	// address in front of several replicas is fine.
	Gateways func() []string
	// Dial connects to one of them, usually with Dial.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// OnChange is told how many connections are live, whenever that changes.
	// Calls come one after the other; it must not block.
	OnChange func(live int)

	Connections  int           // to keep, 1 to 8; 2
	Limits       Limits        // of each connection
	DrainTimeout time.Duration // for what runs when Run's context ends or a connection is replaced; 30 s
	BackoffMin   time.Duration // first pause after a failure, jittered; 250 ms
	BackoffMax   time.Duration // longest pause; 15 s
	SpreadEvery  time.Duration // how often a second connection to one replica looks for another replica; 1 min
}

// Keeper keeps an agent's connections to its gateways: it spreads them over
// replicas, replaces those that end or are about to, and never gives one up
// before its replacement is live if it can help it.
type Keeper struct {
	c   KeeperConfig
	log *slog.Logger

	changeMu sync.Mutex // orders OnChange; taken before mu

	mu       sync.Mutex           // guards what follows
	live     map[*keptConn]string // replica of every connection that takes requests
	next     int                  // index of the next address to dial
	sessions sync.WaitGroup       // running Serve calls
}

// NewKeeper makes a Keeper; Run starts it.
func NewKeeper(c KeeperConfig) *Keeper {
	if c.Connections <= 0 {
		c.Connections = 2
	}
	c.Connections = min(c.Connections, 8)
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&c.DrainTimeout, 30*time.Second)
	set(&c.BackoffMin, 250*time.Millisecond)
	set(&c.BackoffMax, 15*time.Second)
	set(&c.SpreadEvery, time.Minute)
	if c.OnChange == nil {
		c.OnChange = func(int) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{c: c, log: c.Log, live: map[*keptConn]string{}}
}

// Live is the number of connections that take requests.
func (k *Keeper) Live() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.live)
}

// Run keeps the connections until ctx ends, then drains them, and returns
// when every handler has returned. The error is the context's cause.
func (k *Keeper) Run(ctx context.Context) error {
	var slots sync.WaitGroup
	for range k.c.Connections {
		slots.Go(func() { k.slot(ctx) })
	}
	slots.Wait()
	k.sessions.Wait()
	return context.Cause(ctx)
}

// slot keeps one connection.
func (k *Keeper) slot(ctx context.Context) {
	var pause backoff
	for ctx.Err() == nil {
		conn, err := k.open(ctx, false)
		if err != nil {
			if ctx.Err() == nil {
				k.log.WarnContext(ctx, "no tunnel", "error", err)
			}
			pause.sleep(ctx, k.c.BackoffMin, k.c.BackoffMax)
			continue
		}
		began := time.Now()
		lost := k.hold(ctx, conn)
		if time.Since(began) > k.c.BackoffMax {
			pause.reset()
		}
		if lost { // by all agents of the gateway at once
			pause.sleep(ctx, k.c.BackoffMin, k.c.BackoffMax)
		}
	}
}

// hold returns when a replacement is due: at once when the gateway drains, so
// that the old connection carries what runs while the new one is made; else
// after the loss.
func (k *Keeper) hold(ctx context.Context, conn *keptConn) (lost bool) {
	for {
		spread := time.NewTimer(jitter(k.c.SpreadEvery))
		select {
		case <-conn.leaving:
			spread.Stop()
			return false
		case <-conn.ended:
			spread.Stop()
			return true
		case <-spread.C:
		}
		if !k.doubled(conn) {
			continue
		}
		if other, err := k.open(ctx, true); err == nil {
			conn.leave()
			conn = other
		}
	}
}

var errDoubled = errors.New("already connected to this replica")

// spreadTries is how often a new connection that lands on a known replica is
// given up for another try, before it is taken as there is no other replica.
const spreadTries = 3

// open dials until a connection is live. With strict, a connection to a
// replica that is connected already is an error.
func (k *Keeper) open(ctx context.Context, strict bool) (conn *keptConn, err error) {
	for try := range spreadTries + 1 {
		take := try == spreadTries && !strict
		conn, err = k.try(ctx, take)
		if err == nil || !errors.Is(err, errDoubled) {
			return conn, err
		}
		if !sleep(ctx, jitter(k.c.BackoffMin/4)) {
			return nil, context.Cause(ctx)
		}
	}
	return nil, err
}

// try dials once and returns when the gateway's hello was answered.
func (k *Keeper) try(ctx context.Context, takeDoubled bool) (*keptConn, error) {
	addr, err := k.address()
	if err != nil {
		return nil, err
	}
	raw, err := k.c.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn := k.newConn(ctx)
	conn.raw = raw
	k.sessions.Go(func() {
		defer close(conn.ended)
		defer conn.unfollow()
		// A context of its own: what runs may end after Run's context has.
		conn.err = Serve(context.WithoutCancel(ctx), raw, k.c.Handler, ServeConfig{
			Log:          k.log,
			Limits:       k.c.Limits,
			Welcome:      func(replica string) error { return k.claim(conn, replica, takeDoubled) },
			OnDrain:      conn.asked,
			Drain:        conn.drain,
			DrainTimeout: k.c.DrainTimeout,
			Proofs:       conn.proofs,
		})
		k.forget(conn)
	})
	select {
	case <-conn.welcome:
		return conn, nil
	case <-conn.ended:
		return nil, conn.err
	}
}

// keptConn is one connection of a Keeper.
type keptConn struct {
	raw      net.Conn      // as dialled
	proofs   chan string   // capacity 1; see Prove
	welcome  chan struct{} // closed when it is live
	leaving  chan struct{} // closed when either side wants it replaced
	drain    chan struct{} // closed when this side does
	ended    chan struct{} // closed when it has ended
	err      error         // why; read after ended is closed
	asked    func()        // the gateway drains it; once
	leave    func()        // this side drains it; once
	unfollow func() bool   // stops following Run's context
}

func (k *Keeper) newConn(ctx context.Context) *keptConn {
	conn := &keptConn{
		welcome: make(chan struct{}),
		leaving: make(chan struct{}),
		drain:   make(chan struct{}),
		ended:   make(chan struct{}),
		proofs:  make(chan string, 1),
	}
	conn.asked = sync.OnceFunc(func() {
		close(conn.leaving)
		k.forget(conn) // after: claim looks at leaving
	})
	conn.leave = sync.OnceFunc(func() {
		conn.asked()
		close(conn.drain)
	})
	conn.unfollow = context.AfterFunc(ctx, conn.leave)
	return conn
}

// claim decides on a gateway's hello and counts the connection as live.
func (k *Keeper) claim(conn *keptConn, replica string, takeDoubled bool) error {
	return k.change(func() error {
		select {
		case <-conn.leaving:
			return ErrDrained
		default:
		}
		if !takeDoubled && replica != "" {
			for _, other := range k.live {
				if other == replica {
					return errDoubled
				}
			}
		}
		k.live[conn] = replica
		close(conn.welcome)
		return nil
	})
}

// forget no longer counts a connection as live.
func (k *Keeper) forget(conn *keptConn) {
	_ = k.change(func() error { delete(k.live, conn); return nil })
}

func (k *Keeper) change(f func() error) error {
	k.changeMu.Lock()
	defer k.changeMu.Unlock()
	k.mu.Lock()
	before := len(k.live)
	err := f()
	after := len(k.live)
	k.mu.Unlock()
	if before != after {
		k.c.OnChange(after)
	}
	return err
}

// doubled reports whether another live connection goes to the same replica.
func (k *Keeper) doubled(conn *keptConn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	own := k.live[conn]
	for other, replica := range k.live {
		if other != conn && own != "" && replica == own {
			return true
		}
	}
	return false
}

// address is the next one to dial.
func (k *Keeper) address() (string, error) {
	addrs := k.c.Gateways()
	if len(addrs) == 0 {
		return "", errors.New("no gateway address is known")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next++
	return addrs[k.next%len(addrs)], nil
}

// backoff makes pauses that grow, each anywhere between nothing and its
// length, so that the agents of a lost gateway come back spread out.
type backoff struct{ failures int }

func (b *backoff) reset() { b.failures = 0 }

func (b *backoff) sleep(ctx context.Context, shortest, longest time.Duration) {
	d := longest
	if b.failures < 30 {
		d = min(longest, shortest<<b.failures)
	}
	b.failures++
	sleep(ctx, time.Duration(rand.Int64N(int64(d))+1))
}

// jitter is d give or take a quarter.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(rand.Int64N(int64(d)/2+1))
}

// sleep returns false when ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
