package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Errors of a Hub. All of them mean that trying again later, or on another
// replica, may help.
var (
	// ErrNoTunnel: no connection of the cluster is live in this process.
	// Nothing was sent.
	ErrNoTunnel = errors.New("no live tunnel")
	// ErrBusy: every connection of the cluster is at its limit of requests.
	// Nothing was sent.
	ErrBusy = errors.New("every tunnel is at its limit")
	// ErrLost: the connection ended before the answer came. The request may
	// have been carried out.
	ErrLost = errors.New("tunnel lost before the answer")
	// ErrReservedHeader: the request has a header of the tunnel's own.
	ErrReservedHeader = errors.New("header " + headerPrefix + "* is the tunnel's own")
	// ErrRefused: the agent did not want the connection, because it has one
	// to this replica already or is about to end.
	ErrRefused = errors.New("agent refused the connection")
	// ErrDraining: this Hub takes no connections any more.
	ErrDraining = errors.New("gateway is draining")
)

// Config is what a Hub needs. The zero value works.
type Config struct {
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	Replica    string                // this process' id, told to agents so that they spread; printable ASCII, at most 128 bytes
	Limits     Limits
	// OnChange is told how many connections of a cluster take requests,
	// whenever that changes. Calls come one after the other; it must not
	// block and must not call the Hub.
	OnChange func(cluster string, live int)
	// OnEnded is told when the agent of a cluster has ended a request that it
	// gave a name (Handle.Name). It must not block.
	OnEnded func(cluster, name string)
}

// Hub holds the live connections of this process, by cluster, and sends
// requests through them.
type Hub struct {
	log       *slog.Logger
	replica   string
	limits    Limits
	onChange  func(string, int)
	onEnded   func(string, string)
	transport *http.Transport
	metrics   *hubMetrics

	changeMu sync.Mutex // orders OnChange; taken before mu

	mu       sync.RWMutex       // guards what follows; the slices are replaced, never changed
	links    map[string][]*link // by cluster, draining ones included
	draining bool
	serving  sync.WaitGroup // running Serve calls; Add under mu while not draining
}

// NewHub makes a Hub. It panics when the registerer already has its metrics
// or the replica id is malformed: both are errors of the program.
func NewHub(c Config) *Hub {
	if err := checkReplica(c.Replica); err != nil {
		panic("tunnel: " + err.Error())
	}
	h := &Hub{
		log:      c.Log,
		replica:  c.Replica,
		limits:   c.Limits.withDefaults(),
		onChange: c.OnChange,
		onEnded:  c.OnEnded,
		links:    map[string][]*link{},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.onChange == nil {
		h.onChange = func(string, int) {}
	}
	if h.onEnded == nil {
		h.onEnded = func(string, string) {}
	}
	h.transport = newTransport(h.limits)
	h.metrics = newHubMetrics(c.Registerer, h)
	return h
}

// newTransport makes the factory of client connections: HTTP/2 only, nothing
// added to requests, nothing taken out of answers, no idle timeout.
func newTransport(l Limits) *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(connKey{}).(net.Conn), nil
		},
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		HTTP2:                  l.gatewayHTTP2(),
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetUnencryptedHTTP2(true) // TLS is done: the connection comes with it
	return t
}

type connKey struct{}

// Serve takes over a connection of an agent that the caller has authenticated
// as cluster, and returns when it has ended, with the reason; nil when it
// ended as agreed. The connection is closed then. Cancelling ctx closes it at
// once.
//
// In an http.Server that shares its port, Serve goes into TLSNextProto[ALPN].
func (h *Hub) Serve(ctx context.Context, conn net.Conn, cluster string) error {
	return h.serve(ctx, conn, cluster, Term{})
}

