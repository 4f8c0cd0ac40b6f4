package router

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport/sallyport/mlext/wire"
)

// process is one router among several, as a process of its own would be: its own
// port for callers, and one for the others.
type process struct {
	*Router
	server *httptest.Server
	stop   context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
}

// processes starts routers that know each other. The first coordinates.
func (w *world) processes(n int) []*process {
	w.t.Helper()
	var all []*process
	roster := map[string]string{}
	for i := range n {
		r, server := w.make(fmt.Sprint("router-", i), io.Discard)
		listener, err := (&net.ListenConfig{}).Listen(w.t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatal(err)
		}
		p := &process{Router: r, server: server}
		var key string
		if r.roster.cert, key, err = identity(r.Name, time.Now()); err != nil {
			w.t.Fatal(err)
		}
		text, err := json.Marshal(peer{listener.Addr().String(), key})
		if err != nil {
			w.t.Fatal(err)
		}
		roster[r.Name] = string(text)
		p.ctx, p.stop = context.WithCancel(context.Background())
		r.run(p.ctx, &p.wg)
		p.wg.Go(func() { r.accept(p.ctx, &p.wg, listener) })
		w.t.Cleanup(p.kill)
		all = append(all, p)
	}
	for _, p := range all {
		p.roster.set(roster)
	}
	all[0].coordinate(all[0].ctx, &all[0].wg, 1)
	w.eventually("slots are given out", func() bool {
		for _, p := range all {
			if !p.seat.ready() {
				return false
			}
		}
		return true
	})
	return all
}

// kill ends a process at once: connections break, listeners close.
func (p *process) kill() {
	p.stop()
	p.server.CloseClientConnections()
	p.wg.Wait()
}

// follows tells whether it has a coordinator.
func (p *process) follows() bool {
	p.seat.mu.RLock()
	defer p.seat.mu.RUnlock()
	return p.seat.to != nil
}

func urls(all []*process) (at []string) {
	for _, p := range all {
		at = append(at, p.server.URL)
	}
	return at
}

func TestSeveralRoutersNeverAskAReplicaMoreThanItTakes(t *testing.T) {
	for _, c := range []struct{ replicas, concurrent int }{{1, 1}, {2, 1}, {4, 3}} {
		w := newWorld(t)
		w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
		w.deployment("d", "blue", "e", func(d *wire.Deployment) { d.Request.MaxConcurrent = c.concurrent })
		var servers []*busyServer
		for range c.replicas {
			b := &busyServer{}
			servers = append(servers, b)
			w.pod("d", b.ServeHTTP)
		}
		all := w.processes(3)
		w.change(nil)
		burden(t, urls(all), 24, 50, nil)
		for i, b := range servers {
			if int(b.most.Load()) > c.concurrent || b.runs.Load() == 0 {
				t.Errorf("%+v: replica %d had %d at once and %d in all", c, i, b.most.Load(), b.runs.Load())
			}
		}
		// A router without any slot gets one from another's idle ones.
		for _, p := range all {
			if got := w.call(p.server.URL, at, "key", "x", nil); got.String() != "200 x" {
				t.Errorf("%+v: %v", c, got)
			}
		}
		for _, p := range all {
			p.kill()
		}
	}
}

// The coordinator's process ends in the middle. What it carried is lost; what
// other routers carry is not, whatever slots they held, and no replica gets more
// than it takes while another router takes over.
func TestTheDeathOfACoordinatorLosesOnlyWhatItCarried(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	var servers []*busyServer
	var runs atomic.Int32
	half := make(chan struct{})
	for range 3 {
		b := &busyServer{work: func() {
			if runs.Add(1) == 300 {
				close(half)
			}
		}}
		servers = append(servers, b)
		w.pod("d", b.ServeHTTP)
	}
	all := w.processes(3)
	w.change(nil)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 4 { // what goes through the coordinator itself
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = do(ctx, all[0].server.URL, at, "key", "x", nil)
			}
		})
	}
	wg.Go(func() {
		<-half
		// Its own requests end with it; whatever they were, they run no longer than
		// its connections, so that slots that it held are free for the next.
		cancel()
		all[0].kill()
		w.eventually("others see that it is gone", func() bool { return !all[1].follows() && !all[2].follows() })
		rest := map[string]string{}
		for _, p := range all[1:] {
			text, err := json.Marshal(p.roster.known[p.Name])
			if err != nil {
				t.Error(err)
			}
			rest[p.Name] = string(text)
		}
		for _, p := range all[1:] {
			p.roster.set(rest)
		}
		all[2].coordinate(all[2].ctx, &all[2].wg, 2)
	})
	burden(t, urls(all[1:]), 12, 200, nil)
	wg.Wait()
	for i, b := range servers {
		if b.most.Load() > 1 {
			t.Errorf("replica %d had %d at once", i, b.most.Load())
		}
	}
	if !all[1].seat.ready() || all[1].seat.newest() != 2 {
		t.Error("router-1 does not follow the new coordinator")
	}
	// One of old, that comes back, is not heard, and gives up.
	all[1].coordinate(all[1].ctx, &all[1].wg, 1)
	w.eventually("the old one gave up", func() bool { return all[1].coordinating() == nil })
	if all[1].seat.newest() != 2 {
		t.Error("router-1 left the newer coordinator")
	}
	burden(t, urls(all[1:]), 4, 10, nil)
}

