package client

import "context"

// StatusPath is the server's own health.
const StatusPath = "/providers/Sallyport.Access/status/default"

// ServerStatus is the server's own health: its processes, the clusters'
// connections, the store, what ends when, and what somebody should look after.
type ServerStatus struct {
	ID         string `json:"id"`
	Properties struct {
		Time         string          `json:"time"`
		URL          string          `json:"url"`
		Version      string          `json:"version"`
		RolesApart   bool            `json:"rolesApart"`
		Servers      []ServerProcess `json:"servers"`
		Gateways     int             `json:"gateways"`
		Tunnels      int             `json:"tunnels"`
		Clusters     ClusterCount    `json:"clusters"`
		Store        StoreUsage      `json:"store"`
		Certificates []struct {
			Name    string `json:"name"`
			Server  string `json:"server"`
			Expires string `json:"expires"`
			Renewed bool   `json:"renewedByItself"`
		} `json:"certificates"`
		SigningKeys []struct {
			KeyID string `json:"keyId"`
			State string `json:"state"`
			Until string `json:"signsUntil"`
		} `json:"signingKeys"`
		Warnings []StatusWarning `json:"warnings"`
	} `json:"properties"`
}

// ServerProcess is one live process of the server.
type ServerProcess struct {
	Replica  string   `json:"replica"`
	Host     string   `json:"host"`
	Version  string   `json:"version"`
	Roles    []string `json:"roles"`
	Location string   `json:"location"`
	Started  string   `json:"started"`
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems"`
	Audit    string   `json:"audit"`
}

// ClusterCount is how many clusters there are, and how many are connected.
type ClusterCount struct {
	Total     int `json:"total"`
	Connected int `json:"connected"`
	AwayTotal int `json:"awayTotal"`
}

// StoreUsage is how full the store is. Known is false where etcd does not tell.
type StoreUsage struct {
	Kind       string `json:"kind"`
	SizeBytes  int64  `json:"sizeBytes"`
	QuotaBytes int64  `json:"quotaBytes"`
	Known      bool   `json:"known"`
}

// StatusWarning is something to look after, and what to do next.
type StatusWarning struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Next    string `json:"next"`
}

// Status reads the server's own health. It needs the right to read everything.
func (c *Client) Status(ctx context.Context) (*ServerStatus, error) {
	return read[ServerStatus](ctx, c, StatusPath, SallyportVersion)
}
