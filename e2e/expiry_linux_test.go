package e2e

import (
	"context"
	"crypto/x509"
	"net/http"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/store"
)

// shortLife is long enough to open every stream with.
const shortLife = 12 * time.Second

// expired is the end of the caller's token while its streams are open.
func (a *apart) expired() way {
	var end time.Time
	return way{
		name: "token expired", bound: inTouch, code: http.StatusUnauthorized,
		make: func(t *testing.T, w *world) *victim {
			v := bound(t, w)
			var err error
			if v.token, end, err = a.short(t.Context(), v.token, shortLife); err != nil {
				t.Fatal(err)
			}
			return v
		},
		take: func(ctx context.Context, _ *world, _ *victim) error {
			select {
			case <-time.After(time.Until(end)):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}
}

// short makes of a token one that the authority would have made, but for its
// life: signed with the authority's own key, out of the store and unsealed. No
// setting of the authority makes such tokens.
func (a *apart) short(ctx context.Context, token string, life time.Duration) (short string, end time.Time, err error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return "", end, err
	}
	claims := map[string]any{}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return "", end, err
	}
	signer, err := a.signer(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return "", end, err
	}
	now := time.Now()
	end = now.Add(life).Truncate(time.Second)
	claims["iat"], claims["nbf"], claims["exp"] = now.Unix(), now.Unix(), end.Unix()
	short, err = jwt.Signed(signer).Claims(claims).Serialize()
	return short, end, err
}

// signer is one of the authority's keys.
func (a *apart) signer(ctx context.Context, kid string) (jose.Signer, error) {
	item, err := store.Get[store.SigningKey](ctx, a.root, store.SigningKey{KeyID: kid}.Key())
	if err != nil {
		return nil, err
	}
	sealer, err := seal.Load(a.Path("keys", "seal.key"))
	if err != nil {
		return nil, err
	}
	k := item.Value
	der, err := sealer.Open(k.Key(), uint64(k.Created.Unix()), k.Sealed)
	if err != nil {
		return nil, err
	}
	private, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: jose.JSONWebKey{Key: private, KeyID: kid}},
		(&jose.SignerOptions{}).WithType("JWT"))
}
