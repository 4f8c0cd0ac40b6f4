package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// Server makes the configuration of a listener: TLS 1.3, the given ALPN names
// in order of preference. With clientCAs, client certificates are taken if
// given, and verified then; a handshake whose client offers a name in mutual
// needs one.
func Server(k *Keeper, protocols []string, clientCAs *x509.CertPool, mutual ...string) *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     protocols,
		GetCertificate: k.GetCertificate,
		ClientCAs:      clientCAs,
		Time:           k.now,
	}
	if clientCAs == nil {
		return base
	}
	base.ClientAuth = tls.VerifyClientCertIfGiven
	if len(mutual) == 0 {
		return base
	}
	strict := base.Clone()
	strict.ClientAuth = tls.RequireAndVerifyClientCert
	strict.NextProtos = mutual
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, m := range mutual {
			if slices.Contains(hello.SupportedProtos, m) {
				return strict, nil
			}
		}
		return nil, nil // base
	}
	return base
}

// Trust says which servers a client believes: exactly one field is set.
type Trust struct {
	Roots *x509.CertPool // verify against these
	Pin   string         // or against the CA in the server's own chain that has this Hash
}

// Client makes the configuration of a client: TLS 1.3. serverName is the
// host dialled; there is no way to skip verification.
func Client(t Trust, serverName string, protocols []string, now func() time.Time) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: serverName, NextProtos: protocols, Time: now}
	switch {
	case (t.Roots == nil) == (t.Pin == ""):
		return nil, errors.New("trust either a CA file or a pinned CA hash")
	case t.Roots != nil:
		c.RootCAs = t.Roots
		return c, nil
	case !validPin(t.Pin):
		return nil, fmt.Errorf("CA hash %q must read sha256: and 64 lower-case hexadecimal digits", t.Pin)
	case serverName == "":
		return nil, errors.New("a pinned CA needs the server's name")
	}
	// The standard verification is replaced, not dropped: VerifyConnection runs
	// on resumed connections too, and fails closed.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("server presented no certificate")
		}
		roots, rest := x509.NewCertPool(), x509.NewCertPool()
		found := false
		for _, cert := range s.PeerCertificates {
			if Hash(cert) == t.Pin {
				roots.AddCert(cert)
				found = true
			} else {
				rest.AddCert(cert)
			}
		}
		if !found {
			return fmt.Errorf("no certificate of the server's chain has the pinned CA hash %s: it is another server, or its CA was replaced", t.Pin)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: serverName, Roots: roots, Intermediates: rest, CurrentTime: now(),
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	return c, nil
}

// PoolFile reads a file of PEM CA certificates.
func PoolFile(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read CA file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("CA file %s holds no PEM certificate", path)
	}
	return pool, nil
}

// FetchCA dials a server, without trusting it, only to get the CA certificate
// that has the pinned hash out of its chain, as PEM: for programs that take a
// CA file and know no pins.
func FetchCA(ctx context.Context, addr, pin string, now func() time.Time) ([]byte, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("fetch CA: %w", err)
	}
	conf, err := Client(Trust{Pin: pin}, host, nil, now)
	if err != nil {
		return nil, err
	}
	conn, err := (&tls.Dialer{Config: conf}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("fetch CA of %s: %w", addr, err)
	}
	defer conn.Close()
	for _, cert := range conn.(*tls.Conn).ConnectionState().PeerCertificates {
		if Hash(cert) == pin {
			return encodeCert(cert.Raw), nil
		}
	}
	return nil, fmt.Errorf("fetch CA of %s: not in its chain", addr)
}

func validPin(pin string) bool {
	hex, ok := strings.CutPrefix(pin, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}
