package main

import (
	"crypto/x509"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/authority"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/trust"
)

// SignInConfig says where people sign in. Without an issuer they are the built-in
// users, who sign in here.
type SignInConfig struct {
	// Issuer is an OpenID provider that people are sent to. Its redirect URI is
	// <externalURL>/<tenant>/signin/callback.
	Issuer           string `json:"issuer"`
	ClientID         string `json:"clientID"`
	ClientSecretFile string `json:"clientSecretFile"`
	// CAFile is believed for the provider's site instead of the system's CAs.
	CAFile string `json:"caFile"`
	// Label is what the button says. Default: the issuer's host.
	Label string `json:"label"`
	// Scopes to ask for. Default: openid, profile, email.
	Scopes []string `json:"scopes"`
	// Claims of its id tokens: who it is for good (default sub), the name to show
	// (preferred_username), the whole name (name), the groups (groups).
	Claims SignInClaims `json:"claims"`
	// BuiltInUsers lets the built-in users sign in besides.
	BuiltInUsers bool `json:"builtInUsers"`
	// PublicClients are further clients that may sign people in, by id: their
	// names. Azure's and the sallyport command's own are known.
	PublicClients map[string]string `json:"publicClients"`
}

// SignInClaims names claims.
type SignInClaims struct {
	UID      string `json:"uid"`
	Username string `json:"username"`
	Name     string `json:"name"`
	Groups   string `json:"groups"`
}

// provider is where people are sent to sign in, nil if it is nowhere. Addresses
// that are not public are taken under the same switch as federated issuers'.
func (c *Config) provider() (*authority.ProviderConfig, error) {
	s := &c.SignIn
	if s.Issuer == "" {
		if s.ClientID != "" || s.ClientSecretFile != "" {
			return nil, fmt.Errorf("signIn.issuer is missing")
		}
		return nil, nil
	}
	p := &authority.ProviderConfig{
		Issuer: s.Issuer, ClientID: s.ClientID, Label: s.Label, Scopes: s.Scopes, BuiltInUsers: s.BuiltInUsers, Private: c.PrivateIssuers,
		UIDClaim: s.Claims.UID, UserNameClaim: s.Claims.Username, NameClaim: s.Claims.Name, GroupsClaim: s.Claims.Groups,
	}
	if s.ClientSecretFile != "" {
		secret, err := os.ReadFile(s.ClientSecretFile)
		if err != nil {
			return nil, fmt.Errorf("signIn.clientSecretFile: %w", err)
		}
		p.ClientSecret = strings.TrimSpace(string(secret))
	}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("signIn.caFile: %w", err)
		}
		p.Roots = x509.NewCertPool()
		if !p.Roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("signIn.caFile: %s holds no certificate", s.CAFile)
		}
	}
	return p, nil
}

// publicClients are the clients that may sign people in, besides Azure's.
func (c *Config) publicClients() (map[string]string, error) {
	all := map[string]string{client.LoginClientID: "The sallyport command"}
	for id, name := range maps.All(c.SignIn.PublicClients) {
		if !arm.ValidGUID(id) || name == "" {
			return nil, fmt.Errorf("signIn.publicClients: %q must be a GUID with a name", id)
		}
		all[trust.Fold(id)] = name
	}
	return all, nil
}
