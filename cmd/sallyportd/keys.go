package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/sallyport/sallyport/internal/pki"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The private keys that an installation's servers share, sealed in the store.
const (
	keyServerCA   = "server-ca"
	keyAgentsCA   = "agents-ca"
	keyGatewaysCA = "gateways-ca"
	keyMandate    = "mandate"
	keyML         = "ml"
	keyStorage    = "storage"
)

// sharedKeys loads shared keys, making them at first start.
type sharedKeys struct {
	store  *store.Store
	sealer *seal.Sealer
	now    func() time.Time
}

// sharedVersion binds what is sealed to its first and only version.
const sharedVersion = 1

// pair returns the public and the private part of the key of that name. Two
// servers that start at once agree on whose was first.
func (k sharedKeys) pair(ctx context.Context, name string, create func() (public, private []byte, err error)) (public, private []byte, err error) {
	at := store.SealedKey{Name: name}.Key()
	for range 3 {
		item, err := store.Get[store.SealedKey](ctx, k.store, at)
		if err == nil {
			private, err := k.sealer.Open(at, sharedVersion, item.Value.Sealed)
			if err != nil {
				return nil, nil, fmt.Errorf("open key %s with the seal key %s: %w", name, k.sealer.ID(), err)
			}
			return item.Value.Public, private, nil
		}
		if trust.KindOf(err) != trust.NotFound {
			return nil, nil, fmt.Errorf("read key %s: %w", name, err)
		}
		public, private, err := create()
		if err != nil {
			return nil, nil, fmt.Errorf("make key %s: %w", name, err)
		}
		sealed, err := k.sealer.Seal(at, sharedVersion, private)
		if err != nil {
			return nil, nil, fmt.Errorf("seal key %s: %w", name, err)
		}
		_, err = k.store.Commit(ctx, store.Create(store.SealedKey{Name: name, Public: public, Sealed: sealed, Created: k.now().UTC()}))
		if err != nil && !errors.Is(err, store.ErrConflict) {
			return nil, nil, fmt.Errorf("keep key %s: %w", name, err)
		}
	}
	return nil, nil, fmt.Errorf("key %s: other servers keep changing it", name)
}

func (k sharedKeys) ca(ctx context.Context, name string, purpose pki.Purpose) (*pki.CA, error) {
	public, private, err := k.pair(ctx, name, func() ([]byte, []byte, error) {
		ca, err := pki.NewCA(purpose, k.now)
		if err != nil {
			return nil, nil, err
		}
		return ca.Marshal()
	})
	if err != nil {
		return nil, err
	}
	return pki.ParseCA(purpose, public, private, k.now)
}

// roots is a CA's certificate, which every role may have, without its key.
func (k sharedKeys) roots(ctx context.Context, name string) (*x509.CertPool, error) {
	item, err := store.Get[store.SealedKey](ctx, k.store, store.SealedKey{Name: name}.Key())
	if trust.KindOf(err) == trust.NotFound {
		return nil, fmt.Errorf("key %s does not exist yet: start a server that plays control first", name)
	}
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", name, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(item.Value.Public) {
		return nil, fmt.Errorf("key %s has no certificate", name)
	}
	return pool, nil
}

func (k sharedKeys) mandate(ctx context.Context) (ed25519.PrivateKey, error) {
	_, private, err := k.pair(ctx, keyMandate, func() ([]byte, []byte, error) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), private.Seed(), nil
	})
	if err != nil {
		return nil, err
	}
	if len(private) != ed25519.SeedSize {
		return nil, fmt.Errorf("key %s has %d bytes, want %d", keyMandate, len(private), ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(private), nil
}

// ml is the ML service's key, with which it is its workspaces.
func (k sharedKeys) ml(ctx context.Context) (*ecdsa.PrivateKey, error) {
	_, private, err := k.pair(ctx, keyML, func() ([]byte, []byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, nil, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), private, err
	})
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", keyML, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key %s is a %T, want an ECDSA key", keyML, key)
	}
	return ec, nil
}