func (h *Hub) serve(ctx context.Context, conn net.Conn, cluster string, term Term) error {
	w := watch(conn, h.limits.WriteTimeout)
	defer func() { _ = w.Close(); <-w.idle }()
	h.mu.Lock()
	if h.draining {
		h.mu.Unlock()
		return ErrDraining
	}
	h.serving.Add(1)
	h.mu.Unlock()
	defer h.serving.Done()

	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("serve tunnel: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = w.Close() })()

	cc, err := h.transport.NewClientConn(context.WithValue(ctx, connKey{}, net.Conn(w)), "http", "tunnel:0")
	if err != nil {
		return fmt.Errorf("serve tunnel: %w", err)
	}
	defer cc.Close()
	w.client.Store(cc)
	l := &link{hub: h, cluster: cluster, cc: cc, conn: w, term: term}
	if !term.Until.IsZero() {
		l.until.Store(term.Until.UnixNano())
	}
	if err := l.hello(ctx); err != nil {
		return fmt.Errorf("serve tunnel: hello: %w", err)
	}
	defer l.bye()

	if !h.add(l) {
		return ErrDraining
	}
	log := h.log.With("cluster", cluster, "remote", conn.RemoteAddr().String())
	log.InfoContext(ctx, "tunnel live")
	<-w.closed
	h.remove(l)
	err = l.reason(ctx)
	log.InfoContext(ctx, "tunnel ended", "reason", err)
	return err
}

// add makes l take requests; it has said hello. It is false when the Hub began
// to drain meanwhile.
func (h *Hub) add(l *link) (ok bool) {
	h.change(l.cluster, func() {
		if ok = !h.draining; ok {
			h.links[l.cluster] = append(slices.Clip(h.links[l.cluster]), l)
		}
	})
	return ok
}

func (h *Hub) remove(l *link) {
	h.change(l.cluster, func() {
		rest := slices.DeleteFunc(slices.Clone(h.links[l.cluster]), func(o *link) bool { return o == l })
		if len(rest) == 0 {
			delete(h.links, l.cluster)
			return
		}
		h.links[l.cluster] = rest
	})
}

// change applies f to the state and tells the owner when the number of live
// connections is another one afterwards.
func (h *Hub) change(cluster string, f func()) {
	h.changeMu.Lock()
	defer h.changeMu.Unlock()
	h.mu.Lock()
	before := h.liveLocked(cluster)
	f()
	after := h.liveLocked(cluster)
	h.mu.Unlock()
	if before != after {
		h.onChange(cluster, after)
	}
}

func (h *Hub) liveLocked(cluster string) (live int) {
	for _, l := range h.links[cluster] {
		if !l.draining.Load() {
			live++
		}
	}
	return live
}

// Live is the number of connections of a cluster that take requests.
func (h *Hub) Live(cluster string) int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.liveLocked(cluster)
}

func (h *Hub) isDraining() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.draining
}

// Clusters are the names with at least one live connection, in no order.
func (h *Hub) Clusters() []string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	var names []string
	for name := range h.links {
		if h.liveLocked(name) > 0 {
			names = append(names, name)
		}
	}
	return names
}

// Cut closes every connection of a cluster at once: the cluster is gone, or
// is another one.
func (h *Hub) Cut(cluster string) {
	h.mu.RLock()
	links := h.links[cluster]
	h.mu.RUnlock()
	for _, l := range links {
		_ = l.conn.Close()
	}
}

// Drain tells every agent to go elsewhere, takes no new connections, and
// waits until nothing runs through any connection or ctx ends; then it closes
// them and waits for all Serve calls. Requests are still sent meanwhile.
func (h *Hub) Drain(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	var all []*link
	for _, links := range h.links {
		all = append(all, links...)
	}
	h.mu.Unlock()

	var wg sync.WaitGroup
	for _, l := range all {
		wg.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = l.conn.Close() })()
			l.notify(noticeDrain)
			l.waitIdle(ctx)
		})
	}
	wg.Wait()
	err := ctx.Err()
	h.Close()
	return err
}

// Close closes every connection, takes no new ones and waits for all Serve
// calls.
func (h *Hub) Close() {
	h.mu.Lock()
	h.draining = true
	var all []*link
	for _, links := range h.links {
		all = append(all, links...)
	}
	h.mu.Unlock()
	for _, l := range all {
		_ = l.conn.Close()
	}
	h.serving.Wait()
	h.transport.CloseIdleConnections()
}

// reserve takes the connection with fewest requests in flight that has room,
// and a place on it. The caller must use the place with exactly one
// RoundTrip of l.cc. A request with a body needs a body place too, which
// l.releaseBody gives back. Connections in not are not taken.
func (h *Hub) reserve(cluster string, body bool, not []*link) (*link, error) {
	h.mu.RLock()
	links := h.links[cluster]
	h.mu.RUnlock()
	var tried uint64 // bit i: links[i] has no room
	for {
		best, bestLoad := -1, 0
		live := false
		for i, l := range links[:min(len(links), 64)] {
			if l.draining.Load() || slices.Contains(not, l) {
				continue
			}
			live = true
			if tried&(1<<i) != 0 {
				continue
			}
			if load := l.cc.InFlight(); best < 0 || load < bestLoad {
				best, bestLoad = i, load
			}
		}
		switch {
		case best >= 0:
		case live:
			return nil, ErrBusy
		default:
			return nil, ErrNoTunnel
		}
		l := links[best]
		if l.reserve(body) {
			return l, nil
		}
		tried |= 1 << best
	}
}
