package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"time"
)

// GatewayLife is how long a gateway's certificate for its peers lasts.
const GatewayLife = 24 * time.Hour

// GatewayName is the server name in every gateway's certificate for its peers:
// they find each other by address, and what counts is the gateways' CA.
const GatewayName = "gateway.sallyport.internal"

var gatewayPath = regexp.MustCompile(`^/([0-9A-Za-z-]{1,64})$`)

// GatewayLeaf is the certificate by which one gateway replica knows another:
// sallyport://gateways/<replica>, one day.
func GatewayLeaf(replica string) (Leaf, error) {
	u := &url.URL{Scheme: "sallyport", Host: "gateways", Path: "/" + replica}
	if !gatewayPath.MatchString(u.Path) {
		return Leaf{}, fmt.Errorf("no gateway is named %.100q", replica)
	}
	return Leaf{CommonName: "gateway " + replica, DNS: []string{GatewayName}, URIs: []*url.URL{u}, Life: GatewayLife}, nil
}

// ParseGateway reads which replica's certificate it is. The certificate must
// have been verified against the gateways' CA before.
func ParseGateway(cert *x509.Certificate) (replica string, err error) {
	if cert == nil || len(cert.URIs) != 1 || len(cert.DNSNames) != 1 || cert.DNSNames[0] != GatewayName || len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 {
		return "", errors.New("certificate does not name exactly one gateway")
	}
	u := cert.URIs[0]
	parts := gatewayPath.FindStringSubmatch(u.Path)
	if parts == nil || u.String() != "sallyport://gateways"+u.Path {
		return "", fmt.Errorf("certificate names no gateway: %.100s", u)
	}
	return parts[1], nil
}

// Peers makes both ends of the hand-off between gateways: each presents what k
// keeps and believes the gateways' CA alone.
func Peers(k *Keeper, gateways *x509.CertPool) (server, client *tls.Config) {
	server = Server(k, []string{"h2", "http/1.1"}, gateways)
	server.ClientAuth = tls.RequireAndVerifyClientCert
	client = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: gateways, ServerName: GatewayName, GetClientCertificate: k.GetClientCertificate, Time: k.now}
	return server, client
}

// Handed keeps the certificates that somebody else hands over with put. Until
// the first there is none, and every handshake fails.
func Handed(now func() time.Time, log *slog.Logger) (k *Keeper, put func(*tls.Certificate)) {
	k = &Keeper{now: now, log: log}
	return k, func(c *tls.Certificate) { k.current.Store(c) }
}

// Certificate reads a PEM chain, leaf first, that was issued for a key made by
// NewRequest.
func Certificate(chainPEM []byte, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	pair, err := tls.X509KeyPair(chainPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		return nil, fmt.Errorf("issued certificate: %w", err)
	}
	return &pair, nil
}
