package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keep runs a Keeper against addresses until the test ends.
func keep(t testing.TB, c KeeperConfig, gateways func() []string) (*Keeper, context.CancelFunc) {
	t.Helper()
	c.Gateways = gateways
	if c.Handler == nil {
		c.Handler = echoRaw
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return Dial(ctx, DialConfig{Addr: addr, TLS: clientTLS()})
		}
	}
	c.Log = testLog(t)
	c.BackoffMin, c.BackoffMax = 10*time.Millisecond, 50*time.Millisecond
	k := NewKeeper(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := waitFor(t, "Keeper.Run", done); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if n := k.Live(); n != 0 {
			t.Errorf("%d connections after Run", n)
		}
	})
	return k, cancel
}

func addrs(gs ...*gateway) func() []string {
	return func() []string {
		var out []string
		for _, g := range gs {
			out = append(out, g.addr)
		}
		return out
	}
}

func TestKeeperSpreads(t *testing.T) {
	a := newGateway(t, Config{Replica: "a"}, nil)
	b := newGateway(t, Config{Replica: "b"}, nil)
	c := newGateway(t, Config{Replica: "c"}, nil)
	keep(t, KeeperConfig{Connections: 3}, addrs(a, b, c))
	eventually(t, "one connection each", func() bool {
		return a.hub.Live(testCluster) == 1 && b.hub.Live(testCluster) == 1 && c.hub.Live(testCluster) == 1
	})
}

// One replica only: both connections go to it. A second one appears later
// behind the same address list: one connection moves, requests go on.
func TestKeeperMoves(t *testing.T) {
	a := newGateway(t, Config{Replica: "a"}, nil)
	b := newGateway(t, Config{Replica: "b"}, nil)
	var both atomic.Bool
	keep(t, KeeperConfig{Connections: 2, SpreadEvery: 50 * time.Millisecond}, func() []string {
		if both.Load() {
			return []string{a.addr, b.addr}
		}
		return []string{a.addr}
	})
	eventually(t, "two connections", func() bool { return a.hub.Live(testCluster) == 2 })
	both.Store(true)
	eventually(t, "one each", func() bool { return a.hub.Live(testCluster) == 1 && b.hub.Live(testCluster) == 1 })
	if code, _ := get(t, a.hub, "/"); code != http.StatusOK {
		t.Error(code)
	}
}

// A gateway that drains is replaced before its connection ends.
func TestKeeperFollowsDrain(t *testing.T) {
	a := newGateway(t, Config{Replica: "a"}, nil)
	b := newGateway(t, Config{Replica: "b"}, nil)
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			entered <- struct{}{}
			<-release
		}
	})
	var current atomic.Pointer[gateway]
	current.Store(a)
	k, _ := keep(t, KeeperConfig{Connections: 1, Handler: handler}, func() []string { return []string{current.Load().addr} })
	eventually(t, "connected", func() bool { return a.hub.Live(testCluster) == 1 })
	long := make(chan int, 1)
	go func() {
		code, _ := get(t, a.hub, "/long")
		long <- code
	}()
	waitFor(t, "long request", entered)
	current.Store(b)
	drained := make(chan error, 1)
	go func() { drained <- a.hub.Drain(t.Context()) }()
	eventually(t, "connected to the other one", func() bool { return b.hub.Live(testCluster) == 1 })
	if n := k.Live(); n != 1 {
		t.Errorf("%d live", n)
	}
	close(release)
	if code := waitFor(t, "long answer", long); code != http.StatusOK {
		t.Errorf("long request: %d", code)
	}
	if err := waitFor(t, "drain", drained); err != nil {
		t.Error(err)
	}
}

// The agent stops: what runs ends well, then Run returns.
func TestKeeperStops(t *testing.T) {
	g := newGateway(t, Config{}, nil)
	release, entered := make(chan struct{}), make(chan struct{}, 1)
	_, stop := keep(t, KeeperConfig{Connections: 2, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	})}, addrs(g))
	eventually(t, "connected", func() bool { return g.hub.Live(testCluster) == 2 })
	answer := make(chan int, 1)
	go func() {
		code, _ := get(t, g.hub, "/")
		answer <- code
	}()
	waitFor(t, "request", entered)
	stop()
	eventually(t, "nothing live", func() bool { return g.hub.Live(testCluster) == 0 })
	close(release)
	if code := waitFor(t, "answer", answer); code != http.StatusOK {
		t.Errorf("running request: %d", code)
	}
}

func TestKeeperWithoutGateway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().String()
	_ = ln.Close()
	var g *gateway
	var mu sync.Mutex
	var dials atomic.Int32
	keep(t, KeeperConfig{Dial: func(ctx context.Context, addr string) (net.Conn, error) {
		dials.Add(1)
		return Dial(ctx, DialConfig{Addr: addr, TLS: clientTLS()})
	}}, func() []string {
		mu.Lock()
		defer mu.Unlock()
		if g == nil {
			return []string{closed}
		}
		return []string{g.addr}
	})
	eventually(t, "some dials", func() bool { return dials.Load() > 6 })
	fresh := newGateway(t, Config{}, nil)
	mu.Lock()
	g = fresh
	mu.Unlock()
	eventually(t, "connected", func() bool { return fresh.hub.Live(testCluster) == 2 })
}

// Many agents lose their gateway at once and come back.
func TestReconnectStorm(t *testing.T) {
	const agents = 100
	a := newGateway(t, Config{Replica: "a"}, nil)
	keepers := make([]*Keeper, agents)
	for i := range keepers {
		var stop context.CancelFunc
		keepers[i], stop = keep(t, KeeperConfig{Connections: 1}, addrs(a))
		defer stop() // all at once, not one after the other
	}
	eventually(t, "all connected", func() bool { return a.hub.Live(testCluster) == agents })
	a.hub.Cut(testCluster)
	for range agents {
		waitFor(t, "old connection", a.ended)
	}
	began := time.Now()
	eventually(t, "all connected again", func() bool { return a.hub.Live(testCluster) == agents })
	t.Logf("%d agents came back in %v", agents, time.Since(began).Round(time.Millisecond))
	if code, _ := get(t, a.hub, "/"); code != http.StatusOK {
		t.Error(code)
	}
}

func TestBackoff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // sleeps return at once
	b := &backoff{}
	for range 100 {
		b.sleep(ctx, time.Millisecond, time.Hour) // must not overflow
	}
	b.reset()
	if b.failures != 0 {
		t.Error("reset does nothing")
	}
	for d := time.Duration(1); d < time.Hour; d = d*7 + 1 {
		if j := jitter(d); j < d*3/4 || j > d*5/4+1 {
			t.Errorf("jitter(%v) = %v", d, j)
		}
	}
}

func TestKeeperNamesTheReason(t *testing.T) {
	k := NewKeeper(KeeperConfig{Gateways: func() []string { return nil }})
	if _, err := k.open(t.Context(), false); err == nil || err.Error() != "no gateway address is known" {
		t.Error(err)
	}
	k = NewKeeper(KeeperConfig{
		Gateways: func() []string { return []string{"x:1"} },
		Dial:     func(context.Context, string) (net.Conn, error) { return nil, fmt.Errorf("no route") },
	})
	if _, err := k.open(t.Context(), false); err == nil || err.Error() != "no route" {
		t.Error(err)
	}
}
