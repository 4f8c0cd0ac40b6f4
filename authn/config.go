package authn

import (
	"crypto/x509"
	"fmt"

	"sigs.k8s.io/yaml"

	"github.com/sallyport/sallyport/trust"
)

// File is a file of issuers, in the form of Kubernetes' structured
// AuthenticationConfiguration (KEP-3331) as far as it fits: no CEL expressions
// and no several audiences, but tenants and scopes.
type File struct {
	APIVersion string    `json:"apiVersion"` // "sallyport.dev/v1"
	Kind       string    `json:"kind"`       // "AuthenticationConfiguration"
	JWT        []FileJWT `json:"jwt"`
}

// FileJWT is one issuer.
type FileJWT struct {
	Issuer               FileIssuer   `json:"issuer"`
	ClaimValidationRules []FileRule   `json:"claimValidationRules,omitempty"`
	ClaimMappings        FileMappings `json:"claimMappings"`

	// Tenants and Scopes are what the issuer may speak for (Issuer.Tenants,
	// Issuer.Scopes).
	Tenants []string `json:"tenants"`
	Scopes  []string `json:"scopes,omitempty"`
}

// FileIssuer says where tokens and keys come from.
type FileIssuer struct {
	URL                  string   `json:"url"`
	DiscoveryURL         string   `json:"discoveryURL,omitempty"`
	CertificateAuthority string   `json:"certificateAuthority,omitempty"` // PEM
	Audiences            []string `json:"audiences,omitempty"`
	AudienceMatchPolicy  string   `json:"audienceMatchPolicy,omitempty"` // "" or "MatchAny": the token's one audience is among them

	// AudienceStandsFor maps an audience of this issuer (a client id, say) to
	// one of ours.
	AudienceStandsFor map[string]string `json:"audienceStandsFor,omitempty"`
}

// FileRule is a claim that must have a value.
type FileRule struct {
	Claim         string `json:"claim"`
	RequiredValue string `json:"requiredValue"`
}

// FileMappings say which claims identify the caller.
type FileMappings struct {
	Username FileClaim `json:"username"` // a name to show
	Groups   FileClaim `json:"groups"`
	UID      FileClaim `json:"uid"`    // default oid
	Tenant   FileClaim `json:"tenant"` // default tid; "-": the tokens carry none, the only tenant is meant
}

// FileClaim names a claim.
type FileClaim struct {
	Claim string `json:"claim"`
}

// ParseFile reads a file of issuers, strictly: an unknown key is an error. The
// issuers are discovered; none may be limited to public addresses, since whoever
// writes the file runs the server.
func ParseFile(data []byte) ([]Issuer, error) {
	var f File
	if err := yaml.UnmarshalStrict(data, &f); err != nil {
		return nil, fmt.Errorf("read issuers: %w", err)
	}
	if f.APIVersion != "sallyport.dev/v1" || f.Kind != "AuthenticationConfiguration" {
		return nil, fmt.Errorf("read issuers: apiVersion %q, kind %q: want sallyport.dev/v1, AuthenticationConfiguration", f.APIVersion, f.Kind)
	}
	var issuers []Issuer
	for _, j := range f.JWT {
		i, err := j.issuer()
		if err != nil {
			return nil, fmt.Errorf("read issuers: issuer %q: %w", j.Issuer.URL, err)
		}
		issuers = append(issuers, i)
	}
	return issuers, nil
}

func (j FileJWT) issuer() (Issuer, error) {
	if p := j.Issuer.AudienceMatchPolicy; p != "" && p != "MatchAny" {
		return Issuer{}, fmt.Errorf("audienceMatchPolicy %q: only MatchAny is known", p)
	}
	var roots *x509.CertPool
	if ca := j.Issuer.CertificateAuthority; ca != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(ca)) {
			return Issuer{}, fmt.Errorf("certificateAuthority holds no PEM certificate")
		}
	}
	keys, err := NewDiscovery(Discovery{Issuer: j.Issuer.URL, URL: j.Issuer.DiscoveryURL, Roots: roots})
	if err != nil {
		return Issuer{}, err
	}
	m := j.ClaimMappings
	i := Issuer{
		URL: j.Issuer.URL, Keys: keys,
		Scopes: j.Scopes, Audiences: j.Issuer.Audiences, StandsFor: j.Issuer.AudienceStandsFor,
		Claims:  ClaimNames{Object: m.UID.Claim, Tenant: m.Tenant.Claim, Name: m.Username.Claim, Groups: m.Groups.Claim},
		Require: map[string]string{},
	}
	for _, t := range j.Tenants {
		i.Tenants = append(i.Tenants, trust.Fold(t))
	}
	for _, r := range j.ClaimValidationRules {
		if r.Claim == "" || r.RequiredValue == "" {
			return Issuer{}, fmt.Errorf("a claimValidationRule needs claim and requiredValue")
		}
		if old, twice := i.Require[r.Claim]; twice && old != r.RequiredValue {
			return Issuer{}, fmt.Errorf("claim %s is required to have two values", r.Claim)
		}
		i.Require[r.Claim] = r.RequiredValue
	}
	return i, i.check()
}
