package authority

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const maxRings = 256

// rings are the key rings of issuers that federated credentials name, made when
// first used.
type rings struct {
	a *Authority

	mu   sync.Mutex
	made map[[sha256.Size]byte]*authn.KeyRing
}

func newRings(a *Authority) *rings {
	return &rings{a: a, made: map[[sha256.Size]byte]*authn.KeyRing{}}
}

// of gives the ring of a credential's issuer: with the keys handed over, or
// discovered. Credentials of one issuer and the same keys share one.
func (r *rings) of(f *store.Federated) (*authn.KeyRing, error) {
	id := sha256.Sum256(fmt.Appendf(nil, "%d %s %s", len(f.Issuer), f.Issuer, f.JWKS))
	r.mu.Lock()
	defer r.mu.Unlock()
	if ring := r.made[id]; ring != nil {
		return ring, nil
	}
	var source authn.KeySource
	if handed := string(f.JWKS); handed != "" && handed != "null" { // absent, as JSON has it
		keys, err := authn.ParseKeys(f.JWKS)
		if err != nil {
			return nil, err
		}
		source = authn.StaticKeys(keys)
	} else {
		var err error
		source, err = authn.NewDiscovery(authn.Discovery{Issuer: f.Issuer, Roots: r.a.conf.IssuerRoots, PublicOnly: !r.a.conf.PrivateIssuers})
		if err != nil {
			return nil, err
		}
	}
	for other := range r.made {
		if len(r.made) < maxRings {
			break
		}
		delete(r.made, other)
	}
	ring := authn.NewKeyRing(f.Issuer, source, r.a.conf.Now, r.a.conf.Log)
	r.made[id] = ring
	return ring, nil
}

// byAssertion finds the federated credential of an identity that a presented
// token of another issuer is good for: issuer, subject and audience exactly as
// the credential has them, signed by that issuer's keys.
func (a *Authority) byAssertion(ctx context.Context, clientID, assertion string) (name string, revision int64, err error) {
	issuer, err := authn.PeekIssuer(assertion)
	if err != nil {
		return "", 0, err
	}
	if issuer == a.issuer {
		// A chain of identities would outlive the removal of its first link.
		return "", 0, refusal("the assertion is a token of this authority: present the token of the outside issuer that the credential names")
	}
	items, _, err := store.List[store.Federated](ctx, a.conf.Store, store.FederatedPrefix+trust.Fold(clientID)+"/")
	if err != nil {
		return "", 0, err
	}
	var refused error = refusal("no federated credential of the identity names the assertion's issuer %.200q", issuer)
	for _, i := range items {
		f := &i.Value
		if f.Issuer != issuer {
			continue
		}
		ring, err := a.rings.of(f)
		if err != nil {
			refused = refusal("the keys of federated credential %s cannot be used", f.Name).Because(err)
			continue
		}
		c, err := ring.Verify(ctx, assertion)
		if err != nil {
			refused = err
			continue
		}
		if c.Subject != f.Subject || c.Subject == "" || !slices.Contains(f.Audiences, c.Audience) {
			refused = refusal("no federated credential of the identity matches the assertion's issuer %.200q, subject %.200q and audience %.200q", issuer, c.Subject, c.Audience)
			continue
		}
		return federatedName(f, i.Created), i.Revision, nil
	}
	return "", 0, refused
}

func refusal(format string, args ...any) *trust.Error {
	return trust.Errorf(trust.Unauthenticated, format, args...)
}
