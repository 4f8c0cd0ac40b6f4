package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/trust"
)

// ServerTrust says how a server is believed. With neither field set the system's
// roots count; there is no way to believe a server without a reason.
type ServerTrust struct {
	CA   string // PEM certificates; they alone count then
	Hash string // "sha256:…" of a CA that the server must present in its chain
}

// TLS is the configuration for connections to server, an https URL.
func (t ServerTrust) TLS(server string) (*tls.Config, error) {
	u, err := checkServer(server)
	if err != nil {
		return nil, err
	}
	switch {
	case t.CA != "":
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(t.CA)) {
			return nil, trust.Errorf(trust.Invalid, "the CA given for %s holds no PEM certificate", server)
		}
		return pki.Client(pki.Trust{Roots: pool}, u.Hostname(), nil, time.Now)
	case t.Hash != "":
		conf, err := pki.Client(pki.Trust{Pin: t.Hash}, u.Hostname(), nil, time.Now)
		if err != nil {
			return nil, trust.Errorf(trust.Invalid, "%v", err)
		}
		check := conf.VerifyConnection
		conf.VerifyConnection = func(s tls.ConnectionState) error {
			if err := check(s); err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
			}
			return nil
		}
		return conf, nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: u.Hostname()}, nil
}

// FetchCA gets the CA certificate with the given hash out of the chain that the
// server presents, as PEM. Anything else that answers at that address fails.
func FetchCA(ctx context.Context, server, hash string) (string, error) {
	u, err := checkServer(server)
	if err != nil {
		return "", err
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	pem, err := pki.FetchCA(ctx, net.JoinHostPort(u.Hostname(), port), hash, time.Now)
	if err != nil {
		return "", trust.Errorf(trust.Unauthenticated, "%s did not show the CA with hash %s", server, hash).Because(err)
	}
	return string(pem), nil
}

// CAHash is the hash of the first certificate in PEM text, as ServerTrust wants
// it; "" if there is none.
func CAHash(pem string) string {
	cert := firstCertificate(pem)
	if cert == nil {
		return ""
	}
	return pki.Hash(cert)
}

// checkServer accepts "https://host[:port]" and nothing else.
func checkServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || (u.Path != "" && u.Path != "/") {
		return nil, trust.Errorf(trust.Invalid, "%q is not a server: it must read https://host or https://host:port", server)
	}
	return u, nil
}

// newTransport is one connection pool with the proxy of the environment.
func newTransport(conf *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       conf,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 90 * time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   4,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
	}
}
