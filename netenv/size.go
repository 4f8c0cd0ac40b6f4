package netenv

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// PoolSize is what a node pool takes from its subnets.
type PoolSize struct {
	Name string
	// Nodes at most: the autoscaler's maximum, else the count.
	Nodes int
	// MaxPods per node.
	MaxPods int
	// Surge during upgrades: a number or a percentage of Nodes; "" is AKS's
	// default of 10 %.
	Surge string
	// Flat: pods take addresses of the node subnet (Azure CNI without overlay
	// and without a pod subnet).
	Flat bool
}

// reservedByAzure are the addresses of every subnet that Azure keeps.
const reservedByAzure = 5

// seedPerNode is the rule of thumb of Azure ML's guide: addresses per node.
const seedPerNode = 128

// SurgeNodes that an upgrade adds.
func (p PoolSize) SurgeNodes() int {
	s := p.Surge
	if s == "" {
		s = "10%"
	}
	if percent, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseFloat(percent, 64)
		if err != nil {
			return 1
		}
		return int(math.Ceil(float64(p.Nodes) * n / 100))
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 1
	}
	return n
}

// NodeSubnet is the number of addresses in the node subnet.
func (p PoolSize) NodeSubnet() int {
	n := p.Nodes + p.SurgeNodes()
	if p.Flat {
		return n * (1 + p.MaxPods)
	}
	return n
}

// PodSubnet is the number of addresses of a pod subnet with dynamic allocation,
// which hands them to nodes in batches of 16.
func (p PoolSize) PodSubnet() int {
	batches := (p.MaxPods + 15) / 16
	return (p.Nodes + p.SurgeNodes()) * batches * 16
}

// prefixFor is the longest prefix (smallest subnet) that holds the addresses
// and what Azure keeps.
func prefixFor(addresses int) int {
	bits := 29 // the smallest subnet of Azure
	for 1<<(32-bits)-reservedByAzure < addresses && bits > 0 {
		bits--
	}
	return bits
}

// usable addresses of a subnet's IPv4 prefixes.
func usable(prefixes []netip.Prefix) int {
	n := 0
	for _, p := range prefixes {
		if p.Addr().Is4() {
			n += max(0, 1<<(32-p.Bits())-reservedByAzure)
		}
	}
	return n
}

// subnetPrefixes of a subnet, from either of its two properties.
func subnetPrefixes(r *Resource) (out []netip.Prefix, v Value, whole bool) {
	v = r.Get("addressPrefixes")
	if v.State() == Absent || v.State() == Known && len(v.Items()) == 0 {
		v = r.Get("addressPrefix")
	}
	texts, whole := v.Texts()
	return prefixes(texts), v, whole
}

// prefixes of texts; what is no prefix is left out. A plain address is a range
// of one.
func prefixes(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		if p, err := netip.ParsePrefix(strings.TrimSpace(t)); err == nil {
			out = append(out, p)
		} else if a, err := netip.ParseAddr(strings.TrimSpace(t)); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return out
}

// overlap finds the first pair of prefixes that share addresses.
func overlap(a, b []netip.Prefix) (x, y netip.Prefix, found bool) {
	for _, x := range a {
		for _, y := range b {
			if x.Overlaps(y) {
				return x, y, true
			}
		}
	}
	return x, y, false
}

// Size says in words how large the subnets of a pool must be.
func Size(p PoolSize, podSubnet bool, endpoints int) (string, error) {
	if p.Nodes < 1 || p.Nodes > 5000 || p.MaxPods < 10 || p.MaxPods > 250 || endpoints < 0 || endpoints > 65536 {
		return "", fmt.Errorf("1 to 5000 nodes, 10 to 250 pods on each, not %d and %d", p.Nodes, p.MaxPods)
	}
	if s := p.SurgeNodes(); s < 0 || s > 5000 {
		return "", fmt.Errorf("max surge %q is no number of nodes or percentage", p.Surge)
	}
	need := p.NodeSubnet() + endpoints
	var b strings.Builder
	fmt.Fprintf(&b, "node subnet  /%d  %d addresses: %d nodes + %d for upgrades", prefixFor(need), need, p.Nodes, p.SurgeNodes())
	if p.Flat {
		fmt.Fprintf(&b, ", each 1 + %d pods", p.MaxPods)
	}
	if endpoints > 0 {
		fmt.Fprintf(&b, ", %d private endpoints", endpoints)
	}
	fmt.Fprintf(&b, "; %d more are Azure's\n", reservedByAzure)
	if podSubnet {
		fmt.Fprintf(&b, "pod subnet   /%d  %d addresses, handed out in batches of 16\n", prefixFor(p.PodSubnet()), p.PodSubnet())
	}
	fmt.Fprintf(&b, "Azure ML's rule of thumb, %d per node, would be %d\n", seedPerNode, seedPerNode*p.Nodes)
	return b.String(), nil
}
