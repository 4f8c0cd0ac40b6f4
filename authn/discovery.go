package authn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4/json"
)

const (
	maxDocument = 256 << 10 // bytes of a discovery document
	maxKeySet   = 1 << 20   // bytes of a key set
)

// Discovery is how an issuer's keys are found on the network (OpenID Connect
// Discovery 1.0). No redirects are followed and every answer is limited.
type Discovery struct {
	Issuer string         // the issuer, https, as its tokens have it
	URL    string         // of the discovery document, if it is not <Issuer>/.well-known/openid-configuration
	Roots  *x509.CertPool // nil: the system's

	// PublicOnly refuses addresses that are not public (loopback, private,
	// link-local, …): for issuers that users set, so that no user sends this
	// process into our own network. It also ignores HTTPS_PROXY.
	PublicOnly bool
}

// Provider is a discovered issuer's site: a KeySource, and the endpoints where it
// signs people in.
type Provider struct {
	issuer, url string
	client      *http.Client
}

// Endpoints are those of OpenID Connect's code flow.
type Endpoints struct{ Authorization, Token string }

// NewDiscovery makes a KeySource of a discovered issuer. Nothing is sent before
// keys are asked for.
func NewDiscovery(d Discovery) (KeySource, error) { return NewProvider(d) }

// NewProvider is NewDiscovery for who needs more of the issuer than its keys.
func NewProvider(d Discovery) (*Provider, error) {
	if err := checkURL(d.Issuer); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	from := d.URL
	if from == "" {
		from = strings.TrimSuffix(d.Issuer, "/") + "/.well-known/openid-configuration"
	}
	if err := checkURL(from); err != nil {
		return nil, fmt.Errorf("discovery URL: %w", err)
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	proxy := http.ProxyFromEnvironment
	if d.PublicOnly {
		proxy = nil
		// On the address that is dialled, after the name was resolved, so that
		// a name cannot change its mind in between.
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return publicAddress(address) }
	}
	return &Provider{issuer: d.Issuer, url: from, client: &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirects are not followed") },
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: d.Roots},
			TLSHandshakeTimeout:    5 * time.Second,
			ResponseHeaderTimeout:  10 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			DisableKeepAlives:      true, // two requests in five minutes
			ForceAttemptHTTP2:      true,
		},
	}}, nil
}

type document struct {
	Issuer        string `json:"issuer"`
	JWKSURI       string `json:"jwks_uri"`
	Authorization string `json:"authorization_endpoint"`
	Token         string `json:"token_endpoint"`
}

// document fetches the discovery document, which must be the issuer's own.
func (d *Provider) document(ctx context.Context) (document, error) {
	var doc document
	body, err := d.get(ctx, d.url, maxDocument)
	if err != nil {
		return doc, fmt.Errorf("fetch discovery document: %w", err)
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return doc, fmt.Errorf("read discovery document: %w", err)
	}
	if doc.Issuer != d.issuer {
		return doc, fmt.Errorf("discovery document at %s is of issuer %.200q, want %q", d.url, doc.Issuer, d.issuer)
	}
	return doc, nil
}

// Keys fetches the discovery document and the key set it names.
func (d *Provider) Keys(ctx context.Context) ([]*Key, error) {
	doc, err := d.document(ctx)
	if err != nil {
		return nil, err
	}
	if err := checkURL(doc.JWKSURI); err != nil {
		return nil, fmt.Errorf("discovery document's jwks_uri: %w", err)
	}
	body, err := d.get(ctx, doc.JWKSURI, maxKeySet)
	if err != nil {
		return nil, fmt.Errorf("fetch key set: %w", err)
	}
	return ParseKeys(body)
}

// Endpoints fetches the discovery document for where people sign in.
func (d *Provider) Endpoints(ctx context.Context) (Endpoints, error) {
	doc, err := d.document(ctx)
	if err != nil {
		return Endpoints{}, err
	}
	if err := checkURL(doc.Authorization); err != nil {
		return Endpoints{}, fmt.Errorf("discovery document's authorization_endpoint: %w", err)
	}
	if err := checkURL(doc.Token); err != nil {
		return Endpoints{}, fmt.Errorf("discovery document's token_endpoint: %w", err)
	}
	return Endpoints{doc.Authorization, doc.Token}, nil
}

// Post sends a form to one of the endpoints, under the same rules as discovery.
func (d *Provider) Post(ctx context.Context, to string, form url.Values) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return d.do(req, maxDocument)
}

func (d *Provider) get(ctx context.Context, from string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	return d.do(req, limit)
}

func (d *Provider) do(req *http.Request, limit int64) ([]byte, error) {
	req.Header.Set("Accept", "application/json")
	from := req.URL.String()
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", from, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%s answered more than %d bytes", from, limit)
	}
	return body, nil
}

// checkURL takes https URLs without user, query or fragment.
func checkURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "" || len(raw) > 2048 {
		return fmt.Errorf("%.200q must be an https URL without user, query and fragment", raw)
	}
	return nil
}

// notPublic are ranges that netip's own predicates do not name.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),    // carrier-grade NAT; also cloud metadata services
	netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments
	netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved, broadcast
	netip.MustParsePrefix("64:ff9b::/96"),     // NAT64: an IPv4 address behind it
	netip.MustParsePrefix("64:ff9b:1::/48"),   // NAT64, local
	netip.MustParsePrefix("2002::/16"),        // 6to4
	netip.MustParsePrefix("2001::/32"),        // Teredo
	netip.MustParsePrefix("fec0::/10"),        // site-local
	netip.MustParsePrefix("::/96"),            // IPv4-compatible
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's platform address
}

func publicAddress(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	a := ap.Addr().WithZone("").Unmap()
	ok := a.IsGlobalUnicast() && !a.IsPrivate() && !a.IsLoopback() && !a.IsLinkLocalUnicast()
	for _, p := range notPublic {
		ok = ok && !p.Contains(a)
	}
	if !ok {
		return fmt.Errorf("address %s is not public, and issuers that users set may only be public", a)
	}
	return nil
}
