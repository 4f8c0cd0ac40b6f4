package client

import (
	"context"
	"encoding/json"
	"net/http"
)

// Connection is what binds a cluster's agents to its registration.
type Connection struct {
	ID         string               `json:"id,omitempty"`
	Properties ConnectionProperties `json:"properties"`
}

// ConnectionProperties are what is handed over, what the agents need, and what
// was heard of them.
type ConnectionProperties struct {
	ServiceAccountIssuer string          `json:"serviceAccountIssuer,omitempty"`
	ServiceAccountKeys   json.RawMessage `json:"serviceAccountKeys,omitempty"` // RFC 7517

	ClusterUID        string `json:"clusterUid,omitempty"`
	Server            string `json:"server,omitempty"`
	ServerCA          string `json:"serverCA,omitempty"` // PEM
	GatewayURL        string `json:"gatewayUrl,omitempty"`
	EnrolmentAudience string `json:"enrolmentAudience,omitempty"`
	MandateKey        string `json:"mandateKey,omitempty"` // PEM

	State             string           `json:"state,omitempty"` // NotConnected, Connected, Disconnected
	Agents            []AgentStatus    `json:"agents,omitempty"`
	Tunnels           []string         `json:"tunnels,omitempty"`
	KubernetesVersion string           `json:"kubernetesVersion,omitempty"`
	Nodes             int              `json:"nodes,omitempty"`
	AcceptedRoles     []AcceptedRole   `json:"acceptedRoles,omitempty"`
	Problem           string           `json:"problem,omitempty"`   // why nothing is applied
	Leftovers         []string         `json:"leftovers,omitempty"` // objects that should be gone from the cluster
	RemovedBindings   []RemovedBinding `json:"removedBindings,omitempty"`
	Probe             json.RawMessage  `json:"probe,omitempty"` // netenv/probe.Report, when the owner allows probes
}

// AgentStatus is what was last heard of one agent.
type AgentStatus struct {
	Name      string `json:"name"` // proxy, reconciler
	Connected bool   `json:"connected"`
	LastSeen  string `json:"lastSeen,omitempty"`
	Version   string `json:"version,omitempty"`
	Instances int    `json:"instances"`
	Revision  int64  `json:"revision"`
	UpToDate  bool   `json:"upToDate"`
}

// AcceptedRole is a role revision that the cluster's owner accepted.
type AcceptedRole struct {
	Role               string   `json:"role"`
	Revision           string   `json:"revision"`
	Current            bool     `json:"current"` // it is the published revision
	Namespaces         []string `json:"namespaces,omitempty"`
	Unfenced           bool     `json:"unfenced,omitempty"`
	Rules              []Rule   `json:"rules"`
	OutlivesRevocation []string `json:"outlivesRevocation,omitempty"`
}

// RemovedBinding was deleted here and is not removed from the cluster yet.
type RemovedBinding struct {
	ID  string `json:"id"`
	UID string `json:"uid"`
}

// ConnectionID is the id of a cluster's connection.
func ConnectionID(cluster string) string {
	return Extend(cluster, "Sallyport.Access/connections/default")
}

// Connection reads a cluster's connection, also before it was made.
func (c *Client) Connection(ctx context.Context, cluster string) (*Connection, error) {
	return read[Connection](ctx, c, ConnectionID(cluster), SallyportVersion)
}

// PutConnection hands over what the cluster's agents prove themselves with: the
// issuer of its ServiceAccount tokens, and its keys.
func (c *Client) PutConnection(ctx context.Context, cluster, issuer string, keys json.RawMessage) (*Connection, error) {
	res, err := c.Do(ctx, Request{Method: http.MethodPut, Path: ConnectionID(cluster), Version: SallyportVersion,
		Body: Connection{Properties: ConnectionProperties{ServiceAccountIssuer: issuer, ServiceAccountKeys: keys}}})
	if err != nil {
		return nil, err
	}
	return decode[Connection](res.Body)
}
