package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// Limits of a key set.
const (
	maxKeys    = 100
	minRSABits = 2048
	maxRSABits = 8192 // larger ones would make verifying an attack
)

// Key is one public key of an issuer. Its type decides its one algorithm.
type Key struct {
	ID        string
	Algorithm string // RS256 or ES256
	Public    crypto.PublicKey
}

// NewKey makes a Key of an RSA (2048 to 8192 bits) or ECDSA (P-256) public key.
func NewKey(id string, public crypto.PublicKey) (*Key, error) {
	if id == "" || len(id) > maxKeyID {
		return nil, errors.New("the key has no kid, or a very long one")
	}
	switch k := public.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("RSA key of %d bits", bits)
		}
		return &Key{ID: id, Algorithm: string(jose.RS256), Public: k}, nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("ECDSA key on another curve than P-256")
		}
		return &Key{ID: id, Algorithm: string(jose.ES256), Public: k}, nil
	}
	return nil, fmt.Errorf("key of type %T", public)
}

func (k *Key) same(o *Key) bool {
	p, ok := k.Public.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Algorithm == o.Algorithm && p.Equal(o.Public)
}

// ParseKeys reads a JSON Web Key Set (RFC 7517). Keys that cannot verify our
// tokens (other types, other uses, too weak, private, without kid) are left
// out; two keys of one kid, too many keys, or JSON of another shape is an
// error. An empty set is not: an issuer may withdraw everything.
func ParseKeys(set []byte) ([]*Key, error) {
	var doc struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(set, &doc); err != nil {
		return nil, fmt.Errorf("read key set: %w", err)
	}
	if doc.Keys == nil {
		return nil, errors.New(`read key set: it has no member "keys"`)
	}
	if len(*doc.Keys) > maxKeys {
		return nil, fmt.Errorf("read key set: %d keys, the limit is %d", len(*doc.Keys), maxKeys)
	}
	seen := map[string]bool{}
	var keys []*Key
	for _, raw := range *doc.Keys {
		var jwk jose.JSONWebKey
		if jwk.UnmarshalJSON(raw) != nil || !jwk.IsPublic() || (jwk.Use != "" && jwk.Use != "sig") {
			continue
		}
		key, err := NewKey(jwk.KeyID, jwk.Key)
		if err != nil || (jwk.Algorithm != "" && jwk.Algorithm != key.Algorithm) {
			continue
		}
		if seen[key.ID] {
			return nil, fmt.Errorf("read key set: two keys named %.80q", key.ID)
		}
		seen[key.ID] = true
		keys = append(keys, key)
	}
	return keys, nil
}

// KeySource gives the whole current key set of one issuer. An error means that
// nothing is known, and the last set is kept for a while; an empty set means
// that there are no keys.
type KeySource interface {
	Keys(ctx context.Context) ([]*Key, error)
}

// StaticKeys is a key set that was handed over and never changes.
type StaticKeys []*Key

// Keys returns the set.
func (s StaticKeys) Keys(context.Context) ([]*Key, error) { return s, nil }
