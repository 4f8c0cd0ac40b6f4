package store

import "time"

// Prefixes of live server processes. Each lies where that process' etcd user may
// write: a gateway alone and an authority alone have users of their own.
const (
	ServerPrefix          = "/live/control/"
	AuthorityServerPrefix = "/live/authority/"
	GatewayServerPrefix   = "/live/gateways/servers/"
)

// Server is a process of the server as it describes itself, kept under its
// lease. Nothing is decided by it: it is what status shows.
type Server struct {
	Replica, Host, Version string
	Roles                  []string
	Location               string
	Started                time.Time
	HandsOver              bool     // to other gateways, and takes from them
	Problems               []string // why it serves no requests
	Audit                  string   // why it takes no audit records
	Store                  *Usage   // nil where etcd does not tell
	Certificates           []ServerCertificate
}

// Usage is how full the store is. Quota 0 means unknown.
type Usage struct {
	Embedded    bool
	Size, Quota int64 // bytes
}

// ServerCertificate is one that a process presents.
type ServerCertificate struct {
	Use     string // UseServer or UsePeer
	Expires time.Time
	Renewed bool // by Sallyport itself
}

// Key places a server.
func (r Server) Key() string {
	prefix := ServerPrefix
	if len(r.Roles) == 1 {
		switch r.Roles[0] {
		case string(RoleGateway):
			prefix = GatewayServerPrefix
		case string(RoleAuthority):
			prefix = AuthorityServerPrefix
		}
	}
	return prefix + r.Replica
}
