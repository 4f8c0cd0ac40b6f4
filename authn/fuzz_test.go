package authn

import (
	"strings"
	"testing"

	"github.com/sallyport/sallyport/trust"
)

// FuzzToken: whatever is presented, it is a caller only if it is one of the
// tokens that the issuer signed.
func FuzzToken(f *testing.F) {
	w := newWorld(f, nil)
	signed := map[string]bool{}
	for _, changes := range []object{nil, {"aud": []string{aud}}, {"typ": "x"}} {
		token := w.token(f, changes)
		signed[token] = true
		f.Add(token)
	}
	good := w.token(f, nil)
	signed[good] = true
	parts := strings.Split(good, ".")
	for _, s := range []string{
		"", ".", "..", "...", good + ".", "." + good, strings.ToUpper(good), good[:len(good)-1],
		encode(f, `{"alg":"none"}`) + "." + parts[1] + ".",
		encode(f, `{"alg":"RS256","kid":"rsa-1","jwk":{"kty":"oct","k":"AA"}}`) + "." + parts[1] + "." + parts[2],
		parts[0] + "." + encode(f, `{"iss":1}`) + "." + parts[2],
		parts[0] + "." + encode(f, strings.Repeat("[", 4000)) + "." + parts[2],
		parts[2] + "." + parts[1] + "." + parts[0],
		`{"payload":"` + parts[1] + `","signatures":[]}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		caller, err := w.Authenticate(t.Context(), token, Audiences{aud})
		if err == nil {
			// RFC 4648 3.5: the last character of a part may hold unused bits.
			if !signed[token] && !sameBits(token, signed) {
				t.Fatalf("taken as %+v: %q", caller, token)
			}
			return
		}
		if k := trust.KindOf(err); k != trust.Unauthenticated {
			t.Fatalf("kind %v: %v", k, err)
		}
	})
}

// sameBits reports whether a token differs from a signed one only in the unused
// bits of its signature's last character.
func sameBits(token string, signed map[string]bool) bool {
	for s := range signed {
		if len(s) == len(token) && s[:len(s)-1] == token[:len(token)-1] {
			return true
		}
	}
	return false
}

// FuzzKeys: no bytes of a key set make a key that breaks our limits.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{`{"keys":[]}`, `{"keys":[{"kty":"RSA"}]}`, `{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"AA","y":"AA"}]}`,
		`{"keys":[` + string(mustJSON(f, jwkOf("a", rsaKeys()[0].Public()))) + `]}`, `null`, `[]`, `{"keys":null}`, `{"keys":[null]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, set []byte) {
		keys, err := ParseKeys(set)
		if err != nil {
			return
		}
		for _, k := range keys {
			if _, err := NewKey(k.ID, k.Public); err != nil || (k.Algorithm != "RS256" && k.Algorithm != "ES256") {
				t.Fatalf("key %+v: %v", k, err)
			}
		}
	})
}
