package devcluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// network is the addresses of one cluster. Nodes and host are joined by one
// point-to-point link per pair and routes, not by a bridge: the machine then
// needs neither forwarding nor a packet filter rule, and one that filters
// bridged packets does not get in the way.
type network struct {
	services netip.Prefix
	host     netip.Addr // of the API server's side, on each link; zero without nodes
	pods     netip.Prefix
	links    []string // interface names on the API server's side, by node
}

// slots is how many clusters with nodes fit on one machine. A slot decides all
// addresses: 198.18.SLOT.0/24 (RFC 2544, for benchmarks) for links,
// 10.128.0.0/10 for pods and 10.192.0.0/10 for services.
const slots = 64

func nodeAddr(slot, node int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, byte(slot), byte(11 + node)})
}

func podRange(slot int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + slot), 0, 0}), 16)
}

func nodePodRange(slot, node int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + slot), byte(node), 0}), 24)
}

// serviceRange returns one of 1024 ranges of 10.192.0.0/10; those of slots are
// the multiples of 16.
func serviceRange(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(192 + n/16%64), byte(n % 16 * 16), 0}), 20)
}

// makeNetwork takes a free slot and starts the nodes' first processes, which
// hold the far ends of the links: the API server listens on the near one.
func (c *Cluster) makeNetwork(ctx context.Context) error {
	c.net.services = serviceRange(rand.IntN(1024))
	if c.cfg.ServiceCIDR.IsValid() {
		c.net.services = c.cfg.ServiceCIDR.Masked()
	}
	if c.cfg.Nodes == 0 {
		return nil
	}
	for i := range c.cfg.Nodes {
		if err := c.startNodeInit(i); err != nil {
			return err
		}
	}
	if err := c.makeCgroups(); err != nil {
		return err
	}
	slot, err := c.takeSlot(ctx)
	if err != nil {
		return err
	}
	if !c.cfg.ServiceCIDR.IsValid() {
		c.net.services = serviceRange(slot * 16)
	}
	c.net.host = netip.AddrFrom4([4]byte{198, 18, byte(slot), 1})
	c.net.pods = podRange(slot)
	for i, n := range c.nodes {
		n.addr, n.pods = nodeAddr(slot, i), nodePodRange(slot, i)
	}
	for i, n := range c.nodes {
		if err := c.connect(ctx, n, c.nodes[:i]); err != nil {
			return err
		}
	}
	return nil
}

// connect gives a node's link to the API server's side its addresses, and links
// the node with others.
func (c *Cluster) connect(ctx context.Context, n *Node, others []*Node) error {
	if err := c.connectHost(ctx, n); err != nil {
		return err
	}
	for _, o := range others {
		if err := c.connectNodes(ctx, o, n); err != nil {
			return err
		}
	}
	return nil
}

// takeSlot makes the link to node 0, whose name holds the slot: the kernel
// refuses a second interface of the same name, so no two clusters share one.
func (c *Cluster) takeSlot(ctx context.Context) (int, error) {
	start := rand.IntN(slots)
	var last error
	for i := range slots {
		slot := (start + i) % slots
		used, err := c.rangesInUse(ctx)
		if err != nil {
			return 0, err
		}
		link := netip.PrefixFrom(nodeAddr(slot, 0), 24).Masked()
		if overlaps(used, link) || overlaps(used, podRange(slot)) {
			last = fmt.Errorf("a route to %s or %s exists", link, podRange(slot))
			continue
		}
		names := make([]string, len(c.nodes))
		for n := range names {
			names[n] = fmt.Sprintf("spd%dn%d", slot, n)
		}
		if last = c.addLink(ctx, names[0], c.nodes[0]); last != nil {
			continue
		}
		c.net.links = names
		for n := 1; n < len(names); n++ {
			if err := c.addLink(ctx, names[n], c.nodes[n]); err != nil {
				return 0, err
			}
		}
		return slot, nil
	}
	return 0, fmt.Errorf("no free network range for nodes: %w", last)
}

