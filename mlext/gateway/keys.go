package gateway

import (
	"context"
	"crypto"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/mlext"
	"github.com/sallyport/sallyport/mlext/wire"
	"github.com/sallyport/sallyport/trust"
)

// keys are the authority's, as they were handed over: by the manifest, and then
// by documents that the ML service's key has signed.
type keys struct {
	issuer, audience string
	refresh          crypto.PublicKey
	maps             coreclient.ConfigMapInterface
	now              func() time.Time
	log              *slog.Logger

	mu     sync.Mutex // guards what follows
	number int64
	ring   *authn.KeyRing
}

// The ConfigMap's entries.
const (
	keysEntry   = "keys"
	numberEntry = "number"
)

// load reads what the manifest, or a process before this one, has kept.
func (k *keys) load(ctx context.Context) error {
	m, err := k.maps.Get(ctx, mlext.KeysConfigMap, metav1.GetOptions{})
	if err != nil {
		return trust.Errorf(trust.Unavailable, "the authority's keys cannot be read from ConfigMap %s: apply the extension's manifest again", mlext.KeysConfigMap).Because(err)
	}
	number, err := strconv.ParseInt(m.Data[numberEntry], 10, 64)
	if err != nil {
		return trust.Errorf(trust.Invalid, "ConfigMap %s has no number: apply the extension's manifest again", mlext.KeysConfigMap)
	}
	return k.set(number, []byte(m.Data[keysEntry]))
}

func (k *keys) set(number int64, set []byte) error {
	parsed, err := authn.ParseKeys(set)
	if err != nil {
		return trust.Errorf(trust.Invalid, "the key set cannot be read").Because(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.number, k.ring = number, authn.NewKeyRing(k.issuer, authn.StaticKeys(parsed), k.now, k.log)
	return nil
}

func (k *keys) current() (*authn.KeyRing, int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ring, k.number
}

// replace takes a signed document with a newer set. Anybody may carry it.
func (k *keys) replace(ctx context.Context, signed string) error {
	jws, err := jose.ParseSignedCompact(signed, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return trust.Errorf(trust.Unauthenticated, "the key set is not signed")
	}
	payload, err := jws.Verify(k.refresh)
	if err != nil {
		return trust.Errorf(trust.Unauthenticated, "the key set is not signed by the ML service of this extension")
	}
	var doc wire.Keys
	if err := json.Unmarshal(payload, &doc); err != nil || doc.Audience != k.audience {
		return trust.Errorf(trust.Unauthenticated, "the key set is not for this extension")
	}
	_, number := k.current()
	if doc.Number < number {
		return coded(trust.Conflict, wire.Newer, "a newer key set is here already")
	}
	if doc.Number == number {
		return nil
	}
	if err := k.set(doc.Number, doc.Keys); err != nil {
		return err
	}
	_, err = k.maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: mlext.KeysConfigMap, Namespace: wire.Namespace},
		Data: map[string]string{keysEntry: string(doc.Keys), numberEntry: strconv.FormatInt(doc.Number, 10)}}, metav1.UpdateOptions{})
	if err != nil {
		// It is in force here; without being kept, the next process asks again.
		k.log.WarnContext(ctx, "key set not kept", "error", err)
	}
	k.log.InfoContext(ctx, "key set replaced", "number", doc.Number)
	return nil
}
