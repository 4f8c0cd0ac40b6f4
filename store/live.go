package store

import (
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Prefixes of what is alive and of what agents say. Gateways write below
// "/live/gateways/" and nowhere else.
const (
	GatewayPrefix = "/live/gateways/replicas/"
	TunnelPrefix  = "/live/gateways/tunnels/"
	RunnerPrefix  = "/live/operations/"
	AgentPrefix   = "/agents/"
	MandatePrefix = "/mandates/"
)

// Gateway is a live gateway replica, kept under its lease. Applied is the store
// revision up to which it has applied changes and cut streams.
type Gateway struct {
	Replica, Address, Location string
	Applied                    int64
	Started                    time.Time
}

// Key places a gateway.
func (r Gateway) Key() string { return GatewayPrefix + r.Replica }

// Tunnel says that a gateway replica holds a tunnel of a cluster, kept under
// the replica's lease.
type Tunnel struct {
	Cluster trust.ClusterUID
	Replica string
	Address string // where peers reach that replica
}

// Key places a tunnel by cluster.
func (r Tunnel) Key() string { return TunnelPrefix + string(r.Cluster) + "/" + r.Replica }

// Mandate is touched in every transaction that changes what a cluster's agents
// are told; its mod revision is the revision of the signed state.
type Mandate struct {
	Cluster   trust.ClusterUID
	ClusterID string // resource id: a uid finds its cluster by its mandate
}

// Key places a mandate.
func (r Mandate) Key() string { return MandatePrefix + string(r.Cluster) }

// AgentStatus is what control last heard from one of a cluster's two agents.
type AgentStatus struct {
	Cluster  trust.ClusterUID
	Agent    string // "proxy" or "reconciler"
	Instance string // of the process that was heard last
	Version  string
	Epoch    int64
	Revision int64 // the mandate revision that process has applied
	Seen     time.Time
	Left     bool // the last of its processes said that it ends

	// Instances are the processes heard lately, that one included: while a
	// Deployment rolls there are several.
	Instances map[string]AgentInstance `json:",omitempty"`
}

// AgentReport is what a cluster's reconciler last reported. It is apart from the
// status, which is written every few seconds.
type AgentReport struct {
	Cluster         trust.ClusterUID
	Epoch, Revision int64
	Compressed      []byte // mandate.Report, JSON, gzip
}

// Key places a report below its agent.
func (r AgentReport) Key() string {
	return AgentPrefix + string(r.Cluster) + "/reconciler/report"
}

// AgentProbe is what a cluster's proxy agent last saw of the names that its owner
// allows it to look at.
type AgentProbe struct {
	Cluster trust.ClusterUID
	Seen    time.Time
	Report  []byte // probe.Report, JSON
}

// Key places a probe below its agent.
func (p AgentProbe) Key() string { return AgentPrefix + string(p.Cluster) + "/proxy/probe" }

// AgentInstance is one process of an agent.
type AgentInstance struct {
	Version         string
	Epoch, Revision int64
	Seen            time.Time // stored before the answer to its nonce is signed
}

// Key places a status by cluster and agent.
func (r AgentStatus) Key() string { return AgentPrefix + string(r.Cluster) + "/" + r.Agent }

// Installation is this installation's own identity, written once at first
// start. Epoch grows when a store is restored from a copy.
type Installation struct {
	TenantID      string
	Epoch         int64
	Subscription  string // GUID of the first subscription
	AdminClientID string // the first administrator's identity
	Created       time.Time
}

// Key places the one installation record.
func (Installation) Key() string { return "/installation" }

// Run says which server runs an operation, kept under that server's lease: while
// the key is there nobody else may.
type Run struct {
	Operation, Replica string
	Started            time.Time
}

// Key places a run by its operation.
func (r Run) Key() string { return RunnerPrefix + trust.Fold(r.Operation) }
