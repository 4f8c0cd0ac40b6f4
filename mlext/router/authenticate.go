package router

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/trust"
)

// errCredential is the one answer to every credential that does not fit: it tells
// nobody whether an endpoint of that name exists.
var errCredential = trust.Errorf(trust.Unauthenticated, "the key or token is not one of this endpoint's")

// authenticate finds the endpoint of that name that the credential is good for.
// Two workspaces may have one each: the credential decides, and one that is good
// for both is taken for neither.
func (t *table) authenticate(ctx context.Context, name, credential string, tokens *tokens) (*endpoint, error) {
	candidates := t.endpoints[name]
	if candidates == nil {
		candidates = t.endpoints[trust.Fold(name)]
	}
	digest := sha256.Sum256([]byte(credential))
	var found *endpoint
	matches := 0
	for _, e := range candidates {
		good := 0
		for i := range e.keys {
			good |= subtle.ConstantTimeCompare(digest[:], e.keys[i][:])
		}
		if len(e.keys) == 0 && tokens.good(ctx, e, credential, digest) {
			good = 1
		}
		if good == 1 {
			found = e
			matches++
		}
	}
	if matches != 1 {
		return nil, errCredential
	}
	return found, nil
}

// tokens verifies what the ML service signed for single endpoints.
type tokens struct {
	ring *authn.KeyRing
	now  func() time.Time

	mu   sync.RWMutex // guards seen
	seen map[[sha256.Size]byte]verified
}

// verified is a token that was good, for whom and until when.
type verified struct {
	audience, subject string
	expires           time.Time
}

// maxTokens that are remembered.
const maxTokens = 10_000

// newTokens believes the ML service's key alone.
func newTokens(issuer string, key crypto.PublicKey, now func() time.Time, log *slog.Logger) (*tokens, error) {
	sum, err := (&jose.JSONWebKey{Key: key}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("the ML service's key: %w", err)
	}
	k, err := authn.NewKey(base64.RawURLEncoding.EncodeToString(sum), key)
	if err != nil {
		return nil, fmt.Errorf("the ML service's key: %w", err)
	}
	return &tokens{ring: authn.NewKeyRing(issuer, authn.StaticKeys{k}, now, log), now: now, seen: map[[sha256.Size]byte]verified{}}, nil
}

// good tells whether a token scores an endpoint.
func (t *tokens) good(ctx context.Context, e *endpoint, token string, digest [sha256.Size]byte) bool {
	if strings.Count(token, ".") != 2 {
		return false
	}
	t.mu.RLock()
	v, known := t.seen[digest]
	t.mu.RUnlock()
	if !known {
		claims, err := t.ring.Verify(ctx, token)
		if err != nil {
			return false
		}
		v = verified{audience: claims.Audience, subject: claims.Subject, expires: claims.Expires}
		t.remember(digest, v)
	}
	return t.now().Before(v.expires) && v.audience == e.audience && v.subject != "" && v.subject == e.owner.Object
}

func (t *tokens) remember(digest [sha256.Size]byte, v verified) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.seen) >= maxTokens { // verifying again costs little
		clear(t.seen)
	}
	t.seen[digest] = v
}
