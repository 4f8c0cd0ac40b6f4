package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // a thumbprint, as Azure shows it
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const maxCertificates = 10 // of one identity at a time, as client secrets

// Certificates whose keys sign assertions of a source's identity: what Azure
// has as an application's keyCredentials, under the source itself. The private
// key stays where it was made.
func (c *Control) certificateRoutes() []*route {
	return c.childRoutes("clientCertificates", map[string]func(*call) (*answer, error){
		"GET": (*call).listCertificates, "GET one": (*call).getCertificate, "PUT one": (*call).putCertificate, "DELETE one": (*call).removeCertificate,
	})
}

type certificateBody struct {
	ID         string                `json:"id"`
	Name       string                `json:"name"`
	Type       string                `json:"type"`
	Properties certificateProperties `json:"properties"`
	SystemData *systemData           `json:"systemData,omitempty"`
}

type certificateProperties struct {
	// Certificate is X.509: PEM, or DER in base64. It is given back as PEM.
	Certificate      string `json:"certificate"`
	ClientID         string `json:"clientId,omitempty"`
	TenantID         string `json:"tenantId,omitempty"`
	Thumbprint       string `json:"thumbprint,omitempty"`       // SHA-1, as Azure shows it
	ThumbprintSHA256 string `json:"thumbprintSha256,omitempty"` // both in upper-case hexadecimal
	Subject          string `json:"subject,omitempty"`
	Start            string `json:"startDateTime,omitempty"`
	End              string `json:"endDateTime,omitempty"`
}

func (k *call) bodyOfCertificate(r *store.Certificate) certificateBody {
	s := &k.source.Value
	b := certificateBody{ID: s.ID + "/clientCertificates/" + r.Name, Name: r.Name, Type: s.Type + "/clientCertificates", SystemData: systemDataOf(r.Stamp)}
	short, long := sha1.Sum(r.DER), sha256.Sum256(r.DER) //nolint:gosec // see above
	b.Properties = certificateProperties{
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.DER})), ClientID: r.ClientID, TenantID: k.Tenant,
		Thumbprint: strings.ToUpper(hex.EncodeToString(short[:])), ThumbprintSHA256: strings.ToUpper(hex.EncodeToString(long[:])),
	}
	if c, err := x509.ParseCertificate(r.DER); err == nil {
		b.Properties.Subject, b.Properties.Start, b.Properties.End = c.Subject.String(), arm.Time(c.NotBefore), arm.Time(c.NotAfter)
	}
	return b
}

func certificatePrefix(s *store.Source) string {
	return store.CertificatePrefix + trust.Fold(s.Identity.ClientID) + "/"
}

func (k *call) allCertificates() ([]store.Item[store.Certificate], int64, error) {
	if _, err := k.identity(); err != nil {
		return nil, 0, err
	}
	return store.List[store.Certificate](k.ctx, k.Store, certificatePrefix(&k.source.Value))
}

func (k *call) listCertificates() (*answer, error) {
	all, _, err := k.allCertificates()
	if err != nil {
		return nil, err
	}
	var list []certificateBody
	for _, r := range all {
		list = append(list, k.bodyOfCertificate(&r.Value))
	}
	return ok(arm.NewList(list, "")), nil
}

// certificate finds the one of the path; none is the zero item.
func (k *call) certificate() (store.Item[store.Certificate], error) {
	i, err := k.identity()
	if err != nil {
		return store.Item[store.Certificate]{}, err
	}
	if !federatedName.MatchString(k.vars["name"]) {
		return store.Item[store.Certificate]{}, badName("clientCertificateName", k.vars["name"], federatedName.String(), 120)
	}
	return store.Find[store.Certificate](k.ctx, k.Store, store.Certificate{ClientID: i.ClientID, Name: k.vars["name"]}.Key())
}

