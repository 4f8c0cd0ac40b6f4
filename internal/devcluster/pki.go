package devcluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// certLifetime outlives any development cluster; the keys never leave its folder.
const certLifetime = 365 * 24 * time.Hour

// authority is a certificate authority that lives only while a cluster starts;
// its key is written for the controller manager, which signs requests with it.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// identity is what a certificate says: a server's addresses or a client's user
// (CommonName) and groups (Organization).
type identity struct {
	user   string
	groups []string
	dns    []string
	ips    []netip.Addr
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template, err := certTemplate(name)
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: encodePEM("CERTIFICATE", der)}, nil
}

// issue returns a certificate and its key in PEM, good for both ends of TLS.
func (a *authority) issue(id identity) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template, err := certTemplate(id.user)
	if err != nil {
		return nil, nil, err
	}
	template.Subject.Organization = id.groups
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	template.DNSNames = id.dns
	for _, ip := range id.ips {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("issue certificate for %s: %w", id.user, err)
	}
	keyPEM, err = encodeKey(key)
	return encodePEM("CERTIFICATE", der), keyPEM, err
}

func certTemplate(commonName string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(certLifetime),
	}, nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encodePEM("PRIVATE KEY", der), nil
}

// pkiFiles writes everything below dir/pki and keeps the first error, so that
// its callers read as a list.
type pkiFiles struct {
	dir string
	err error
}

func (f *pkiFiles) write(name string, data []byte) {
	if f.err == nil {
		f.err = os.WriteFile(filepath.Join(f.dir, name), data, 0o600)
	}
}

func (f *pkiFiles) authority(name string) *authority {
	if f.err != nil {
		return nil
	}
	a, err := newAuthority("sallyport-dev-" + name)
	if err != nil {
		f.err = err
		return nil
	}
	key, err := encodeKey(a.key)
	if err != nil {
		f.err = err
		return nil
	}
	f.write(name+".crt", a.pem)
	f.write(name+".key", key)
	return a
}

// issue writes NAME.crt and NAME.key and returns them.
func (f *pkiFiles) issue(a *authority, name string, id identity) (certPEM, keyPEM []byte) {
	if f.err != nil {
		return nil, nil
	}
	certPEM, keyPEM, f.err = a.issue(id)
	f.write(name+".crt", certPEM)
	f.write(name+".key", keyPEM)
	return certPEM, keyPEM
}

// serviceAccountKey writes sa.key and sa.pub: RSA, as kubeadm makes it, so that
// tokens look like those of most clusters.
func (f *pkiFiles) serviceAccountKey() {
	if f.err != nil {
		return
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.err = err
		return
	}
	private, err := encodeKey(key)
	if err != nil {
		f.err = err
		return
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.err = err
		return
	}
	f.write("sa.key", private)
	f.write("sa.pub", encodePEM("PUBLIC KEY", public))
}
