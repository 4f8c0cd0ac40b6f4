package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"
)

// AgentLife is how long an agent's certificate lasts.
const AgentLife = time.Hour

// The agents of a cluster, as they appear in certificates. The installer need not
// be there.
const (
	ProxyAgent      = "proxy"
	ReconcilerAgent = "reconciler"
	InstallerAgent  = "installer"
)

var agentPath = regexp.MustCompile(`^/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/(proxy|reconciler|installer)$`)

// AgentLeaf is the certificate of one agent of one cluster:
// sallyport://clusters/<uid>/<agent>, one hour.
func AgentLeaf(clusterUID, agent string) (Leaf, error) {
	u := &url.URL{Scheme: "sallyport", Host: "clusters", Path: "/" + clusterUID + "/" + agent}
	if !agentPath.MatchString(u.Path) {
		return Leaf{}, fmt.Errorf("no agent is named %s", u)
	}
	return Leaf{CommonName: agent + " agent of " + clusterUID, URIs: []*url.URL{u}, Life: AgentLife}, nil
}

// ParseAgent reads whose certificate it is. The certificate must have been
// verified against the agents' CA before.
func ParseAgent(cert *x509.Certificate) (clusterUID, agent string, err error) {
	if cert == nil {
		return "", "", errors.New("no agent certificate")
	}
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 {
		return "", "", errors.New("certificate does not name exactly one agent")
	}
	u := cert.URIs[0]
	parts := agentPath.FindStringSubmatch(u.Path)
	if parts == nil || u.Scheme != "sallyport" || u.Host != "clusters" || u.String() != "sallyport://clusters"+u.Path {
		return "", "", fmt.Errorf("certificate names no agent: %s", u)
	}
	return parts[1], parts[2], nil
}
