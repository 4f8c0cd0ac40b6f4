package ml

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
)

// scoringName is what callers call the router by, and what its certificates name.
const scoringName = "ml.sallyport.test"

// Endpoints are scored over TLS: with the certificate of a Secret, which may be
// renewed while the router runs, and with one among the extension's settings. Keys
// and tokens open the endpoint that they are of, and nothing else does.
func TestScoringOverTLS(t *testing.T) {
	m := start(t)
	m.scoring()
	m.asItWas()
	ca := m.scoringAuthority()
	m.certificateInSecret(ca, 1)
	m.cli(m.updateExtension("enableInference=True", "inferenceRouterServiceType=nodePort",
		"allowInsecureConnections=False", "sslSecret=router-tls", "sslCname="+scoringName, "inferenceRouterHA=False")...)
	m.kubectl("annotate", "service", "-n", wire.Namespace, mlext.RouterService, mlext.ScoringURL+"-")
	for name, mode := range map[string]string{"by-key": "key", "by-token": "aml_token"} {
		m.cli(m.in("trainer", "ml", "online-endpoint", "create", "-f", m.file(name+".yaml", "name: "+name+"\ncompute: azureml:k8s\nauth_mode: "+mode+"\n"), "-o", "none")...)
		m.cli(m.in("trainer", "ml", "online-deployment", "create", "-f", m.deploymentOf(name, "blue", name, ""), "--all-traffic", "-o", "none")...)
	}
	s := m.secureScorer(ca, "by-key")
	m.servesCertificate(s, ca, 1)
	m.onlyOverTLS(s)
	m.onlyWithItsCredential(s, m.secureScorer(ca, "by-token"))
	if long() {
		m.renewsCertificate(s, ca)
	}
	m.certificateInSettings(s, ca, 3)
	for _, name := range []string{"by-key", "by-token"} {
		m.cli(m.in("trainer", "ml", "online-endpoint", "delete", "-n", name, "--yes")...)
	}
}

// authority issues certificates for the router.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func (m *ml) scoringAuthority() *authority {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.must(err)
	form := &x509.Certificate{SerialNumber: big.NewInt(100), Subject: pkix.Name{CommonName: "scoring"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 1),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	m.must(err)
	cert, err := x509.ParseCertificate(der)
	m.must(err)
	a := &authority{key, cert, x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// issue gives a certificate of that number and its key, in PEM.
func (m *ml) issue(a *authority, number int64) (cert, key string) {
	m.t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.must(err)
	form := &x509.Certificate{SerialNumber: big.NewInt(number), DNSNames: []string{scoringName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 1),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, form, a.cert, own.Public(), a.key)
	m.must(err)
	raw, err := x509.MarshalPKCS8PrivateKey(own)
	m.must(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// certificateInSecret writes the Secret that the setting sslSecret names.
func (m *ml) certificateInSecret(a *authority, number int64) {
	m.t.Helper()
	cert, key := m.issue(a, number)
	object, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"namespace": wire.Namespace, "name": "router-tls"},
		"data": map[string]string{"cert.pem": base64.StdEncoding.EncodeToString([]byte(cert)), "key.pem": base64.StdEncoding.EncodeToString([]byte(key))}})
	m.must(err)
	m.must(m.Cluster.Apply(m.t.Context(), string(object)))
}

// secureScorer is a caller that trusts the authority. Nobody resolves the router's
// name here: it is reached on the node.
func (m *ml) secureScorer(a *authority, endpoint string) *scorer {
	m.t.Helper()
	s := &scorer{http: &http.Client{Timeout: patience}}
	s.url = m.cli(m.in("trainer", "ml", "online-endpoint", "show", "-n", endpoint, "--query", "scoringUri", "-o", "tsv")...)
	s.key = m.cli(m.in("trainer", "ml", "online-endpoint", "get-credentials", "-n", endpoint, "--query", "primaryKey || accessToken", "-o", "tsv")...)
	port := m.kubectl("get", "service", "-n", wire.Namespace, mlext.RouterService, "-o", "jsonpath={.spec.ports[0].nodePort}")
	if want := "https://" + net.JoinHostPort(scoringName, port) + "/api/v1/endpoint/" + endpoint + "/score"; s.url != want {
		m.t.Errorf("scoring URL %s, want %s", s.url, want)
	}
	s.dial(net.JoinHostPort(m.Cluster.Nodes()[0].Address().String(), port), &tls.Config{RootCAs: a.pool})
	return s
}

// dial has the caller speak TLS to an address.
func (s *scorer) dial(address string, conf *tls.Config) {
	t := dialing(address)
	t.TLSClientConfig, t.ForceAttemptHTTP2 = conf, true
	s.http.Transport = t
}

// with is the same caller with other TLS settings.
func (s *scorer) with(conf *tls.Config) *scorer {
	other := *s
	other.http = &http.Client{Timeout: s.http.Timeout}
	t := s.http.Transport.(*http.Transport)
	other.http.Transport = &http.Transport{DialContext: t.DialContext, TLSClientConfig: conf, DisableKeepAlives: true}
	return &other
}

// certificate is the number of the certificate that the router shows.
func (s *scorer) certificate(ctx context.Context, a *authority) (int64, error) {
	var number int64
	conf := &tls.Config{RootCAs: a.pool, VerifyConnection: func(c tls.ConnectionState) error {
		number = c.PeerCertificates[0].SerialNumber.Int64()
		return nil
	}}
	status, text, err := s.with(conf).score(ctx, s.key, "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %s", status, text)
	}
	return number, err
}

