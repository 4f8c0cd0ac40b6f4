package gateway

import (
	"context"
	"net"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// ServeTunnel takes over a connection that an agent has dialled, after the
// caller has verified that its certificate is that of the cluster's proxy
// agent. It returns when the connection has ended. A cluster that is not
// registered is refused.
func (g *Gateway) ServeTunnel(ctx context.Context, conn net.Conn, cluster trust.ClusterUID) error {
	if err := g.waitReady(ctx); err != nil {
		_ = conn.Close()
		return err
	}
	if !g.table.known(cluster) {
		_ = conn.Close()
		return trust.Errorf(trust.Forbidden, "cluster %s is not registered", cluster)
	}
	return g.hub.Serve(ctx, conn, string(cluster))
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

// cutUnknown closes the tunnels of clusters that are registered no more.
func (g *Gateway) cutUnknown() {
	for _, c := range g.hub.Clusters() {
		if !g.table.known(trust.ClusterUID(c)) {
			g.hub.Cut(c)
		}
	}
}
