// Package pki makes and keeps the certificates that Sallyport's processes know
// each other by: one CA each for server TLS, for gateways among themselves, and
// for agents; leaf certificates that carry only the names we chose; reload of
// certificate files; tls.Config with TLS 1.3 only; the pin of a server's CA.
//
// It decides nobody's rights: who may enrol is package control's business, and
// what a certificate's name may do is each listener's. Where a CA's key rests
// is the composition's choice: a folder of its own (Folder) or sealed in the
// store (CA.Marshal).
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"
)

// Purpose is what the leaves of a CA are for. A CA carries its purpose as
// extended key usage, so that a leaf of one is no good where another is wanted
// even if the roots were mixed up.
type Purpose string

// The three CAs.
const (
	ServerTLS Purpose = "server"   // the API's, authority's and gateways' listeners
	Gateways  Purpose = "gateways" // gateway to gateway, both ways
	Agents    Purpose = "agents"   // agents to control and gateway
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	backdate = 5 * time.Minute // for clocks that lag behind ours
	maxCSR   = 16 << 10
)

func (p Purpose) usages() ([]x509.ExtKeyUsage, error) {
	switch p {
	case ServerTLS:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, nil
	case Gateways:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, nil
	case Agents:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil
	}
	return nil, fmt.Errorf("unknown purpose %q of a CA", p)
}

// CA is a certificate authority with its key. It is safe for concurrent use.
type CA struct {
	Purpose Purpose
	Cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	now     func() time.Time
}

// NewCA makes a CA (ECDSA P-256, 10 years). now is the clock that leaves are
// dated by.
func NewCA(p Purpose, now func() time.Time) (*CA, error) {
	usages, err := p.usages()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make %s CA: %w", p, err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	from := now().Add(-backdate)
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial makes the subject unique: CAs of two installations in one
		// trust store must not be taken for each other.
		Subject:               pkix.Name{Organization: []string{"Sallyport"}, CommonName: fmt.Sprintf("Sallyport %s CA %x", p, serial.Bytes()[:4])},
		NotBefore:             from,
		NotAfter:              from.Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           usages,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make %s CA: %w", p, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make %s CA: %w", p, err)
	}
	return &CA{Purpose: p, Cert: cert, key: key, now: now}, nil
}

// ParseCA is the inverse of Marshal.
func ParseCA(p Purpose, certPEM, keyPEM []byte, now func() time.Time) (*CA, error) {
	usages, err := p.usages()
	if err != nil {
		return nil, err
	}
	cert, err := parseOne(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read %s CA: %w", p, err)
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("read %s CA: its key is not a PKCS #8 PEM block", p)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s CA: %w", p, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("read %s CA: key and certificate do not belong together", p)
	}
	if !cert.IsCA || len(cert.ExtKeyUsage) != len(usages) || cert.ExtKeyUsage[0] != usages[0] {
		return nil, fmt.Errorf("read %s CA: %s is not a CA for that purpose", p, cert.Subject.CommonName)
	}
	return &CA{Purpose: p, Cert: cert, key: key, now: now}, nil
}

// Marshal gives the certificate and the private key (PKCS #8) as PEM.
func (ca *CA) Marshal() (certPEM, keyPEM []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode %s CA: %w", ca.Purpose, err)
	}
	return ca.PEM(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// PEM is the CA's certificate.
func (ca *CA) PEM() []byte { return encodeCert(ca.Cert.Raw) }

// Pool holds the CA alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return pool
}

// Hash is the CA's pin, see Hash.
func (ca *CA) Hash() string { return Hash(ca.Cert) }

// Leaf is what a leaf certificate says.
type Leaf struct {
	CommonName string // for people; nothing decides by it
	DNS        []string
	IPs        []net.IP
	URIs       []*url.URL
	Life       time.Duration // from now; cut at the CA's own end
}

// HostLeaf names the host of a URL, a DNS name or an address.
func HostLeaf(base string, life time.Duration) (Leaf, error) {
	u, err := url.Parse(base)
	if err != nil || u.Hostname() == "" {
		return Leaf{}, fmt.Errorf("%.200q has no host that a certificate could name", base)
	}
	l := Leaf{CommonName: u.Hostname(), Life: life}
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		l.IPs = []net.IP{ip}
	} else {
		l.DNS = []string{u.Hostname()}
	}
	return l, nil
}

// Issue signs a leaf for a public key.
func (ca *CA) Issue(public crypto.PublicKey, l Leaf) (*x509.Certificate, error) {
	if l.Life <= 0 {
		return nil, errors.New("issue certificate: no life given")
	}
	if err := strong(public); err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	usages, err := ca.Purpose.usages()
	if err != nil {
		return nil, err
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := ca.now()
	until := now.Add(l.Life)
	if until.After(ca.Cert.NotAfter) {
		until = ca.Cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: l.CommonName},
		NotBefore:             now.Add(-backdate),
		NotAfter:              until,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usages,
		DNSNames:              l.DNS,
		IPAddresses:           l.IPs,
		URIs:                  l.URIs,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// IssueCSR signs a leaf for the key of a PEM certificate request (RFC 2986). Of
// the request only the key is used, once its signature has proved possession:
// whatever names, usages or extensions it asks for are ignored. The result is
// PEM.
func (ca *CA) IssueCSR(csrPEM []byte, l Leaf) ([]byte, error) {
	if len(csrPEM) > maxCSR {
		return nil, fmt.Errorf("certificate request has %d bytes, the limit is %d", len(csrPEM), maxCSR)
	}
	block, rest := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("certificate request must be one PEM block CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed by its key: %w", err)
	}
	cert, err := ca.Issue(csr.PublicKey, l)
	if err != nil {
		return nil, err
	}
	return encodeCert(cert.Raw), nil
}

// NewRequest makes a key (ECDSA P-256) and a PEM certificate request for it
// that names nothing.
func NewRequest() (csrPEM []byte, key *ecdsa.PrivateKey, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), key, nil
}

// Hash is the pin of a certificate: "sha256:" and the hexadecimal SHA-256 of
// its public key (SubjectPublicKeyInfo, as kubeadm's discovery hash), so that a
// CA renewed with the same key keeps its pin.
func Hash(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func strong(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if bits := k.Params().BitSize; bits < 256 {
			return fmt.Errorf("elliptic curve of %d bits is too weak", bits)
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 || k.N.BitLen() > 8192 {
			return fmt.Errorf("RSA key of %d bits: 2048 to 8192 are taken", k.N.BitLen())
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("keys of type %T are not taken", public)
	}
	return nil
}

func serialNumber() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and always 16 bytes long
	return new(big.Int).SetBytes(b), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseOne(certPEM []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate found")
	}
	return x509.ParseCertificate(block.Bytes)
}
