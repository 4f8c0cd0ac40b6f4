package control

import (
	"regexp"
	"time"

	"github.com/sallyport/sallyport/arm"
	"github.com/sallyport/sallyport/store"
	"github.com/sallyport/sallyport/trust"
)

const signingKeyType = "Sallyport.Identity/signingKeys"

// An id is the key's thumbprint, RFC 7638 with SHA-256.
var signingKeyName = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// Signing keys are the authority's. Control only says which are not to be
// believed any more.
func (c *Control) signingKeyRoutes() []*route {
	const all = "/providers/Sallyport.Identity/signingKeys"
	r := func(method, pattern, action string, drop int, handle func(*call) (*answer, error)) *route {
		return &route{method: method, pattern: pattern, typ: signingKeyType, versions: arm.Sallyport, drop: drop, action: action, passesLocks: true, handle: handle}
	}
	return []*route{
		r("GET", all, signingKeyType+"/read", 3, (*call).listSigningKeys),
		r("GET", all+"/{key}", signingKeyType+"/read", 0, (*call).getSigningKey),
		// It ends every token there is: not for Contributors.
		r("POST", all+"/{key}/revoke", "Microsoft.Authorization/signingKeys/write", 1, (*call).revokeSigningKey),
	}
}

type signingKeyResource struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Type       string               `json:"type"`
	Properties signingKeyProperties `json:"properties"`
}

type signingKeyProperties struct {
	State      string `json:"state"` // Next, Signing, Retired, Revoked
	Algorithm  string `json:"algorithm"`
	CreatedAt  string `json:"createdAt"`
	SignsFrom  string `json:"signsFrom"`
	SignsUntil string `json:"signsUntil"`
}

func bodyOfSigningKey(v *store.SigningKey, now time.Time) signingKeyResource {
	return signingKeyResource{ID: "/providers/" + signingKeyType + "/" + v.KeyID, Name: v.KeyID, Type: signingKeyType, Properties: signingKeyProperties{
		State: signingKeyState(v, now), Algorithm: v.Algorithm, CreatedAt: arm.Time(v.Created), SignsFrom: arm.Time(v.NotBefore), SignsUntil: arm.Time(v.RetireAfter)}}
}

func signingKeyState(v *store.SigningKey, now time.Time) string {
	switch {
	case v.Revoked:
		return "Revoked"
	case now.Before(v.NotBefore):
		return "Next"
	case now.Before(v.RetireAfter):
		return "Signing"
	}
	return "Retired"
}

// listSigningKeys lists the few that there are.
func (k *call) listSigningKeys() (*answer, error) {
	keys, err := store.SigningKeys(k.ctx, k.Store)
	if err != nil {
		return nil, err
	}
	all := make([]signingKeyResource, 0, len(keys))
	for i := range keys {
		all = append(all, bodyOfSigningKey(&keys[i], k.Now()))
	}
	return ok(map[string]any{"value": all}), nil
}

// signingKey finds the one of the path.
func (k *call) signingKey() (store.SigningKey, error) {
	name := k.vars["key"]
	if !signingKeyName.MatchString(name) {
		return store.SigningKey{}, badName("signingKeyName", name, signingKeyName.String(), 43)
	}
	keys, err := store.SigningKeys(k.ctx, k.Store)
	if err != nil {
		return store.SigningKey{}, err
	}
	for i := range keys {
		if keys[i].KeyID == name {
			return keys[i], nil
		}
	}
	e := arm.Errorf(trust.NotFound, arm.ResourceNotFound, "The signing key '%s' was not found.", name)
	e.Hint = "sallyport identity signing-key list"
	return store.SigningKey{}, e
}

func (k *call) getSigningKey() (*answer, error) {
	v, err := k.signingKey()
	if err != nil {
		return nil, err
	}
	return ok(bodyOfSigningKey(&v, k.Now())), nil
}

// revokeSigningKey takes a key out of the key set: when this is stored, nothing
// that it has signed is believed. The authority destroys its private part and
// signs with another.
func (k *call) revokeSigningKey() (*answer, error) {
	v, err := k.signingKey()
	if err != nil {
		return nil, err
	}
	if !v.Revoked {
		if _, err := k.commit(k.durable(), store.Put(store.RevokedKey{KeyID: v.KeyID, Stamp: k.stamp(store.Stamp{}, &k.caller)})); err != nil {
			return nil, err
		}
		v.Revoked = true
		k.Log.WarnContext(k.ctx, "signing key revoked", "kid", v.KeyID, "caller", k.caller.Object)
	}
	return ok(bodyOfSigningKey(&v, k.Now())), nil
}
