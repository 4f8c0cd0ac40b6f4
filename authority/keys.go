package authority

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// The life of a signing key (design 6).
const (
	keyLife      = 30 * 24 * time.Hour // it signs
	keyPublished = 24 * time.Hour      // before it signs
	keyMargin    = time.Hour           // made that much earlier still: a server may be down when it is time
	keyKept      = TokenLife + time.Hour
	keyCheck     = time.Minute // how often the Authority looks
)

// rotate brings the signing keys into order: one that signs now, its successor
// in time, none that nobody needs. Servers may do it at the same time: whoever
// commits first wins, the others look again.
func (a *Authority) rotate(ctx context.Context) error {
	for range 5 {
		items, revision, err := store.List[store.SigningKey](ctx, a.conf.Store, store.SigningKeyPrefix)
		if err != nil {
			return fmt.Errorf("list signing keys: %w", err)
		}
		now := a.conf.Now()
		ops := []store.Op{store.Quiet(store.SigningKeyPrefix, revision)}
		var last time.Time // until when somebody signs
		for _, i := range items {
			k := i.Value
			if k.Algorithm != a.conf.Algorithm {
				return trust.Errorf(trust.Invalid, "this issuer signs with %s and cannot be changed to %s: its verifiers were told so", k.Algorithm, a.conf.Algorithm)
			}
			if !now.Before(k.GoneFrom) {
				ops = append(ops, store.Delete(k.Key(), i.Revision))
				continue
			}
			if !k.Revoked && k.RetireAfter.After(last) {
				last = k.RetireAfter
			}
		}
		if last.Sub(now) < keyPublished+keyMargin {
			key, err := a.newKey(now, last)
			if err != nil {
				return err
			}
			ops = append(ops, store.Create(key))
			a.conf.Log.Info("signing key made", "kid", key.KeyID, "signs_from", key.NotBefore)
		}
		if len(ops) == 1 {
			return nil
		}
		if _, err = a.conf.Store.Commit(ctx, ops...); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return trust.Errorf(trust.Conflict, "signing keys were not brought into order: other servers were always first")
}

// newKey makes a key that signs once the last one has ended: published before,
// if there is the time for it.
func (a *Authority) newKey(now, last time.Time) (store.SigningKey, error) {
	from := now
	if last.After(now) {
		from = last
	}
	k := store.SigningKey{
		Algorithm: a.conf.Algorithm, Created: now, NotBefore: from, RetireAfter: from.Add(keyLife), GoneFrom: from.Add(keyLife + keyKept),
	}
	private, err := generate(a.conf.Algorithm)
	if err != nil {
		return k, fmt.Errorf("make signing key: %w", err)
	}
	jwk := jose.JSONWebKey{Key: private.Public(), Algorithm: k.Algorithm, Use: "sig"}
	print, err := jwk.Thumbprint(crypto.SHA256) // RFC 7638: no two keys share a kid
	if err != nil {
		return k, fmt.Errorf("make signing key: %w", err)
	}
	k.KeyID = base64.RawURLEncoding.EncodeToString(print)
	jwk.KeyID = k.KeyID
	if k.Public, err = json.Marshal(jwk); err != nil {
		return k, fmt.Errorf("make signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return k, fmt.Errorf("make signing key: %w", err)
	}
	k.Sealed, err = a.conf.Seal.Seal(k.Key(), version(&k), der)
	return k, err
}

func generate(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case string(jose.RS256):
		return rsa.GenerateKey(rand.Reader, 2048)
	case string(jose.ES256):
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return nil, fmt.Errorf("unknown algorithm %q", algorithm)
}

// version binds the sealed key to the creation of its record.
func version(k *store.SigningKey) uint64 { return uint64(k.Created.Unix()) }

// destroyRevoked destroys the private parts of the keys that are revoked. Nobody
// believes what they sign since the revocation was stored.
func (a *Authority) destroyRevoked(ctx context.Context) error {
	revoked, _, err := store.List[store.RevokedKey](ctx, a.conf.Store, store.RevokedKeyPrefix)
	if err != nil {
		return fmt.Errorf("list revoked signing keys: %w", err)
	}
	for _, r := range revoked {
		item, err := store.Find[store.SigningKey](ctx, a.conf.Store, store.SigningKey{KeyID: r.Value.KeyID}.Key())
		if err != nil {
			return fmt.Errorf("destroy revoked signing key: %w", err)
		}
		k := item.Value
		if item.Revision == 0 || k.Revoked && len(k.Sealed) == 0 {
			continue
		}
		k.Revoked, k.Sealed = true, nil
		if _, err := a.conf.Store.Commit(ctx, store.Update(k, item.Revision)); err != nil && !errors.Is(err, store.ErrConflict) { // another server does it too
			return fmt.Errorf("destroy revoked signing key: %w", err)
		}
		a.conf.Log.Warn("signing key revoked", "kid", k.KeyID)
	}
	return nil
}

// promote sees to it that a key signs now: a published successor at once, or a
// new one.
func (a *Authority) promote(ctx context.Context) error {
	for range 5 {
		items, revision, err := store.List[store.SigningKey](ctx, a.conf.Store, store.SigningKeyPrefix)
		if err != nil {
			return fmt.Errorf("list signing keys: %w", err)
		}
		now := a.conf.Now()
		var next *store.Item[store.SigningKey]
		for i := range items {
			k := &items[i].Value
			switch {
			case k.Revoked || !now.Before(k.RetireAfter):
			case !now.Before(k.NotBefore):
				return nil
			case next == nil || k.NotBefore.Before(next.Value.NotBefore):
				next = &items[i]
			}
		}
		if next == nil {
			if err := a.rotate(ctx); err != nil {
				return err
			}
			continue
		}
		k := next.Value
		k.NotBefore = now
		if _, err := a.conf.Store.Commit(ctx, store.Quiet(store.SigningKeyPrefix, revision), store.Update(k, next.Revision)); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return trust.Errorf(trust.Conflict, "no signing key could be put in place: other servers were always first")
}

// signer is the key that signs now, opened.
func (a *Authority) signer() (jose.Signer, error) {
	records, err := a.conf.Directory.published()
	if err != nil {
		return nil, err
	}
	now := a.conf.Now()
	var best *store.SigningKey
	for i := range records {
		k := &records[i]
		if !now.Before(k.NotBefore) && now.Before(k.RetireAfter) && (best == nil || k.NotBefore.After(best.NotBefore)) {
			best = k
		}
	}
	if best == nil {
		return nil, trust.Errorf(trust.Unavailable, "the authority has no key to sign with")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.openedID == best.KeyID {
		return a.opened, nil
	}
	der, err := a.conf.Seal.Open(best.Key(), version(best), best.Sealed)
	if err != nil {
		return nil, trust.Errorf(trust.Internal, "signing key %s cannot be opened", best.KeyID).Because(err)
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, trust.Errorf(trust.Internal, "signing key %s cannot be read", best.KeyID).Because(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(best.Algorithm), Key: jose.JSONWebKey{Key: private, KeyID: best.KeyID}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, trust.Errorf(trust.Internal, "signing key %s cannot be used", best.KeyID).Because(err)
	}
	a.opened, a.openedID = s, best.KeyID
	return s, nil
}
