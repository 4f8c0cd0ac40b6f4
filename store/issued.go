package store

import "time"

// Prefixes of what gateways ask control for and get: a gateway holds no key
// that signs, and its etcd user is what control believes it by.
const (
	CertificateRequestPrefix = "/live/gateways/requests/"
	GatewayCertificatePrefix = "/gateway-certificates/"
)

// Uses of a certificate that a gateway asks for.
const (
	UsePeer   = "peer"   // towards other gateways, both ways
	UseServer = "server" // of the public listener
)

// CertificateRequest is a gateway replica's question, kept under its lease.
type CertificateRequest struct {
	Replica, Use string
	CSR          []byte // PEM; only its key counts
}

// Key places a request by replica and use.
func (r CertificateRequest) Key() string {
	return CertificateRequestPrefix + r.Replica + "/" + r.Use
}

// GatewayCertificate is control's answer. It goes when the request has gone.
type GatewayCertificate struct {
	Replica, Use string
	Request      int64  // revision of the request that it answers
	Chain        []byte // PEM, leaf first; empty when refused
	Refused      string // why, for people
	Expires      time.Time
}

// Key places a certificate by replica and use.
func (r GatewayCertificate) Key() string { return GatewayCertificatePrefix + r.Replica + "/" + r.Use }
