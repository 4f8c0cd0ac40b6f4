package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// renewalLabel binds a proof to its purpose: the TLS exporter's label (RFC 8446,
// 7.5), and what the signature begins with.
const renewalLabel = "EXPORTER-sallyport-renewal"

// maxProof bounds what CheckRenewal reads.
const maxProof = 3 << 10

// ProveRenewal shows on a running TLS connection that its client has got a new
// certificate: the leaf, and its key's signature over what only this connection
// has. So a connection can go on when the certificate that opened it ends, and
// the proof is good for no other one. It is one word without blanks.
func ProveRenewal(s *tls.ConnectionState, cert *tls.Certificate) (string, error) {
	digest, err := renewalDigest(s, cert.Certificate[0])
	if err != nil {
		return "", err
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return "", errors.New("prove renewal: the key cannot sign")
	}
	signature, err := signer.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("prove renewal: %w", err)
	}
	e := base64.RawURLEncoding
	return e.EncodeToString(cert.Certificate[0]) + "." + e.EncodeToString(signature), nil
}

// CheckRenewal verifies a proof against this side of the connection and a CA of
// clients. What the certificate's name may do is the caller's to check.
func CheckRenewal(s *tls.ConnectionState, proof string, roots *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	if len(proof) > maxProof {
		return nil, fmt.Errorf("proof of renewal has %d bytes, the limit is %d", len(proof), maxProof)
	}
	first, second, _ := strings.Cut(proof, ".")
	der, err1 := base64.RawURLEncoding.DecodeString(first)
	signature, err2 := base64.RawURLEncoding.DecodeString(second)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("proof of renewal: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("proof of renewal: %w", err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, fmt.Errorf("proof of renewal: %w", err)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("proof of renewal: keys of type %T are not taken", cert.PublicKey)
	}
	digest, err := renewalDigest(s, der)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(key, digest, signature) {
		return nil, errors.New("proof of renewal: it is not signed by the certificate's key for this connection")
	}
	return cert, nil
}

// renewalDigest is what is signed: the label, what only this connection has, and
// the certificate.
func renewalDigest(s *tls.ConnectionState, der []byte) ([]byte, error) {
	if s.Version != tls.VersionTLS13 {
		return nil, errors.New("renewal needs TLS 1.3")
	}
	secret, err := s.ExportKeyingMaterial(renewalLabel, nil, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("bind renewal to its connection: %w", err)
	}
	h := sha256.New()
	h.Write([]byte(renewalLabel + "\x00"))
	h.Write(secret)
	h.Write(der)
	return h.Sum(nil), nil
}