func (k *call) getCertificate() (*answer, error) {
	r, err := k.certificate()
	if err != nil {
		return nil, err
	}
	if r.Revision == 0 {
		return nil, arm.NoResource(k.id.Child("clientCertificates", k.vars["name"]))
	}
	return ok(k.bodyOfCertificate(&r.Value)), nil
}

// putCertificate registers a certificate. Another one under the same name takes
// its place: tokens that were got with the old one end.
func (k *call) putCertificate() (*answer, error) {
	var body struct{ Properties certificateProperties }
	if _, err := k.decode(&body); err != nil {
		return nil, err
	}
	old, err := k.certificate()
	if err != nil {
		return nil, err
	}
	der, err := readCertificate(body.Properties.Certificate)
	if err != nil {
		return nil, arm.BadParameter("properties.certificate", "%s", err)
	}
	if c, err := x509.ParseCertificate(der); err == nil && !k.Now().Before(c.NotAfter) {
		return nil, arm.BadParameter("properties.certificate", "it expired at %s", arm.Time(c.NotAfter))
	}
	all, rev, err := k.allCertificates()
	if err != nil {
		return nil, err
	}
	if old.Revision == 0 && len(all) >= maxCertificates {
		return nil, arm.Errorf(trust.Invalid, arm.QuotaExceeded, "The identity of '%s' has %d certificates already, which is the limit.", k.source.Value.ID, len(all))
	}
	for _, r := range all {
		if string(r.Value.DER) == string(der) && !is(r.Value.Name, k.vars["name"]) {
			return nil, arm.Errorf(trust.Conflict, arm.Conflict, "The certificate is registered already, as '%s'.", r.Value.Name)
		}
	}
	r, write, status := old.Value, store.Create, http.StatusCreated
	if old.Revision != 0 {
		write, status = updating(old.Revision), http.StatusOK
	} else {
		r.ClientID, r.Name = k.source.Value.Identity.ClientID, k.vars["name"]
	}
	r.DER, r.Stamp = der, k.stamp(r.Stamp, &k.caller)
	if _, err := k.commit(k.durable(), write(r), store.Guard(k.source.Value.Key(), k.source.Revision), store.Quiet(certificatePrefix(&k.source.Value), rev)); err != nil {
		return nil, err
	}
	return &answer{status: status, body: k.bodyOfCertificate(&r)}, nil
}

// readCertificate takes exactly one certificate and nothing else: a private key
// that was sent along by mistake is refused, so that its owner notices.
func readCertificate(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	var der []byte
	if strings.HasPrefix(text, "-----BEGIN") {
		block, rest := pem.Decode([]byte(text))
		switch {
		case strings.Contains(text, "PRIVATE KEY"):
			return nil, errors.New("it holds a private key, which must never leave its owner; send the certificate alone")
		case block == nil || block.Type != "CERTIFICATE":
			return nil, errors.New("it holds no PEM certificate")
		case len(strings.TrimSpace(string(rest))) > 0:
			return nil, errors.New("it holds more than one certificate; send the client's own alone")
		}
		der = block.Bytes
	} else {
		var err error
		if der, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err != nil || len(der) == 0 {
			return nil, errors.New("it is neither PEM nor base64 of a certificate")
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("it is no X.509 certificate")
	}
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 8192 {
			return nil, fmt.Errorf("its RSA key has %d bits; 2048 to 8192 are taken", bits)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, errors.New("its key is on another curve than P-256")
		}
	default:
		return nil, errors.New("its key is neither RSA nor ECDSA")
	}
	return c.Raw, nil
}

func (k *call) removeCertificate() (*answer, error) {
	r, err := k.certificate()
	if err != nil {
		return nil, err
	}
	if r.Revision == 0 {
		return empty(http.StatusNoContent), nil
	}
	if _, err := k.commit(k.durable(), store.Delete(r.Value.Key(), r.Revision)); err != nil {
		return nil, err
	}
	return empty(http.StatusOK), nil
}
