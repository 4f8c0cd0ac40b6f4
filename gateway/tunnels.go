package gateway

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/trust"
	"github.com/sallyport/sallyport/tunnel"
)

// ServeTunnel takes over a connection that an agent has dialled, after the
// caller has verified that its certificate is that of the cluster's proxy
// agent. It returns when the connection has ended, which it does when the
// cluster is disconnected or removed, and some time after its term is over. A
// cluster that is not connected is refused.
func (g *Gateway) ServeTunnel(ctx context.Context, conn net.Conn, cluster trust.ClusterUID, term tunnel.Term) error {
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	// Before the question whether it is connected, so that what changes the
	// answer finds it: a tunnel takes as long to make as its agent wants.
	defer g.serving.add(cluster, cut)()
	if err := g.waitReady(ctx); err != nil {
		_ = conn.Close()
		return err
	}
	if !g.table.known(cluster) {
		_ = conn.Close()
		return errUnconnected(cluster)
	}
	return g.hub.ServeUntil(ctx, conn, string(cluster), term)
}

func errUnconnected(cluster trust.ClusterUID) error {
	return trust.Errorf(trust.Forbidden, "cluster %s is not registered, or was disconnected", cluster)
}

// serving are the running ServeTunnel calls, by cluster.
type serving struct {
	mu    sync.Mutex // guards what follows
	calls map[trust.ClusterUID]map[*context.CancelCauseFunc]struct{}
}

// add notes a call; remove must follow.
func (s *serving) add(cluster trust.ClusterUID, cut context.CancelCauseFunc) (remove func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls == nil {
		s.calls = map[trust.ClusterUID]map[*context.CancelCauseFunc]struct{}{}
	}
	if s.calls[cluster] == nil {
		s.calls[cluster] = map[*context.CancelCauseFunc]struct{}{}
	}
	s.calls[cluster][&cut] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.calls[cluster], &cut); len(s.calls[cluster]) == 0 {
			delete(s.calls, cluster)
		}
	}
}

// cutUnless ends the calls of clusters that are not known.
func (s *serving) cutUnless(known func(trust.ClusterUID) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cluster, calls := range s.calls {
		if known(cluster) {
			continue
		}
		for cut := range calls {
			(*cut)(errUnconnected(cluster))
		}
	}
}

// waitReady gives a gateway that has just started time to read the bindings:
// agents that are sent away come back only after a while.
func (g *Gateway) waitReady(ctx context.Context) error {
	const patience, every = 5 * time.Second, 20 * time.Millisecond
	for deadline := time.Now().Add(patience); ; {
		err := g.table.ready(g.now())
		if err == nil || ctx.Err() != nil || g.draining.Load() || time.Now().After(deadline) {
			return err
		}
		pause(ctx, every)
	}
}

// Tunnels is the number of live tunnels of a cluster in this replica.
func (g *Gateway) Tunnels(cluster trust.ClusterUID) int { return g.hub.Live(string(cluster)) }

// cutUnknown closes the tunnels of clusters that are not connected any more.
func (g *Gateway) cutUnknown() { g.serving.cutUnless(g.table.known) }
