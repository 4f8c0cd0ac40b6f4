package gateway

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// flight is one request between its authentication and its last byte.
type flight struct {
	id         string // of the request
	handle     *tunnel.Handle
	caller     *trust.Caller // nil when a peer handed it over
	peer       string        // its replica
	from       netip.Addr
	cluster    trust.ClusterUID
	attributes *trust.Attributes
	bound      atomic.Pointer[bound] // set by decide
	counted    trust.BindingUID      // counted under this binding; guarded by flights.mu
	answering  atomic.Bool           // its answer has begun
	over       atomic.Bool           // the agent has ended it
}

// begin notes that the answer begins.
func (f *flight) begin() {
	f.answering.Store(true)
	if f.over.Load() {
		f.handle.End(errAgent)
	}
}

// agentEnded ends a flight whose answer has begun: a caller who does not read it
// would keep it until then. Before, the tunnel tells, and the answer says so.
func (f *flight) agentEnded() {
	f.over.Store(true)
	if f.answering.Load() {
		f.handle.End(errAgent)
	}
}

// flights are all of them, by cluster.
type flights struct {
	perCallerMax, perBindingMax int

	mu         sync.Mutex                              // guards what follows
	byCluster  map[trust.ClusterUID]map[string]*flight // by id
	perCaller  map[trust.Principal]int
	perBinding map[trust.BindingUID]int
	n          int
	idle       []chan struct{} // closed at the next moment that none runs
}

func newFlights(perCaller, perBinding int) *flights {
	return &flights{
		perCallerMax: perCaller, perBindingMax: perBinding,
		byCluster:  map[trust.ClusterUID]map[string]*flight{},
		perCaller:  map[trust.Principal]int{},
		perBinding: map[trust.BindingUID]int{},
	}
}

// add registers a flight, or refuses it when its caller has too many.
func (s *flights) add(f *flight) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.caller != nil { // else it counts where it came in
		if s.perCaller[f.caller.Principal] >= s.perCallerMax {
			return trust.Errorf(trust.Throttled, "this caller has %d requests running, which is the limit", s.perCallerMax)
		}
		s.perCaller[f.caller.Principal]++
	}
	in := s.byCluster[f.cluster]
	if in == nil {
		in = map[string]*flight{}
		s.byCluster[f.cluster] = in
	}
	in[f.id] = f
	s.n++
	return nil
}

// bind counts a registered flight under its binding, or refuses it when that
// has too many.
func (s *flights) bind(f *flight, uid trust.BindingUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perBinding[uid] >= s.perBindingMax {
		return trust.Errorf(trust.Throttled, "this role binding has %d requests running, which is the limit", s.perBindingMax)
	}
	s.perBinding[uid]++
	f.counted = uid
	return nil
}

func (s *flights) remove(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.byCluster[f.cluster]
	delete(in, f.id)
	if len(in) == 0 {
		delete(s.byCluster, f.cluster)
	}
	if f.caller != nil {
		decrement(s.perCaller, f.caller.Principal)
	}
	if f.counted != "" {
		decrement(s.perBinding, f.counted)
	}
	s.n--
	if s.n == 0 {
		for _, c := range s.idle {
			close(c)
		}
		s.idle = nil
	}
}

func decrement[K comparable](m map[K]int, k K) {
	if m[k]--; m[k] <= 0 {
		delete(m, k)
	}
}

func (s *flights) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// waitIdle waits until nothing runs or ctx ends.
func (s *flights) waitIdle(ctx context.Context) {
	s.mu.Lock()
	if s.n == 0 {
		s.mu.Unlock()
		return
	}
	c := make(chan struct{})
	s.idle = append(s.idle, c)
	s.mu.Unlock()
	select {
	case <-c:
	case <-ctx.Done():
	}
}

// endWhere ends every flight of a cluster ("": of all) for which why returns an
// error, with that as the cause, and returns their number. When it returns, no
// further byte of them reaches a caller.
func (s *flights) endWhere(cluster trust.ClusterUID, why func(*flight) error) int {
	s.mu.Lock()
	var all []*flight
	if cluster != "" {
		for _, f := range s.byCluster[cluster] {
			all = append(all, f)
		}
	} else {
		for _, in := range s.byCluster {
			for _, f := range in {
				all = append(all, f)
			}
		}
	}
	s.mu.Unlock()
	var ending sync.WaitGroup
	n := 0
	for _, f := range all {
		if err := why(f); err != nil {
			n++
			// Each by itself: one that takes long must not hold up the others.
			ending.Go(func() { f.handle.End(err) })
		}
	}
	ending.Wait()
	return n
}

// agentEnded is told by the agent of a cluster that it has ended a request. It
// concerns that cluster's requests and no others.
func (s *flights) agentEnded(cluster trust.ClusterUID, id string) {
	s.mu.Lock()
	f := s.byCluster[cluster][id]
	s.mu.Unlock()
	if f != nil {
		f.agentEnded()
	}
}

func (s *flights) endAll(why error) int {
	return s.endWhere("", func(*flight) error { return why })
}

type connKey struct{}

// ConnContext is for http.Server.ConnContext: it lets the gateway reset a
// connection. Without it net/http's own closing of an HTTP/1.1 connection, over
// TLS, may wait 5 s for a caller that does not read.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// resetWithEnd resets the caller's connection when the request is ended from
// outside; stop must be called first when it ends by itself. An HTTP/2
// connection carries others' requests: there the stream's own reset does it.
func resetWithEnd(h *tunnel.Handle, r *http.Request) (stop func() bool) {
	c, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok || r.ProtoMajor != 1 {
		return func() bool { return true }
	}
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return context.AfterFunc(h.Context(), func() {
		if l, ok := c.(interface{ SetLinger(int) error }); ok {
			_ = l.SetLinger(0) // what waits in the socket goes nowhere
		}
		_ = c.Close()
	})
}
