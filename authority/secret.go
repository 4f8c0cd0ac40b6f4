package authority

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// Limits of client secrets.
const (
	MaxSecrets    = 10 // of one identity at a time
	MaxSecretLife = 2 * 365 * 24 * time.Hour

	secretPrefix = "sps_" // so that scanners for leaked secrets know one
	keepExpired  = 30 * 24 * time.Hour
)

// Secret is a client secret as it can be shown. Value is known once, in what
// NewSecret returns.
type Secret struct {
	ID, Hint, Value  string
	Created, Expires time.Time
}

// NewSecret makes a client secret for an identity. Whether the caller may is
// decided before: whoever holds the secret is the identity.
func (a *Authority) NewSecret(ctx context.Context, clientID string, life time.Duration) (Secret, error) {
	if life <= 0 || life > MaxSecretLife {
		return Secret{}, trust.Errorf(trust.Invalid, "a client secret lasts at most %d days", MaxSecretLife/(24*time.Hour))
	}
	identity, err := store.Get[store.Identity](ctx, a.conf.Store, store.Identity{ClientID: clientID}.Key())
	if err != nil {
		return Secret{}, fmt.Errorf("create client secret: %w", err)
	}
	prefix := secretsOf(clientID)
	have, revision, err := store.List[store.Secret](ctx, a.conf.Store, prefix)
	if err != nil {
		return Secret{}, fmt.Errorf("create client secret: %w", err)
	}
	if len(have) >= MaxSecrets {
		return Secret{}, trust.Errorf(trust.Conflict, "identity %s has %d client secrets already, the limit: remove one first", clientID, len(have))
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return Secret{}, fmt.Errorf("create client secret: %w", err)
	}
	value := secretPrefix + base64.RawURLEncoding.EncodeToString(random)
	now := a.conf.Now()
	s := store.Secret{
		ClientID: identity.Value.ClientID, ID: uuid.NewString(), Hint: value[:len(secretPrefix)+3],
		Hash: hashSecret(value), Created: now, Expires: now.Add(life),
	}
	revision, err = a.conf.Store.Commit(ctx, store.Guard(identity.Value.Key(), identity.Revision), store.Quiet(prefix, revision), store.Create(s))
	if err != nil {
		return Secret{}, fmt.Errorf("create client secret: %w", err)
	}
	a.conf.Log.Info("client secret made", "client", s.ClientID, "secret_id", s.ID, "expires", s.Expires)
	// So that a token got with it at once is good here at once. It is made by
	// now, and its value is known only here: no error may lose it.
	if a.conf.Directory.Ready() == nil { // not before it runs: at first start
		ctx, cancel := context.WithTimeout(ctx, catchUp)
		defer cancel()
		_ = a.conf.Directory.wait(ctx, store.SecretPrefix, revision)
	}
	return Secret{ID: s.ID, Hint: s.Hint, Value: value, Created: s.Created, Expires: s.Expires}, nil
}

// Secrets lists an identity's client secrets, without their values.
func (a *Authority) Secrets(ctx context.Context, clientID string) ([]Secret, error) {
	items, _, err := store.List[store.Secret](ctx, a.conf.Store, secretsOf(clientID))
	if err != nil {
		return nil, fmt.Errorf("list client secrets: %w", err)
	}
	infos := make([]Secret, 0, len(items))
	for _, i := range items {
		infos = append(infos, Secret{ID: i.Value.ID, Hint: i.Value.Hint, Created: i.Value.Created, Expires: i.Value.Expires})
	}
	return infos, nil
}

// RemoveSecret removes a client secret; tokens that were got with it end.
func (a *Authority) RemoveSecret(ctx context.Context, clientID, id string) error {
	key := store.Secret{ClientID: clientID, ID: id}.Key()
	item, err := store.Get[store.Secret](ctx, a.conf.Store, key)
	if err != nil {
		return fmt.Errorf("remove client secret: %w", err)
	}
	if _, err := a.conf.Store.Commit(ctx, store.Delete(key, item.Revision)); err != nil {
		return fmt.Errorf("remove client secret: %w", err)
	}
	a.conf.Log.Info("client secret removed", "client", item.Value.ClientID, "secret_id", id)
	return nil
}

// bySecret finds the credential that a presented secret is, "" if it is none of
// the identity's.
func (a *Authority) bySecret(ctx context.Context, clientID, presented string) (name string, expired bool, revision int64, err error) {
	items, _, err := store.List[store.Secret](ctx, a.conf.Store, secretsOf(clientID))
	if err != nil {
		return "", false, 0, err
	}
	hash := hashSecret(presented)
	now := a.conf.Now()
	for _, i := range items {
		if subtle.ConstantTimeCompare(hash, i.Value.Hash) != 1 {
			continue
		}
		if !now.Before(i.Value.Expires) {
			return "", true, 0, nil
		}
		return secretName(&i.Value, i.Created), false, i.Revision, nil
	}
	return "", false, 0, nil
}

// hashSecret is SHA-256. A slow hash protects secrets that can be guessed; ours
// are 256 random bits that we made ourselves, which no hash makes easier to
// find, and a slow one would let anybody spend our time.
func hashSecret(value string) []byte {
	sum := sha256.Sum256([]byte("sallyport client secret\x00" + value))
	return sum[:]
}

func secretsOf(clientID string) string {
	return store.SecretPrefix + trust.Fold(clientID) + "/"
}

// forgetSecrets removes secrets of identities that are gone, and those that
// expired a month ago.
func (a *Authority) forgetSecrets(ctx context.Context) error {
	items, _, err := store.List[store.Secret](ctx, a.conf.Store, store.SecretPrefix)
	if err != nil {
		return fmt.Errorf("list client secrets: %w", err)
	}
	now := a.conf.Now()
	for _, i := range items {
		s := i.Value
		ops := []store.Op{store.Delete(s.Key(), i.Revision)}
		if now.Before(s.Expires.Add(keepExpired)) {
			identity := store.Identity{ClientID: s.ClientID}.Key()
			_, err := store.Get[store.Identity](ctx, a.conf.Store, identity)
			if err == nil {
				continue
			}
			if trust.KindOf(err) != trust.NotFound {
				return fmt.Errorf("look for identity: %w", err)
			}
			ops = append(ops, store.Absent(identity))
		}
		if _, err := a.conf.Store.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("forget client secret: %w", err)
		}
	}
	return nil
}
