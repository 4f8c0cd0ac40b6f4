package devcluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// Kill ends a process at once and waits until it is gone: "kube-apiserver", or
// "node-1" with all that runs on that node, as when a machine loses its power.
func (c *Cluster) Kill(ctx context.Context, name string) error {
	p := c.sup.process(name)
	if p == nil {
		return fmt.Errorf("kill %s: no such process in this cluster", name)
	}
	if err := c.Signal(name, syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		return fmt.Errorf("kill %s: %w", name, ctx.Err())
	}
	c.nodes = slices.DeleteFunc(c.nodes, func(n *Node) bool { return n.name == name })
	return c.sup.forget(p)
}

// Cut takes away the link between a node and the API server, as when its network
// fails: what runs there runs on, and nobody hears of it. Join gives it back.
func (c *Cluster) Cut(ctx context.Context, name string) error {
	_, link, err := c.linkOf(name)
	if err != nil {
		return fmt.Errorf("cut %s off: %w", name, err)
	}
	_, err = c.ip(ctx, netnsPath(c.cfg.NetNS), "link", "set", link, "down")
	return err
}

// Join undoes Cut.
func (c *Cluster) Join(ctx context.Context, name string) error {
	n, link, err := c.linkOf(name)
	if err != nil {
		return fmt.Errorf("join %s: %w", name, err)
	}
	netns := netnsPath(c.cfg.NetNS)
	if _, err := c.ip(ctx, netns, "link", "set", link, "up"); err != nil {
		return err
	}
	// That of the node itself comes with its address.
	_, err = c.ip(ctx, netns, "route", "replace", n.pods.String(), "via", n.addr.String(), "dev", link, "src", c.net.host.String())
	return err
}

func (c *Cluster) linkOf(name string) (*Node, string, error) {
	var number int
	if _, err := fmt.Sscanf(name, "node-%d", &number); err == nil && number >= 0 && number < len(c.net.links) {
		for _, n := range c.nodes {
			if n.name == name {
				return n, c.net.links[number], nil
			}
		}
	}
	return nil, "", errors.New("no such node in this cluster")
}

// StartAPIServer starts the API server that was killed, at its address, and
// waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	args := c.apiServerFlags()
	if c.sup.process(args[0]) != nil {
		return fmt.Errorf("start %s: it runs", args[0])
	}
	if _, err := c.sup.start(command{name: args[0], rank: rankAPIServer, path: c.Program(args[0]), args: args, netns: netnsPath(c.cfg.NetNS)}); err != nil {
		return err
	}
	return c.wait(ctx, "the API server", c.apiReady)
}

// StartNode starts a node that was killed, as when its machine has power again,
// and waits until it is ready: what was on its disk is there, and nothing runs.
func (c *Cluster) StartNode(ctx context.Context, name string) error {
	i := 0
	for nodeName(i) != name {
		if i++; i >= c.cfg.Nodes {
			return fmt.Errorf("start %s: no such node in this cluster", name)
		}
	}
	if c.sup.process(name) != nil {
		return fmt.Errorf("start %s: it runs", name)
	}
	if err := c.startNode(ctx, i); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return nil
}

func (c *Cluster) startNode(ctx context.Context, i int) error {
	others := slices.Clone(c.nodes)
	if err := c.startNodeInit(i); err != nil {
		return err
	}
	n := c.nodes[len(c.nodes)-1]
	slices.SortFunc(c.nodes, func(a, b *Node) int { return a.index - b.index })
	slot := int(c.net.host.As4()[2])
	n.addr, n.pods = nodeAddr(slot, i), nodePodRange(slot, i)
	// The kernel takes its time to remove links to a network that is gone.
	if err := c.dropLink(ctx, netnsPath(c.cfg.NetNS), c.net.links[i]); err != nil {
		return err
	}
	for _, o := range others {
		if err := c.dropLink(ctx, o.netns(), linkTo(n)); err != nil {
			return err
		}
	}
	if err := c.addLink(ctx, c.net.links[i], n); err != nil {
		return err
	}
	if err := c.connect(ctx, n, others); err != nil {
		return err
	}
	began := time.Now().Truncate(time.Second) // as exact as a heartbeat
	if err := c.finishNode(n); err != nil {
		return err
	}
	return c.wait(ctx, "the node", func(ctx context.Context) error { return c.nodeReadySince(ctx, n.name, began) })
}

// process finds one by its name, nil if there is none.
func (s *supervisor) process(name string) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// forget leaves a process out that has ended as it was meant to.
func (s *supervisor) forget(p *process) error {
	s.mu.Lock()
	s.procs = slices.DeleteFunc(s.procs, func(q *process) bool { return q == p })
	s.mu.Unlock()
	return s.journal.update(func(st *state) {
		st.Processes = slices.DeleteFunc(st.Processes, func(r record) bool { return r == p.record })
	})
}
