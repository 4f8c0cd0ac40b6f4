package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
)

// certified makes a certificate and its key, both PEM.
func certified(t *testing.T, bits int, curve elliptic.Curve, ends time.Time) (certificate, key string) {
	t.Helper()
	var public, private any
	var err error
	if curve != nil {
		var k *ecdsa.PrivateKey
		if k, err = ecdsa.GenerateKey(curve, rand.Reader); err == nil {
			public, private = k.Public(), k
		}
	} else {
		var k *rsa.PrivateKey
		if k, err = rsa.GenerateKey(rand.Reader, bits); err == nil {
			public, private = k.Public(), k
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nightly"}, NotBefore: ends.Add(-24 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

func TestCertificates(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0") // to make a weak one
	w := newWorld(t).scene()
	at := sourcePath + "/clientCertificates"
	later := time.Now().Add(240 * time.Hour)
	one, key := certified(t, 0, elliptic.P256(), later)
	two, _ := certified(t, 2048, nil, later)
	block, _ := pem.Decode([]byte(one))
	sum := sha256.Sum256(block.Bytes)
	r := w.must(201, "PUT", at+"/main", props("certificate", one))
	if r.text("properties.thumbprintSha256") != strings.ToUpper(hex.EncodeToString(sum[:])) || len(r.text("properties.thumbprint")) != 40 || r.text("properties.subject") != "CN=nightly" ||
		r.text("properties.certificate") != one || r.text("properties.endDateTime") == "" || !strings.HasSuffix(r.text("type"), "/clientCertificates") {
		t.Errorf("%s", r.raw)
	}
	if again := w.must(200, "PUT", at+"/MAIN", props("certificate", base64.StdEncoding.EncodeToString(block.Bytes))); again.text("name") != "main" || again.text("properties.certificate") != one {
		t.Errorf("%s", again.raw)
	}
	w.must(200, "GET", at+"/main", nil)
	w.refused(409, arm.Conflict, "PUT", at+"/other", props("certificate", one))
	w.must(201, "PUT", at+"/other", props("certificate", two))
	if r := w.must(200, "GET", at, nil); len(r.body["value"].([]any)) != 2 {
		t.Errorf("%s", r.raw)
	}
	old, _ := certified(t, 0, elliptic.P256(), time.Now().Add(-time.Hour))
	weak, _ := certified(t, 1024, nil, later)
	odd, _ := certified(t, 0, elliptic.P384(), later)
	for name, text := range map[string]string{"none": "", "text": "x!", "a key": key, "with its key": one + key, "two": one + two, "garbage": "AAAA", "PEM of garbage": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
		"expired": old, "weak": weak, "P-384": odd} {
		if r := w.refused(400, arm.InvalidParameter, "PUT", at+"/bad", props("certificate", text)); strings.Contains(string(r.raw), "PRIVATE KEY-----") {
			t.Errorf("%s: the answer repeats it: %s", name, r.raw)
		}
	}
	w.refused(400, arm.InvalidParameter, "PUT", at+"/x", props("certificate", two))
	w.must(200, "DELETE", at+"/main", nil)
	w.must(204, "DELETE", at+"/main", nil)
	if r := w.call("stranger", "GET", at, nil); r.status != 403 {
		t.Errorf("a stranger: %d %s", r.status, r.raw)
	}
	// They end with the identity.
	w.must(200, "PATCH", sourcePath, map[string]any{"identity": map[string]any{"type": "None"}})
	if left, _, err := store.List[store.Certificate](t.Context(), w.store, store.CertificatePrefix); err != nil || len(left) != 0 {
		t.Errorf("%d certificates left, %v", len(left), err)
	}
	w.refused(400, arm.BadRequest, "GET", at, nil)
}