func (m *ml) servesCertificate(s *scorer, a *authority, number int64) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("the router shows certificate %d", number), func(ctx context.Context) error {
		got, err := s.certificate(ctx, a)
		if err == nil && got != number {
			err = fmt.Errorf("it shows %d", got)
		}
		return err
	})
}

// onlyOverTLS: who does not trust the certificate, or speaks something else, sends
// no key to the router, or gets nothing for it.
func (m *ml) onlyOverTLS(s *scorer) {
	ctx := m.t.Context()
	var unknown x509.UnknownAuthorityError
	if _, _, err := s.with(&tls.Config{}).score(ctx, s.key, ""); !errors.As(err, &unknown) {
		m.t.Errorf("without its CA: %v", err)
	}
	trusting := s.http.Transport.(*http.Transport).TLSClientConfig
	old := trusting.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if status, text, err := s.with(old).score(ctx, s.key, ""); err == nil {
		m.t.Errorf("over TLS 1.1: %d %s", status, text)
	}
	plain := s.with(nil)
	u, err := url.Parse(s.url)
	m.must(err)
	u.Scheme = "http"
	plain.url = u.String()
	if status, text, err := plain.score(ctx, s.key, ""); err == nil && status != http.StatusBadRequest {
		m.t.Errorf("without TLS: %d %s", status, text)
	}
}

// onlyWithItsCredential: an endpoint takes its two keys, or its tokens.
func (m *ml) onlyWithItsCredential(byKey, byToken *scorer) {
	second := m.cli(m.in("trainer", "ml", "online-endpoint", "get-credentials", "-n", "by-key", "--query", "secondaryKey", "-o", "tsv")...)
	parts := strings.Split(byToken.key, ".")
	if len(parts) != 3 {
		m.t.Fatalf("a token has %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	m.must(err)
	var claims map[string]any
	m.must(json.Unmarshal(raw, &claims))
	claims["exp"] = time.Now().AddDate(1, 0, 0).Unix()
	raw, err = json.Marshal(claims)
	m.must(err)
	longer := parts[0] + "." + base64.RawURLEncoding.EncodeToString(raw) + "." + parts[2]
	for name, c := range map[string]struct {
		s      *scorer
		with   string
		status int
	}{
		"its key":               {byKey, byKey.key, http.StatusOK},
		"its other key":         {byKey, second, http.StatusOK},
		"its token":             {byToken, byToken.key, http.StatusOK},
		"no key":                {byKey, "", http.StatusUnauthorized},
		"a wrong key":           {byKey, "wrong", http.StatusUnauthorized},
		"a part of its key":     {byKey, byKey.key[:len(byKey.key)-1], http.StatusUnauthorized},
		"another's token":       {byKey, byToken.key, http.StatusUnauthorized},
		"another's key":         {byToken, byKey.key, http.StatusUnauthorized},
		"no token":              {byToken, "", http.StatusUnauthorized},
		"a token for longer":    {byToken, longer, http.StatusUnauthorized},
		"a token of no content": {byToken, parts[0] + ".e30." + parts[2], http.StatusUnauthorized},
	} {
		if status, text, err := c.s.score(m.t.Context(), c.with, ""); err != nil || status != c.status {
			m.t.Errorf("%s: %d %s %v, want %d", name, status, text, err, c.status)
		}
	}
}

// renewsCertificate: a Secret that changes is served by the router that runs.
func (m *ml) renewsCertificate(s *scorer, a *authority) {
	started := func() string {
		return m.kubectl("get", "pods", "-n", wire.Namespace, "-l", "app.kubernetes.io/name="+mlext.RouterAccount, "-o", "jsonpath={.items[*].status.containerStatuses[0].containerID}")
	}
	before := started()
	c := m.crowd(s)
	m.certificateInSecret(a, 2)
	m.servesCertificate(s, a, 2)
	if lost := c.end(); len(lost) > 0 {
		m.t.Errorf("%d of %d requests were lost while the certificate was renewed, such as %s", len(lost), c.asked.Load(), lost[0])
	}
	if after := started(); after != before {
		m.t.Errorf("the router was started anew: %s, before %s", after, before)
	}
}

// certificateInSettings: the same with the certificate's and key's text among the
// protected settings, which nothing shows again. Callers lose nothing by the
// change.
func (m *ml) certificateInSettings(s *scorer, a *authority, number int64) {
	cert, key := m.issue(a, number)
	c := m.crowd(s)
	m.cli(m.on("k8s-extension", "update", "-n", "azureml", "--yes", "-o", "none", "--config-protected",
		"sslCertPemFile="+m.file("scoring-cert.pem", cert), "sslKeyPemFile="+m.file("scoring-key.pem", key))...)
	m.servesCertificate(s, a, number)
	if lost := c.end(); len(lost) > 0 {
		m.t.Errorf("%d of %d requests were lost while routers were replaced, such as %s", len(lost), c.asked.Load(), lost[0])
	}
	body := strings.Split(key, "\n")[1]
	if shown := m.cli(m.on("k8s-extension", "show", "-n", "azureml", "-o", "json")...); strings.Contains(shown, body) || !strings.Contains(shown, "sslSecret has no effect") {
		m.t.Errorf("%s", shown)
	}
}