// rangesInUse lists what the API server's network namespace has routes to.
func (c *Cluster) rangesInUse(ctx context.Context) ([]netip.Prefix, error) {
	out, err := c.ip(ctx, netnsPath(c.cfg.NetNS), "-o", "-4", "route", "show", "table", "all")
	if err != nil {
		return nil, err
	}
	var used []netip.Prefix
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		for _, word := range strings.Fields(lines.Text()) {
			if p, err := netip.ParsePrefix(word); err == nil {
				used = append(used, p)
			} else if a, err := netip.ParseAddr(word); err == nil {
				used = append(used, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return used, lines.Err()
}

func overlaps(used []netip.Prefix, p netip.Prefix) bool {
	for _, u := range used {
		if u.Overlaps(p) {
			return true
		}
	}
	return false
}

// addLink makes a link from the API server's side to eth0 of a node. It carries
// the cluster's id, so that it is never removed for another cluster of the
// same name.
func (c *Cluster) addLink(ctx context.Context, name string, n *Node) error {
	netns := netnsPath(c.cfg.NetNS)
	if netns == "" {
		err := c.sup.journal.update(func(s *state) {
			if !slices.Contains(s.Links, name) {
				s.Links = append(s.Links, name)
			}
		})
		if err != nil {
			return err
		}
	}
	if _, err := c.ip(ctx, netns, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(n.init.PID)); err != nil {
		return err
	}
	_, err := c.ip(ctx, netns, "link", "set", name, "alias", c.linkAlias())
	return err
}

func (c *Cluster) linkAlias() string { return linkAlias(c.sup.journal.snapshot().ID) }

func linkAlias(id string) string { return "sallyport-devcluster-" + id }

// connectHost gives both ends of a node's link their addresses and routes.
func (c *Cluster) connectHost(ctx context.Context, n *Node) error {
	link, host := c.net.links[n.index], c.net.host.String()
	outside, inside := netnsPath(c.cfg.NetNS), n.netns()
	for _, step := range []struct {
		netns string
		args  string
	}{
		{outside, "addr add " + host + " peer " + n.addr.String() + " dev " + link},
		{outside, "link set " + link + " up"},
		{inside, "link set lo up"},
		{inside, "addr add " + n.addr.String() + " peer " + host + " dev eth0"},
		{inside, "link set eth0 up"},
		{inside, "route add default via " + host + " dev eth0 src " + n.addr.String()},
		// The API server's side reaches pods: services/proxy, webhooks.
		{outside, "route add " + n.pods.String() + " via " + n.addr.String() + " dev " + link + " src " + host},
	} {
		if _, err := c.ip(ctx, step.netns, strings.Fields(step.args)...); err != nil {
			return err
		}
	}
	return c.sup.thread.do(inside, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
	})
}

// connectNodes links two nodes so that their pods reach each other.
func (c *Cluster) connectNodes(ctx context.Context, a, b *Node) error {
	toB, toA := linkTo(b), linkTo(a)
	args := []string{"link", "add", toB, "type", "veth", "peer", "name", toA, "netns", fmt.Sprint(b.init.PID)}
	if _, err := c.ip(ctx, a.netns(), args...); err != nil {
		return err
	}
	for _, end := range []struct {
		here, there *Node
		dev         string
	}{{a, b, toB}, {b, a, toA}} {
		for _, args := range []string{
			"addr add " + end.here.addr.String() + " peer " + end.there.addr.String() + " dev " + end.dev,
			"link set " + end.dev + " up",
			"route add " + end.there.pods.String() + " via " + end.there.addr.String() + " dev " + end.dev + " src " + end.here.addr.String(),
		} {
			if _, err := c.ip(ctx, end.here.netns(), strings.Fields(args)...); err != nil {
				return err
			}
		}
	}
	return nil
}

// linkTo is the name, in another node, of its link to this one.
func linkTo(n *Node) string { return fmt.Sprintf("node%d", n.index) }

// dropLink removes a link whose other end may be going already.
func (c *Cluster) dropLink(ctx context.Context, netns, name string) error {
	_, err := c.ip(ctx, netns, "link", "delete", name)
	if _, gone := c.ip(ctx, netns, "link", "show", name); gone != nil {
		return nil
	}
	return err
}

// ip runs iproute2 in a network namespace (empty path: this process's own).
func (c *Cluster) ip(ctx context.Context, netns string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "ip", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := c.sup.thread.do(netns, cmd.Start); err != nil {
		return nil, fmt.Errorf("ip %s: %w", strings.Join(args, " "), err)
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// removeLinks removes the links that are still there and still this cluster's.
// Usually the kernel has: a link goes when the namespace of its other end does.
func removeLinks(id string, names []string) error {
	var errs []error
	for _, name := range names {
		class := filepath.Join("/sys/class/net", name)
		alias, err := os.ReadFile(filepath.Join(class, "ifalias"))
		if err != nil || strings.TrimSpace(string(alias)) != linkAlias(id) {
			continue
		}
		out, err := exec.Command("ip", "link", "delete", name).CombinedOutput() //nolint:noctx // tidying up goes on when the context has ended
		if _, gone := os.Stat(class); err != nil && gone == nil {
			errs = append(errs, fmt.Errorf("remove interface %s: %w: %s", name, err, bytes.TrimSpace(out)))
		}
	}
	return errors.Join(errs...)
}
