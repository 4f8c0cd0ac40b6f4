package devcluster

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
)

// Config says what cluster [Start] makes. The zero value is an API server
// without controllers or nodes in a temporary folder, using the binary that
// [Find] finds.
type Config struct {
	// Binary is what [Build] or [Find] returned. Empty: [Find] looks for it.
	Binary string
	// NodeTool is what [BuildNodeTool] returned; only used with Nodes. Empty:
	// it is built (two seconds).
	NodeTool string

	// Dir holds everything of the cluster. Empty: a temporary folder that Stop
	// removes. A folder that holds a cluster that was not stopped is refused,
	// see [Recover].
	Dir string
	// Detached leaves the cluster running when this process ends, until
	// [Recover] is called with the same Dir. Otherwise the kernel kills every
	// process of the cluster when this one dies, however it dies.
	Detached bool

	// Controllers starts kube-controller-manager and kube-scheduler. Without
	// them no default ServiceAccount is made and a deleted namespace stays.
	Controllers bool
	// Nodes is how many real nodes to run, 0 to 3. It implies Controllers and
	// needs what [CanRunNodes] checks.
	Nodes int

	// BindAddress is where the API server listens; the zero value is 127.0.0.1,
	// or with Nodes an address on the link to the nodes.
	BindAddress netip.Addr
	// NetNS names a network namespace (of /run/netns) to run the API server in.
	// The caller makes it; its loopback interface must be up. Needs root.
	NetNS string
	// ServiceCIDR is the range of ClusterIPs; the zero value takes one that
	// differs from cluster to cluster.
	ServiceCIDR netip.Prefix

	// AuditLevel, if not empty, makes the API server write its audit log
	// (Cluster.AuditLog) for every request at this level: "Metadata",
	// "Request" or "RequestResponse". A record is on disk before the answer is
	// sent, at stages ResponseStarted, ResponseComplete and Panic.
	AuditLevel string
	// NoAnonymous makes the API server answer 401 to requests without
	// credentials. It cannot be combined with an AuthenticationConfig that has
	// a stanza "anonymous".
	NoAnonymous bool
	// NoClientCerts makes the API server accept no client certificate; the
	// administrator's kubeconfig then holds AdminToken.
	NoClientCerts bool
	// AuthenticationConfig is an AuthenticationConfiguration document
	// (apiserver.config.k8s.io, YAML or JSON), for clusters that trust an OIDC
	// issuer.
	AuthenticationConfig []byte

	// ExtraAPIServerFlags and ExtraEtcdFlags come after all others, so they win.
	ExtraAPIServerFlags []string
	ExtraEtcdFlags      []string
}

// MaxNodes bounds the links of the full mesh between nodes.
const MaxNodes = 3

// complete checks c and fills in what follows from other fields.
func (c *Config) complete() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("a cluster of one's own needs Linux (this is %s): use a cluster that exists with --kubeconfig FILE --context NAME", runtime.GOOS)
	}
	if c.Nodes < 0 || c.Nodes > MaxNodes {
		return fmt.Errorf("nodes: %d is not between 0 and %d", c.Nodes, MaxNodes)
	}
	switch c.AuditLevel {
	case "", "Metadata", "Request", "RequestResponse":
	default:
		return fmt.Errorf("audit level %q: want Metadata, Request or RequestResponse", c.AuditLevel)
	}
	if c.Nodes > 0 {
		c.Controllers = true
		if ok, reason := CanRunNodes(); !ok {
			return fmt.Errorf("cannot run nodes here: %s", reason)
		}
		if c.BindAddress.IsValid() {
			return fmt.Errorf("bind address %s: with nodes the API server listens on the link to them", c.BindAddress)
		}
	}
	if c.ServiceCIDR.IsValid() && (!c.ServiceCIDR.Addr().Is4() || c.ServiceCIDR.Bits() > 24) {
		return fmt.Errorf("service CIDR %s: want an IPv4 range of at least /24", c.ServiceCIDR)
	}
	if c.NetNS != "" {
		if _, err := os.Stat(netnsPath(c.NetNS)); err != nil {
			return fmt.Errorf("network namespace %q: %w", c.NetNS, err)
		}
	}
	return nil
}

func netnsPath(name string) string {
	if name == "" {
		return ""
	}
	return filepath.Join("/run/netns", name)
}
