package probe

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// MaxTargets is how long a list of targets may be.
const MaxTargets = 64

// Target is a name to resolve, and the port on which it must answer.
type Target struct {
	Host string
	Port int
}

func (t Target) String() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// ParseTargets reads the list that a cluster's owner allows: "name" or
// "name:port", the port being 443 otherwise. Only names of hosts are taken, each
// written out: no addresses, no ranges and no wildcards, so that the list reads
// as what it permits.
func ParseTargets(list []string) ([]Target, error) {
	var out []Target
	seen := map[Target]bool{}
	for _, s := range list {
		t := Target{strings.ToLower(strings.TrimSuffix(s, ".")), 443}
		if host, port, found := strings.Cut(s, ":"); found {
			n, err := strconv.Atoi(port)
			if err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
				return nil, fmt.Errorf("probe %q: %q is no port", s, port)
			}
			t = Target{strings.ToLower(strings.TrimSuffix(host, ".")), n}
		}
		if !hostName(t.Host) {
			return nil, fmt.Errorf("probe %q: want the name of a host, such as fraudstore.blob.core.windows.net or name:port; addresses and wildcards are not taken", s)
		}
		if !seen[t] {
			seen[t] = true
			out = append(out, t)
		}
	}
	if len(out) > MaxTargets {
		return nil, fmt.Errorf("%d probes are too many: %d at most", len(out), MaxTargets)
	}
	return out, nil
}

// hostName as RFC 1123 has it; what reads as an address is none.
func hostName(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil || s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.HasPrefix(l, "-") || strings.HasSuffix(l, "-") {
			return false
		}
		for _, c := range l {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	// A last label of digits is how old resolvers write addresses.
	last := labels[len(labels)-1]
	return strings.Trim(last, "0123456789") != "" && !strings.HasPrefix(last, "0x")
}
