package ml

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"regexp"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

// keyPair is what scores an endpoint. Two, so that one is changed while the other
// is used. They lie sealed in the store; a cluster has their digests only.
type keyPair struct {
	PrimaryKey   string `json:"primaryKey"`
	SecondaryKey string `json:"secondaryKey"`
}

// keyPattern: whoever brings a key of their own brings a long one.
var keyPattern = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]{32,256}$`)

func newKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// keysPath is what the seal of an endpoint's keys is bound to: this endpoint, this
// creation.
func keysPath(r *store.Provided) string { return r.Key() + "/keys/" + r.UID }

// sealKeys puts a pair into an endpoint's record; what is empty is made.
func (m *ML) sealKeys(r *store.Provided, p *endpointPrivate, given *keyPair) error {
	var pair keyPair
	if given != nil {
		pair = *given
	}
	for name, key := range map[string]*string{"primaryKey": &pair.PrimaryKey, "secondaryKey": &pair.SecondaryKey} {
		if *key == "" {
			*key = newKey()
		}
		if !keyPattern.MatchString(*key) {
			return arm.BadParameter("properties.keys."+name, "a key has 32 to 256 letters, digits and characters of '._~+/=-'")
		}
	}
	plain, err := json.Marshal(pair)
	if err != nil {
		return err
	}
	p.Version++
	p.Sealed, err = m.Seal.Seal(keysPath(r), p.Version, plain)
	return err
}

func (m *ML) openKeys(r *store.Provided, p *endpointPrivate) (pair keyPair, err error) {
	plain, err := m.Seal.Open(keysPath(r), p.Version, p.Sealed)
	if err != nil {
		return pair, trust.Errorf(trust.Internal, "the keys of an endpoint cannot be opened").Because(err)
	}
	return pair, json.Unmarshal(plain, &pair)
}

// digests are what the cluster is told of the keys.
func (m *ML) digests(r *store.Provided, p *endpointPrivate) ([]string, error) {
	if p.AuthMode != byKey {
		return nil, nil
	}
	pair, err := m.openKeys(r, p)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, key := range []string{pair.PrimaryKey, pair.SecondaryKey} {
		sum := sha256.Sum256([]byte(key))
		out = append(out, hex.EncodeToString(sum[:]))
	}
	return out, nil
}

// withMode reads the endpoint of the path, if its authMode is that one.
func (k *call) withMode(mode, other string) (store.Item[store.Provided], endpointPrivate, error) {
	item, err := k.find()
	if err != nil {
		return item, endpointPrivate{}, err
	}
	p, err := readEndpoint(&item.Value)
	if err == nil && p.AuthMode != mode {
		err = arm.Errorf(trust.Invalid, arm.BadRequest, "The endpoint '%s' has the authMode %s: %s.", k.ID.Name(), p.AuthMode, other)
	}
	return item, p, err
}

const useToken, useKeys = "ask for a token", "list its keys"

func (k *call) listKeys() (*arm.Answer, error) {
	item, p, err := k.withMode(byKey, useToken)
	if err != nil {
		return nil, err
	}
	pair, err := k.openKeys(&item.Value, &p)
	if err != nil {
		return nil, err
	}
	return secret(pair), nil
}

// secret is an answer that nobody may keep.
func secret(body any) *arm.Answer {
	return &arm.Answer{Status: http.StatusOK, Body: body, Header: http.Header{"Cache-Control": {"no-store"}}}
}

// regenerateKeys changes one key. The old one is good until the cluster has been
// told, which is when the operation ends.
func (k *call) regenerateKeys() (*arm.Answer, error) {
	var b struct{ KeyType, KeyValue string }
	if err := arm.Decode(k.Body, &b); err != nil {
		return nil, err
	}
	item, p, err := k.withMode(byKey, useToken)
	if err != nil {
		return nil, err
	}
	r := item.Value
	if err := k.free(&r); err != nil {
		return nil, err
	}
	if _, err := k.bound(k.ctx, &k.workspace.Value, p.Cluster); err != nil {
		return nil, err
	}
	pair, err := k.openKeys(&r, &p)
	if err != nil {
		return nil, err
	}
	switch trust.Fold(b.KeyType) {
	case "primary":
		pair.PrimaryKey = b.KeyValue
	case "secondary":
		pair.SecondaryKey = b.KeyValue
	default:
		return nil, arm.BadParameter("keyType", "'%.40s' is neither Primary nor Secondary", b.KeyType)
	}
	if err := k.sealKeys(&r, &p, &pair); err != nil {
		return nil, err
	}
	if r.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	op, err := k.operation(opEndpoint, &r)
	if err != nil {
		return nil, err
	}
	r.State, r.Problem, r.Operation = arm.Updating, nil, op.ID
	if err := k.commit(store.Update(r, item.Revision), store.Create(op)); err != nil {
		return nil, err
	}
	return k.accepted(&op), nil
}

// How long a scoring token is good, and when a new one should be had.
const (
	tokenLife    = time.Hour
	tokenRefresh = 45 * time.Minute
)

// token gives a token that scores this endpoint, signed by the ML service: the
// cluster checks it without asking anybody.
func (k *call) token() (*arm.Answer, error) {
	item, p, err := k.withMode(byToken, useKeys)
	if err != nil {
		return nil, err
	}
	cluster, err := store.Get[store.Cluster](k.ctx, k.Store, store.ResourceKey(p.Cluster))
	if err != nil {
		return nil, orGone(err, arm.Errorf(trust.Conflict, codeNoCluster, "The cluster %s does not exist any more.", p.Cluster))
	}
	identity := k.workspace.Value.Identity
	if identity == nil {
		return nil, arm.Errorf(trust.Conflict, codeIdentity, "The workspace %s has no system-assigned identity any more.", k.workspace.Value.ID)
	}
	now := k.Now()
	signed, err := k.sign(wire.ScoringToken{Issuer: k.issuer(), Audience: wire.ScoringAudience(wire.Audience(k.ML.Base, string(cluster.Value.UID)), item.Value.UID),
		Subject: identity.PrincipalID, Issued: now.Unix(), Expires: now.Add(tokenLife).Unix(), ID: k.RequestID})
	if err != nil {
		return nil, err
	}
	return secret(map[string]any{"accessToken": signed, "tokenType": "Bearer", "expiryTimeUtc": now.Add(tokenLife).Unix(), "refreshAfterTimeUtc": now.Add(tokenRefresh).Unix()}), nil
}
