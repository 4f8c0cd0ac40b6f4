package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/trust"
)

// Prefixes of what the authority reads and writes. Control writes identities,
// what they can be had for (federated credentials, hashes of secrets,
// certificates), the shared keys and which signing keys are revoked; the authority
// alone writes its signing keys and which assertions were used.
const (
	IdentityPrefix    = "/identities/"
	FederatedPrefix   = "/federated/"
	SecretPrefix      = "/secrets/"
	CertificatePrefix = "/certificates/"
	AssertionPrefix   = "/assertions/"
	KeyPrefix         = "/keys/"
	SigningKeyPrefix  = KeyPrefix + "tokens/"
	SharedKeyPrefix   = KeyPrefix + "shared/"
	RevokedKeyPrefix  = KeyPrefix + "revoked/"
)

// Identity is a principal of the built-in authority, by client id.
type Identity struct {
	ClientID, ObjectID, TenantID string
	Kind                         string // "ManagedIdentity" or "Application"
	ResourceID                   string // xms_mirid's resource, "" for applications
	DisplayName                  string
	Stamp                        Stamp
}

// Key places an identity.
func (r Identity) Key() string { return IdentityPrefix + trust.Fold(r.ClientID) }

// Federated says which outside token an identity can be exchanged for.
type Federated struct {
	ClientID, Name  string
	Issuer, Subject string
	Audiences       []string
	JWKS            json.RawMessage // keys handed over, when the issuer cannot be reached; else discovered
	Stamp           Stamp
}

// Key places a federated credential below its identity.
func (r Federated) Key() string {
	return FederatedPrefix + trust.Fold(r.ClientID) + "/" + trust.Fold(r.Name)
}

// Secret is a client secret's hash.
type Secret struct {
	ClientID, ID, Hint string // Hint: its first three characters
	Hash               []byte
	Created, Expires   time.Time
}

// Key places a secret below its identity.
func (r Secret) Key() string { return SecretPrefix + trust.Fold(r.ClientID) + "/" + trust.Fold(r.ID) }

// Certificate is one whose key signs an identity's assertions. The key itself
// never comes here.
type Certificate struct {
	ClientID, Name string
	DER            []byte
	Stamp          Stamp
}

// Key places a certificate below its identity.
func (r Certificate) Key() string {
	return CertificatePrefix + trust.Fold(r.ClientID) + "/" + trust.Fold(r.Name)
}

// UsedAssertion is an assertion that was exchanged and must not be again.
type UsedAssertion struct {
	ID      string // hash of client and jti, hex
	Expires time.Time
}

// Key places a used assertion.
func (r UsedAssertion) Key() string { return AssertionPrefix + r.ID }

// SigningKey is a token signing key of the authority, private part sealed.
type SigningKey struct {
	KeyID                                     string
	Algorithm                                 string // RS256 or ES256
	Public                                    json.RawMessage
	Sealed                                    []byte
	Created, NotBefore, RetireAfter, GoneFrom time.Time // published from Created, signs in [NotBefore, RetireAfter), in the key set until GoneFrom
	Revoked                                   bool
}

// Key places a signing key.
func (r SigningKey) Key() string { return SigningKeyPrefix + r.KeyID }

// Published tells whether the key is in the key set now: tokens signed with
// another are refused.
func (r SigningKey) Published(now time.Time) bool { return !r.Revoked && now.Before(r.GoneFrom) }

// RevokedKey takes a signing key out of the key set, whatever its own record says.
// It stays: a key that is restored from somewhere is still not believed.
type RevokedKey struct {
	KeyID string
	Stamp Stamp
}

// Key places the revocation of a signing key.
func (r RevokedKey) Key() string { return RevokedKeyPrefix + r.KeyID }

// SigningKeys lists all signing keys by id, those revoked marked so whether or not
// the authority has carried it out.
func SigningKeys(ctx context.Context, s *Store) ([]SigningKey, error) {
	keys, _, err := List[SigningKey](ctx, s, SigningKeyPrefix)
	if err != nil {
		return nil, fmt.Errorf("list signing keys: %w", err)
	}
	revoked, _, err := List[RevokedKey](ctx, s, RevokedKeyPrefix)
	if err != nil {
		return nil, fmt.Errorf("list revoked signing keys: %w", err)
	}
	gone := map[string]bool{}
	for _, r := range revoked {
		gone[r.Value.KeyID] = true
	}
	all := make([]SigningKey, 0, len(keys))
	for _, k := range keys {
		k.Value.Revoked = k.Value.Revoked || gone[k.Value.KeyID]
		all = append(all, k.Value)
	}
	return all, nil
}

// SealedKey is any other private key the servers share, by name: CAs and the
// key that signs mandates.
type SealedKey struct {
	Name    string
	Public  []byte // PEM certificate or public key
	Sealed  []byte
	Created time.Time
}

// Key places a shared key.
func (r SealedKey) Key() string { return SharedKeyPrefix + r.Name }