// One that was outranked while it led went above the other; outranked again when
// it leads no more, it ends, at its own router too.
func TestACoordinatorThatWasRaisedEndsWhenItIsOutranked(t *testing.T) {
	w := newWorld(t)
	all := w.processes(2)
	heard := func(newer int64) { // that there is a newer one, though it is not here
		s := &all[1].seat
		s.mu.RLock()
		to := s.to
		s.mu.RUnlock()
		s.vacate(to, newer)
	}
	all[0].leads.Store(true)
	heard(4)
	w.eventually("the leader goes above it", func() bool { return all[1].follows() && all[1].seat.newest() == 5 })
	all[0].leads.Store(false)
	heard(9)
	w.eventually("it gave up", func() bool { return all[0].coordinating() == nil })
	if all[0].follows() || all[1].follows() || all[0].seat.newest() != 9 {
		t.Errorf("router-0 follows: %v, router-1: %v, newest %d", all[0].follows(), all[1].follows(), all[0].seat.newest())
	}
	all[1].coordinate(all[1].ctx, &all[1].wg, 10)
	w.eventually("both follow another", func() bool { return all[0].seat.ready() && all[1].seat.ready() })
}

// What is deleted while it is busy is forgotten when that has ended, though
// nothing else changes.
func TestADeploymentThatWasDeletedWhileBusyIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	started, release := make(chan struct{}), make(chan struct{})
	w.pod("d", func(http.ResponseWriter, *http.Request) {
		close(started)
		<-release
	})
	r, server := w.router()
	w.change(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if got, err := do(t.Context(), server.URL, at, "key", "x", nil); err != nil || got.StatusCode != 200 {
			t.Errorf("what it carried: %v %v", got, err)
		}
	})
	<-started
	w.change(func(s *sources) { s.deployments, s.pods = nil, nil })
	known := func() (pools, slots, loads int) {
		c := r.coordinating()
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(r.seat.each()), len(c.ledger.deployments), len(c.loads)
	}
	if pools, slots, _ := known(); pools != 1 || slots != 1 {
		t.Errorf("forgotten while busy: %d pools, %d deployments at the coordinator", pools, slots)
	}
	close(release)
	wg.Wait()
	w.eventually("it is forgotten", func() bool {
		pools, slots, loads := known()
		return pools+slots+loads == 0
	})
}

// A router's death frees its slots for the others.
func TestTheSlotsOfADeadRouterAreUsedByOthers(t *testing.T) {
	w := newWorld(t)
	w.endpoint("e", "iris", ours, map[string]int{"blue": 100}, "key")
	w.deployment("d", "blue", "e", nil)
	stuck := make(chan struct{})
	defer close(stuck)
	w.pod("d", func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		if string(data) == "stuck" {
			select {
			case <-stuck:
			case <-r.Context().Done():
			}
		}
		_, _ = w.Write(data)
	})
	all := w.processes(2)
	w.change(nil)
	go func() { _, _ = do(context.Background(), all[1].server.URL, at, "key", "stuck", nil) }()
	w.eventually("it holds the only slot", func() bool {
		_, _, busy, _ := all[1].table.Load().deployments["d"].pool.current()
		return busy == 1
	})
	all[1].kill()
	if got := w.call(all[0].server.URL, at, "key", "x", nil); got.String() != "200 x" {
		t.Error(got)
	}
}

// Nobody but a router of the roster may hand out slots, or read what goes on.
func TestStrangersAreNoCoordinators(t *testing.T) {
	w := newWorld(t)
	all := w.processes(2)
	w.change(nil)
	address := all[1].roster.others()["router-0"].Address
	stranger, _, err := identity("router-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, conf := range map[string]*tls.Config{
		"another key": {InsecureSkipVerify: true, Certificates: []tls.Certificate{stranger}},
		"no key":      {InsecureSkipVerify: true},
		"its own key": {InsecureSkipVerify: true, Certificates: []tls.Certificate{all[0].roster.cert}},
		"old TLS":     {InsecureSkipVerify: true, Certificates: []tls.Certificate{all[1].roster.cert}, MaxVersion: tls.VersionTLS12},
	} {
		conn, err := (&tls.Dialer{Config: conf}).DialContext(t.Context(), "tcp", address)
		if err == nil {
			fmt.Fprintln(conn, `{"k":"hello","name":"router-1","e":99}`)
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			if _, err = conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: it was answered", name)
			}
			conn.Close()
		}
	}
	if all[0].seat.newest() == 99 {
		t.Error("a stranger took the router over")
	}
	// And a coordinator tells a stranger nothing.
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{stranger}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_ = conn.(*tls.Conn).HandshakeContext(t.Context())
			conn.Close()
		}
	}()
	if _, err := all[0].linkTo(t.Context(), newCoordinator(9, time.Now), "router-1", peer{listener.Addr().String(), all[1].roster.others()["router-0"].Key}); err == nil {
		t.Error("a stranger at a router's address was spoken to")
	}
}
