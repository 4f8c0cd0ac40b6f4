package client

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/trust"
)

// assertionLife is how long an assertion is good; it is made for one request.
const assertionLife = 5 * time.Minute

// certificateAssertion signs an assertion for an authority's token endpoint with
// the key in a PEM file that holds it and its certificate (RFC 7523, in the form
// of MSAL). The file is read anew each time.
func certificateAssertion(path, clientID, endpoint string, now time.Time) (string, error) {
	certificate, key, err := readKeyPair(path)
	if err != nil {
		return "", err
	}
	algorithm := jose.PS256
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		algorithm = jose.ES256
	}
	sum := sha256.Sum256(certificate.Raw)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(sum[:])))
	if err != nil {
		return "", trust.Errorf(trust.Invalid, "the key in %s cannot sign", path).Because(err)
	}
	payload, err := json.Marshal(map[string]any{
		"iss": clientID, "sub": clientID, "aud": endpoint, "jti": rand.Text(),
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	return signed.CompactSerialize()
}

// readKeyPair finds a private key and the certificate that belongs to it in a
// PEM file, in any order.
func readKeyPair(path string) (*x509.Certificate, crypto.Signer, error) {
	bad := func(cause error, format string, args ...any) (*x509.Certificate, crypto.Signer, error) {
		return nil, nil, trust.Errorf(trust.Invalid, "the certificate file "+path+" "+format, args...).Because(cause)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return bad(err, "cannot be read")
	}
	var key crypto.Signer
	var certificates []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		var parsed any
		switch block.Type {
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return bad(err, "holds a certificate that cannot be read")
			}
			certificates = append(certificates, c)
			continue
		case "PRIVATE KEY":
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue
		}
		switch k := parsed.(type) {
		case *rsa.PrivateKey:
			key = k
		case *ecdsa.PrivateKey:
			key = k
		}
		if err != nil || key == nil {
			return bad(err, "holds a key that cannot be read: it must be RSA or ECDSA, without a passphrase")
		}
	}
	if key == nil {
		return bad(nil, "holds no private key")
	}
	for _, c := range certificates {
		if k, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && k.Equal(key.Public()) {
			return c, key, nil
		}
	}
	return bad(nil, "holds no certificate of its key")
}
