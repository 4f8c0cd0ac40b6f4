package devcluster

import (
	"context"
	"math/rand/v2"
	"net/netip"
)

// network is the addresses of one cluster.
type network struct {
	host     netip.Addr // of this machine, on the links to the nodes; zero without nodes
	services netip.Prefix
}

// serviceRange returns one of 1024 ranges of 10.192.0.0/10.
func serviceRange(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(192 + n/16%64), byte(n % 16 * 16), 0}), 20)
}

func (c *Cluster) makeNetwork(ctx context.Context) error {
	c.net.services = serviceRange(rand.IntN(1024))
	if c.cfg.ServiceCIDR.IsValid() {
		c.net.services = c.cfg.ServiceCIDR.Masked()
	}
	return nil
}
