package control

import (
	"context"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/mandate"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The two agents of a cluster.
const (
	proxy      = pki.ProxyAgent
	reconciler = pki.ReconcilerAgent
	installer  = pki.InstallerAgent
)

// status is what was last heard of an agent; the zero status if nothing ever was.
func (c *Control) status(ctx context.Context, cluster trust.ClusterUID, agent string) (store.AgentStatus, error) {
	key := store.AgentStatus{Cluster: cluster, Agent: agent}.Key()
	s, err := store.Get[store.AgentStatus](ctx, c.Store, key)
	if trust.KindOf(err) == trust.NotFound {
		return store.AgentStatus{Cluster: cluster, Agent: agent}, nil
	}
	return s.Value, err
}

func (c *Control) epoch(ctx context.Context) (int64, error) {
	i, err := store.Get[store.Installation](ctx, c.Store, store.Installation{}.Key())
	return i.Value.Epoch, err
}

// connectedWithin is how recently an agent was heard that counts as connected:
// nonces come every 10 s.
const connectedWithin = 2*mandate.NoncePeriod + 5*time.Second

// away says, for people, that an agent is not there; "" if it is.
func (c *Control) away(s *store.AgentStatus) string {
	switch {
	case s.Seen.IsZero():
		return fmt.Sprintf("waiting for the cluster's %s agent: it has never connected; run sallyport cluster connect", s.Agent)
	case s.Left || c.Now().Sub(s.Seen) > connectedWithin:
		return fmt.Sprintf("waiting for the cluster's %s agent: not connected since %s", s.Agent, since(s.Seen))
	}
	return ""
}

// behind tells whether a process has not applied a revision yet.
func behind(i store.AgentInstance, floor mandate.Floor) bool {
	return mandate.Floor{Epoch: i.Epoch, Revision: i.Revision}.Before(floor)
}

// gatewaysApplied is "" when every live gateway has applied the revision, else
// who has not. A gateway whose key is gone lets nobody through any more.
func (c *Control) gatewaysApplied(ctx context.Context, revision int64) (reason string, err error) {
	all, _, err := store.List[store.Gateway](ctx, c.Store, store.GatewayPrefix)
	if err != nil {
		return "", err
	}
	for _, g := range all {
		if g.Value.Applied < revision {
			return fmt.Sprintf("waiting for gateway %s to apply the change", g.Value.Replica), nil
		}
	}
	return "", nil
}

// proxiesRefuse is "" when every process of the proxy agent has applied the
// revision or its time to be out of touch is over; else why not, and when to
// look again. began is a moment after the change was committed.
func (c *Control) proxiesRefuse(ctx context.Context, cluster trust.ClusterUID, floor mandate.Floor, began time.Time) (reason string, again time.Duration, err error) {
	s, err := c.status(ctx, cluster, proxy)
	if err != nil {
		return "", 0, err
	}
	for _, i := range s.Instances {
		if !behind(i, floor) {
			continue
		}
		// The last answer that vouched for the old state was given at Seen, or
		// before the change if the agent was heard since.
		last := i.Seen
		if last.After(began) {
			last = began
		}
		left := last.Add(c.AgentBound).Sub(c.Now())
		if left <= 0 {
			continue
		}
		if again == 0 || left < again {
			again = left
		}
		reason = fmt.Sprintf("waiting for the cluster's proxy agent to apply the change; without it access ends by itself at %s", since(last.Add(c.AgentBound)))
	}
	return reason, again, nil
}

// refusedEverywhere waits until what the revision took away is refused by every
// live gateway and by the cluster's proxy agent, or their bound is over.
func (c *Control) refusedEverywhere(ctx context.Context, cluster trust.ClusterUID, revision int64, progress func(string)) error {
	epoch, err := c.epoch(ctx)
	if err != nil {
		return err
	}
	floor, began := mandate.Floor{Epoch: epoch, Revision: revision}, c.Now()
	return c.picture.until(ctx, []string{topicGateways, topicAgents(cluster)}, func() (bool, time.Duration, error) {
		why, err := c.gatewaysApplied(ctx, revision)
		var again time.Duration
		if err == nil && why == "" {
			why, again, err = c.proxiesRefuse(ctx, cluster, floor, began)
		}
		if err == nil && why != "" {
			progress(why)
		}
		return why == "", again, err
	})
}
