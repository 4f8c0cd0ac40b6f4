package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/authority"
	"github.com/sallyport/sallyport/client"
	"github.com/sallyport/sallyport/control"
	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// ownCertificate is what the listener presents: the user's own certificate, one
// of our CA, which clients then pin, or, in a gateway that runs by itself, one
// that control issues.
func (s *server) ownCertificate(ctx context.Context, keys sharedKeys) error {
	var err error
	switch {
	case s.TLS.CertFile != "":
		s.certificate, err = pki.FromFiles(s.TLS.CertFile, s.TLS.KeyFile, time.Now, s.log)
		return err
	case !s.seals():
		s.asked = newAsked(s, store.UseServer)
		s.certificate = s.asked.keeper
		return nil
	}
	if s.serverTLS, err = keys.ca(ctx, keyServerCA, pki.ServerTLS); err != nil {
		return err
	}
	s.serverCA = s.serverTLS.PEM()
	leaf, err := pki.HostLeaf(s.ExternalURL, serverCertificateLife)
	if err != nil {
		return fmt.Errorf("externalURL: %w", err)
	}
	if gateway, err := pki.HostLeaf(s.GatewayURL, 0); err == nil && s.plays("gateway") && gateway.CommonName != leaf.CommonName {
		leaf.DNS, leaf.IPs = append(leaf.DNS, gateway.DNS...), append(leaf.IPs, gateway.IPs...)
	}
	if storage, err := pki.HostLeaf(s.Storage.URL, 0); err == nil && s.Storage.Folder != "" && storage.CommonName != leaf.CommonName {
		leaf.DNS, leaf.IPs = append(leaf.DNS, storage.DNS...), append(leaf.IPs, storage.IPs...)
	}
	s.certificate, err = pki.FromCA(s.serverTLS, leaf, s.log)
	return err
}

// serverCertificateLife of a certificate of our own CA; it is renewed by itself
// after two thirds.
const serverCertificateLife = 30 * 24 * time.Hour

// issuers are the built-in authority and those of issuersFile.
func (s *server) issuers() ([]authn.Issuer, error) {
	all := []authn.Issuer{s.directory.Issuer()}
	if s.IssuersFile == "" {
		return all, nil
	}
	data, err := os.ReadFile(s.IssuersFile)
	if err != nil {
		return nil, fmt.Errorf("issuersFile: %w", err)
	}
	outside, err := authn.ParseFile(data)
	if err != nil {
		return nil, fmt.Errorf("issuersFile %s: %w", s.IssuersFile, err)
	}
	return append(all, outside...), nil
}

// authenticateControl takes tokens for the control API: their audience is the
// base URL, with or without the slash that Azure's clients add.
func (s *server) authenticateControl(ctx context.Context, token string) (trust.Caller, error) {
	return s.authenticator.Authenticate(ctx, token, authn.Audiences{s.ExternalURL, s.ExternalURL + "/"})
}

func (s *server) trustedProxies() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, p := range s.TrustedProxies {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return nil, fmt.Errorf("trustedProxies: %w", err)
		}
		all = append(all, prefix)
	}
	return all, nil
}

// secrets is the authority's secrets as control sees them.
type secrets struct{ *authority.Authority }

func (s secrets) NewSecret(ctx context.Context, clientID string, life time.Duration) (control.Secret, error) {
	made, err := s.Authority.NewSecret(ctx, clientID, life)
	return control.Secret(made), err
}

func (s secrets) Secrets(ctx context.Context, clientID string) ([]control.Secret, error) {
	have, err := s.Authority.Secrets(ctx, clientID)
	if err != nil {
		return nil, err
	}
	all := make([]control.Secret, 0, len(have))
	for _, one := range have {
		all = append(all, control.Secret(one))
	}
	return all, nil
}

// administratorLife is how long the first administrator's secret lasts.
const administratorLife = 365 * 24 * time.Hour

// keepAdministrator writes the first administrator's credential, once: while it
// has no secret. It is the only moment at which the secret is known.
func (s *server) keepAdministrator(ctx context.Context) error {
	have, err := s.authority.Secrets(ctx, s.installation.AdminClientID)
	if err != nil && trust.KindOf(err) != trust.NotFound {
		return fmt.Errorf("first administrator: %w", err)
	}
	if len(have) > 0 {
		return nil
	}
	if _, err := os.Stat(s.AdminFile); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("first administrator: %s exists already and would be overwritten: move it away", s.AdminFile)
	}
	made, err := s.authority.NewSecret(ctx, s.installation.AdminClientID, administratorLife)
	if err != nil {
		return fmt.Errorf("first administrator: %w", err)
	}
	data, err := json.MarshalIndent(client.AdminFile{
		Server: s.ExternalURL, CA: string(s.serverCA), TenantID: s.installation.TenantID,
		ClientID: s.installation.AdminClientID, ClientSecret: made.Value, SubscriptionID: s.installation.Subscription,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("first administrator: %w", err)
	}
	if err := pki.WriteFile(s.AdminFile, append(data, '\n')); err != nil {
		return errors.Join(fmt.Errorf("first administrator: %w", err), s.authority.RemoveSecret(ctx, s.installation.AdminClientID, made.ID))
	}
	s.log.InfoContext(ctx, "first administrator made", "file", s.AdminFile, "expires", made.Expires)
	return nil
}
